"""Pictures of how the weights moved, from RUN/interplay.json, which `zo interplay RUN --report` leaves."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zerothorder.report.metrics import Floats
from zerothorder.report.pictures import Picture
from zerothorder.report.svg import GRID, HEIGHT, MUTED, SERIES, canvas, sheet

FILE = "interplay.json"


def read_paths(path: Path) -> tuple[Mapping[str, Any] | None, list[str]]:
    """(what `zo interplay` found, sentences for what could not be read); None where it was not asked."""
    if not path.is_file():
        return None, []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return (found, []) if {"runs", "tensors"} <= found.keys() else (None, [f"{path.name} is of another version."])
    except (ValueError, AttributeError) as error:
        return None, [f"{path.name} cannot be read as JSON ({error}), so the paths are not drawn."]


def paths(found: Mapping[str, Any]) -> Iterator[Picture]:
    """Cosines of successive updates, of each two runs' updates, and the paths by principal components."""
    runs: Sequence[Mapping[str, Any]] = found["runs"][: len(SERIES)]
    moments = {run["name"]: run["moments"] for run in runs}
    whole = found["tensors"][0]  # the first is all tensors together
    own = {name: (steps[2:], whole["successive"][name]) for name, steps in moments.items()}
    band = f"the band is chance, 2/√n of {whole['weights']:,} weights."
    yield _cosines("Each update and the one before it", f"Cosine; {band}", own, whole["chance"])
    pairs = [pair for pair in whole["pairs"] if {pair["first"], pair["second"]} <= moments.keys()]
    if pairs:
        between = {f"{p['first']} and {p['second']}": (moments[p["first"]][1:], p["together"]) for p in pairs}
        first = dict(list(between.items())[: len(SERIES)])
        yield _cosines(
            "Updates of two runs", f"Cosine of those that stand side by side; {band}", first, whole["chance"]
        )
    yield _map(moments, whole)


def _cosines(
    title: str, caption: str, series: Mapping[str, tuple[Sequence[int], Sequence[float | None]]], chance: float
) -> Picture:
    with canvas(max(steps[-1] if steps else 0 for steps, _ in series.values())) as drawing:
        drawing.axes.axhspan(-2 * chance, 2 * chance, color=GRID)
        drawing.level(0.0, MUTED)
        for (steps, values), colour in zip(series.values(), SERIES, strict=False):
            count = min(len(steps), len(values))
            drawing.line(_floats(steps[:count]), _floats(values[:count]), colour, marked=count <= 60)
    return Picture(title, caption, drawing.svg, _legend(series))


def _map(moments: Mapping[str, Sequence[int]], whole: Mapping[str, Any]) -> Picture:
    """A ring where a path starts, a diamond where it ends."""
    with sheet(HEIGHT) as drawing:
        for name, colour in zip(moments, SERIES, strict=False):
            places = np.array([[*place[:2], 0.0, 0.0][:2] for place in whole["places"][name]], dtype=np.float64)
            drawing.line(places[:, 0], places[:, 1], colour, marked=True)
            drawing.mark(float(places[-1, 0]), float(places[-1, 1]), colour)
        shares = [*whole["shares"], 0.0, 0.0]
        drawing.axes.set_xlabel(f"first principal component, {100 * (shares[0] or 0):.0f} % of the variance")
        drawing.axes.set_ylabel(f"second, {100 * (shares[1] or 0):.0f} %")
        drawing.figure.subplots_adjust(bottom=0.18, top=0.97, right=0.97)
    return Picture("Paths through the weights", "Diamond: where a run ended.", drawing.svg, _legend(moments))


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _legend(names: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    return tuple((at, name) for at, name in zip(range(1, len(SERIES) + 1), names, strict=False))
