"""What the points of one pass share: their keys, their coefficients, and the draws of a site for all of them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from zerothorder.directions import factors
from zerothorder.execution import Surroundings
from zerothorder.execution.probe import small_probes, write_probes
from zerothorder.point import Point
from zerothorder.profile import timed
from zerothorder.space import Site

SMALL = 1 << 16
"""Elements of a vector that is made together with the others."""


class Copies:
    """P points whose rows lie side by side, as seen by a module that carries their perturbations.

    Σ_k c_pk z_k is the perturbation of point p over the Q distinct keys of all points; with factors
    z_k = s·A_k B_k of rank r it is A diag(c_p) B, A (m, Qr) and B (Qr, n) side by side: two thin products for all
    points at once, where a point's coefficients are zero for the others' keys. `showing(parameter, data)` lets a
    parameter show other data for a while.
    """

    def __init__(
        self,
        points: Sequence[Point],
        around: Surroundings,
        showing: Callable[[Tensor, Tensor], AbstractContextManager[None]],
    ) -> None:
        self.points, self.around, self.showing = points, around, showing
        self.keys = list(dict.fromkeys(key for point in points for key, _ in point.terms))
        self.coefficients = torch.zeros(len(points), len(self.keys), dtype=torch.float64)
        for p, point in enumerate(points):
            for key, c in point.terms:
                self.coefficients[p, self.keys.index(key)] += c
        self._factors: dict[tuple[str, torch.dtype], tuple[Tensor, Tensor, float]] = {}
        self._dtypes: dict[torch.dtype, torch.dtype] = {}
        self._meant: dict[tuple[float, int, torch.dtype], Tensor] = {}
        self._small: dict[str, Tensor] | None = None
        self._drawn: set[torch.dtype] = set()

    def __len__(self) -> int:
        return len(self.points)

    def factors(self, site: Site, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor] | None:
        """(A (m, K), B (K, n), C (P, K)) in `dtype`, s in C; None where z has no factors."""
        found = self._factors.get((site.name, dtype))
        if found is None:
            self._draw(site, dtype)
            found = self._factors.get((site.name, dtype))
        if found is None:
            return None
        a, b, s = found
        if (kind := (s, a.shape[1], dtype)) not in self._meant:
            c = (self.coefficients * s).repeat_interleave(a.shape[1] // len(self.keys), 1)
            self._meant[kind] = c.to(a.device, dtype)
        return a, b, self._meant[kind]

    @timed("perturbation")
    def _draw(self, site: Site, dtype: torch.dtype) -> None:
        """All sites of a compute dtype at once: one small draw a layer would cost more than the products. Where one is
        asked for in a second dtype (an output layer in float32), it alone."""
        compute = site.grid.compute
        first = self._dtypes.setdefault(compute, dtype) == dtype
        if not self.keys or (first and compute in self._drawn):
            return
        self._drawn.add(compute)
        # of a shard, layers hold a part of the matrix that the factors make
        held = [own for own in (self.around.space if first else [site]) if tuple(own.parameter.shape) == own.shape]
        sites = [own for own in held if own.grid.compute == compute]
        for name, own in factors(self.around.direction, sites, self.keys, dtype).items():
            self._factors[name, dtype] = own

    def scaled(self, t: Tensor, c: Tensor) -> Tensor:
        """t (rows of all points, …, K) times each point's coefficients C (P, K), in place."""
        t.view(len(self), -1, c.shape[1]).mul_(c[:, None])
        return t

    def weights(self, site: Site, out: Tensor, points: slice = slice(None), rows: slice | Tensor | None = None) -> None:
        """out (points, …) = the site's weights at these points, or those of its first dimension's `rows`."""
        write_probes(out, site, self.points[points], self.around.direction, self.around.state, rows)

    def room(self, site: Site, *shape: int) -> Tensor:
        """An empty tensor of the site's dtype, where it lives."""
        return torch.empty(shape, dtype=site.parameter.dtype, device=site.parameter.device)

    @property
    def groups(self) -> list[slice]:
        """Consecutive points with the same keys (the two signs of a draw): their dense weights are made together."""
        found: list[slice] = []
        for p, point in enumerate(self.points):
            alike = found and [k for k, _ in self.points[p - 1].terms] == [k for k, _ in point.terms]
            if alike:
                found[-1] = slice(found[-1].start, p + 1)
            else:
                found.append(slice(p, p + 1))
        return found

    def vectors(self, site: Site) -> Tensor:
        """(P, *shape): a small site at every point. All small sites are made at the first call."""
        if self._small is None:
            self._small = self._make_small()
        if site.name in self._small:
            return self._small[site.name]
        out = self.room(site, len(self), *site.parameter.shape)
        for group in self.groups:
            self.weights(site, out[group], group)
        return out

    def _make_small(self) -> dict[str, Tensor]:
        sites = [site for site in self.around.space if site.parameter.ndim < 2 and site.numel <= SMALL]
        parts = [
            small_probes(sites, self.points[group], self.around.direction, self.around.state) for group in self.groups
        ]
        names = set[str]().union(*parts[:1]).intersection(*parts[1:])
        return {name: torch.cat([part[name] for part in parts]) if len(parts) > 1 else parts[0][name] for name in names}
