"""Consecutive steps of one site as one pass, where only a rate and a decay lie between the draws and the weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zerothorder.directions import Direction, factored, plain_draws
from zerothorder.key import Key
from zerothorder.ledger.entry import Entry
from zerothorder.space import Site

if TYPE_CHECKING:
    from zerothorder.grids.steps import Moves


def moves_of(entries: Sequence[Entry], site: Site, direction: Direction, decays: bool) -> "Moves | None":
    """The entries' moves of a site on CPU; None where a draw is neither plain nor factored, or the grid has no pass."""
    if not site.grid.fused or site.parameter.device.type != "cpu":
        return None
    from zerothorder.grids.steps import Moves

    moves, terms = Moves(), [term for entry in entries for term in entry.terms]
    if (draws := plain_draws(direction, site, terms)) is not None:
        moves.law = draws[0][0]
        moves.keys, moves.scalars = [seed for _, seed in draws], [scalar for _, scalar in terms]
        if any(law != moves.law for law, _ in draws):
            return None
    elif (found := factored(direction, site, terms, site.grid.compute)) is not None:
        moves.factors = found
    else:
        return None
    width = 1 if moves.factors is None else moves.factors[1].shape[0] // len(terms)
    end = 0
    for entry in entries:
        rates = entry.rates[site.group]
        end += width * len(entry.terms)
        moves.ends.append(end)
        moves.rates.append(1.0 if entry.absolute else rates.lr)
        moves.decays.append(rates.decay if decays else 0.0)
        moves.seeds.append(Key("round", entry.step).seed(direction.run_key, site.id))
    return moves
