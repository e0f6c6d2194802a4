"""A table of each kind of measurement, with its picture."""

from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.common import FAMILIES, against
from benchmarks.markdown import Result, half, load, spread, table
from benchmarks.pictures import colour
from benchmarks.targets import replayed, resident, share, terms, tracked

Draw = Callable[[str, str, Sequence[tuple[str, float, str, str]], float], str]
"""(name, what it shows, bars, line) → the line of Markdown that shows the picture."""

_LOSS = {"choice": "", "lm": ", loss over all tokens"}
_EXECUTORS = {"batched": "Batched", "unchecked": "Batched without check", "swap": "Swap"}
_POPULATIONS = {"low-rank": "low-rank", "spsa": "spsa", "plain": "plain loop"}


def steps(results: Sequence[Result], draw: Draw) -> str:
    tasks = ("both_in_one", "low-rank", "spsa", "mezo", "mezo-swap", "plain", "fused")
    rows = [
        (
            r["dtype"], FAMILIES[r["family"]], f"{r['rows']}×{r['tokens']}{_LOSS[r['loss']]}",
            f"{r['median_seconds']['two_forwards']:.2f} s",
            *(spread(against(r["seconds"], t, "two_forwards")) if t in r["seconds"] else "–" for t in tasks),
            *(f"{r['floor'][law]:.2f}" for law in ("low_rank", "dense")), r["attention"], load(r),
        )
        for r in sorted(results, key=lambda r: (r["family"], r["dtype"], r["rows"], r["loss"], half(r)))
    ]  # fmt: skip
    head = (
        "weights", "model", "rows", "two forwards", "both in one", "low-rank", "spsa", "mezo", "mezo, Swap",
        "plain MeZO loop", "in three passes", "floor, low-rank", "floor, dense", "attention", "load",
    )  # fmt: skip
    text = table(head, rows)
    for dtype in ("float32", "bfloat16"):
        chosen = [r for r in results if (r["dtype"], r["family"], r["loss"]) == (dtype, "smollm2", "choice")]
        bars = [
            (f"{task} {r['rows']}×{r['tokens']}", ratio.median, f"{ratio.median:.2f}", colour(task))
            for r in sorted(chosen, key=lambda r: (r["rows"], half(r)))
            for task in tasks[1:]
            # of the two halves at 16 rows each task stands once
            if task in r["seconds"] and not (half(r) == 1 and task == "low-rank")
            for ratio in [against(r["seconds"], task, "two_forwards")]
        ]
        if bars:
            about = f"Step ÷ two forwards, SmolLM2-135M, {dtype}; the line is 1"
            text += f"\n{about}:\n\n{draw(f'step-{dtype}', about, bars, 1.0)}"
    return text + _alone(results)


def _alone(results: Sequence[Result]) -> str:
    """What `Batched` could not run together, where it could not."""
    said: list[str] = []
    for r in results:
        for name, alone in r["alone"].items():
            if alone["reason"]:
                said.append(f"- `{r['name']}`, {name}: `Swap` took over, for {alone['reason']}")
            elif alone["one_by_one"]:
                kinds = ", ".join(f"`{kind}`" for kind in alone["one_by_one"])
                said.append(f"- `{r['name']}`, {name}: once a point ran {kinds}")
    return "\nNot evaluated together by `Batched`:\n\n" + "\n".join(said) + "\n" if said else ""


def populations(results: Sequence[Result], draw: Draw) -> str:
    rows = [
        (
            r["dtype"], _POPULATIONS[r["method"]], f"{r['tokens_a_second']['training']:,.0f}",
            f"{r['tokens_a_second']['inference']:,.0f}", str(r["fastest"]), spread(share(r)), str(r["rounds"]),
            load(r),
        )
        for r in results
    ]  # fmt: skip
    head = ("weights", "step", "tokens a second", "inference", "its rows", "ratio", "rounds", "load")
    bars = [
        (f"{r['method']}, {r['dtype']}", share(r).median, f"{share(r).median:.2f}", colour(r["method"]))
        for r in results
    ]
    about = "Tokens a second of training ÷ of inference; the line is inference"
    return f"{table(head, rows)}\n{about}:\n\n{draw('population', about, bars, 1.0)}{_alone(results)}"


def memory(results: Sequence[Result], draw: Draw) -> str:
    rows = [
        (
            r["dtype"], f"{r.get('method', 'spsa')}, {_EXECUTORS[r.get('executor', 'swap')]}",
            *(f"{median(r['peaks'][kind]) / 2**20:.0f} MiB" for kind in ("inference", "training")),
            spread(resident(r), 3), f"{tracked(r):.3f}" if "allocated" in r else "–",
            f"{r['residual'] / r['weights']:.2f}", f"{r['largest_module'] / r['weights']:.2f}",
            str(len(r["peaks"]["training"])),
        )
        for r in results
    ]  # fmt: skip
    head = (
        "weights", "training", "peak of inference", "peak of training", "difference ÷ weights",
        "by the allocator", "residual ÷ weights", "largest module ÷ weights", "pairs",
    )  # fmt: skip
    bars = [
        (
            f"{row[1]}, {row[0]}".replace("Batched ", ""),
            max(0.0, value),
            f"{value:.3f}",
            colour(r.get("method", "spsa")),
        )
        for row, r in zip(rows, results, strict=True)
        for value in [resident(r).median]
    ]
    about = "Memory beyond inference ÷ weights; the line is the largest module"
    level = results[0]["largest_module"] / results[0]["weights"]
    return f"{table(head, rows)}\n{about}:\n\n{draw('memory', about, bars, level)}"


