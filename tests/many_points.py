"""One model looked at from many points: directions spelled out, the loop over copied models, values row by row."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zerothorder.directions.laws import Dense
from zerothorder.directions.lowrank import LowRank
from zerothorder.execution import Surroundings
from zerothorder.key import Key, run_key
from zerothorder.point import Point, Values
from zerothorder.random.laws import LAWS
from zerothorder.space import ParameterSpace, Site
from zerothorder.state import State

KEY = Key("prepare", 3)
DIRECTIONS: dict[str, Any] = {
    "gaussian": Dense(run_key(0), "gaussian"),
    "signs": Dense(run_key(0), "rademacher"),
    "rank-1": LowRank(run_key(0), 1, "gaussian"),
    "rank-2": LowRank(run_key(0), 2, "rademacher"),
    "rank-3": LowRank(run_key(0), 3, "gaussian"),
}
VECTOR = "velocity"
"""A vector in the State that a point may move along."""


class Rows:
    """One value a row: the outputs of the row, each with a weight of its own, so that no two can be exchanged."""

    def prepare(self, model: nn.Module, batch: dict[str, Tensor], key: Key) -> dict[str, Tensor]:
        return batch

    def count(self, prepared: dict[str, Tensor]) -> int:
        return len(next(iter(prepared.values())))

    def select(self, prepared: dict[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
        return {name: tensor[list(rows)] for name, tensor in prepared.items()}

    def evaluate(self, model: nn.Module, prepared: dict[str, Tensor]) -> Values:
        return Values.of(self.values(model, prepared))

    def values(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
        out = model(**prepared)
        out = getattr(out, "logits", out)
        flat = out.reshape(out.shape[0], -1)
        return (flat * torch.arange(1.0, flat.shape[1] + 1, dtype=flat.dtype).cos()).sum(1)


class TensorRows:
    """What objectives of a tensor of rows share; a subclass evaluates."""

    def prepare(self, model: nn.Module, batch: Tensor, key: Key) -> Tensor:
        return batch

    def count(self, prepared: Tensor) -> int:
        return len(prepared)

    def select(self, prepared: Tensor, rows: Sequence[int]) -> Tensor:
        return prepared[list(rows)]


def bind(model: nn.Module, direction: Any = None) -> Surroundings:
    """The model with its searched tensors, and a vector in the State for each."""
    space, state = ParameterSpace.of(model), State()
    for n, site in enumerate(space):
        vector = torch.randn(site.shape, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
        state.tensor(VECTOR, site.name, lambda vector=vector: vector)
    return Surroundings(model, space, direction or DIRECTIONS["gaussian"], state)


def key(draw: int) -> Key:
    return Key("z", 3, draw)


def pairs(draws: int, eps: float = 0.05) -> list[Point]:
    """Both sides of every draw, each draw of a size of its own: few signs would soon repeat a value."""
    return [Point(((key(j), sign * eps * (1 + j / 7)),)) for j in range(draws) for sign in (1.0, -1.0)]


def look(executor: Any, bound: Surroundings, batch: Any, points: Sequence[Point], objective: Any = None) -> Tensor:
    """Values (points, rows)."""
    found = executor.evaluate(points, objective or Rows(), {"main": batch}, KEY, bound)
    return torch.stack([v.value for v in found])


def explicit(direction: Any, site: Site, term: Key | str, state: State) -> Tensor:
    """z of a whole site from the laws as they are written down: no `shift`, no kernel."""
    if isinstance(term, str):
        return state.tensor(term, site.name).double()
    seed, shape = term.seed(direction.run_key, site.id), tuple(site.shape)
    draw = LAWS[direction.law]
    if isinstance(direction, Dense):
        return draw(seed, 0, site.numel).double().view(shape)
    rank, rows, columns = direction.rank, shape[0], torch.Size(shape[1:]).numel()
    if len(shape) < 2 or rank * (rows + columns) >= rows * columns:
        return draw(seed, 0, site.numel).double().view(shape)
    drawn = draw(seed, 0, rank * (rows + columns)).double()
    a, b = drawn[: rows * rank].view(rows, rank), drawn[rows * rank :].view(rank, columns)
    return (a @ b / rank**0.5).view(shape)


def moved(bound: Surroundings, terms: Sequence[tuple[Key | str, float]]) -> nn.Module:
    """A copied model at θ + Σ coefficient·z."""
    other = copy.deepcopy(bound.model)
    twin = {id(p): q for p, q in zip(bound.model.parameters(), other.parameters(), strict=True)}
    with torch.no_grad():
        for site in bound.space:
            for term, coefficient in terms:
                z = explicit(bound.direction, site, term, bound.state)
                twin[id(site.parameter)].add_(z.to(site.parameter.dtype), alpha=coefficient)
    return other


def truth(bound: Surroundings, batch: Mapping[str, Tensor], points: Sequence[Point], objective: Any = None) -> Tensor:
    """Values (points, rows): a copied model a point, one after the other."""
    objective = objective or Rows()
    with torch.inference_mode():
        return torch.stack([objective.evaluate(moved(bound, point.terms), batch).value for point in points])


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def shaken(model: nn.Module, size: float = 0.3, seed: int = 0) -> nn.Module:
    """The model in eval mode and float64, its weights the same at every call and so large that every one shows."""
    model = model.eval().double()
    with torch.no_grad():
        for n, parameter in enumerate(model.parameters()):
            constant = parameter.flatten()[0] if bool((parameter == parameter.flatten()[0]).all()) else 0.0
            parameter.copy_(constant + size * randn(*parameter.shape, seed=seed + n))
    return model
