"""`Swap`: a module's weights are exchanged for a perturbed scratch while it runs. Any model, one module's memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zerothorder.execution import Surroundings
from zerothorder.execution.evaluate import seeded, value_at
from zerothorder.execution.probe import write_probe
from zerothorder.key import Key
from zerothorder.objectives import Objective
from zerothorder.point import Point, Term, Values
from zerothorder.space import ParameterSpace, Site


class Swap:
    """Evaluates points one at a time; θ is exchanged, never written.

    A site is exchanged while the module that owns it runs: `owners` (site name → module name, "" the whole model)
    overrides the module that registers it, for weights read elsewhere; `execution.check` finds those.
    """

    def __init__(self, owners: Mapping[str, str] | None = None) -> None:
        self.owners = dict(owners or {})
        self._scratch: dict[tuple[torch.dtype, torch.device, int], Tensor] = {}

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
        plan = self._plan(around.model, around.space)
        with around.meter.watching(around.model):
            for point in points:
                exchange = _Exchange(self._scratch, point.terms, around)
                handles = exchange.install(plan) if point.terms else []
                try:
                    with seeded(key, around.direction.run_key, around.model):
                        values.append(value_at(around.model, point, objective, dict(batches)))
                finally:
                    for handle in handles:
                        handle.remove()
                    exchange.restore()
        return values

    def _plan(self, model: nn.Module, space: ParameterSpace) -> list[tuple[nn.Module, list[Site]]]:
        modules = dict(model.named_modules())
        sites = {id(site.parameter): site for site in space}
        owned: dict[nn.Module, dict[str, Site]] = {}
        for module in modules.values():
            for parameter in module.parameters(recurse=False):
                site = sites.get(id(parameter))
                if site is not None and site.name not in self.owners:
                    owned.setdefault(module, {})[site.name] = site
        for name, owner in self.owners.items():
            if name in space.by_name:
                owned.setdefault(modules[owner], {})[name] = space.by_name[name]
        return [(module, list(found.values())) for module, found in owned.items()]


class _Exchange:
    """The weights exchanged at this moment, as a stack: modules nest, tied weights may be met twice."""

    def __init__(
        self,
        scratch: dict[tuple[torch.dtype, torch.device, int], Tensor],
        terms: Sequence[Term],
        around: Surroundings,
    ) -> None:
        self.scratch, self.terms, self.around = scratch, terms, around
        self.stack: list[list[tuple[Tensor, Tensor]]] = []
        self.active: set[int] = set()

    def install(self, plan: Sequence[tuple[nn.Module, list[Site]]]) -> list[Any]:
        handles: list[Any] = []
        for module, sites in plan:
            handles.append(module.register_forward_pre_hook(self._enter(sites), prepend=True))
            # always_call: a forward that raises must give its weights back too
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        return handles

    def _enter(self, sites: list[Site]) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            frame: list[tuple[Tensor, Tensor]] = []
            self.stack.append(frame)
            # a site met again inside its own exchange (tied, or a shared module) already shows its probe
            fresh = [site for site in sites if id(site.parameter) not in self.active]
            for site, out in zip(fresh, self._buffers(fresh), strict=True):
                write_probe(out, site, self.terms, self.around.direction, self.around.state)
                frame.append((site.parameter, site.parameter.data))
                self.active.add(id(site.parameter))
                site.parameter.data = out

        return enter

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.stack:
            self._restore(self.stack.pop())

    def _buffers(self, sites: list[Site]) -> list[Tensor]:
        """Scratch tensors for one module's sites, kept between calls: one buffer a nesting depth, dtype and device."""
        kinds: dict[tuple[torch.dtype, torch.device], int] = {}
        places: list[tuple[tuple[torch.dtype, torch.device], int]] = []
        for site in sites:
            kind = (site.parameter.dtype, site.parameter.device)
            places.append((kind, kinds.get(kind, 0)))
            # 64-byte aligned, as a fresh allocation would be: kernels may choose by alignment
            kinds[kind] = kinds.get(kind, 0) + -(-site.numel // 64) * 64
        for (dtype, device), size in kinds.items():
            at = (dtype, device, len(self.stack))
            if at not in self.scratch or self.scratch[at].numel() < size:
                self.scratch.pop(at, None)
                with torch.inference_mode(False):
                    self.scratch[at] = torch.empty(size, dtype=dtype, device=device)
        depth = len(self.stack)
        return [
            self.scratch[(*kind, depth)][at : at + site.numel].view(site.parameter.shape)
            for site, (kind, at) in zip(sites, places, strict=True)
        ]

    def _restore(self, frame: list[tuple[Tensor, Tensor]]) -> None:
        for parameter, data in reversed(frame):
            parameter.data = data
            self.active.discard(id(parameter))

    def restore(self) -> None:
        """Give everything back: what is left after an exception that no hook saw."""
        while self.stack:
            self._restore(self.stack.pop())
