"""Pictures that are files of their own, light or dark as the reader's system is."""

from collections.abc import Sequence

import numpy as np

from zerothorder.report.svg import canvas

_STYLE = """<style>
svg { --ink: #1b2130; --muted: #5e6878; --grid: #e3e7ee; --card: #ffffff; --series-1: #2563c9; --series-2: #c2570c;
  --series-3: #0f8a6d; --series-4: #9333b5; --series-5: #5b6b8c; }
@media (prefers-color-scheme: dark) { svg { --ink: #e8ebf1; --muted: #9aa5b6; --grid: #2a3140; --card: #181d26;
  --series-1: #6fa8ff; --series-2: #f29255; --series-3: #3fcaa4; --series-4: #cf8bea; --series-5: #a3b3d1; } }
text { font-family: system-ui, sans-serif; }
</style><rect width="100%" height="100%" fill="var(--card)"/>"""


def alone(svg: str) -> str:
    """The bytes of an .svg file from a picture made for a page."""
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{_STYLE}", 1) + "\n"


def lines(drawn: Sequence[tuple[str, str, Sequence[float], Sequence[float]]], along: str) -> str:
    """Curves (name, colour, x, y) over `along`, their names in the upper left corner: an .svg file."""
    last = max((xs[-1] for _, _, xs, _ in drawn if len(xs)), default=1.0)
    with canvas(last) as drawing:
        drawing.axes.set_xlabel(along)
        for place, (name, colour, xs, ys) in enumerate(drawn):
            drawing.line(np.asarray(xs, dtype=np.float64), np.asarray(ys, dtype=np.float64), colour)
            drawing.axes.text(0.01 + 0.19 * place, 1.0, name, color=colour, transform=drawing.axes.transAxes, va="top")
    return alone(drawing.svg)
