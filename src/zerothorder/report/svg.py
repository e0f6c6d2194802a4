"""A canvas whose colours are the page's: matplotlib draws, the page's style sheet paints.

Every colour is a placeholder that becomes a CSS variable in the SVG, and text stays text in the page's font,
so one picture is readable on light and on dark paper and costs a few kilobytes.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from zerothorder.errors import UsageError
from zerothorder.report.metrics import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholders for CSS variables: never seen, they only have to be unlike any colour used otherwise.
INK, MUTED, GRID = "#a1b201", "#a1b202", "#a1b203"
SERIES = ("#a1b211", "#a1b212", "#a1b213", "#a1b214", "#a1b215")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid"} | {
    colour: f"--series-{at}" for at, colour in enumerate(SERIES, start=1)
}
WIDTH, HEIGHT = 5.6, 2.7  # inches; the page scales the picture to its column
LEFT, RIGHT, BOTTOM, TOP = (
    0.55,
    0.15,
    0.42,
    0.1,
)  # margins, fixed: step 300 stands at one place in every picture
TOP_SCALE = 0.42  # more of it where the forwards stand along the top
NAMES, BAR = 1.0, 0.27  # room for the names of bars, and for each of them
MAX_POINTS = 900  # of a raw line: a point or two for every pixel it is drawn on

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text as text
    "svg.hashsalt": "zerothorder",  # the same run gives the same bytes
    "font.size": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "text.color": INK,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


class Canvas:
    """One pair of axes over training steps, with the forwards spent along the top where they are known."""

    def __init__(self, figure: "Figure", axes: "Axes") -> None:
        self.figure, self.axes = figure, axes
        self.last_step = 0.0
        self.svg = ""

    def raw(self, x: Floats, y: Floats, colour: str) -> None:
        """Every value, faint; a long run is thinned to the extremes of each stretch, so no spike is lost."""
        x, y = thin(x, y)
        style: dict[str, Any] = {"marker": "."} if np.isfinite(y).sum() < 3 else {}
        self.axes.plot(x, y, color=colour, alpha=0.32, linewidth=0.8, **style)

    def line(self, x: Floats, y: Floats, colour: str, *, marked: bool = False) -> None:
        """A series to be read; `marked` where its points are few and far between."""
        few = np.isfinite(y).sum() < 3
        style: dict[str, Any] = {"marker": "o", "markersize": 3.2} if marked or few else {}
        self.axes.plot(x, y, color=colour, **style)

    def level(self, y: float, colour: str) -> None:
        """A horizontal line to compare with."""
        self.axes.axhline(y, color=colour, linewidth=1.0, linestyle=(0, (4, 3)))

    def mark(self, x: float, y: float, colour: str) -> None:
        """One result, ringed so that it is seen on a line."""
        self.axes.plot(
            [x],
            [y],
            marker="D",
            markersize=6,
            color=colour,
            markeredgecolor=INK,
            markeredgewidth=0.8,
            clip_on=False,
        )

    def ticks(self, x: Floats, colour: str) -> None:
        """Marks along the bottom edge, for steps where something happened."""
        low = self.axes.get_xaxis_transform()
        self.axes.plot(x, np.zeros_like(x), color=colour, marker="|", markersize=7, linestyle="", transform=low)

    def forwards_on_top(self, at: Callable[[Floats], Floats | None]) -> None:
        """A second scale for the same picture: methods are compared at equal forwards, not steps."""
        steps = np.linspace(0.0, self.last_step, 200)
        forwards = at(steps)
        if forwards is None or forwards[-1] <= 0:
            return
        # A scale must rise: a stretch without forwards (there is none in a real run) gets a hair's slope.
        forwards = np.maximum.accumulate(forwards) + np.arange(steps.size) * 1e-9 * forwards[-1]
        top = self.axes.secondary_xaxis(
            "top",
            functions=(lambda x: _extended(x, steps, forwards), lambda x: _extended(x, forwards, steps)),
        )
        self.figure.subplots_adjust(top=1 - TOP_SCALE / HEIGHT)
        top.xaxis.set_major_locator(_locator(6))
        top.set_xlabel("forwards (examples)")
        top.xaxis.set_major_formatter(lambda value, _: short(value))
        top.spines["top"].set_visible(False)


@contextmanager
def canvas(last_step: float, unit: str = "") -> "Iterator[Canvas]":
    """Axes from step 0 to the run's last, values with their unit; the picture stands in `.svg` afterwards."""
    with sheet(HEIGHT) as drawing:
        figure, axes = drawing.figure, drawing.axes
        figure.subplots_adjust(left=LEFT / WIDTH, right=1 - RIGHT / WIDTH, bottom=BOTTOM / HEIGHT, top=1 - TOP / HEIGHT)
        drawing.last_step = max(last_step, 1.0)
        axes.set_xlim(-0.015 * drawing.last_step, 1.015 * drawing.last_step)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(_locator(6, integer=True))
        axes.xaxis.set_major_formatter(lambda value, _: short(value))
        axes.yaxis.set_major_locator(_locator(5))
        axes.yaxis.set_major_formatter(lambda value, _: f"{short(value)} {unit}".rstrip().replace("-", "−", 1))
        yield drawing


