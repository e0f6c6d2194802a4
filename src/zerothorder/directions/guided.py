"""Directions of a given length beside a given vector and off another: what a guided search draws from."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from zerothorder import random
from zerothorder.directions import View
from zerothorder.directions.laws import Dense
from zerothorder.errors import UsageError
from zerothorder.exact import ordered_dot, ordered_sum
from zerothorder.key import Key
from zerothorder.scratch import buffer
from zerothorder.space import CHUNK, Site
from zerothorder.state import State

_REMEMBERED = 1 << 14


class _Known(NamedTuple):
    """Numbers, and the vectors they are of: held, so that no other tensor can come to lie where they lay."""

    along: Tensor
    off: Tensor | None
    values: tuple[float, float]


@dataclass(frozen=True)
class Guided:
    """z = ‖along‖ · u/‖u‖ a tensor, u = w - ⟨off, w⟩ off for a draw w of `law`; a key tagged `along` is that vector.

    `along` and `off` name vectors in the State, one tensor a site; `off` has length 1, or is missing: nothing is
    taken out then. E[z] = 0; with w Gaussian z is uniform on a sphere in the complement of `off`, so
    E[z zᵀ] = ‖along‖²/(n-1)·(I - off offᵀ), n the elements of the tensor. A site is drawn whole: its norms go through
    all of it, so shards are refused. Source: ZOPrO (Galatolo et al. 2025).
    """

    run_key: bytes
    law: str = "gaussian"
    along: str = "mu"
    off: str = "v"
    dense: Dense = field(init=False, repr=False, compare=False)
    _known: dict[tuple[int, Key | None], "_Known"] = field(
        init=False, repr=False, compare=False, default_factory=dict[tuple[int, Key | None], "_Known"]
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "dense", Dense(self.run_key, self.law))

    def shift(
        self, out: Tensor, source: Tensor, site: Site, term: Key | str, coefficient: float, start: int, state: State,
        view: View = "probe",
    ) -> None:  # fmt: skip
        """See `Direction.shift`."""
        z = torch.empty_like(out)
        self.z(z, site, term, start, state, view)
        torch.add(source, z.mul_(coefficient), out=out)

    def z(self, out: Tensor, site: Site, term: Key | str, start: int, state: State, view: View = "probe") -> None:
        """out = z[start : start+n] of the site."""
        if isinstance(term, str) or term.tag == self.along:
            self._needs(site, state)
            self.dense.z(out, site, term if isinstance(term, str) else self.along, start, state, view)
            return
        scale, taken = self._scales(site, term, state)
        random.shift(out.zero_(), out, self.law, term.seed(self.run_key, site.id), scale, start)
        if taken:
            own = state.tensor(self.off, site.name).reshape(-1)[start : start + out.numel()].to(out.dtype)
            out -= own * taken

    def square(self, site: Site, term: Key | str, state: State) -> float:
        """‖along‖², of the draws too."""
        if isinstance(term, str) and term != self.along:
            return self.dense.square(site, term, state)
        self._needs(site, state)
        length, _ = self._once(site, None, state, lambda: (self._length(site, state), 0.0))
        return length * length

    def _scales(self, site: Site, term: Key, state: State) -> tuple[float, float]:
        """(s, s·⟨off, w⟩) with s = ‖along‖/‖u‖, so that z = s·w - s·⟨off, w⟩·off."""
        self._needs(site, state)

        def made() -> tuple[float, float]:
            if site.numel != torch.Size(site.shape).numel():
                raise UsageError(f"{site.name} is a shard; a guided direction needs whole tensors, for their norms")
            length, _ = self._once(site, None, state, lambda: (self._length(site, state), 0.0))
            inner, square = self._draw(site, term, state)
            scale = length / math.sqrt(square) if square > 0 else 0.0
            return scale, scale * inner

        return self._once(site, term, state, made)

    def _once(
        self, site: Site, term: Key | None, state: State, made: Callable[[], tuple[float, float]]
    ) -> tuple[float, float]:
        """What `made` gives, again only where one of the vectors is another now."""
        along = state.tensor(self.along, site.name)
        off = state.tensor(self.off, site.name) if state.has(self.off, site.name) else None
        known = self._known.get((site.id, term))
        if known is None or known.along is not along or known.off is not off:
            if len(self._known) > _REMEMBERED:
                self._known.clear()
            known = self._known[site.id, term] = _Known(along, off, made())
        return known.values

    def _needs(self, site: Site, state: State) -> None:
        if not state.has(self.along, site.name):
            raise UsageError(
                f"a guided direction needs the vector {self.along!r} before the first step: name its file in the "
                f"recipe's setting {self.along!r}, or attach it (zerothorder.recipes.zopro.guide)"
            )

    def _length(self, site: Site, state: State) -> float:
        flat = state.tensor(self.along, site.name).reshape(-1)
        return math.sqrt(_sum([ordered_dot(flat[local], flat[local]) for local, _ in site.chunks()]))

    def _draw(self, site: Site, term: Key, state: State) -> tuple[float, float]:
        """(⟨off, w⟩, ‖w - ⟨off, w⟩ off‖²), chunk by chunk."""
        off = state.tensor(self.off, site.name).reshape(-1) if state.has(self.off, site.name) else None
        seed, size = term.seed(self.run_key, site.id), min(CHUNK, site.numel)
        whole = buffer("guided", size, site.grid.compute, site.parameter.device)
        squares, inners, lengths = list[float](), list[float](), list[float]()
        for local, start in site.chunks():
            w = whole[: local.stop - local.start].zero_()
            random.shift(w, w, self.law, seed, 1.0, start)
            squares.append(ordered_dot(w, w))
            if off is not None:
                inners.append(ordered_dot(w, off[local]))
                lengths.append(ordered_dot(off[local], off[local]))
        inner = _sum(inners)
        return inner, _sum(squares) - 2 * inner * inner + inner * inner * _sum(lengths)


def _sum(parts: list[float]) -> float:
    return ordered_sum(torch.tensor(parts, dtype=torch.float64))
