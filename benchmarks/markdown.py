"""Cells and tables of the page."""

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.common import Measured

Result = Mapping[str, Any]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def load(result: Result) -> str:
    return f"{result['load_average_before'][0]:.1f}"


def half(result: Result) -> int:
    """The second half of a shape whose tasks do not fit in one measurement comes after the first."""
    return int(result["name"].startswith("peers"))


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def spread(measured: Measured | None, digits: int = 2) -> str:
    """The median, and from where to where."""
    if measured is None:
        return "not measured"
    if measured.median >= 10:
        digits = 1
    median, low, high = (f"{value:.{digits}f}" for value in (measured.median, measured.low, measured.high))
    return f"**{median}** ({low} to {high})"
