"""A profile as a person reads it: the same lines in the terminal's table and on the page."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zerothorder.profile import STEP
from zerothorder.report import text

COLUMNS = ("phase", "ms a step", "share")


@dataclass(frozen=True)
class Line:
    """One phase: its median milliseconds a step (None of what happens between steps) and its share of the time."""

    name: str
    milliseconds: str | None
    share: str
    part: float
    of_step: bool


def lines(row: Mapping[str, Any]) -> Iterator[Line]:
    """The phases of a profile row in their order; their shares sum to one."""
    for name, found in row["phases"].items():
        middle, part = found.get("median"), found["share"]
        yield Line(name, None if middle is None else _milliseconds(middle), _percent(part), part, name in STEP)


def table(row: Mapping[str, Any]) -> list[tuple[str, str | None, str]]:
    """Cells under COLUMNS: the phases of a step, the step as a whole, and what happens between steps."""
    found = list(lines(row))
    inside, between = ([line for line in found if line.of_step is of_step] for of_step in (True, False))
    step = ("a whole step", _milliseconds(row["step_seconds"]), _percent(sum(line.part for line in inside)))
    return [*map(_cells, inside), step, *map(_cells, between)]


def sentence(row: Mapping[str, Any]) -> str:
    """What a step costs beside its forwards, of how many steps that is known, and the time the shares are of."""
    ratio = row.get("ratio")
    steps = f"{row['steps']:,} step{'' if row['steps'] == 1 else 's'}, {text.duration(row['seconds'])} in all"
    return steps if ratio is None else f"a step takes {ratio:.2f} × its forwards; {steps}"


def _milliseconds(seconds: float) -> str:
    """With two digits after the point: a phase may take a fiftieth of one."""
    return f"{1000 * seconds:,.2f}"


def _cells(line: Line) -> tuple[str, str | None, str]:
    return line.name, line.milliseconds, line.share


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"
