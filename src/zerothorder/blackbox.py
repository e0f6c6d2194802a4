"""Black-box minimisation of a numpy function on the same spine: `minimize`, and `ask()` / `tell()` for any answerer."""

import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from zerothorder import catalogue
from zerothorder.errors import UsageError
from zerothorder.execution import Surroundings
from zerothorder.execution.copy import Copy
from zerothorder.execution.probe import write_probe
from zerothorder.key import Key
from zerothorder.ledger.entry import Entry
from zerothorder.point import Point, Values
from zerothorder.recipe import Recipe
from zerothorder.run import Run
from zerothorder.space import ParameterSpace

Array = NDArray[np.float64]


class _Vector(nn.Module):
    def __init__(self, x0: Array) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.from_numpy(x0.copy()))


@dataclass(frozen=True)
class _Function:
    """A function of the vector as an objective; every call is one forward."""

    f: Callable[[Array], float]

    def prepare(self, model: nn.Module, batch: Any, key: Key) -> None:
        return None

    def evaluate(self, model: nn.Module, prepared: None) -> Values:
        vector: Any = model
        return Values.of(_number(self.f(vector.x.detach().clone().numpy()), "the function returned"))


@dataclass(frozen=True)
class Result:
    """`x` the last center, `value` there, `evaluations` spent, and the ledger's `entries`, which are not printed."""

    x: Array
    value: float
    evaluations: int
    entries: tuple[Entry, ...] = field(repr=False)


class Search:
    """`ask()` gives points to evaluate, `tell()` takes their values; who evaluates them is not its business."""

    def __init__(
        self, x0: ArrayLike, recipe: str | Recipe = "mezo", *, seed: int = 0, steps: int = 0,
        ledger: Path | str | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        start = np.array(x0, dtype=np.float64)
        if not start.size or not np.isfinite(start).all():
            raise UsageError("x0 must be a non-empty array of finite numbers")
        self.model = _Vector(start)
        built = catalogue.build(recipe, **settings) if isinstance(recipe, str) else recipe
        space = ParameterSpace.of(self.model)
        path = None if ledger is None else Path(ledger)
        self.run = Run(self.model, space, built, _Function(_nobody), Copy(), seed=seed, steps=steps, path=path)
        self._points: list[Point] = []

    @property
    def x(self) -> Array:
        """The point as it is now."""
        return self.model.x.detach().clone().numpy()

    def ask(self) -> list[Array]:
        """Points whose values are needed next; the same ones until they are told."""
        if not self._points:
            self._points = self.run.ask()
        return [self._at(point, self.run.around) for point in self._points]

    def tell(self, values: Sequence[float]) -> Entry | None:
        """Values in the order of `ask()`; returns the entry when the step is complete, None when it asks again."""
        if not isinstance(values, Sequence | np.ndarray | torch.Tensor) or isinstance(values, str):
            raise UsageError(f"tell() got {_named(values)}; give a list with one number for each point of ask()")
        if len(values) != len(self._points):
            raise UsageError(f"tell() got {len(values)} values for {len(self._points)} points; ask() gives the points")
        numbers = [_number(value, f"value {place} given to tell() is") for place, value in enumerate(values)]
        self.run.around.meter.add(len(numbers))
        answer = self.run.tell([Values.of(number) for number in numbers])
        self._points = [] if isinstance(answer, Entry) else answer
        return answer if isinstance(answer, Entry) else None

    @staticmethod
    def _at(point: Point, around: Surroundings) -> Array:
        (site,) = around.space
        out = torch.empty_like(site.parameter)
        write_probe(out, site, point.terms, around.direction, around.state)
        return out.detach().numpy()


def minimize(
    f: Callable[[Array], float],
    x0: ArrayLike,
    *,
    budget: int = 1000,
    recipe: str | Recipe = "mezo",
    seed: int = 0,
    steps: int | None = None,
    ledger: Path | str | None = None,
    callback: Callable[[int, Array, float], None] = lambda evaluations, x, value: None,
    **settings: Any,
) -> Result:
    """Minimise f from x0 with at most `budget` evaluations of f (float64 throughout).

    `settings` are the recipe's (lr, eps, draws, …). Returns the last center; `value` is f there, evaluated once
    within the budget. UsageError for a budget too small for one step.
    """
    per_step = 2 * int(settings.get("draws", getattr(recipe, "draws", 1)) or 1)
    planned = steps if steps is not None else max(1, (budget - 1) // per_step)
    search = Search(x0, recipe, seed=seed, steps=planned, ledger=ledger, **settings)
    spent = 0
    while search.run.index < planned:
        points = search.ask()
        if spent + len(points) > budget - 1:
            if search.run.index == 0:
                need = len(points) + 1
                raise UsageError(f"a budget of {budget} evaluations is too small: one step and the result take {need}")
            break
        entry = search.tell([_number(f(point), "the function returned") for point in points])
        spent += len(points)
        if entry is not None:
            callback(spent, search.x, entry.notes.get("loss", float("nan")))
    search.run.ledger.close()
    x = search.x
    return Result(x, _number(f(x), "the function returned"), spent + 1, tuple(search.run.ledger.past))


def _number(value: Any, what: str) -> float:
    """One number as a float; UsageError that names what came instead."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"{what} {_named(value)}; it must be one number") from None


def _named(value: Any) -> str:
    return f"{reprlib.repr(value)} (a {type(value).__name__})" if value is not None else "None"


def _nobody(x: Array) -> float:
    raise UsageError("this search is answered by tell(), not evaluated by itself")
