"""What a recipe sets up before its first step, which points a step asks for, and which weights they move."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zerothorder.directions import Direction, moving
from zerothorder.estimate import Step
from zerothorder.key import Key
from zerothorder.point import Estimate, Point, Values
from zerothorder.recipe import Recipe
from zerothorder.space import ParameterSpace
from zerothorder.state import State


@dataclass(frozen=True)
class _Attaching:
    """What a recipe's `setup` asks of a run: the sites, and a place for what it attaches."""

    space: ParameterSpace
    state: State

    def attach(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.state.tensors[name] = dict(tensors)


def prepared(recipe: Recipe, space: ParameterSpace) -> State:
    """The State before the first step of a run over these sites."""
    state = State()
    setup: Any = getattr(recipe, "setup", None)
    if setup is not None:
        setup(_Attaching(space, state))
    return state


def step_of(recipe: Recipe, steps: int, state: State) -> tuple[list[list[Point]], Estimate]:
    """The points of a first step, round after round, and its estimate, if all values are the same."""
    generator = recipe.estimator()(Step(0, recipe.rates(0, steps), (), state, steps))
    rounds, answer = list[list[Point]](), None
    while True:
        try:
            points = next(generator) if answer is None else generator.send(answer)
        except StopIteration as stop:
            return rounds, stop.value
        rounds.append(points)
        answer = [Values(torch.ones(1), torch.ones(1), {}, slope=torch.ones(1)) for _ in points]


@dataclass(frozen=True)
class Moved:
    """Of all searched weights the `share` that a point moves, in the mean over those that move any; and the `keys` of a
    step that move the largest tensor."""

    share: float
    keys: tuple[Key, ...]

    @classmethod
    def of(cls, points: Sequence[Point], space: ParameterSpace, direction: Direction, state: State) -> "Moved":
        """From the points of a step."""
        counts = [sum(s.numel for s in space if moving(direction, s, p.terms, state)) for p in points if p.terms]
        largest = max(space, key=lambda site: site.numel)
        met = [key for p in points for key, _ in moving(direction, largest, p.terms, state)]
        keys = dict.fromkeys(key for key in met if not isinstance(key, str))
        return cls(sum(counts) / len(counts) / space.numel if counts else 1.0, tuple(keys))
