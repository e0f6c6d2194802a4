"""What is z? A direction is a law, then linear maps: a pure function of (key, State)."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from zerothorder.key import Key
from zerothorder.space import Site
from zerothorder.state import State

View = Literal["probe", "step"]
"""Two views of one draw: where to look and how to move. Equal unless a recipe names the difference."""


class Direction(Protocol):
    """z(key) over all sites, never stored whole.

    Three optional methods let passes be fused, with the same bits: `draw(site, term) -> (law, seed) | None` names the
    plain draw that z is on this site, if it is one; `factors(sites, keys, dtype)` gives by site name the factors of
    z = s·A B, where it has them (see the function `factors`); `z(out, site, term, start, state, view)` puts z itself
    into out, where `shift` adds coefficient·z to the source: points along it then draw it once. A fourth,
    `moves(site, term, state) -> bool`, says of a z that is zero on whole sites which those are: they are then left
    out, and the other three are asked of the rest. A fifth, `square(site, term, state) -> float`, is E‖z‖² of the site
    where that is not its number of elements.
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


Weighted = tuple[Key | str, float]


def moving(direction: Direction, site: Site, terms: Sequence[Weighted], state: State) -> Sequence[Weighted]:
    """Those of the terms whose z of this site is not 0 as a whole."""
    moves = getattr(direction, "moves", None)
    return terms if moves is None else [term for term in terms if moves(site, term[0], state)]


def expected_norm(direction: Direction, space: Iterable[Site], terms: Sequence[Weighted], state: State) -> float:
    """√Σ_j c_j² E‖z_j‖²: the length of an estimate Σ_j c_j z_j whose z_j are orthogonal, as they nearly are."""
    square = getattr(direction, "square", None)
    return math.sqrt(
        sum(
            coefficient * coefficient * (site.numel if square is None else square(site, key, state))
            for site in space
            for key, coefficient in moving(direction, site, terms, state)
        )
    )


def plain_draws(
    direction: Direction, site: Site, terms: Sequence[tuple[Key | str, float]]
) -> list[tuple[str, int]] | None:
    """(law, seed) of each term where z is a plain draw for all of them; else None."""
    draw = getattr(direction, "draw", None)
    found = [] if draw is None else [draw(site, term) for term, _ in terms]
    return found if found and all(one is not None for one in found) else None


def z_of(direction: Direction) -> Callable[..., object] | None:
    """The direction's method `z`, where it has one that belongs to its `shift`: a class that changes `shift` alone
    has none."""
    defined = [vars(own) for own in type(direction).__mro__]
    whose = {name: next((i for i, own in enumerate(defined) if name in own), None) for name in ("z", "shift")}
    if whose["z"] is None or (whose["shift"] is not None and whose["shift"] < whose["z"]):
        return None
    found: Any = getattr(direction, "z")  # noqa: B009 - optional, no part of the protocol
    return found if callable(found) else None


def factors(
    direction: Direction, sites: Iterable[Site], keys: Sequence[Key | str], dtype: torch.dtype
) -> Mapping[str, tuple[Tensor, Tensor, float]]:
    """By site name the factors (A, B, s) of the keys side by side: the sum of c_k z_k is s·A diag(c) B. Sites whose z
    has none are left out."""
    draw = getattr(direction, "factors", None)
    return {} if draw is None else draw(sites, keys, dtype)


def folded(found: tuple[Tensor, Tensor, float], terms: Sequence[tuple[Key | str, float]]) -> tuple[Tensor, Tensor]:
    """A (m, K) with the coefficients in it, and B (K, n): each coefficient times s is rounded before it meets A."""
    a, b, s = found
    scale = torch.tensor([coefficient * s for _, coefficient in terms], dtype=a.dtype, device=a.device)
    if len(terms) > 1:
        scale = scale.repeat_interleave(a.shape[1] // len(terms))
    return (a * scale).contiguous(), b
