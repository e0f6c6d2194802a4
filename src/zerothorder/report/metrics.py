"""Reading RUN/metrics.jsonl: one JSON object a line, in the order things happened.

    {"kind": "step", "step": 7, "loss": 0.69, "projected_gradient": -1.3, "lr": 1e-6, "forwards": 224,
     "tokens": 9120, "seconds": 0.41, "skipped": false, "memory": 1240000000}
    {"kind": "eval", "step": 50, "split": "dev", "accuracy": 0.61, "auc": 0.72, "loss": 0.66, "moved": 1e-4,
     "changed": 0.93}
    {"kind": "profile", "step": 50, "steps": 50, "seconds": 31.2, "step_seconds": 0.61, "ratio": 1.6,
     "phases": {"forward": {"seconds": 19.1, "share": 0.61, "median": 0.38}, ...}}
    {"kind": "end", ...}

`forwards` and `tokens` are running totals (of this process: a resumed run may begin again at 0), `seconds` is
the step's own time, `memory` the peak resident bytes so far; `moved` and `changed` stand on rows of either
kind, where they were measured. A run that was killed leaves a torn last line, and a resumed one may write a
step twice: the later row counts.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, Any]
Floats = NDArray[np.float64]

ZERO_SHOT = "zero-shot"
_TOTALS = ("forwards", "tokens")
_MOVEMENT = ("moved", "changed")
_NOT_A_METRIC = {"kind", "step", "split", "seconds", "cpu_seconds", "examples", "rows", "memory", *_TOTALS, *_MOVEMENT}
_LOWER_IS_BETTER = ("loss", "perplexity", "nll", "error", "brier")


@dataclass
class Metrics:
    """The rows of one run, by kind; `problems` are sentences for whatever could not be read.

    Of several profiles (a resumed run may take another) the last counts.
    """

    steps: list[Row] = field(default_factory=list[Row])
    evals: list[Row] = field(default_factory=list[Row])
    profile: Row | None = None
    end: Row | None = None
    problems: list[str] = field(default_factory=list[str])

    def series(self, name: str) -> tuple[Floats, Floats]:
        """(steps, values) of a column of the course of training.

        Rows without it are left out, null and NaN stay as NaN, and a total goes on where a resumed run began
        again.
        """
        rows = self.steps + self.evals if name in _MOVEMENT else self.steps
        found = {int(row["step"]): row for row in rows if name in row}
        rows = [found[step] for step in sorted(found)]
        values = _column(rows, name)
        if name in _TOTALS:
            values = _unbroken(values)
        return _column(rows, "step"), values

    def last(self, name: str) -> float | None:
        """The last finite value of a training column."""
        values = self.series(name)[1]
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if finite.size else None

    @property
    def last_step(self) -> int:
        """The last step that anything is known of; 0 before the first."""
        return max((int(row["step"]) for row in (*self.steps[-1:], *self.evals[-1:])), default=0)

    @property
    def skipped(self) -> int:
        """Steps whose value was not finite: they cost their forwards and moved nothing."""
        return sum(bool(row.get("skipped")) for row in self.steps)

    @property
    def metric_names(self) -> list[str]:
        """What was evaluated, in order of first appearance."""
        names = [
            name for row in self.evals for name in row if name not in _NOT_A_METRIC and number(row[name]) is not None
        ]
        return list(dict.fromkeys(names))

    def evaluated(self, name: str, split: str) -> tuple[Floats, Floats]:
        """(steps, values) of one metric on one split, finite values only."""
        found = [
            (int(row["step"]), value)
            for row in self.evals
            if row.get("split") == split and (value := number(row.get(name))) is not None and math.isfinite(value)
        ]
        return (
            np.array([step for step, _ in found], dtype=np.float64),
            np.array([value for _, value in found], dtype=np.float64),
        )

    def rows(self, split: str) -> int | None:
        """How many rows the last evaluation on a split measured; None where it does not say."""
        found = [number(row.get("rows")) for row in self.evals if row.get("split") == split]
        known = [count for count in found if count is not None and math.isfinite(count)]
        return int(known[-1]) if known else None

    def forwards_at(self, steps: Floats) -> Floats | None:
        """Cumulative example-forwards at given steps, by interpolation; None where the rows do not say."""
        at, forwards = self.series("forwards")
        known = np.isfinite(forwards)
        at, forwards = at[known], forwards[known]
        if at.size == 0 or forwards[-1] <= 0:
            return None
        return np.interp(steps, np.append(0.0, at), np.append(0.0, forwards))


def number(value: object) -> float | None:
    """A JSON number as a float; whatever is no number (null, text, true) gives None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def lower_is_better(metric: str) -> bool:
    """Losses fall, scores rise."""
    return any(word in metric.lower() for word in _LOWER_IS_BETTER)


