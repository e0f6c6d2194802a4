"""docs/benchmarks.md from benchmarks/results/*.json: nothing on the page is typed in by hand."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import FAMILIES, HERE, Measured, Settings, against
from benchmarks.pictures import colour, picture
from benchmarks.targets import ABOUT, Verdict, replayed, resident, share, terms, tracked, verdicts

PAGE = HERE.parent / "docs" / "benchmarks.md"
PICTURES = "benchmarks"
"""The pictures' folder, beside the page."""

Result = dict[str, Any]


def write_page(results: Path, folder: Path, expected: Sequence[str]) -> None:
    """Write benchmarks.md and its pictures to `folder` from the results there are, of those `expected`."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    page = Page([result for result in found if result["name"] in expected], expected)
    (folder / PAGE.name).write_text(page.text())
    pictures = folder / PICTURES
    pictures.mkdir(exist_ok=True)
    for old in pictures.glob("*.svg"):
        old.unlink()
    for name, svg in page.pictures.items():
        (pictures / f"{name}.svg").write_text(svg)


class Page:
    """The page as Markdown; `pictures` (name → SVG) is filled as `text` draws them."""

    def __init__(self, results: Sequence[Result], expected: Sequence[str] = ()) -> None:
        order = {name: at for at, name in enumerate(expected)}
        self.results = sorted(results, key=lambda result: order.get(result["name"], len(order)))
        self.expected = expected
        self.by_name = {result["name"]: result for result in results}
        self.verdicts = verdicts(self.by_name)
        self.pictures: dict[str, str] = {}

    def text(self) -> str:
        """The whole page."""
        sections = (
            (("R1", "R1b"), "A step ÷ two forwards", _STEP, ("step", "peers"), self._steps),
            (("R2",), "A population ÷ inference", _POPULATION, ("population",), self._populations),
            (("R3",), "Memory beyond inference", _MEMORY, ("memory",), self._memory),
            (("R4",), "A pass over the weights ÷ an `add_` pass", _PASS, ("pass",), self._passes),
            (("R7",), "Replayed ÷ trained steps a second", _REPLAY, ("replay",), self._replays),
            (("R8",), "Many terms in an entry", _KEYS, ("keys",), self._keys),
            ((), "What low rank costs beside its products", _OVERHEAD, ("overhead",), self._overheads),
            ((), "Ledger", _LEDGER, ("ledger",), self._ledger),
            ((), "`zo plan`: time of a step", _PLAN, ("plan",), self._plan),
        )
        parts = [_HEAD, self._machine(), self._summary()]
        for ids, title, about, kinds, details in sections:
            found = [result for result in self.results if result["name"].split("-")[0] in kinds]
            parts.append(f"## {', '.join(ids)}{': ' if ids else ''}{title}\n\n{about}\n")
            parts.append(self._targets(ids) if ids else "")
            parts.append(details(found) if found else "Not measured yet.\n")
        parts.append(self._missing())
        return "\n".join(part for part in parts if part)

    def _machine(self) -> str:
        if not self.results:
            return "There are no results yet.\n"
        about = [r["environment"] for r in self.results]
        machines = [
            f"{a['processor']}, {a['cores']} cores, {a['instructions']}, {a['threads']} threads, torch {a['torch']}"
            for a in about
        ]
        loads = [max(r["load_average_before"][0], r["load_average_after"][0]) for r in self.results]
        text = (
            f"Machine: {'; '.join(dict.fromkeys(machines))}. Load average (one minute) at the time: {min(loads):.1f} "
            f"to {max(loads):.1f}. Measured at {', '.join(sorted({a['commit'][:7] for a in about}))}"
        )
        if changed := sum(a["changed_since_commit"] for a in about):
            text += f"; {changed} of {len(self.results)} results with changes that were not committed yet"
        text += "."
        if max(loads) > about[0]["cores"] + 0.7:
            text += (
                "\n\n!!! warning\n    Other work ran on this machine meanwhile: ratios hold more or less, absolute "
                "times do not."
            )
        return text + "\n" + self._rounds()

    def _rounds(self) -> str:
        """The results of fewer rounds than there should be."""
        wanted, fewer = Settings().repeats, dict[int, list[str]]()
        for result in self.results:
            if (rounds := result.get("rounds", wanted)) < wanted:
                fewer.setdefault(rounds, []).append(f"`{result['name']}`")
        if not fewer:
            return ""
        lines = [f"- {rounds} rounds: {', '.join(names)}" for rounds, names in sorted(fewer.items(), reverse=True)]
        return f"\nMeasured in fewer rounds than {wanted}:\n\n" + "\n".join(lines) + "\n"

    def _summary(self) -> str:
        """One row a target: its cases by what became of them."""
        rows: list[list[str]] = []
        for id_, about in ABOUT.items():
            cases = [v for v in self.verdicts if v.target.id == id_]
            goals = [v for v in cases if v.target.words != "its floor"]
            met = sum(v.reached is True for v in goals)
            measured = sum(v.measured is not None for v in goals)
            became = f"{met} of {measured}" if measured else "–"
            rows.append([id_, about, became, str(len(goals) - measured)])
        head = ("target", "what", "reached, of the cases measured", "cases not measured")
        return "## Targets\n\n" + _table(head, rows)

    def _targets(self, ids: Iterable[str]) -> str:
        """A row a case, and a sentence for each that is missed."""
        cases = [v for v in self.verdicts if v.target.id in ids]
        rows = [
            (
                v.target.id, v.target.case, _spread(v.measured), v.target.words + _goal(v), _reached(v),
                "–" if v.floor is None else _number(v.floor),
            )
            for v in cases
        ]  # fmt: skip
        text = _table(("", "case", "measured", "target", "reached", "limit"), rows)
        missed = [v for v in cases if v.reached is False]
        if missed:
            text += "\nNot reached:\n\n" + "\n".join(f"- {_miss(v)}" for v in missed) + "\n"
        return text

    def _missing(self) -> str:
        missing = [name for name in self.expected if name not in self.by_name]
        if not missing:
            return ""
        return "## Not measured\n\nWithout a result: " + ", ".join(f"`{name}`" for name in missing) + ".\n"

    def _draw(self, name: str, about: str, rows: Sequence[tuple[str, float, str, str]], level: float) -> str:
        """The picture, kept under its name, and the line of Markdown that shows it."""
        self.pictures[name] = picture(rows, level)
        return f"![{about}]({PICTURES}/{name}.svg)\n"

    def _steps(self, results: list[Result]) -> str:
        tasks = ("both_in_one", "low-rank", "spsa", "mezo", "mezo-swap", "plain", "fused")
        rows = [
            (
                r["dtype"], FAMILIES[r["family"]], f"{r['rows']}×{r['tokens']}{_LOSS[r['loss']]}",
                f"{r['median_seconds']['two_forwards']:.2f} s",
                *(_spread(against(r["seconds"], t, "two_forwards")) if t in r["seconds"] else "–" for t in tasks),
                *(f"{r['floor'][law]:.2f}" for law in ("low_rank", "dense")), r["attention"], _load(r),
            )
            for r in sorted(results, key=lambda r: (r["family"], r["dtype"], r["rows"], r["loss"], _half(r)))
        ]  # fmt: skip
        head = (
            "weights", "model", "rows", "two forwards", "both in one", "low-rank", "spsa", "mezo", "mezo, Swap",
            "plain MeZO loop", "in three passes", "floor, low-rank", "floor, dense", "attention", "load",
        )  # fmt: skip
        text = _table(head, rows)
        for dtype in ("float32", "bfloat16"):
            chosen = [r for r in results if (r["dtype"], r["family"], r["loss"]) == (dtype, "smollm2", "choice")]
            bars = [
                (f"{task} {r['rows']}×{r['tokens']}", ratio.median, f"{ratio.median:.2f}", colour(task))
                for r in sorted(chosen, key=lambda r: (r["rows"], _half(r)))
                for task in tasks[1:]
                # of the two halves at 16 rows each task stands once
                if task in r["seconds"] and not (_half(r) == 1 and task == "low-rank")
                for ratio in [against(r["seconds"], task, "two_forwards")]
            ]
            if bars:
                about = f"Step ÷ two forwards, SmolLM2-135M, {dtype}; the line is 1"
                text += f"\n{about}:\n\n{self._draw(f'step-{dtype}', about, bars, 1.0)}"
        return text + self._alone(results)

    def _alone(self, results: list[Result]) -> str:
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

    def _populations(self, results: list[Result]) -> str:
        rows = [
            (
                r["dtype"], _POPULATIONS[r["method"]], f"{r['tokens_a_second']['training']:,.0f}",
                f"{r['tokens_a_second']['inference']:,.0f}", str(r["fastest"]), _spread(share(r)), str(r["rounds"]),
                _load(r),
            )
            for r in results
        ]  # fmt: skip
        head = ("weights", "step", "tokens a second", "inference", "its rows", "ratio", "rounds", "load")
        bars = [
            (f"{r['method']}, {r['dtype']}", share(r).median, f"{share(r).median:.2f}", colour(r["method"]))
            for r in results
        ]
        about = "Tokens a second of training ÷ of inference; the line is inference"
        return f"{_table(head, rows)}\n{about}:\n\n{self._draw('population', about, bars, 1.0)}{self._alone(results)}"

    def _memory(self, results: list[Result]) -> str:
        rows = [
            (
                r["dtype"], f"{r.get('method', 'spsa')}, {_EXECUTORS[r.get('executor', 'swap')]}",
                *(f"{median(r['peaks'][kind]) / 2**20:.0f} MiB" for kind in ("inference", "training")),
                _spread(resident(r), 3), f"{tracked(r):.3f}" if "allocated" in r else "–",
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
        return f"{_table(head, rows)}\n{about}:\n\n{self._draw('memory', about, bars, level)}"

    def _passes(self, results: list[Result]) -> str:
        names = list(dict.fromkeys(name for r in results for name in r["ns_a_weight"]))
        rows = [
            (
                name.replace("_", " ") if name != "add_" else "`add_(0)`",
                *(
                    f"{r['ns_a_weight'][name]:.2f} ns, {_spread(against(r['seconds'], name, 'add_'))}"
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
        table = _table(("pass", *(r["dtype"] for r in results)), rows)
        return f"{table}\n{about}:\n\n{self._draw('pass', about.replace('`', ''), bars, 1.0)}"

    def _replays(self, results: list[Result]) -> str:
        rows = [
            (
                r["dtype"], r["method"], f"{r['steps']:,}", f"{r['median_seconds']['replay']:.1f} s",
                f"{r['steps_a_second']['replayed']:.1f}", f"{r['steps_a_second']['trained']:.2f}",
                _spread(replayed(r)), str(r["rounds"]), _load(r),
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
        return f"{_table(head, rows)}\n{about}:\n\n{self._draw('replay', about, bars, 20.0)}"

    def _keys(self, results: list[Result]) -> str:
        rows = [
            (
                r["dtype"], r["method"], f"{r['median_seconds']['one_entry']:.2f} s",
                f"{1000 * r['median_seconds']['one_term']:.0f} ms", _spread(terms(r), 3), str(r["rounds"]), _load(r),
            )
            for r in results
        ]  # fmt: skip
        head = ("weights", "recipe", "entry of 256 terms", "entry of one", "ratio", "rounds", "load")
        bars = [
            (f"{r['method']}, {r['dtype']}", terms(r).median, f"{terms(r).median:.3f}", colour(r["method"]))
            for r in results
        ]
        about = "An entry of 256 terms ÷ 256 entries of one; the line is 1, entry by entry"
        return f"{_table(head, rows)}\n{about}:\n\n{self._draw('keys', about, bars, 1.0)}"

    def _overheads(self, results: list[Result]) -> str:
        tasks = ("unperturbed", "both_points", "update")
        rows = [
            (
                r["dtype"], str(r["modules"]), *(f"{1000 * r['median_seconds'][task]:.0f} ms" for task in tasks),
                _spread(against(r["seconds"], "both_points", "unperturbed")), _load(r),
            )
            for r in results
        ]  # fmt: skip
        head = ("weights", "modules", "unperturbed", "both points", "update", "both points ÷ unperturbed", "load")
        return _table(head, rows)

    def _ledger(self, results: list[Result]) -> str:
        rows = [
            (
                r["dtype"], f"{r['bytes_a_step']:.0f}", f"{r['replayed_steps_a_second']:.1f}",
                "yes" if r["bitwise_equal"] else "NO",
            )
            for r in results
        ]  # fmt: skip
        return _table(("weights", "bytes a step", "replayed steps a second", "equal bit for bit"), rows)

    def _plan(self, results: list[Result]) -> str:
        rows = [
            (
                r["model"], r["dtype"], f"{r['rows']}×{r['tokens']}", f"{median(r['predicted']):.2f} s",
                f"{median(r['measured']):.2f} s", f"**{r['ratio']['time']:.2f}**", _load(r),
            )
            for r in results
        ]  # fmt: skip
        return _table(("model", "weights", "rows", "predicted", "measured", "predicted ÷ measured", "load"), rows)


_HEAD = """# Benchmarks

