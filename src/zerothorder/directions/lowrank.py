"""Low-rank directions: z of a matrix is A Bᵀ / √r, whose product with an activation needs no matrix."""

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
        self, site: Site, term: Key | str, dtype: torch.dtype, rows: slice = slice(None)
    ) -> tuple[Tensor, Tensor, float] | None:
        """(A, B, s) of a site's z in a dtype that holds the law: A (m, r), `rows` of it only, and B (r, n).

        None where z has no factors. One draw of the site's key: first A row by row, then B row by row.
        """
        shape = self.matrix(site)
        if isinstance(term, str) or shape is None:
            return None
        seed, device = term.seed(self.run_key, site.id), site.parameter.device
        first, last, _ = rows.indices(shape[0])
        split, end = shape[0] * self.rank, sum(shape) * self.rank

        def drawn(start: int, stop: int) -> Tensor:
            z = torch.zeros(stop - start, dtype=dtype, device=device)
            random.shift(z, z, self.law, seed, 1.0, start)
            return z

        if last == shape[0]:  # what is wanted is one piece of the draw
            z = drawn(first * self.rank, end)
            a, b = z[: (last - first) * self.rank], z[(last - first) * self.rank :]
        else:
            a, b = drawn(first * self.rank, last * self.rank), drawn(split, end)
        return a.view(-1, self.rank), b.view(self.rank, -1), float(self.rank**-0.5)

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
        columns = shape[1]
        first, skip = start // columns, start % columns
        found = self.factors(site, term, out.dtype, slice(first, -(-(start + out.numel()) // columns)))
        assert found is not None
        a, b, scale = found
        a *= coefficient * scale
        for k in range(self.rank):
            # no matrix product: the order of its sums belongs to the library
            torch.add(source, (a[:, k : k + 1] * b[k]).view(-1)[skip : skip + out.numel()], out=out)
            source = out
