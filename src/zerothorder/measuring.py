"""What a run measures of its model: a row each, and never twice, however often it was killed and resumed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zerothorder.config import TrainConfig
from zerothorder.evaluation import evaluate
from zerothorder.movement import Movement
from zerothorder.record import Record
from zerothorder.reporter import Reporter
from zerothorder.run import Run
from zerothorder.task import Task

_BESIDE = ("kind", "step", "split", "forwards", "moved", "changed")


@dataclass(frozen=True)
class Measuring:
    """The model of a run on the splits of its task. `found` gets what was measured: row's name → measure → value."""

    task: Task
    config: TrainConfig
    run: Run
    movement: Movement
    record: Record
    report: Reporter
    found: dict[str, dict[str, float]]

    def measure(
        self, name: str, split: str, rows: int, calibrate: int = 0, only_at: int | None = None
    ) -> dict[str, float]:
        """Measure `rows` rows of a split and write a row of this name; what the journal has of this step is taken from
        there. With `only_at`, nothing is measured at another step."""
        at = self.run.index
        row = self.record.journal.evaluations.get((name, at if only_at is None else only_at))
        if row is None:
            if only_at not in (None, at):
                return {}
            found = evaluate(
                self.task, split, self.config.objective, rows, calibrate,
                progress=lambda done, total: self.report.progress(f"{name} evaluation", done, total),
            )  # fmt: skip
            moved = self.movement.measure() if at else {}
            row = {"kind": "eval", "step": at, "split": name, "forwards": self.run.around.meter.examples}
            row |= {**found, **moved}
            if math.isnan(found.get("loss", 0.0)):
                self.report.note(f"step {at}: the model's outputs are not numbers; its weights may have overflowed")
            self.record.write(row)
        self.found[name] = measures(row)
        return self.found[name]


def measures(row: Mapping[str, Any]) -> dict[str, float]:
    """The measures in an evaluation's row."""
    return {name: float("nan") if value is None else value for name, value in row.items() if name not in _BESIDE}
