"""One step over batches that come one after the other: the same points for all, their values summed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from zerothorder.errors import UsageError
from zerothorder.ledger.entry import Entry, Rates
from zerothorder.point import Point, Values
from zerothorder.run import Run


class Accumulation:
    """A step whose loss is Σ weight_i · loss_i over batches i.

    `add` evaluates the step's points on a batch as it comes; `finish` is told the weights. An estimator that asks for
    more points after the first has them evaluated in `finish`, so what was prepared is kept until then. Batches of one
    step differ in dropout and samples, points of one batch do not.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.points: list[Point] = []
        self.prepared: list[dict[str, Any]] = []
        self.values: list[list[Values]] = []

    def __len__(self) -> int:
        """Batches that wait for `finish`."""
        return len(self.values)

    def add(self, batch: Any, rates: Mapping[str, Rates] | None = None) -> list[Values]:
        """The values of this batch at the first points of the step, which begins with the first batch."""
        part = len(self)
        prepared = self.run.prepare(batch, part)
        if not part:
            self.points = self.run.ask(rates)
        values = self.run.look(self.points, prepared, part)
        self.prepared.append(prepared)
        self.values.append(values)
        return values

    def finish(self, weights: Sequence[float] | None = None) -> Entry:
        """Take the step with these weights of the batches, by default the mean."""
        if not self.values:
            raise UsageError("a step over several batches has none yet; add(batch) comes first")
        weights = [1.0 / len(self)] * len(self) if weights is None else weights
        prepared, values = self.prepared, self.values
        self.clear()
        while True:
            answer = self.run.tell(_summed(values, weights))
            if isinstance(answer, Entry):
                return answer
            values = [self.run.look(answer, own, part) for part, own in enumerate(prepared)]

    def clear(self) -> None:
        """Forget the batches: the step is begun anew."""
        self.points, self.prepared, self.values = [], [], []


def _summed(values: Sequence[Sequence[Values]], weights: Sequence[float]) -> list[Values]:
    """Σ weight · mean of a batch, point by point."""
    found: list[Values] = []
    for point in zip(*values, strict=True):
        total = Values.of(sum(weight * own.mean() for weight, own in zip(weights, point, strict=True)))
        gradients = [own.gradient for own in point if own.gradient is not None]
        if gradients:
            summed = {
                name: sum(weight * own[name] for weight, own in zip(weights, gradients, strict=True))
                for name in gradients[0]
            }
            total = replace(total, gradient=summed)  # type: ignore[arg-type]
        if all(own.slope is not None for own in point):
            slope = sum(weight * own.mean_slope() for weight, own in zip(weights, point, strict=True))
            total = replace(total, slope=torch.tensor([slope], dtype=torch.float64))
        found.append(total)
    return found