def best(metric: str, steps: Floats, values: Floats) -> tuple[float, int]:
    """(value, step) of the best evaluation; the earliest of equals."""
    at = int(np.argmin(values) if lower_is_better(metric) else np.argmax(values))
    return float(values[at]), int(steps[at])


def running_median(x: Floats, y: Floats, points: int = 600) -> tuple[Floats, Floats]:
    """The median over a centred window (a thirtieth of the run), NaN ignored, at `points` places at most."""
    half = max(5, y.size // 30) // 2
    at = np.unique(np.linspace(0, y.size - 1, min(y.size, points)).astype(int)) if y.size else np.array([], int)
    medians = np.full(at.size, np.nan)
    for place, centre in enumerate(at):
        window = y[max(0, centre - half) : centre + half + 1]
        window = window[np.isfinite(window)]
        if window.size:
            medians[place] = np.median(window)
    return x[at], medians


def read_metrics(path: Path) -> Metrics:
    """Every readable row of `path`; what is unreadable is named by line in `problems`, never swallowed."""
    metrics = Metrics()
    if not path.is_file():
        metrics.problems.append(f"{path.name} is missing, so there is nothing to draw.")
        return metrics
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    steps: dict[int, Row] = {}
    evals: dict[tuple[int, str], Row] = {}
    for at, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _parse(line)
        if row is None:
            torn = at == len(lines)
            why = "is torn: the run was stopped while writing it" if torn else "is not a JSON object"
            metrics.problems.append(f"Line {at} of {path.name} {why}; it is left out.")
        elif row.get("kind") == "end":
            metrics.end = row
        elif row.get("kind") == "profile" and _is_profile(row):
            metrics.profile = row
        elif row.get("kind") not in ("step", "eval") or number(row.get("step")) is None:
            metrics.problems.append(f"Line {at} of {path.name} is no step, eval, profile or end row; it is left out.")
        elif row["kind"] == "step":
            steps[int(row["step"])] = row
        else:
            evals[int(row["step"]), str(row.get("split", "dev"))] = {"split": "dev", **row}
    metrics.steps = [steps[step] for step in sorted(steps)]
    metrics.evals = [evals[key] for key in sorted(evals, key=lambda key: key[0])]
    return metrics


def _parse(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _is_profile(row: Row) -> bool:
    """Whether it holds what is shown of a profile, in numbers."""
    phases = row.get("phases")
    if not isinstance(phases, Mapping) or not phases:
        return False
    shown = [row.get("ratio") or 0.0, *(row.get(name) for name in ("steps", "seconds", "step_seconds"))]
    for found in phases.values():
        if not isinstance(found, Mapping):
            return False
        shown += [found.get("share"), found.get("median", 0.0)]
    return all((value := number(cell)) is not None and math.isfinite(value) for cell in shown)


def _unbroken(totals: Floats) -> Floats:
    """A running total across restarts: where it falls, what was counted before is added."""
    known = np.isfinite(totals)
    found = totals[known]
    before = np.concatenate(([0.0], found[:-1])) if found.size else found
    restarts = np.where(found < before, before, 0.0)
    out = totals.copy()
    out[known] = found + np.cumsum(restarts)
    return out


def _column(rows: list[Row], name: str) -> Floats:
    values = [number(row.get(name)) for row in rows]
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
