"""docs/benchmarks.md from benchmarks/results/*.json: nothing on the page is typed in by hand."""

import json
from collections.abc import Iterable
from typing import Any

from benchmarks.common import HERE, RESULTS

PAGE = HERE.parent / "docs" / "benchmarks.md"


def write_page() -> None:
    """Write the page from whatever results there are."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    PAGE.write_text(page_of(found))


def page_of(results: list[dict[str, Any]]) -> str:
    """The page as Markdown."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        kinds.setdefault(result["name"].split("-")[0], []).append(result)
    parts = [_HEAD, _machine(results)]
    for kind, section in (
        ("step", _steps), ("together", _together), ("pass", _passes), ("memory", _memory), ("ledger", _ledger),
        ("plan", _plan),
    ):  # fmt: skip
        if kind in kinds:
            parts.append(section(kinds[kind]))
    return "\n".join(parts)


_HEAD = """# Benchmarks

`make bench` measures everything on this page again and writes it anew; every number comes out of
`benchmarks/results/`, where each file also
holds all single times, versions, commit and load of the machine. Model: SmolLM2-135M, random rows of exactly 64
tokens. What is compared is measured in turns in one process, and medians are compared.
"""


def _machine(results: list[dict[str, Any]]) -> str:
    if not results:
        return "There are no results yet.\n"
    about = results[0]["environment"]
    loads = [max(r["load_average_before"][0], r["load_average_after"][0]) for r in results]
    text = (
        f"Machine: {about['processor']}, {about['cores']} cores, {about['instructions']}, {about['threads']} threads, "
        f"torch {about['torch']}. Load average (one minute) at the time: {min(loads):.1f} to {max(loads):.1f}."
    )
    if max(loads) > about["cores"] + 0.7:
        text += (
            "\n\n!!! warning\n    Other work ran on this machine meanwhile: ratios hold more or less, absolute times "
            "do not."
        )
    return text + "\n"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _load(result: dict[str, Any]) -> str:
    return f"{result['load_average_before'][0]:.1f}"


def _steps(results: list[dict[str, Any]]) -> str:
    rows = [
        (
            r["dtype"], f"{r['rows']}×{r['tokens']}", f"{r['median_seconds']['two_forwards']:.2f} s",
            f"**{r['ratio']['gaussian']:.2f}**", f"**{r['ratio']['rademacher']:.2f}**", f"{r['ratio']['plain']:.2f}",
            r["attention"], _load(r),
        )
        for r in results
    ]  # fmt: skip
    head = (
        "weights",
        "rows",
        "two forwards",
        "step, Gaussian",
        "step, Rademacher",
        "plain MeZO loop",
        "attention",
        "load",
    )
    return (
        "## A step ÷ two forwards\n\n"
        "A step is all of it: two evaluations at perturbed weights, ledger entry on disk, update, a row of metrics. "
        "The denominator is two evaluations of the same objective on the same rows in inference mode, without a cache, "
        "with the faster of the attentions tried. The plain loop perturbs in place with `torch.randn`, as MeZO is "
        "usually written.\n\n" + _table(head, rows)
    )


def _together(results: list[dict[str, Any]]) -> str:
    names = ("two_copies_in_one", "swap", "batched", "batched_rank_1")
    rows = [
        (r["dtype"], f"{r['rows']}×{r['tokens']}", *(f"{r['ratio'][name]:.2f}" for name in names), _load(r))
        for r in results
    ]
    head = ("weights", "rows", "two copies in one", "Swap", "Batched", "Batched, rank 1", "load")
    return (
        "## Evaluating θ ± εz ÷ two forwards\n\n"
        "All weights but the embedding table, without update and ledger; Rademacher signs, or rank 1 with Gaussian "
        "factors. `Batched` runs both points in one pass; it is not in the command line yet. The limit is a plain "
        "forward of the rows twice over.\n\n" + _table(head, rows)
    )


def _passes(results: list[dict[str, Any]]) -> str:
    names = list(results[0]["ratio"])
    rows = [
        (
            name.replace("_", " ") if name != "add_" else "`add_(0)`",
            *tuple(f"{r['ns_a_weight'][name]:.2f} ns, {r['ratio'][name]:.1f} ×" for r in results),
        )
        for name in names
    ]
    return (
        "## A pass over the weights ÷ an `add_` pass\n\n"
        "Time for one weight. A perturbation writes θ + εz into scratch; an update reads, moves and writes θ (and the "
        "residual byte of a bf16 weight).\n\n" + _table(("pass", *(r["dtype"] for r in results)), rows)
    )


def _memory(results: list[dict[str, Any]]) -> str:
    rows = [
        (
            r["dtype"], f"{r['peak']['inference'] / 2**20:.0f} MiB", f"{r['peak']['training'] / 2**20:.0f} MiB",
            f"**{r['ratio']['without_residual']:.2f}**", f"{r['residual'] / r['weights']:.2f}",
            f"{r['ratio']['largest_module']:.2f}",
        )
        for r in results
    ]  # fmt: skip
    head = (
        "weights",
        "inference",
        "training",
        "difference ÷ weights",
        "residual ÷ weights",
        "largest module ÷ weights",
    )
    return (
        "## Memory beyond inference\n\n"
        "Peak resident memory of fresh processes over the same rows (16×64), loading left out, median of five. The "
        "difference is given without the residual byte; the compiled kernels are in both.\n\n" + _table(head, rows)
    )


def _ledger(results: list[dict[str, Any]]) -> str:
    rows = [
        (
            r["dtype"],
            f"{r['bytes_a_step']:.0f}",
            f"{r['replayed_steps_a_second']:.1f}",
            "yes" if r["bitwise_equal"] else "NO",
        )
        for r in results
    ]
    head = ("weights", "bytes a step", "replayed steps a second", "equal bit for bit")
    return "## Ledger and replay\n\n" + _table(head, rows)


def _plan(results: list[dict[str, Any]]) -> str:
    from statistics import median

    rows = [
        (
            r["model"], r["dtype"], f"{r['rows']}×{r['tokens']}", f"{median(r['predicted']):.2f} s",
            f"{median(r['measured']):.2f} s", f"**{r['ratio']['time']:.2f}**", _load(r),
        )
        for r in results
    ]  # fmt: skip
    head = ("model", "weights", "rows", "predicted", "measured", "predicted ÷ measured", "load")
    return (
        "## `zo plan`: time of a step\n\n"
        "Predicted before anything is loaded, and measured, in turns. Its memory is held within 10 % by a test.\n\n"
        + _table(head, rows)
    )


__all__ = ["PAGE", "page_of", "write_page"]
