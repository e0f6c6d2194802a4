"""`Batched`: all points of a step in one pass of the model; weights are read, never written."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from zerothorder.directions import moving
from zerothorder.errors import UsageError
from zerothorder.execution import Surroundings
from zerothorder.execution.evaluate import seeded, value_at
from zerothorder.execution.interrupts import Interrupts
from zerothorder.execution.nested import Inseparable, Path
from zerothorder.execution.observe import named_modules
from zerothorder.execution.swap import Swap, owned
from zerothorder.execution.together import check_together
from zerothorder.execution.visit import Owner, Visit, owners_of
from zerothorder.key import Key
from zerothorder.objectives import Objective
from zerothorder.point import Point, Values
from zerothorder.space import ParameterSpace, Site

ROWS, TOKENS = 64, 1024
"""Rows in one pass where the user says nothing, and tokens where the objective can count them: beyond it a CPU gains
nothing, and activations take memory and leave the caches."""

_COUPLED = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)  # type: ignore[reportPrivateUsage]


class Batched:
    """Evaluates points together: the batch is repeated once a point, and each module sees all copies in one call.

    Rows of a point lie side by side, so a leading dimension of points × rows (or a multiple: flattened tokens) is cut
    into points; one of 1 (a position table) belongs to all, and so does an argument that once had another one. Layers
    of `execution.carried` compute all points at once from the weights as they are; any other module that owns searched
    weights, and the kinds named in `singly`, runs once a point on its rows with its weights exchanged as in `Swap`.
    `copies` bounds the points of a pass (by default `points_a_pass` does); layers before the first perturbed one run
    once for all of them.

    What cannot be batched goes to `Swap`, and `reason` says why: values not per example, sites exchanged for a whole
    evaluation, dropout or batch norm in training mode, a module whose rows cannot be told apart, a pass that fails, or
    other values than `Swap` gives: with `check` the first evaluation compares the two on a few rows
    (`execution.together`).
    """

    def __init__(
        self,
        owners: Mapping[str, str] | None = None,
        *,
        copies: int | None = None,
        singly: Iterable[str] = (),
        check: bool = True,
    ) -> None:
        if copies is not None and copies < 1:
            raise UsageError(f"copies is {copies}; at least one point is in a pass")
        self.swap = Swap(owners)
        self.copies, self.singly, self.unchecked = copies, frozenset(singly), check
        self.reason: str | None = None
        self.shared: nn.Module | str | bool | None = None
        self.one_by_one: set[str] = set()
        self.rowless: set[tuple[nn.Module, Path]] = set()
        self._named: Sequence[Sequence[Any]] = ()
        self._known: tuple[nn.Module, ParameterSpace, Any] | None = None

    def again(self, owners: Mapping[str, str] | None = None, *, check: bool = True) -> "Batched":
        """A fresh one with the same settings."""
        return Batched(self.owners if owners is None else owners, copies=self.copies, singly=self.singly, check=check)

    def findings(self, model: nn.Module) -> dict[str, Any]:
        """What was found out so far, as JSON holds it, for `restored`: a resumed run evaluates points as before."""
        names = {module: name for name, module in reversed(named_modules(model))}
        shared = names.get(self.shared, False) if isinstance(self.shared, nn.Module) else False
        rowless = sorted(([names[module], *path] for module, path in self.rowless if module in names), key=str)
        return {"singly": sorted(self.singly), "one_by_one": self.reason, "shared": shared, "rowless": rowless}

    def restored(self, owners: Mapping[str, str], findings: Mapping[str, Any]) -> "Batched":
        """A fresh one that knows what an earlier one found, and does not check again."""
        found = self.again(owners, check="singly" not in findings and self.unchecked)
        found.singly, found.reason = frozenset(findings.get("singly", ())), findings.get("one_by_one")
        found.shared, found._named = findings.get("shared"), findings.get("rowless", ())
        return found

    def sentences(self) -> list[str]:
        """What a user should know of how points are evaluated; nothing where all is as expected."""
        if self.reason is not None:
            return [f"points are evaluated one by one, not together: {self.reason}"]
        if self.one_by_one:
            return [f"run once a point, not for all at once: {', '.join(sorted(self.one_by_one))}"]
        return []

    @property
    def owners(self) -> dict[str, str]:
        """As of `Swap`."""
        return self.swap.owners

    def evaluate(
        self,
        points: Sequence[Point],
        objective: Objective,
        batches: Mapping[str, Any],
        key: Key,
        around: Surroundings,
    ) -> list[Values]:
        """See `Executor.evaluate`."""
        values = [n for n, point in enumerate(points) if point.want == "value"]
        if 0 < len(values) < len(points):  # those that are differentiated go alone
            rest = [n for n in range(len(points)) if n not in values]
            placed = dict[int, Values]()
            for numbers, way in ((values, self), (rest, self.swap)):
                own = way.evaluate([points[n] for n in numbers], objective, batches, key, around)
                placed.update(zip(numbers, own, strict=True))
            return [placed[n] for n in range(len(points))]
        alike = len({(point.on, point.rows) for point in points}) == 1 and points[0].on in batches
        pieces = getattr(objective, "pieces", None)
        if not alike or len(points) < 2 or not values or (pieces is not None and points[0].rows is not None):
            return self.swap.evaluate(points, objective, batches, key, around)
        if pieces is not None:
            one = {points[0].on: batches[points[0].on]}
            parts = [self.evaluate(points, inner, own, key, around) for inner, own in pieces(one)]
            return [Values.joined(values) for values in zip(*parts, strict=True)]
        if self.reason is None:
            self.reason = _obstacle(objective, around.model)
        if isinstance(self.shared, str) or self._named:
            self._find(dict(named_modules(around.model)))
        plan, whole = self._owned(around)
        if whole and self.reason is None:
            self.reason = f"{whole[0].name} is read outside the modules that are called"
        if self.reason is not None:
            return self.swap.evaluate(points, objective, batches, key, around)
        rows = _count(points[0], objective, batches)
        count = self.copies or self._points_a_pass(rows, points[0], objective, batches, around)
        if self.unchecked and (self.copies or 2) > 1:
            check_together(self, objective, batches, points[0], rows, min(count, len(points)), key, around)
            self.unchecked = False
            return self.evaluate(points, objective, batches, key, around)
        found: list[Values] = []
        if hasattr(around.direction, "moves"):
            self.shared = False  # where points begin to differ is another place at another point
        try:
            for at in range(0, len(points), count):
                found += self._together(points[at : at + count], plan, objective, batches, key, around)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - rows that do not fit show as any error of the model or objective
            if self.shared:  # perhaps only the sharing of the first layers does not fit this model
                self.shared = False
                return self.evaluate(points, objective, batches, key, around)
            found = self.swap.evaluate(points, objective, batches, key, around)  # what is wrong alone too is raised
            self.reason = _said(error)
        return found

    def _points_a_pass(
        self, rows: int, point: Point, objective: Any, batches: Mapping[str, Any], around: Surroundings
    ) -> int:
        counted = getattr(objective, "token_count", None)
        if counted is None or isinstance(self.shared, nn.Module):  # sharing the first layers outweighs the caches
            return points_a_pass(rows)
        every = int(objective.count(batches[point.on]))
        tokens = int(counted(batches[point.on])) * rows // max(1, every)
        # the first pass finds out what points share, for which it takes two
        return points_a_pass(rows, tokens, alone=self.shared is False and hasattr(around.direction, "factors"))

    def _find(self, modules: Mapping[str, nn.Module]) -> None:
        """What was restored by name."""
        if isinstance(self.shared, str):
            self.shared = modules.get(self.shared, False)
        self.rowless |= {(modules[name], tuple(path)) for name, *path in self._named if name in modules}
        self._named = ()

    def _owned(self, around: Surroundings) -> tuple[list[Owner], list[Site]]:
        """`owned`, which walks the whole model, once for a model and its sites."""
        if self._known is None or self._known[0] is not around.model or self._known[1] is not around.space:
            plan, whole = owned(around.model, around.space, self.owners)
            self._known = (around.model, around.space, (owners_of(plan), whole))
        return self._known[2]

    def _together(
        self,
        points: Sequence[Point],
        plan: Sequence[Owner],
        objective: Objective,
        batches: Mapping[str, Any],
        key: Key,
        around: Surroundings,
    ) -> list[Values]:
        on = points[0].on
        rows = points[0].rows or tuple(range(_count(points[0], objective, batches)))
        copies = Point((), on, rows * len(points))
        with Interrupts() as interrupts, around.meter.watching(around.model):
            visit = Visit(points, len(rows), around, interrupts, self.swap.scratch, self.singly, self.rowless)
            try:
                visit.install(_moved(plan, points, around), None if isinstance(self.shared, str) else self.shared)
                with seeded(key, around.direction.run_key, around.model), interrupts.heard():
                    found = value_at(around.model, around.space, copies, objective, dict(batches))
            finally:
                visit.close()
        if found.value.numel() != len(copies.rows or ()):
            raise Inseparable(f"{type(objective).__name__} does not give one value an example")
        if found.detail is not None:
            raise Inseparable(f"{type(objective).__name__} gives a detail of all rows together")
        self.one_by_one |= visit.one_by_one
        if self.shared is None:
            self.shared = visit.learned()
        parts = zip(found.value.view(len(points), -1), found.weight.view(len(points), -1), strict=True)
        return [Values(value, weight) for value, weight in parts]


def _moved(plan: Sequence[Owner], points: Sequence[Point], around: Surroundings) -> Sequence[Owner]:
    """The modules of which a point moves something; the others run once, as they are."""
    if not hasattr(around.direction, "moves"):
        return plan
    terms = [term for point in points for term in point.terms]
    return [o for o in plan if any(moving(around.direction, site, terms, around.state) for site in o[1])]


def points_a_pass(rows: int, tokens: int | None = None, alone: bool = False) -> int:
    """How many points of `rows` rows, `tokens` tokens with their padding, are in a pass: as many as make `TOKENS`
    tokens (or `ROWS` rows, where nobody counted), at least two, so that the signs of a dense draw share it; with
    `alone` (by factors there is nothing to share) at least one."""
    if tokens is None:
        return max(2, ROWS // max(1, rows))
    return max(1 if alone else 2, TOKENS // max(1, tokens))


def _said(error: Exception) -> str:
    if isinstance(error, Inseparable):
        return str(error)
    first, _, _ = str(error).partition("\n")
    return f"a pass of all points ends in {type(error).__name__}: {first}"


def _count(point: Point, objective: Any, batches: Mapping[str, Any]) -> int:
    return len(point.rows) if point.rows is not None else int(objective.count(batches[point.on]))


def _obstacle(objective: Objective, model: nn.Module) -> str | None:
    """Why this step's points cannot share a pass, whatever the modules are."""
    if not (hasattr(objective, "select") and hasattr(objective, "count")):
        return f"{type(objective).__name__} does not give one value an example"
    for name, module in named_modules(model):
        if module.training and isinstance(module, _COUPLED):
            return f"{name} ({type(module).__name__}) is in training mode: rows would not be what they are alone"
    return None
