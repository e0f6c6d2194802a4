"""Low-rank directions: z of a matrix is A Bᵀ / √r, whose product with an activation needs no matrix."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zerothorder import random
from zerothorder.directions import View
from zerothorder.errors import UsageError, nearest
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

    def __post_init__(self) -> None:
        if self.law not in random.LAWS:
            raise UsageError(f"unknown law {self.law!r}{nearest(self.law, random.LAWS)}")
        if self.rank < 1:
            raise UsageError(f"rank is {self.rank}; at least 1 is needed")

    def matrix(self, site: Site) -> tuple[int, int] | None:
        """(m, n) of a site that is drawn by factors; None for a dense one."""
        rows = site.shape[0] if len(site.shape) > 1 else 0
        columns = torch.Size(site.shape[1:]).numel()
        return (rows, columns) if rows * columns > self.rank * (rows + columns) else None

    def factors(self, site: Site, term: Key | str, dtype: torch.dtype) -> tuple[Tensor, Tensor, float] | None:
        """(A, B, s) of a site's z in a dtype that holds the law; None where z has no factors.

        One draw of the site's key: first the rows of A, then those of B.
        """
        shape = self.matrix(site)
        if isinstance(term, str) or shape is None:
            return None
        rows, columns = shape
        drawn = torch.zeros((rows + columns) * self.rank, dtype=dtype, device=site.parameter.device)
        random.shift(drawn, drawn, self.law, term.seed(self.run_key, site.id), 1.0, 0)
        both = drawn.view(-1, self.rank)
        return both[:rows], both[rows:], float(self.rank**-0.5)

    def draw(self, site: Site, term: Key | str) -> tuple[str, int] | None:
        """As `Dense.draw`, on the sites that are dense."""
        if isinstance(term, str) or self.matrix(site) is not None:
            return None
        return self.law, term.seed(self.run_key, site.id)

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
        if isinstance(term, str):
            vector = state.tensor(term, site.name).reshape(-1)[start : start + out.numel()].to(out.dtype)
            torch.add(source, vector * coefficient, out=out)
            return
        found = self.factors(site, term, out.dtype)
        if found is None:
            random.shift(out, source, self.law, term.seed(self.run_key, site.id), coefficient, start)
            return
        a, b, scale = found
        columns = b.shape[0]
        first, last = start // columns, (start + out.numel() + columns - 1) // columns
        z = _outer(a[first:last], b)
        if self.rank > 1:
            z *= scale
        part = z.view(-1)[start - first * columns :][: out.numel()]
        torch.add(source, part.mul_(coefficient), out=out)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """Σ_k a_k b_kᵀ, term after term: a matrix product would leave the order of the sum to the library."""
    columns = b.T.contiguous()
    z = a[:, :1] * columns[0]
    for k in range(1, columns.shape[0]):
        z += a[:, k : k + 1] * columns[k]
    return z
