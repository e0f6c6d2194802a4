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
        self.known: list[float] = []
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
        for weight, values in zip(weights[len(self.known) :], self.values[len(self.known) :], strict=False):
            self.known.append(weight)
            for point, own in enumerate(values):
                if own.gradient is not None:
                    self.gradients += [{} for _ in range(len(self.gradients), point + 1)]
                    _add(self.gradients[point], weight, own.gradient)
                    values[point] = replace(own, gradient=None)

    def finish(self, weights: Sequence[float] | None = None) -> Entry:
        """Take the step with these weights of the batches, by default the mean."""
        if not self.values:
            raise UsageError("a step over several batches has none yet; add(batch) comes first")
        weights = [1.0 / len(self)] * len(self) if weights is None else weights
        self.weigh(weights)
        prepared, values, gradients = self.prepared, self.values, self.gradients
        self.clear()
        while True:
            answer = self.run.tell(_summed(values, weights, gradients))
            gradients = []
            if isinstance(answer, Entry):
                return answer
            values = [self.run.look(answer, own, part) for part, own in enumerate(prepared)]

    def clear(self) -> None:
        """Forget the batches: the step is begun anew."""
        self.points, self.prepared, self.values, self.known, self.gradients = [], [], [], [], []


def _add(total: dict[str, Tensor], weight: float, gradient: Mapping[str, Tensor]) -> None:
    """total += weight·gradient, tensor by tensor, so that one is held twice and not all."""
    for name, own in gradient.items():
        total[name] = total.get(name, 0) + weight * own


def _summed(
    values: Sequence[Sequence[Values]], weights: Sequence[float], gradients: Sequence[dict[str, Tensor]]
) -> list[Values]:
    """Σ weight · mean of a batch, point by point; gradients on top of those summed already."""
    found: list[Values] = []
    for number, point in enumerate(zip(*values, strict=True)):
        total = Values.of(sum(weight * own.mean() for weight, own in zip(weights, point, strict=True)))
        summed = gradients[number] if number < len(gradients) else {}
        for weight, own in zip(weights, point, strict=True):
            if own.gradient is not None:
                _add(summed, weight, own.gradient)
        if summed:
            total = replace(total, gradient=summed)
        if all(own.slope is not None for own in point):
            slope = sum(weight * own.mean_slope() for weight, own in zip(weights, point, strict=True))
            total = replace(total, slope=torch.tensor([slope], dtype=torch.float64))
        found.append(total)
    return found
