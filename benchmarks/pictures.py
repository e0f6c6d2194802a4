"""Bars of medians as SVG files of their own: light or dark as the reader's system is."""

from collections.abc import Sequence

from zerothorder.report.svg import SERIES, bars

NAMES = 2.0  # inches
COLOURS = {"low-rank": 0, "spsa": 1, "mezo": 2, "mezo-swap": 3}
_STYLE = """<style>
svg { --ink: #1b2130; --muted: #5e6878; --card: #ffffff; --series-1: #2563c9; --series-2: #c2570c;
  --series-3: #0f8a6d; --series-4: #9333b5; --series-5: #5b6b8c; }
@media (prefers-color-scheme: dark) { svg { --ink: #e8ebf1; --muted: #9aa5b6; --card: #181d26; --series-1: #6fa8ff;
  --series-2: #f29255; --series-3: #3fcaa4; --series-4: #cf8bea; --series-5: #a3b3d1; } }
text { font-family: system-ui, sans-serif; }
</style><rect width="100%" height="100%" fill="var(--card)"/>"""


def colour(method: str) -> str:
    """Each recipe has its own, everything else the last."""
    return SERIES[COLOURS.get(method, 4)]


def picture(rows: Sequence[tuple[str, float, str, str]], level: float | None = None) -> str:
    """(name, length, what stands at its end, colour) as the bytes of an .svg file."""
    svg = bars(rows, names=NAMES, level=level).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return svg.replace(">", f">{_STYLE}", 1) + "\n"
