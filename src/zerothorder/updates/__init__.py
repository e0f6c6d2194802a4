"""How do weights move? A chain of transforms over the estimated gradient, then θ ← round(θ - lr·g), chunk by chunk.

Only +, -, ×, ÷ and √, each rounded on its own: the same bits on every CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from zerothorder.directions import Direction, moving
from zerothorder.errors import UsageError
from zerothorder.key import Key
from zerothorder.ledger.entry import Entry
from zerothorder.scratch import buffer
from zerothorder.space import CHUNK, ParameterSpace, Site
from zerothorder.state import RESIDUAL, State, residual_of
from zerothorder.updates.fused import Drawn, drawn, moves_of, outer_of

FEW = 4
"""Terms whose factors are drawn for all sites at once; those of more would take memory."""


@dataclass(frozen=True)
class Where:
    """The chunk a transform works on: elements `local` of a site's storage; weight decay that applies there."""

    site: Site
    local: slice
    decay: float


class Transform(Protocol):
    """g ← T(g, θ, State), site-local. `memory` names the State tensors it keeps, one element a parameter each."""

    @property
    def memory(self) -> tuple[str, ...]: ...

    def begin(self, state: State) -> None:
        """Once a step, before any chunk: scalars that belong to the step."""
        ...

    def __call__(self, g: Tensor, weights: Tensor, where: Where, state: State) -> None:
        """Change g in place. `weights` is the chunk of θ in the compute dtype, to be read."""
        ...


@dataclass(frozen=True)
class WeightDecay:
    """g ← g + decay·θ with the decay of the site's group (L2, coupled, as SGD and MeZO have it)."""

    memory: tuple[str, ...] = ()

    def begin(self, state: State) -> None: ...

    def __call__(self, g: Tensor, weights: Tensor, where: Where, state: State) -> None:
        if where.decay:
            g += weights * where.decay


@dataclass(frozen=True)
class Update:
    """θ ← round(θ - lr·T_n(…T_1(Σ scalar·z))). Each site follows the rates of its group.

    `accepts_dense`: whether a first-order part is added to the sum (hybrids) or refused.
    """

    transforms: Sequence[Transform] = field(default_factory=tuple[Transform, ...])
    accepts_dense: bool = False

    def check(self, dense: Mapping[str, Tensor] | None) -> None:
        """UsageError for a part of an estimate that this update cannot use; asked before anything is written."""
        if dense is not None and not self.accepts_dense:
            raise UsageError("this update takes scalars only, but the estimate holds a first-order part; use a hybrid")

    def apply(self, entry: Entry, space: ParameterSpace, direction: Direction, state: State) -> None:
        """Move θ and State by one ledger entry; a skipped entry moves nothing. UsageError if it cannot be used."""
        self.apply_all((entry,), space, direction, state)

    def apply_all(self, entries: Sequence[Entry], space: ParameterSpace, direction: Direction, state: State) -> None:
        """`apply` one entry after the other, with the same bits; in one pass over the weights where that can be."""
        entries = [entry for entry in entries if not entry.skipped]
        for entry in entries:
            self.check(entry.dense)
        with torch.no_grad():
            if self._local and all(entry.dense is None for entry in entries):
                few = sum(len(entry.terms) for entry in entries) <= FEW
                outer = drawn(entries, space, direction) if few else None
                done = self._at_once(entries[0], space, direction, state, outer) if len(entries) == 1 else set[str]()
                for site in space:
                    if site.name in done or self._untouched(entries, site, direction, state):
                        continue
                    own = drawn(entries, [site], direction) if outer is None else outer
                    self._steps(entries, site, direction, state, own)
            else:
                for entry in entries:
                    for transform in self.transforms:
                        transform.begin(state)
                    for site in space:
                        self._site(entry, site, direction, state)

    def _at_once(
        self, entry: Entry, space: ParameterSpace, direction: Direction, state: State, outer: Drawn | None
    ) -> set[str]:
        """Take the step of every matrix that moves along one outer product, in one launch; their names."""
        if not outer:
            return set()
        from zerothorder.grids.outer import Outer, move_all

        kinds: dict[torch.dtype, list[Outer]] = {}
        written: list[tuple[Site, Tensor]] = []
        for site in space:
            found = outer_of(entry, site, direction.run_key, bool(self.transforms), outer)
            if found is not None:
                flat, step = found
                step = replace(step, residual=_residual(site, state))
                kinds.setdefault(flat.dtype, []).append(step)
                written.append((site, flat))
        for steps in kinds.values():
            move_all(steps)
        for site, flat in written:
            site.write(flat)
        return {site.name for site, _ in written}

    @property
    def _local(self) -> bool:
        """Nothing between the draws and the weights but a rate and at most one weight decay: sites go their own way."""
        return not self.transforms or (len(self.transforms) == 1 and type(self.transforms[0]) is WeightDecay)

    def _untouched(self, entries: Sequence[Entry], site: Site, direction: Direction, state: State) -> bool:
        """Nothing of these entries moves the site, and nothing decays it."""
        if any(moving(direction, site, entry.terms, state) for entry in entries):
            return False
        return not (self.transforms and any(entry.rates[site.group].decay for entry in entries))

    def _steps(self, entries: Sequence[Entry], site: Site, direction: Direction, state: State, outer: Drawn) -> None:
        moves = moves_of(entries, site, direction, state, bool(self.transforms), outer)
        if moves is None:
            for entry in entries:
                self._site(entry, site, direction, state)
            return
        flat, residual = site.read(), _residual(site, state)
        for local, start in site.runs():
            site.grid.move(flat[local], None if residual is None else residual[local], moves, start)
        site.write(flat)

    def _site(self, entry: Entry, site: Site, direction: Direction, state: State) -> None:
        flat, residual = site.read(), _residual(site, state)
        device = flat.device
        rates = entry.rates[site.group]
        seed = Key("round", entry.step).seed(direction.run_key, site.id)
        compute, size = site.grid.compute, min(CHUNK, site.numel)
        g_buffer = buffer("gradient", size, compute, device)
        w_buffer = buffer("weights", 0 if site.grid.exact else size, compute, device)
        for local, start in site.chunks():
            g = g_buffer[: local.stop - local.start].zero_()
            for key, scalar in entry.terms:
                direction.shift(g, g, site, key, scalar, start, state, view="step")
            if entry.dense is not None and site.name in entry.dense:
                g += entry.dense[site.name].reshape(-1)[start : start + g.numel()].to(g.dtype)
            rest = None if residual is None else residual[local]
            w = flat[local]
            if self.transforms and not site.grid.exact:
                w = w_buffer[: g.numel()]
                site.grid.load(w, flat[local], rest)
            where = Where(site, local, rates.decay)
            for transform in self.transforms:
                transform(g, w, where, state)
            site.grid.descend(flat[local], rest, g, 1.0 if entry.absolute else rates.lr, seed, start)
        site.write(flat)


def _residual(site: Site, state: State) -> Tensor | None:
    """The site's residual byte, made at the first step that writes one."""
    residual = residual_of(site, state)
    if residual is None and site.grid.has_residual:
        device = site.parameter.device
        return state.tensor(RESIDUAL, site.name, lambda: torch.zeros(site.numel, dtype=torch.int8, device=device))
    return residual