def passes(results: Sequence[Result], draw: Draw) -> str:
    names = list(dict.fromkeys(name for r in results for name in r["ns_a_weight"]))
    rows = [
        (
            name.replace("_", " ") if name != "add_" else "`add_(0)`",
            *(
                f"{r['ns_a_weight'][name]:.2f} ns, {spread(against(r['seconds'], name, 'add_'))}"
                if name in r["ns_a_weight"]
                else "–"
                for r in results
            ),
        )
        for name in names
    ]
    bars = [
        (f"{name.replace('_', ' ')}, {r['dtype']}", ratio.median, f"{ratio.median:.1f}", colour(_method(name)))
        for r in results
        for name in names
        if name.startswith(("perturb", "update")) and name in r["seconds"]
        for ratio in [against(r["seconds"], name, "add_")]
    ]
    about = "Pass ÷ `add_` pass; the line is 1"
    head = ("pass", *(r["dtype"] for r in results))
    return f"{table(head, rows)}\n{about}:\n\n{draw('pass', about.replace('`', ''), bars, 1.0)}"


def replays(results: Sequence[Result], draw: Draw) -> str:
    rows = [
        (
            r["dtype"], r["method"], f"{r['steps']:,}", f"{r['median_seconds']['replay']:.1f} s",
            f"{r['steps_a_second']['replayed']:.1f}", f"{r['steps_a_second']['trained']:.2f}",
            spread(replayed(r)), str(r["rounds"]), load(r),
        )
        for r in results
    ]  # fmt: skip
    head = (
        "weights", "recipe", "steps", "replay", "replayed steps a second", "trained steps a second", "ratio",
        "rounds", "load",
    )  # fmt: skip
    bars = [
        (f"{r['method']}, {r['dtype']}", replayed(r).median, f"{replayed(r).median:.0f}", colour(r["method"]))
        for r in results
    ]
    about = "Replayed ÷ trained steps a second; the line is the target, 20"
    return f"{table(head, rows)}\n{about}:\n\n{draw('replay', about, bars, 20.0)}"


def keys(results: Sequence[Result], draw: Draw) -> str:
    rows = [
        (
            r["dtype"], r["method"], f"{r['median_seconds']['one_entry']:.2f} s",
            f"{1000 * r['median_seconds']['one_term']:.0f} ms", spread(terms(r), 3), str(r["rounds"]), load(r),
        )
        for r in results
    ]  # fmt: skip
    head = ("weights", "recipe", "entry of 256 terms", "entry of one", "ratio", "rounds", "load")
    bars = [
        (f"{r['method']}, {r['dtype']}", terms(r).median, f"{terms(r).median:.3f}", colour(r["method"]))
        for r in results
    ]
    about = "An entry of 256 terms ÷ 256 entries of one; the line is 1, entry by entry"
    return f"{table(head, rows)}\n{about}:\n\n{draw('keys', about, bars, 1.0)}"


def overheads(results: Sequence[Result], _: Draw) -> str:
    tasks = ("unperturbed", "both_points", "update")
    rows = [
        (
            r["dtype"], str(r["modules"]), *(f"{1000 * r['median_seconds'][task]:.0f} ms" for task in tasks),
            spread(against(r["seconds"], "both_points", "unperturbed")), load(r),
        )
        for r in results
    ]  # fmt: skip
    head = ("weights", "modules", "unperturbed", "both points", "update", "both points ÷ unperturbed", "load")
    return table(head, rows)


def ledger(results: Sequence[Result], _: Draw) -> str:
    rows = [
        (
            r["dtype"], f"{r['bytes_a_step']:.0f}", f"{r['replayed_steps_a_second']:.1f}",
            "yes" if r["bitwise_equal"] else "NO",
        )
        for r in results
    ]  # fmt: skip
    return table(("weights", "bytes a step", "replayed steps a second", "equal bit for bit"), rows)


def plan(results: Sequence[Result], _: Draw) -> str:
    rows = [
        (
            r["model"], r["dtype"], f"{r['rows']}×{r['tokens']}", f"{median(r['predicted']):.2f} s",
            f"{median(r['measured']):.2f} s", f"**{r['ratio']['time']:.2f}**", load(r),
        )
        for r in results
    ]  # fmt: skip
    return table(("model", "weights", "rows", "predicted", "measured", "predicted ÷ measured", "load"), rows)


def _method(name: str) -> str:
    """The recipe whose law a pass has."""
    laws = {"rademacher": "spsa", "gaussian": "mezo", "low_rank": "low-rank"}
    return next((method for law, method in laws.items() if name.endswith(law)), "")
