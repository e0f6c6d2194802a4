"""One pass of all points through the model: whose rows are whose, and which module computes how."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from zerothorder.execution import Surroundings
from zerothorder.execution.carried import Carry, carrier, embedding, linear
from zerothorder.execution.copies import Copies
from zerothorder.execution.exchange import Exchange, Scratch
from zerothorder.execution.first_layers import FirstLayers
from zerothorder.execution.interrupts import Interrupts
from zerothorder.execution.nested import Inseparable, Path, holds, joined, leaves, mapped, opaque
from zerothorder.objectives.sequences import base_model
from zerothorder.point import Point
from zerothorder.space import Site

_ACTIVE: dict[int, "Visit"] = {}
_KINDS: dict[type, type] = {}


Owner = tuple[nn.Module, list[Site], dict[str, Site]]
"""A module, the sites exchanged with it, and those of them that are its own parameters, by their name there."""


def owners_of(plan: Sequence[tuple[nn.Module, list[Site]]]) -> list[Owner]:
    """The plan of `swap.owned`, with the names that carrying layers go by."""
    found: list[Owner] = []
    for module, sites in plan:
        by_id = {id(site.parameter): site for site in sites}
        own = {n: by_id[id(p)] for n, p in module.named_parameters(recurse=False) if id(p) in by_id}
        found.append((module, sites, own))
    return found


def _intercepting(kind: type) -> type:
    """The class with its call intercepted, hooks included: a hook on a module sees each point's weights in place."""
    if kind not in _KINDS:

        def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return _ACTIVE[id(self)].call(self, args, kwargs)

        _KINDS[kind] = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
    return _KINDS[kind]


