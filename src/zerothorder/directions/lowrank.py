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
        """(A, B, s) of a site's z in a dtype that holds the law, `rows` of A only; None where z has no factors.

        One draw of the site's key: first the rows of A, then those of B.
        """
        shape = self.matrix(site)
        if isinstance(term, str) or shape is None:
            return None
        seed, device = term.seed(self.run_key, site.id), site.parameter.device

        def drawn(first: int, last: int) -> Tensor:
            z = torch.zeros((last - first) * self.rank, dtype=dtype, device=device)
            random.shift(z, z, self.law, seed, 1.0, first * self.rank)
            return z.view(-1, self.rank)

        first, last, _ = rows.indices(shape[0])
        return drawn(first, last), drawn(shape[0], sum(shape)), float(self.rank**-0.5)

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
        """See `Direction.shift`. z is summed over the rank in order, each product and each sum rounded once."""
        shape = self.matrix(site)
        if isinstance(term, str) or shape is None:
            self.dense.shift(out, source, site, term, coefficient, start, state, view)
            return
        first = start // shape[1]
        found = self.factors(site, term, out.dtype, slice(first, -(-(start + out.numel()) // shape[1])))
        assert found is not None
        a, b, scale = found
        z = _outer(a, b)
        if self.rank > 1:
            z *= scale
        part = z.view(-1)[start - first * shape[1] :][: out.numel()]
        torch.add(source, part.mul_(coefficient), out=out)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """Σ_k a_k b_kᵀ, term after term: a matrix product would leave the order of the sum to the library."""
    columns = b.T.contiguous()
    z = a[:, :1] * columns[0]
    for k in range(1, columns.shape[0]):
        z += a[:, k : k + 1] * columns[k]
    return z