`make bench` measures everything on this page again and writes it anew; every number comes out of
`benchmarks/results/`, where each file also holds all single times, versions, commit and load of the machine. Model:
SmolLM2-135M unless a table says otherwise, random rows of exactly 64 tokens. What is compared is measured in turns in
one process, round after round; a task of less than a second runs twice in a round and the second time counts, as
training takes step after step. A ratio is the median over the rounds of the ratio within a round, with the lowest and
the highest in parentheses; it is compared with its target as it is, and never chosen among several runs.
"""

_STEP = """A step is all of it: two evaluations at perturbed weights, ledger entry on disk, update, a row of metrics.
The denominator is two evaluations of the same objective on the same rows in inference mode, without a cache, with the
faster of the attentions tried. All weights are searched; those of the OPT shape are random. `low-rank` (rank 1, signs
as factors), `spsa` (signs) and `mezo` (Gaussian) evaluate both points in one pass (`Batched`); `mezo, Swap` one after
the other. `both in one` is one unperturbed forward of the rows twice over. The plain loops are written in torch alone
and evaluate the same objective: MeZO as it is usually written (+ε, −2ε, +ε, step), and in three passes (restoring and
stepping at once).

The limit is (forwards + bytes ÷ bandwidth) ÷ two forwards: the faster of two forwards and both in one; the bytes of an
update (each weight read and written, a bf16 weight with its residual byte), and for dense laws those of the probes
(each weight read once and written twice, tables of which a few rows are read left out); the bandwidth of copying
256 MB in the same process. Perturbed weights that are used while they are in cache need not be written to memory, so a
dense step may come below it. At 1×64 and 4×64 dense steps are held against this limit. The last table also has the
floor of two separate forwards, (two forwards + bytes ÷ bandwidth) ÷ two forwards."""

_POPULATION = """A step of eight draws, 16 points of 16 rows of 64 tokens, with its update, ledger entry and row of
metrics; inference is one forward of 4, 8, 16, 32 or 64 rows, whichever has most tokens a second here, by the medians of
the same rounds. The plain loop perturbs in place with `torch.randn`, draw after draw. The limit is that of 16 points
evaluated in unperturbed passes as large as the step's, and of moving the bytes of an update."""