def bars(rows: Sequence[tuple[str, float, str, str]], *, names: float = NAMES, level: float | None = None) -> str:
    """Horizontal bars, the first on top: (name, length, what stands at its end, colour). The SVG.

    `names`: room for the names, in inches. `level`: a length to compare with, as a line through all bars.
    """
    height = TOP + BAR * len(rows) + TOP
    with sheet(height) as drawing:
        axes, places = drawing.axes, range(len(rows))
        drawing.figure.subplots_adjust(
            left=names / WIDTH, right=1 - RIGHT / WIDTH, bottom=TOP / height, top=1 - TOP / height
        )
        longest = max(*(length for _, length, _, _ in rows), level or 0.0) or 1.0
        axes.barh(places, [length for _, length, _, _ in rows], height=0.7, color=[colour for *_, colour in rows])
        for place, (_, length, words, _) in enumerate(rows):
            axes.text(length + 0.01 * longest, place, words, va="center", color=MUTED)
        if level is not None:
            axes.axvline(level, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set_yticks(places, [name for name, *_ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1.12 * longest)  # room for the words behind the longest
        axes.grid(visible=False)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
    return drawing.svg


@contextmanager
def sheet(height: float) -> "Iterator[Canvas]":
    """Empty axes in the page's style; drawn when the block ends."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            f"the report needs {error.name}, which is not installed: pip install 'zerothorder[report]'"
        ) from error
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height))
        drawing = Canvas(figure, figure.add_subplot())
        yield drawing
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing.svg = _for_page(out.getvalue())


def thin(x: Floats, y: Floats, limit: int = MAX_POINTS) -> tuple[Floats, Floats]:
    """At most `limit` points: the lowest and the highest of every stretch, in their order."""
    if x.size <= limit:
        return x, y
    keep: set[int] = {0, x.size - 1}
    edges = np.linspace(0, x.size, limit // 2, dtype=int)
    for low, high in pairwise(edges):
        part = y[low:high]
        if np.isfinite(part).any():
            keep |= {int(low + np.nanargmin(part)), int(low + np.nanargmax(part))}
    at = np.array(sorted(keep))
    return x[at], y[at]


def short(value: float) -> str:
    """An axis number: 1500 → 1.5k, 2000000 → 2M."""
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e")


def _locator(most: int, *, integer: bool = False) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=most, integer=integer, steps=[1, 2, 2.5, 5, 10])


def _extended(x: Any, xs: Floats, ys: Floats) -> Any:
    """Linear interpolation that goes on in a straight line past both ends, as a scale's margins need."""
    x = np.asarray(x, dtype=np.float64)
    slope = (ys[-1] - ys[0]) / (xs[-1] - xs[0])
    return np.interp(x, xs, ys) + np.minimum(x - xs[0], 0) * slope + np.maximum(x - xs[-1], 0) * slope


def _for_page(svg: str) -> str:
    """The <svg> element alone: colours as variables, the page's font, no clashing ids, no metadata."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would reach the whole page
    svg = re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 role="img">', svg, count=1)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"font-family: [^;\"]*;?\s*", "", svg)
    svg = svg.replace("xlink:href", "href").replace(' transform="rotate(-0', ' transform="rotate(0')
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(r">\s+<", "><", svg).strip()
