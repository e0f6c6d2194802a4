"""`Swap`: a module's weights are exchanged for a perturbed scratch while it runs. Any model, one module's memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zerothorder.execution import Surroundings
from zerothorder.execution.evaluate import WEIGHT, seeded, value_at
from zerothorder.execution.interrupts import Interrupts
from zerothorder.execution.observe import named_modules
from zerothorder.execution.probe import write_probe
from zerothorder.key import Key
from zerothorder.objectives import Objective
from zerothorder.point import Point, Term, Values
from zerothorder.profile import phase
from zerothorder.space import ParameterSpace, Site

Scratch = dict[tuple[torch.dtype, torch.device, int], Tensor]


class Swap:
    """Evaluates points one at a time; θ is exchanged, never written.

    A site is exchanged while the module that owns it runs: `owners` (site name → module name) overrides the module
    that registers it, for weights read elsewhere; "" exchanges it for the whole evaluation. `execution.check` finds
    those. Scratch memory is that of the largest module, and of the largest inside another that owns sites too.

    `poison` overwrites a scratch with NaN when its module returns, so that weights used later show.
    """

    def __init__(self, owners: Mapping[str, str] | None = None, *, poison: bool = False) -> None:
        self.owners = dict(owners or {})
        self.poison = poison
        self.scratch: Scratch = {}

    def again(self, owners: Mapping[str, str]) -> "Swap":
        """A fresh one with other owners."""
        return Swap(owners, poison=self.poison)

    @property
    def nbytes(self) -> int:
        """Scratch memory held now."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.scratch.values())

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
        constant = getattr(objective, "constant_without_grad", False)
        with phase("perturbation"):
            plan, whole = owned(around.model, around.space, self.owners)
        if constant and whole:  # a forward at θ is one of the model: as long as that runs is long enough
            plan, whole = [*plan, (around.model, whole)], []
        with Interrupts() as interrupts, around.meter.watching(around.model):
            for point in points:
                exchange = Exchange(self.scratch, point.terms, around, interrupts, self.poison, constant)
                try:
                    with phase("perturbation"):
                        if point.terms and point.want == "gradient":
                            # autograd saves the parameter, not its data: backward must see the probe too
                            exchange.install([], list(around.space))
                        elif point.terms:
                            exchange.install(plan, whole)
                    look = seeded(key, around.direction.run_key, around.model)
                    with look, interrupts.heard(), around.meter.weighing(WEIGHT[point.want]):
                        values.append(value_at(around.model, around.space, point, objective, dict(batches)))
                finally:
                    exchange.close()
        return values


def owned(
    model: nn.Module, space: ParameterSpace, owners: Mapping[str, str]
) -> tuple[list[tuple[nn.Module, list[Site]]], list[Site]]:
    """Sites by the module they are exchanged with, and those exchanged for the whole evaluation."""
    modules = dict(named_modules(model))
    rest = {id(site.parameter): site for site in space if site.name not in owners}
    found: dict[nn.Module, dict[str, Site]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if (site := rest.get(id(parameter))) is not None:
                found.setdefault(module, {})[site.name] = site
    placed = {name for sites in found.values() for name in sites}
    whole: list[Site] = []
    for site in space:
        owner = owners.get(site.name, "")
        if owner:
            found.setdefault(modules[owner], {})[site.name] = site
        elif site.name not in placed:
            whole.append(site)
    return [(module, list(sites.values())) for module, sites in found.items()], whole


@dataclass
class _Frame:
    """What one running module has exchanged: (parameter, its own data, the scratch it shows)."""

    module: nn.Module | None
    pairs: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor, Tensor]])


class Exchange:
    """The weights exchanged at this moment, as a stack: modules nest, tied weights may be met twice."""

    def __init__(
        self,
        scratch: Scratch,
        terms: Sequence[Term],
        around: Surroundings,
        interrupts: Interrupts,
        poison: bool,
        constant: bool = False,
    ) -> None:
        self.scratch, self.terms, self.around = scratch, terms, around
        self.interrupts, self.poison, self.constant = interrupts, poison, constant
        self.stack: list[_Frame] = []
        self.active: set[int] = set()
        self.handles: list[Any] = []

    def install(self, plan: Sequence[tuple[nn.Module, list[Site]]], whole: list[Site]) -> None:
        """Exchange `whole` now, and each module's sites whenever it runs."""
        if whole:
            self.enter(None, whole)
        for module, sites in plan:
            self.handles.append(module.register_forward_pre_hook(self._entering(sites), prepend=True))
            # always_call: a forward that raises must give its weights back too
            self.handles.append(module.register_forward_hook(self._leaving, always_call=True))

    def close(self) -> None:
        """Give everything back: hooks, and what is left after an exception that no hook saw."""
        with phase("perturbation"):
            for handle in self.handles:
                handle.remove()
            while self.stack:
                self._leave()

    def _entering(self, sites: list[Site]) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            if self.constant and not torch.is_grad_enabled():
                return  # a forward that the loss takes for a constant: at θ
            with self.interrupts.held():
                self.enter(module, sites)

        return enter

    def _leaving(self, module: nn.Module, args: Any, output: Any) -> None:
        with self.interrupts.held():
            self.leave(module)

    def enter(self, module: nn.Module | None, sites: list[Site]) -> None:
        """Show these sites' probes until `leave(module)`."""
        with phase("perturbation"):
            frame = _Frame(module)
            self.stack.append(frame)
            # a site met again inside its own exchange (tied, or a shared module) already shows its probe
            fresh = [site for site in sites if id(site.parameter) not in self.active]
            for site, out in zip(fresh, self._buffers(fresh), strict=True):
                write_probe(out, site, self.terms, self.around.direction, self.around.state)
                frame.pairs.append((site.parameter, site.parameter.data, out))
                self.active.add(id(site.parameter))
                site.parameter.data = out

    def leave(self, module: nn.Module) -> None:
        """Give back what was exchanged for a module, and for those inside it that did not get to their end."""
        with phase("perturbation"):
            # a module that another pre-hook stopped never entered; one whose callee was interrupted is not on top
            while any(frame.module is module for frame in self.stack):
                if self._leave() is module:
                    break

    def _leave(self) -> nn.Module | None:
        frame = self.stack[-1]
        while frame.pairs:
            parameter, own, out = frame.pairs[-1]
            parameter.data = own
            if self.poison:
                out.fill_(torch.nan)
            self.active.discard(id(parameter))
            frame.pairs.pop()
        return self.stack.pop().module

    def _buffers(self, sites: list[Site]) -> list[Tensor]:
        """Scratch tensors for one module's sites, kept between calls: one buffer a nesting depth, dtype and device."""
        kinds: dict[tuple[torch.dtype, torch.device], int] = {}
        places: list[tuple[tuple[torch.dtype, torch.device], int]] = []
        for site in sites:
            kind = (site.parameter.dtype, site.parameter.device)
            places.append((kind, kinds.get(kind, 0)))
            # 64-byte aligned, as a fresh allocation would be: kernels may choose by alignment
            kinds[kind] = kinds.get(kind, 0) + -(-site.numel // 64) * 64
        depth = len(self.stack)
        for (dtype, device), size in kinds.items():
            at = (dtype, device, depth)
            if at not in self.scratch or self.scratch[at].numel() < size:
                self.scratch.pop(at, None)
                with torch.inference_mode(False):
                    self.scratch[at] = torch.empty(size, dtype=dtype, device=device)
        return [
            self.scratch[(*kind, depth)][at : at + site.numel].view(site.parameter.shape)
            for site, (kind, at) in zip(sites, places, strict=True)
        ]
