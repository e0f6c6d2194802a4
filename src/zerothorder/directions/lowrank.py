"""Low-rank directions: z of a matrix is A Bᵀ / √r, whose product with an activation needs no matrix."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zerothorder import random
from zerothorder.directions import View
from zerothorder.directions.laws import Dense
from zerothorder.errors import UsageError
from zerothorder.key import Key
from zerothorder.space import Site
from zerothorder.state import State


@dataclass(frozen=True)
class LowRank:
    """z = s·A Bᵀ for a matrix, A (m, r) and B (n, r) independent draws of a law, s = 1/√r; else a dense draw.

    E[z] = 0 and E[z zᵀ] = I, as for dense laws; E‖⟨G,z⟩z‖² = (m+2)(n+2)‖G‖² at r = 1 with Gaussian factors, where a
    dense Gaussian has mn + 2. A tensor of more dimensions is the matrix of its first against the others. Dense are
    vectors, and matrices whose factors would be no smaller than themselves. Source: EGGROLL (Sarkar et al. 2025).
    """

    run_key: bytes
    rank: int = 1
    law: str = "gaussian"
    dense: Dense = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"rank is {self.rank}; at least 1 is needed")
        object.__setattr__(self, "dense", Dense(self.run_key, self.law))

    def matrix(self, site: Site) -> tuple[int, int] | None:
        """(m, n) of a site that is drawn by factors; None for a dense one."""
        rows = site.shape[0] if len(site.shape) > 1 else 0
        columns = torch.Size(site.shape[1:]).numel()
        return (rows, columns) if rows * columns > self.rank * (rows + columns) else None

    def factors(
        self, sites: Iterable[Site], keys: Sequence[Key | str], dtype: torch.dtype
    ) -> dict[str, tuple[Tensor, Tensor, float]]:
        """(A, B, s) by site name: the keys' factors side by side, A (m, Kr), B (Kr, n), in float32 or float64, or
        rounded to a narrower dtype.

        Sites without factors are left out; all are if a key names a vector. A site's draw is A row by row, then B row
        by row; all sites are drawn in one go.
        """
        found: dict[str, tuple[Tensor, Tensor, float]] = {}
        drawn = [(site, shape) for site in sites if (shape := self.matrix(site)) is not None]
        if not drawn or not keys or any(isinstance(key, str) for key in keys):
            return found
        seeds, starts, ends, end = list[int](), list[int](), list[int](), 0
        for site, (rows, columns) in drawn:
            own = [key.seed(self.run_key, site.id) for key in keys if not isinstance(key, str)]
            for start, length in ((0, rows * self.rank), (rows * self.rank, columns * self.rank)):
                seeds += own
                starts += [start] * len(own)
                ends += [end + length * n for n in range(1, len(own) + 1)]
                end += length * len(own)
        wide = dtype if dtype == torch.float64 else torch.float32
        flat = torch.empty(end, dtype=wide, device=drawn[0][0].parameter.device)
        random.pieces(flat, self.law, seeds, starts, ends)
        flat = flat.to(dtype)
        sizes = [n * self.rank * len(keys) for _, shape in drawn for n in shape]
        parts = iter(torch.split(flat, sizes))
        for site, (rows, columns) in drawn:
            a, b = next(parts).view(len(keys), rows, self.rank), next(parts).view(-1, columns)
            found[site.name] = (a.movedim(0, 1).flatten(1), b, float(self.rank**-0.5))
        return found

    def draw(self, site: Site, term: Key | str) -> tuple[str, int] | None:
        """As `Dense.draw`, on the sites that are dense."""
        return None if self.matrix(site) is not None else self.dense.draw(site, term)

    def shift(
        self,
        out: Tensor,
        source: Tensor,
        site: Site,
        term: Key | str,
        coefficient: float,
        start: int,
        state: State,
        view: View = "probe",
    ) -> None:
        """See `Direction.shift`: out = source + Σ_k (A_k·(coefficient·s))·B_k, k after k, each operation rounded."""
        shape = self.matrix(site)
        if isinstance(term, str) or shape is None:
            self.dense.shift(out, source, site, term, coefficient, start, state, view)
            return
        columns, seed = shape[1], term.seed(self.run_key, site.id)
        first, skip = start // columns, start % columns
        rows = -(-(start + out.numel()) // columns) - first
        a, b = (torch.empty(n * self.rank, dtype=out.dtype, device=out.device) for n in (rows, columns))
        random.pieces(a, self.law, [seed], [first * self.rank], [a.numel()])
        random.pieces(b, self.law, [seed], [shape[0] * self.rank], [b.numel()])
        a, b = a.view(-1, self.rank) * (coefficient * float(self.rank**-0.5)), b.view(self.rank, -1)
        for k in range(self.rank):
            # no matrix product: the order of its sums belongs to the library
            torch.add(source, (a[:, k : k + 1] * b[k]).view(-1)[skip : skip + out.numel()], out=out)
            source = out