class Visit:
    """One pass: which modules own which sites, how many rows a point has, whose point is running alone.

    `one_by_one`: kinds of modules that had to run once a point. `rowless`, kept between passes: arguments that were
    once seen not to hold the rows of all points. They never do, whatever their length is by chance at another step.
    """

    def __init__(
        self,
        points: Sequence[Point],
        rows: int,
        around: Surroundings,
        interrupts: Interrupts,
        scratch: Scratch,
        singly: frozenset[str],
        rowless: set[tuple[nn.Module, Path]],
    ) -> None:
        self.rows, self.around, self.interrupts, self.singly, self.rowless = rows, around, interrupts, singly, rowless
        self.copies = Copies(points, around, self.showing)
        self.exchanges = [Exchange(scratch, point.terms, around, interrupts, False) for point in points]
        self.sites: dict[nn.Module, list[Site]] = {}
        self.kinds: dict[nn.Module, type] = {}
        self.carries: dict[nn.Module, tuple[Carry, dict[str, Site]]] = {}
        self.shown: dict[Tensor, Tensor] = {}
        self.apart: set[int] = set()
        self.alone: Exchange | None = None
        self.handles: list[Any] = []
        self.first_layers: FirstLayers | None = None
        self.one_by_one: set[str] = set()

    def install(self, plan: Sequence[Owner], shared: nn.Module | bool | None) -> None:
        """Intercept the calls of modules that own sites. `shared`: the block up to which points are one (see
        `FirstLayers`); None to learn it."""
        model = base_model(self.around.model)
        self.handles.append(model.register_forward_pre_hook(self._count, with_kwargs=True, prepend=True))
        if shared is not False:
            self.first_layers = FirstLayers(model, len(self.copies), self.rows, shared if shared is not True else None)
        for module, sites, own in plan:
            self.sites[module], self.kinds[module] = sites, type(module)
            carry = carrier(type(module))
            usual = "forward" not in vars(module)  # one module's own forward may compute anything
            if carry is not None and usual and len(own) == len(sites) and type(module).__name__ not in self.singly:
                self.carries[module] = (carry, own)
            _ACTIVE[id(module)] = self
            module.__class__ = _intercepting(type(module))
            # torch's fused layers, which read weights of modules they never call, keep away from hooks
            self.handles.append(module.register_forward_pre_hook(_seen))

    def close(self) -> None:
        """Give every module its class back, and weights that an exception left exchanged."""
        for module, kind in self.kinds.items():
            module.__class__ = kind
            _ACTIVE.pop(id(module), None)
        for handle in self.handles:
            handle.remove()
        if self.first_layers is not None:
            self.first_layers.close()
        for exchange in self.exchanges:
            exchange.close()
        for parameter, own in self.shown.items():
            parameter.data = own

    def learned(self) -> nn.Module | bool:
        """The block up to which all points are one, for later passes; False where there is none."""
        return self.first_layers.block or False if self.first_layers is not None else False

    @contextmanager
    def showing(self, parameter: Tensor, data: Tensor) -> Generator[None]:
        """A parameter shows other data inside, of any shape."""
        own = parameter.data
        self.shown.setdefault(parameter, own)  # an interrupt may come before the end of this block is held
        try:
            with self.interrupts.held():
                parameter.data = data
            yield
        finally:
            with self.interrupts.held():
                parameter.data = own

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next((t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.ndim), None)
        if self.alone is None and first is not None and first.shape[0] % len(self.copies) == 0:
            self.rows = first.shape[0] // len(self.copies)
            if self.first_layers is not None:
                self.first_layers.rows = self.rows

    def call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module's call: all points at once where it is known how, else point by point."""
        sites = self.sites[module]
        if self.alone is not None:  # inside a module that runs point by point
            return self._exchanged(self.alone, module, sites, args, kwargs)
        if self.first_layers is not None:
            self.first_layers.met()
        if self.carries.get(module, (None,))[0] is embedding and len(args) == 1:
            args = (self._for_every_row(args[0]),)
        self._tell_apart(module, args, kwargs)
        if module in self.carries and len(args) == 1 and not kwargs and self._cut(args[0]):
            found = self._carried(module, args[0])
            if found is not None:
                return found
        if opaque((args, kwargs)):
            raise Inseparable(f"a {type(module).__name__} is called with an object that holds state of all rows")
        self.one_by_one.add(type(module).__name__)
        outs: list[Any] = []
        for point, exchange in enumerate(self.exchanges):
            own_args, own_kwargs = self._part(args, point), self._part(kwargs, point)
            self.alone = exchange
            try:
                outs.append(self._exchanged(exchange, module, sites, own_args, own_kwargs))
            finally:
                self.alone = None
        shared, name = not holds(self._cut, (args, kwargs)), self.kinds[module].__name__
        return joined(outs, lambda parts: self._side_by_side(parts, shared, name))

    def _for_every_row(self, places: Any) -> Any:
        """Positions looked up once for all rows, (1, length): each point's rows look them up in its own table."""
        if isinstance(places, Tensor) and places.ndim == 2 and places.shape[0] == 1:
            return places.expand(len(self.copies) * self.rows, -1)
        return places

    def _carried(self, module: nn.Module, x: Any) -> Tensor | None:
        """What the layer gives, or what its hooks make of it; None where a hook must see each point's weights."""
        carry, own = self.carries[module]
        before: Any = module._forward_pre_hooks  # type: ignore[reportPrivateUsage]
        after: Any = module._forward_hooks  # type: ignore[reportPrivateUsage]
        rows = [getattr(hook, "rows", None) for hook in after.values()]
        if after and not (carry is linear and len(rows) == 1 and rows[0] is not None):
            return None
        if module._forward_pre_hooks_with_kwargs or module._forward_hooks_with_kwargs:  # type: ignore[reportPrivateUsage]
            return None
        if not all(getattr(hook, "input_only", False) for hook in before.values()) or _global_hooks():
            return None
        for hook in before.values():
            changed: Any = hook(module, (x,))
            if changed is not None:
                x = changed if isinstance(changed, Tensor) else changed[0]
        return linear(module, x, own, self.copies, rows[0]) if after else carry(module, x, own, self.copies)

    def _exchanged(self, exchange: Exchange, module: nn.Module, sites: list[Site], args: Any, kwargs: Any) -> Any:
        with self.interrupts.held():
            exchange.enter(module, sites)
        try:
            return self.kinds[module].__call__(module, *args, **kwargs)
        finally:
            with self.interrupts.held():
                exchange.leave(module)

    def _tell_apart(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.apart = set()
        usual = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and self._divides(args[0])
        if usual and not any(own is module for own, _ in self.rowless):
            return  # without a walk through the arguments
        for path, tensor in leaves((args, kwargs)):
            # where first layers run once, even the batch holds one point's rows there
            if not self._divides(tensor) and not (self.first_layers is not None and self.first_layers.applies):
                self.rowless.add((module, path))
            if (module, path) in self.rowless:
                self.apart.add(id(tensor))

    def _divides(self, tensor: Tensor) -> bool:
        return tensor.ndim > 0 and tensor.shape[0] % (len(self.copies) * self.rows) == 0

    def _cut(self, leaf: Any) -> bool:
        """Whether a tensor holds the rows of all points, one point after the other."""
        return isinstance(leaf, Tensor) and id(leaf) not in self.apart and self._divides(leaf)

    def _part(self, tree: Any, point: int) -> Any:
        return mapped(lambda t: t.chunk(len(self.copies))[point] if self._cut(t) else t, tree)

    def _side_by_side(self, parts: list[Tensor], shared: bool, name: str) -> Tensor:
        part = parts[0]
        if part.ndim > 2 and part.shape[0] == 1:
            # a table for every row alike: each point has its own now
            return torch.cat([part.expand(self.rows, *part.shape[1:]) for part in parts])
        if shared:
            raise Inseparable(f"a {name} is called with something that is not a batch")
        if part.ndim and part.shape[0] % self.rows == 0:
            return torch.cat(parts)
        if all(torch.equal(part, other) for other in parts[1:]):
            return part
        # no batch (the last state of an LSTM): there is no one tensor for all points, so that using it is an error
        return torch.empty_like(part, device="meta")


def _seen(module: nn.Module, args: Any) -> None:
    """A hook that does nothing but be there."""


_seen.input_only = True  # type: ignore[reportFunctionMemberAccess]


def _global_hooks() -> bool:
    """Whether somebody looks at every module of the process."""
    return bool(hooks._global_forward_pre_hooks or hooks._global_forward_hooks)  # type: ignore[reportPrivateUsage]
