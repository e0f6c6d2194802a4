"""The pictures of a report: each a question a person asks of a run, answered or left out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from zerothorder.report import phases, text
from zerothorder.report.metrics import ZERO_SHOT, Floats, Metrics, running_median
from zerothorder.report.svg import INK, MUTED, SERIES, bars, canvas


@dataclass(frozen=True)
class Picture:
    """A drawing with its title, what it says, and a legend of (colour number, name); 0 is ink."""

    title: str
    caption: str
    svg: str
    legend: tuple[tuple[int, str], ...] = ()


def pictures(metrics: Metrics) -> Iterator[Picture]:
    """Every picture that this run has the numbers for."""
    for draw in (
        scores,
        loss,
        others,
        projected_gradient,
        movement,
        changed,
        learning_rate,
        step_time,
        memory,
    ):
        found = draw(metrics)
        if isinstance(found, Picture):
            yield found
        elif found is not None:
            yield from found


def profile(metrics: Metrics) -> Picture | None:
    """Where the time of the steps went, of a run that was asked to look."""
    if metrics.profile is None:
        return None
    rows = [
        (line.name, line.part, line.share, SERIES[0] if line.of_step else MUTED)
        for line in phases.lines(metrics.profile)
    ]
    beside = " Grey: between steps." if any(colour is MUTED for *_, colour in rows) else ""
    return Picture("Time by phase", f"{_sentence(phases.sentence(metrics.profile))}{beside}", bars(rows))


def scores(metrics: Metrics) -> Picture | None:
    """Everything evaluated that lies between 0 and 1: one scale, so one picture."""
    names = [name for name in metrics.metric_names if name != "loss" and _is_share(metrics, name)][: len(SERIES)]
    if not names:
        return None
    with canvas(metrics.last_step) as drawing:
        for name, colour in zip(names, SERIES, strict=False):
            x, y = metrics.evaluated(name, "dev")
            drawing.line(x, y, colour, marked=x.size <= 60)
            zero_shot = metrics.evaluated(name, ZERO_SHOT)[1]
            if zero_shot.size:
                drawing.level(float(zero_shot[-1]), colour)
            at, test = metrics.evaluated(name, "test")
            if test.size:
                drawing.mark(float(at[-1]), float(test[-1]), colour)
        drawing.forwards_on_top(metrics.forwards_at)
    splits = {str(row.get("split")) for row in metrics.evals}
    signs = {
        "dev": "line: development rows",
        "test": "diamond: test rows",
        ZERO_SHOT: "dashed: before training",
    }
    caption = "; ".join(sign for split, sign in signs.items() if split in splits)
    return Picture("Scores", _sentence(caption), drawing.svg, _legend(names))


def loss(metrics: Metrics) -> Picture | None:
    """The objective on training batches, noisy by nature, and on held-out rows."""
    x, y = metrics.series("loss")
    at, held_out = metrics.evaluated("loss", "dev")
    if not np.isfinite(y).any() and not held_out.size:
        return None
    legend = [(1, "training batches, running median")]
    with canvas(metrics.last_step) as drawing:
        drawing.raw(x, y, SERIES[0])
        drawing.line(*running_median(x, y), SERIES[0])
        if held_out.size:
            drawing.line(at, held_out, SERIES[1], marked=at.size <= 60)
            legend.append((2, "development rows"))
        lost = x[~np.isfinite(y)]
        if lost.size:
            drawing.ticks(lost, INK)
        drawing.forwards_on_top(metrics.forwards_at)
    caption = "Faint: each step's own batch."
    if lost.size:
        caption += f" Marks at the bottom: {text.number(lost.size)} without a finite value."
    return Picture("Loss", caption, drawing.svg, tuple(legend))


def others(metrics: Metrics) -> Iterator[Picture]:
    """Evaluated quantities on scales of their own (perplexity, a length): a picture each."""
    for name in metrics.metric_names:
        x, y = metrics.evaluated(name, "dev")
        if name == "loss" or _is_share(metrics, name) or not x.size:
            continue
        with canvas(metrics.last_step) as drawing:
            drawing.line(x, y, SERIES[1], marked=x.size <= 60)
            drawing.forwards_on_top(metrics.forwards_at)
        yield Picture(_sentence(text.label(name))[:-1], "On development rows.", drawing.svg)


def projected_gradient(metrics: Metrics) -> Picture | None:
    """The scalar each step learned: its size is the noise the learning rate has to live with."""
    x, y = metrics.series("projected_gradient")
    if not np.isfinite(y).any():
        return None
    with canvas(metrics.last_step) as drawing:
        drawing.raw(x, y, SERIES[0])
        drawing.line(*running_median(x, np.abs(y)), SERIES[2])
        drawing.level(0.0, MUTED)
    return Picture(
        "Projected gradient",
        "Faint: the slope along each step's direction. A rising size warns before the loss does.",
        drawing.svg,
        ((3, "running median of its size"),),
    )


def movement(metrics: Metrics) -> Picture | None:
    """How far the weights went, as a share of their norm."""
    return _share_line(metrics, "moved", "Distance from the base model", "‖θ − θ₀‖ as a share of ‖θ₀‖.", 3)


def changed(metrics: Metrics) -> Picture | None:
    """How many weights differ from the base: low precision loses small updates, and it shows here."""
    caption = "Weights whose stored value differs from the base model's."
    return _share_line(metrics, "changed", "Weights changed", caption, 3)


def learning_rate(metrics: Metrics) -> Picture | None:
    """The schedule as it was applied; a constant one needs no picture."""
    x, y = metrics.series("lr")
    finite = y[np.isfinite(y)]
    if not finite.size or float(np.ptp(finite)) == 0:
        return None
    with canvas(metrics.last_step) as drawing:
        drawing.line(x, y, SERIES[3])
        drawing.axes.set_ylim(bottom=0)
    return Picture("Learning rate", "As applied.", drawing.svg)


def step_time(metrics: Metrics) -> Picture | None:
    """Wall time of a step, everything included."""
    x, y = metrics.series("seconds")
    if not np.isfinite(y).any():
        return None
    typical, slowest = float(np.nanmedian(y)), float(np.nanmax(y))
    cut = typical > 0 and slowest > 4 * typical
    top = 3 * typical if cut else 1.1 * slowest
    unit, name = (1000.0, "ms") if top < 1 else (1.0, "s")
    with canvas(metrics.last_step, name) as drawing:
        drawing.raw(x, y * unit, SERIES[0])
        drawing.line(*running_median(x, y * unit), SERIES[0])
        drawing.axes.set_ylim(0, top * unit or None)
    caption = f"Faint: each step; median {text.duration(typical)}."
    if cut:
        caption += f" The slowest, {text.duration(slowest)}, lies outside the picture."
    return Picture("Time per step", caption, drawing.svg, ((1, "running median"),))


def memory(metrics: Metrics) -> Picture | None:
    """Peak resident memory of the process so far."""
    x, y = metrics.series("memory")
    finite = y[np.isfinite(y)]
    if not finite.size or finite.max() <= 0:
        return None
    unit, name = (1e9, "GB") if finite.max() >= 1e9 else (1e6, "MB")
    with canvas(metrics.last_step, name) as drawing:
        drawing.line(x, y / unit, SERIES[4])
        drawing.axes.set_ylim(0, 1.15 * finite.max() / unit)
    return Picture("Memory", f"Peak of the process so far: {text.size(float(finite.max()))} at the end.", drawing.svg)


def _share_line(metrics: Metrics, column: str, title: str, caption: str, colour: int) -> Picture | None:
    x, y = metrics.series(column)
    known = np.isfinite(y)
    if not known.any():
        return None
    with canvas(metrics.last_step, "%") as drawing:
        drawing.line(x[known], 100 * y[known], SERIES[colour - 1], marked=known.sum() <= 60)
        drawing.axes.set_ylim(0, 115 * float(y[known].max()) or 1)
    return Picture(title, caption, drawing.svg)


def _is_share(metrics: Metrics, name: str) -> bool:
    values: list[Floats] = [metrics.evaluated(name, split)[1] for split in ("dev", "test", ZERO_SHOT)]
    found = np.concatenate(values)
    return bool(found.size) and float(found.min()) >= 0 and float(found.max()) <= 1


def _legend(names: list[str]) -> tuple[tuple[int, str], ...]:
    return tuple((at, text.label(name)) for at, name in enumerate(names, start=1))


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}." if words else ""
