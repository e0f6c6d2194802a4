"""What is z? A direction is a law, then linear maps: a pure function of (key, State)."""

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor

from zerothorder.key import Key
from zerothorder.space import Site
from zerothorder.state import State

View = Literal["probe", "step"]
"""Two views of one draw: where to look and how to move. Equal unless a recipe names the difference."""


class Direction(Protocol):
    """z(key) over all sites, never stored whole.

    One optional method: `draw(site, term) -> (law, seed) | None` names the plain draw that z is on this site, if it
    is one; passes with one such term are then fused, with the same bits.
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


def plain_draw(direction: Direction, site: Site, terms: Sequence[tuple[Key | str, float]]) -> tuple[str, int] | None:
    """(law, seed) where the sum over `terms` is a single plain draw on CPU; None where it takes the general pass."""
    draw = getattr(direction, "draw", None)
    if draw is None or len(terms) != 1 or site.parameter.device.type != "cpu":
        return None
    return draw(site, terms[0][0])
