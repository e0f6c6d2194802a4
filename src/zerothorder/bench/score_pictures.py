"""Pictures of a suite of scores: differences with their intervals, curves over forwards, scores against their cost."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from zerothorder.report.standalone import alone
from zerothorder.report.svg import INK, MUTED, SERIES, sheet

Rows = Sequence[Mapping[str, Any]]
_LINE, _EDGE = 0.24, 0.45
"""Inches: a row of differences, and what stands above and below them."""


def differences(rows: Rows, base: str) -> str:
    """A dot and its interval a method, the base as a line at 0; empty where there is none."""
    shown = [row for row in rows if row["loss"] is not None]
    if not shown:
        return ""
    with sheet(_LINE * len(shown) + 2 * _EDGE) as drawing:
        axes = drawing.axes
        height = _LINE * len(shown) + 2 * _EDGE
        drawing.figure.subplots_adjust(left=0.25, right=0.97, bottom=_EDGE / height, top=1 - 0.1 / height)
        for place, row in enumerate(shown):
            value, low, high = row["loss"]
            sure = row["enough"] and (low > 0 or high < 0)
            axes.plot([low, high], [place, place], color=SERIES[0] if sure else MUTED)
            axes.plot([value], [place], marker="o", markersize=4, color=SERIES[0] if sure else MUTED)
        axes.axvline(0.0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(shown)), [row["name"] for row in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(visible=False)
        axes.set_xlabel(f"cross-entropy less that of {base}; to the left is better")
    return alone(drawing.svg)


def curves(rows: Rows) -> str:
    """Cross-entropy on dev over forwards, mean over tasks and seeds. Runs whose loss was no number are left out, and
    counted beside the method's name."""
    drawn: list[tuple[str, list[float], list[float]]] = []
    for row in rows:
        found = [run["curve"] for run in row["every"] if _whole(run)]
        if not found:
            continue
        length = min(map(len, found))
        xs = [statistics.fmean(curve[at]["forwards"] for curve in found) for at in range(length)]
        ys = [statistics.fmean(curve[at]["loss"] for curve in found) for at in range(length)]
        whole = len(found) == len(row["every"])
        drawn.append((row["name"] if whole else f"{row['name']} ({len(found)} of {len(row['every'])})", xs, ys))
    if not drawn:
        return ""
    with sheet(3.4) as drawing:
        axes = drawing.axes
        drawing.figure.subplots_adjust(left=0.1, right=0.76, bottom=0.14, top=0.97)
        order = sorted(drawn, key=lambda own: -own[2][-1])
        for at, (name, xs, ys) in enumerate(order):
            colour, style = SERIES[at % len(SERIES)], ("-", "--", ":")[at // len(SERIES) % 3]
            axes.plot(xs, ys, color=colour, linestyle=style, linewidth=1.4)
            axes.text(1.02, 0.97 - 0.075 * at, name, color=colour, transform=axes.transAxes, va="top")
        axes.set_xlabel("forwards")
    return alone(drawing.svg)


def _whole(run: Mapping[str, Any]) -> bool:
    losses = [row["loss"] for row in run["curve"]]
    return bool(losses) and all(loss is not None and math.isfinite(loss) for loss in losses)


def scatter(rows: Rows, cost: str, unit: str) -> str:
    """Cross-entropy on test (mean over tasks and seeds) against a cost; those that none beats in both are joined."""
    places: list[tuple[float, float, str]] = []
    for row in rows:
        losses = [run["test"].get("loss") for run in row["every"]]
        if all(loss is not None and math.isfinite(loss) for loss in losses):
            places.append((row[cost], statistics.fmean(losses), row["name"]))
    if len(places) < 2:
        return ""
    with sheet(3.0) as drawing:
        axes = drawing.axes
        drawing.figure.subplots_adjust(left=0.1, right=0.97, bottom=0.16, top=0.95)
        front = unbeaten(places)
        axes.plot(
            [x for x, _, _ in front], [y for _, y, _ in front], color=MUTED, linewidth=0.8, drawstyle="steps-post"
        )
        for x, y, name in places:
            best = (x, y, name) in front
            axes.plot([x], [y], marker="o", markersize=4, color=SERIES[0] if best else MUTED)
            axes.annotate(
                name, (x, y), xytext=(4, 3), textcoords="offset points", color=INK if best else MUTED, fontsize=7
            )
        axes.margins(x=0.12)  # room for the names
        axes.set_xlabel(unit)
    return alone(drawing.svg)


def unbeaten(places: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Those with a lower score than everything that costs no more, by cost."""
    found: list[tuple[float, float, str]] = []
    for place in sorted(places):
        if not found or place[1] < found[-1][1]:
            found.append(place)
    return found
