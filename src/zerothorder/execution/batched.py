"""`Batched`: all points of a step in one pass of the model; weights are read, never written."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zerothorder.execution import Surroundings
from zerothorder.execution.evaluate import seeded, value_at
from zerothorder.execution.factored import factored
from zerothorder.execution.interrupts import Interrupts
from zerothorder.execution.nested import Inseparable, holds, joined, mapped
from zerothorder.execution.observe import named_modules
from zerothorder.execution.swap import Exchange, Scratch, Swap, owned
from zerothorder.key import Key
from zerothorder.objectives import Objective
from zerothorder.objectives.sequences import base_model
from zerothorder.point import Point, Values
from zerothorder.space import Site

_COUPLED = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)  # type: ignore[reportPrivateUsage]


_PLAIN = (Tensor, int, float, str, bool, type(None), torch.dtype, torch.device)


class Batched:
    """Evaluates points together: the batch is repeated once a point, and each module sees all copies in one call.

    Rows of a point lie side by side, so a leading dimension of points × rows (or a multiple: flattened tokens) is cut
    into points; one of 1 (a position table) belongs to all. Where z has factors, Linear and Embedding add
    (x B) Aᵀ to what the weights give; any other module that owns searched weights runs once a point on its rows, with
    its weights exchanged as in `Swap`.

    What cannot be batched goes to `Swap`, and `reason` says why: values not per example, sites exchanged for a whole
    evaluation, dropout or batch norm in training mode, a module whose rows cannot be told apart.
    """

    def __init__(self, owners: Mapping[str, str] | None = None) -> None:
        self.swap = Swap(owners)
        self.reason: str | None = None

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
        if self.reason is None:
            self.reason = _obstacle(points, objective, around.model)
        plan, whole = owned(around.model, around.space, self.owners)
        if whole and self.reason is None:
            self.reason = f"{whole[0].name} is read outside the modules that are called"
        if self.reason is not None or len({(point.on, point.rows) for point in points}) > 1 or len(points) < 2:
            return self.swap.evaluate(points, objective, batches, key, around)
        try:
            return self._together(points, plan, objective, batches, key, around)
        except Inseparable as error:
            self.reason = str(error)
            return self.swap.evaluate(points, objective, batches, key, around)

    def _together(
        self,
        points: Sequence[Point],
        plan: Sequence[tuple[nn.Module, list[Site]]],
        objective: Objective,
        batches: Mapping[str, Any],
        key: Key,
        around: Surroundings,
    ) -> list[Values]:
        on, rows = points[0].on, points[0].rows
        splittable: Any = objective
        rows = tuple(range(int(splittable.count(batches[on])))) if rows is None else rows
        copies = Point((), on, rows * len(points))
        with Interrupts() as interrupts, around.meter.watching(around.model):
            visit = _Visit(points, len(rows), around, interrupts, self.swap.scratch)
            try:
                visit.install(plan)
                with seeded(key, around.direction.run_key, around.model), interrupts.heard():
                    found = value_at(around.model, copies, objective, dict(batches))
            finally:
                visit.close()
        if found.value.numel() != len(copies.rows or ()):
            raise Inseparable(f"{type(objective).__name__} does not give one value an example")
        parts = zip(found.value.view(len(points), -1), found.weight.view(len(points), -1), strict=True)
        return [Values(value, weight) for value, weight in parts]


def _obstacle(points: Sequence[Point], objective: Objective, model: nn.Module) -> str | None:
    """Why this step's points cannot share a pass, whatever the modules are."""
    if not (hasattr(objective, "select") and hasattr(objective, "count")):
        return f"{type(objective).__name__} does not give one value an example"
    if any(point.want != "value" for point in points):
        return "a point wants a gradient"
    for name, module in named_modules(model):
        if module.training and isinstance(module, _COUPLED):
            return f"{name} ({type(module).__name__}) is in training mode: rows would not be what they are alone"
    return None


_ACTIVE: dict[int, "_Visit"] = {}
_KINDS: dict[type, type] = {}


def _intercepting(kind: type) -> type:
    """The class with its call intercepted, hooks included: a hook on a module sees each point's weights in place."""
    if kind not in _KINDS:

        def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return _ACTIVE[id(self)].call(self, args, kwargs)

        _KINDS[kind] = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
    return _KINDS[kind]


