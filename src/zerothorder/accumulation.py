"""One step over batches that come one after the other: the same points for all, their values summed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

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
        self.weighed = 0
        self.gradients: list[dict[str, Tensor]] = []

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

    def weigh(self, weights: Sequence[float]) -> None:
        """The weights of the first batches, as many as are known: of their gradients, each as large as the model, the
        sum is kept."""
        known = slice(self.weighed, len(weights))
        for weight, values in zip(weights[known], self.values[known], strict=True):
            self.gradients = self.gradients or [{} for _ in values]
            for point, own in enumerate(values):
                for name, part in (own.gradient or {}).items():
                    self.gradients[point][name] = self.gradients[point].get(name, 0) + weight * part
                values[point] = replace(own, gradient=None)
        self.weighed = len(weights)

    def finish(self, weights: Sequence[float] | None = None) -> Entry:
        """Take the step with these weights of the batches, by default the mean."""
        if not self.values:
            raise UsageError("a step over several batches has none yet; add(batch) comes first")
        weights = [1.0 / len(self)] * len(self) if weights is None else weights
        try:
            self.weigh(weights)
            while not isinstance(answer := self.run.tell(self._summed(weights)), Entry):
                self.values, self.weighed, self.gradients = [], 0, []
                for part, prepared in enumerate(self.prepared):
                    self.values.append(self.run.look(answer, prepared, part))
                    self.weigh(weights[: part + 1])
            return answer
        finally:
            self.clear()

    def clear(self) -> None:
        """Forget the batches: the step is begun anew."""
        self.points, self.prepared, self.values, self.weighed, self.gradients = [], [], [], 0, []

    def _summed(self, weights: Sequence[float]) -> list[Values]:
        """Σ weight · mean of a batch, point by point."""
        found: list[Values] = []
        for point, gradient in zip(zip(*self.values, strict=True), self.gradients, strict=True):
            total = Values.of(sum(weight * own.mean() for weight, own in zip(weights, point, strict=True)))
            if gradient:
                total = replace(total, gradient=gradient)
            if all(own.slope is not None for own in point):
                slope = sum(weight * own.mean_slope() for weight, own in zip(weights, point, strict=True))
                total = replace(total, slope=torch.tensor([slope], dtype=torch.float64))
            found.append(total)
        return found
