"""Bars of medians as SVG files of their own: light or dark as the reader's system is."""

from collections.abc import Sequence

from zerothorder.report.standalone import alone
from zerothorder.report.svg import SERIES, bars

NAMES = 2.0  # inches
COLOURS = {"low-rank": 0, "spsa": 1, "mezo": 2, "mezo-swap": 3}


def colour(method: str) -> str:
    """Each recipe has its own, everything else the last."""
    return SERIES[COLOURS.get(method, 4)]


def picture(rows: Sequence[tuple[str, float, str, str]], level: float | None = None) -> str:
    """(name, length, what stands at its end, colour) as the bytes of an .svg file."""
    return alone(bars(rows, names=NAMES, level=level))
