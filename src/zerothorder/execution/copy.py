"""`Copy`: a second, perturbed copy of every searched weight. The reference; twice the memory."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from zerothorder.execution import Surroundings
from zerothorder.execution.evaluate import WEIGHT, seeded, value_at
from zerothorder.execution.interrupts import Interrupts
from zerothorder.execution.probe import write_probe
from zerothorder.key import Key
from zerothorder.objectives import Objective
from zerothorder.point import Point, Values


@contextmanager
def in_place_of(pairs: Sequence[tuple[Tensor, Tensor]]) -> Generator[None]:
    """Each parameter shows other data inside the block and its own again after it, whatever happens.

    The parameter object stays, so tied names and cached references see the exchange; its storage and version
    counter are never written.
    """
    own = [(parameter, parameter.data) for parameter, _ in pairs]
    try:
        for parameter, other in pairs:
            parameter.data = other
        yield
    finally:
        for parameter, data in own:
            parameter.data = data


class Copy:
    """Evaluates a point on a full perturbed copy of the weights: any model, any callable."""

    def evaluate(
        self,
        points: Sequence[Point],
        objective: Objective,
        batches: Mapping[str, Any],
        key: Key,
        around: Surroundings,
    ) -> list[Values]:
        """See `Executor.evaluate`."""
        values: list[Values] = []
        with Interrupts() as interrupts, around.meter.watching(around.model):
            for point in points:
                pairs: list[tuple[Tensor, Tensor]] = []
                for site in around.space if point.terms else ():
                    other = torch.empty_like(site.parameter, memory_format=torch.contiguous_format)
                    write_probe(other, site, point.terms, around.direction, around.state)
                    pairs.append((site.parameter, other))
                look = seeded(key, around.direction.run_key, around.model)
                weighing = around.meter.weighing(WEIGHT[point.want], point.want == "gradient")
                with in_place_of(pairs), look, interrupts.heard(), weighing:
                    values.append(value_at(around.model, around.space, point, objective, dict(batches)))
        return values
