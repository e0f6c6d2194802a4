"""A module's weights exchanged for others while it runs, and given back whatever happens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zerothorder.directions import moving
from zerothorder.execution import Surroundings
from zerothorder.execution.interrupts import Interrupts
from zerothorder.execution.probe import write_probe
from zerothorder.point import Term
from zerothorder.profile import phase
from zerothorder.space import Site

Scratch = dict[tuple[torch.dtype, torch.device, int], Tensor]


@dataclass
class Frame:
    """What one running module has exchanged, as what gives it back, last first."""

    module: nn.Module | None
    undo: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])


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
        self.stack: list[Frame] = []
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
            frame = Frame(module)
            self.stack.append(frame)
            fresh = self.fresh(module, sites)
            for site, out in zip(fresh, self.buffers(fresh), strict=True):
                write_probe(out, site, self.terms, self.around.direction, self.around.state)
                frame.undo.append(self._giving_back(site.parameter, site.parameter.data, out))
                self.active.add(id(site.parameter))
                site.parameter.data = out

    def fresh(self, module: nn.Module | None, sites: list[Site]) -> list[Site]:
        """Those that the terms move and that do not show their probe yet, as a site met again inside its own exchange
        does (tied, or a shared module)."""
        around = self.around
        # an embedding of a largest norm writes to its weights when it runs, so it gets others even where nothing moves
        writes = not self.terms or getattr(module, "max_norm", None) is not None
        return [
            site
            for site in sites
            if id(site.parameter) not in self.active
            and (writes or moving(around.direction, site, self.terms, around.state))
        ]

    def _giving_back(self, parameter: Tensor, own: Tensor, out: Tensor) -> Callable[[], None]:
        def give_back() -> None:
            parameter.data = own
            if self.poison:
                out.fill_(torch.nan)
            self.active.discard(id(parameter))

        return give_back

    def leave(self, module: nn.Module) -> None:
        """Give back what was exchanged for a module, and for those inside it that did not get to their end."""
        with phase("perturbation"):
            # a module that another pre-hook stopped never entered; one whose callee was interrupted is not on top
            while any(frame.module is module for frame in self.stack):
                if self._leave() is module:
                    break

    def _leave(self) -> nn.Module | None:
        frame = self.stack[-1]
        while frame.undo:
            frame.undo[-1]()
            frame.undo.pop()
        return self.stack.pop().module

    def buffers(self, sites: list[Site]) -> list[Tensor]:
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
