"""What is z? A direction is a law, then linear maps: a pure function of (key, State)."""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from zerothorder.key import Key
from zerothorder.space import Site
from zerothorder.state import State

View = Literal["probe", "step"]
"""Two views of one draw: where to look and how to move. Equal unless a recipe names the difference."""


class Direction(Protocol):
    """z(key) over all sites, never stored whole.

    Two optional methods let passes be fused, with the same bits: `draw(site, term) -> (law, seed) | None` names the
    plain draw that z is on this site, if it is one; `factors(site, term, dtype) -> (A, B, s) | None` gives the factors
    of z = s·A B, A (m, r) and B (r, n), if it has them.
    """

    @property
    def run_key(self) -> bytes:
        """16 bytes that name the run."""
        ...

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
        """out = source + coefficient·z[start : start+n] of the site, 1-D in the grid's compute dtype, n = len(out).

        A string term names a vector in the State instead of a draw. Each product and each sum rounds once.
        """
        ...


def plain_draws(
    direction: Direction, site: Site, terms: Sequence[tuple[Key | str, float]]
) -> list[tuple[str, int]] | None:
    """(law, seed) of each term where z is a plain draw for all of them; else None."""
    draw = getattr(direction, "draw", None)
    found = [] if draw is None else [draw(site, term) for term, _ in terms]
    return found if found and all(one is not None for one in found) else None


def factored(
    direction: Direction, site: Site, terms: Sequence[tuple[Key | str, float]], dtype: torch.dtype
) -> tuple[Tensor, Tensor] | None:
    """A (m, K) and B (K, n) of Σ coefficient·z over the terms, coefficients in A; None where a z has no factors.

    K is the sum of the ranks. Each coefficient times s is rounded to `dtype` before it meets A, as in `shift`.
    """
    factors = getattr(direction, "factors", None)
    found = [] if factors is None else [factors(site, term, dtype) for term, _ in terms]
    if not found or any(one is None for one in found):
        return None
    a = [one[0] * (coefficient * one[2]) for one, (_, coefficient) in zip(found, terms, strict=True)]
    b = [one[1] for one in found]
    return (a[0], b[0]) if len(a) == 1 else (torch.cat(a, 1), torch.cat(b))
