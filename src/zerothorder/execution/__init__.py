"""How points are evaluated. Looking never moves: θ is bit-identical before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from zerothorder.directions import Direction
from zerothorder.execution.meter import Meter
from zerothorder.key import Key
from zerothorder.objectives import Objective
from zerothorder.point import Point, Values
from zerothorder.space import ParameterSpace
from zerothorder.state import State


@dataclass
class Surroundings:
    """What an executor is bound to: the model and its searched tensors, the directions, the State, the counter."""

    model: nn.Module
    space: ParameterSpace
    direction: Direction
    state: State
    meter: Meter = field(default_factory=Meter)


class Executor(Protocol):
    """Evaluates points; knows devices and modules, never methods."""

    def evaluate(
        self,
        points: Sequence[Point],
        objective: Objective,
        batches: Mapping[str, Any],
        key: Key,
        around: Surroundings,
    ) -> list[Values]:
        """Values at each point, in order. `batches` maps names to prepared data; `key` seeds dropout and sampling,
        the same for every point."""
        ...