class _Visit:
    """One pass: which modules own which sites, how many rows a point has, whose point is running alone."""

    def __init__(
        self, points: Sequence[Point], rows: int, around: Surroundings, interrupts: Interrupts, scratch: Scratch
    ) -> None:
        self.points, self.rows, self.around, self.interrupts = points, rows, around, interrupts
        self.exchanges = [Exchange(scratch, point.terms, around, interrupts, False) for point in points]
        self.sites: dict[nn.Module, list[Site]] = {}
        self.kinds: dict[nn.Module, type] = {}
        self.alone: Exchange | None = None
        self.drawn: dict[Any, Any] = {}
        self.handles: list[Any] = []

    def install(self, plan: Sequence[tuple[nn.Module, list[Site]]]) -> None:
        """Intercept the calls of modules that own sites."""
        self.handles.append(
            base_model(self.around.model).register_forward_pre_hook(self._count, with_kwargs=True, prepend=True)
        )
        for module, sites in plan:
            self.sites[module], self.kinds[module] = sites, type(module)
            _ACTIVE[id(module)] = self
            module.__class__ = _intercepting(type(module))
            # torch's fused layers, which read weights of modules they never call, keep away from hooks
            self.handles.append(module.register_forward_pre_hook(lambda module, args: None))

    def close(self) -> None:
        """Give every module its class back, and weights that an exception left exchanged."""
        for module, kind in self.kinds.items():
            module.__class__ = kind
            _ACTIVE.pop(id(module), None)
        for handle in self.handles:
            handle.remove()
        for exchange in self.exchanges:
            exchange.close()

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next((t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.ndim), None)
        if first is not None and first.shape[0] % len(self.points) == 0:
            self.rows = first.shape[0] // len(self.points)

    def call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module's call: by factors where it has them, else point by point."""
        sites = self.sites[module]
        if self.alone is not None:  # inside a module that runs point by point
            return self._exchanged(self.alone, module, sites, args, kwargs)
        hooked = len(module._forward_hooks) + len(module._forward_pre_hooks) > 1  # type: ignore[reportPrivateUsage]
        if not hooked and len(args) == 1 and not kwargs and self._cut(args[0]):
            x: Tensor = args[0]
            found = factored(self.kinds[module], module, x, sites, self.points, self.around, self.drawn)
            if found is not None:
                return found
        if holds(lambda leaf: not isinstance(leaf, _PLAIN), (args, kwargs)):
            raise Inseparable(f"a {type(module).__name__} is called with an object that holds state of all rows")
        outs: list[Any] = []
        for point, exchange in enumerate(self.exchanges):
            own_args, own_kwargs = self._part(args, point), self._part(kwargs, point)
            self.alone = exchange
            try:
                outs.append(self._exchanged(exchange, module, sites, own_args, own_kwargs))
            finally:
                self.alone = None
        shared = not holds(self._cut, (args, kwargs))
        return joined(outs, lambda parts: self._side_by_side(parts, shared, type(module).__name__))

    def _exchanged(self, exchange: Exchange, module: nn.Module, sites: list[Site], args: Any, kwargs: Any) -> Any:
        with self.interrupts.held():
            exchange.enter(module, sites)
        try:
            return nn.Module.__call__(module, *args, **kwargs)
        finally:
            with self.interrupts.held():
                exchange.leave(module)

    def _cut(self, leaf: Any) -> bool:
        """Whether a tensor holds the rows of all points, one point after the other."""
        return isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] % (len(self.points) * self.rows) == 0

    def _part(self, tree: Any, point: int) -> Any:
        return mapped(lambda t: t.chunk(len(self.points))[point] if self._cut(t) else t, tree)

    def _side_by_side(self, parts: list[Tensor], shared: bool, name: str) -> Tensor:
        if not shared:
            return torch.cat(parts)
        if parts[0].ndim and parts[0].shape[0] == 1:  # a table for every row alike: each point has its own now
            return torch.cat([part.expand(self.rows, *part.shape[1:]) for part in parts])
        raise Inseparable(f"a {name} is called with something that is not a batch")