_MEMORY = """Peak resident memory of fresh processes, loading left out, training minus inference over the same rows:
for `Batched` the rows of both points (32×64), for `Swap` of one (16×64). At its first step `Batched` compares itself
with `Swap` on four rows unless told not to, and its peak has that in it. Medians over pairs of processes. The residual
byte is left out of the difference; kernels are compiled and imported in both. By the allocator: the most bytes of
torch's CPU allocator alive at once after loading (every allocation and release that torch's profiler sees), the same
difference; it is the limit."""

_PASS = """Time for one weight. A perturbation writes θ + εz into scratch; an update reads, moves and writes θ (and the
residual byte of a bf16 weight). The target is of the perturbation. `draw`: as many elements drawn and added in cache.
The limit is the larger of that and the bytes moved, in units of the `add_` pass."""

_REPLAY = """`zerothorder.replay` of a ledger of made-up steps, reading it and checking the base included, against
whole training steps at 16×64, in turns. The limit: a trained step's time over that of the draw added
in cache (signs), or over that of the matrix library's product of the factors."""

_KEYS = """Applying one entry of 256 terms to the whole model, with the recipe's direction and update, ÷ 256 × applying
an entry of one term. The limit: a term drawn and added in cache (`spsa`, `mezo`), or the matrix library's product of
the factors, ÷ an entry of one."""

_OVERHEAD = """A model of as many modules as SmolLM2-135M with layers of 36 columns, one row of 64 tokens: what is
left is launches and Python. Both points of a rank-1 step in one pass, against the same two rows unperturbed; and the
update."""

_LEDGER = "A short run on disk; its entries are applied again as replay applies them."

_PLAN = "Predicted before anything is loaded, and measured, in turns. Its memory is held within 10 % by a test."

_LOSS = {"choice": "", "lm": ", loss over all tokens"}
_EXECUTORS = {"batched": "Batched", "unchecked": "Batched without check", "swap": "Swap"}
_POPULATIONS = {"low-rank": "low-rank", "spsa": "spsa", "plain": "plain loop"}


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _load(result: Result) -> str:
    return f"{result['load_average_before'][0]:.1f}"


def _half(result: Result) -> int:
    """The second half of a shape whose tasks do not fit in one measurement comes after the first."""
    return int(result["name"].startswith("peers"))


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _spread(measured: Measured | None, digits: int = 2) -> str:
    """The median, and from where to where."""
    if measured is None:
        return "not measured"
    if measured.median >= 10:
        digits = 1
    median, low, high = (f"{value:.{digits}f}" for value in (measured.median, measured.low, measured.high))
    return f"**{median}** ({low} to {high})"


def _goal(verdict: Verdict) -> str:
    """The number of a goal that is one of the model's."""
    return f", {verdict.goal:.2f}" if verdict.goal is not None and callable(verdict.target.goal) else ""


def _reached(verdict: Verdict) -> str:
    if verdict.measured is None:
        return "–"
    if verdict.reached is None:
        return f"{verdict.measured.median / verdict.floor:.2f} × it" if verdict.floor else "–"
    return "yes" if verdict.reached else "**no**"


def _miss(verdict: Verdict) -> str:
    """What was aimed at and found, and what bounds it."""
    assert verdict.measured is not None
    text = (
        f"{verdict.target.id}, {verdict.target.case}: {_number(verdict.measured.median)}, target {verdict.target.words}"
        f"{_goal(verdict)}"
    )
    if verdict.floor is None:
        return f"{text}; its limit was not measured."
    return f"{text}, limit {_number(verdict.floor)}: {verdict.bound or 'what it is made of was not measured'}."


def _method(name: str) -> str:
    """The recipe whose law a pass has."""
    laws = {"rademacher": "spsa", "gaussian": "mezo", "low_rank": "low-rank"}
    return next((method for law, method in laws.items() if name.endswith(law)), "")


__all__ = ["PAGE", "Page", "write_page"]
