"""Consecutive steps of one site as one pass, where only a rate and a decay lie between the draws and the weights."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zerothorder.directions import Direction, factors, folded, moving, plain_draws
from zerothorder.key import Key
from zerothorder.ledger.entry import Entry
from zerothorder.space import Site
from zerothorder.state import State

if TYPE_CHECKING:
    from zerothorder.grids.outer import Outer
    from zerothorder.grids.steps import Moves


Drawn = Mapping[str, tuple[Tensor, Tensor, float]]


def drawn(entries: Sequence[Entry], sites: Iterable[Site], direction: Direction) -> Drawn:
    """The factors of all terms on CPU sites whose grid has the passes."""
    keys = [key for entry in entries for key, _ in entry.terms]
    by_dtype: dict[torch.dtype, list[Site]] = {}
    for site in sites if keys else ():
        if _fits(site):
            by_dtype.setdefault(site.grid.compute, []).append(site)
    found: dict[str, tuple[Tensor, Tensor, float]] = {}
    for dtype, fit in by_dtype.items():
        found |= factors(direction, fit, keys, dtype)
    return found


def moves_of(
    entries: Sequence[Entry], site: Site, direction: Direction, state: State, decays: bool, outer: Drawn
) -> "Moves | None":
    """The entries' moves of a site on CPU; None where a draw is neither plain nor factored, or the grid has no pass."""
    if not _fits(site):
        return None
    from zerothorder.grids.steps import Moves

    moves, own = Moves(), [moving(direction, site, entry.terms, state) for entry in entries]
    terms = [term for some in own for term in some]
    if not terms:
        return None
    if (draws := plain_draws(direction, site, terms)) is not None:
        moves.law = draws[0][0]
        moves.keys, moves.scalars = [seed for _, seed in draws], [scalar for _, scalar in terms]
        if any(law != moves.law for law, _ in draws):
            return None
    elif site.name in outer:
        moves.factors = folded(outer[site.name], terms)
    else:
        return None
    width = 1 if moves.factors is None else moves.factors[1].shape[0] // len(terms)
    end = 0
    for entry, some in zip(entries, own, strict=True):
        rates = entry.rates[site.group]
        end += width * len(some)
        moves.ends.append(end)
        moves.rates.append(1.0 if entry.absolute else rates.lr)
        moves.decays.append(rates.decay if decays else 0.0)
        moves.seeds.append(Key("round", entry.step).seed(direction.run_key, site.id))
    return moves


def outer_of(entry: Entry, site: Site, run_key: bytes, decays: bool, outer: Drawn) -> "tuple[Tensor, Outer] | None":
    """The site as 1-D and its step, where that is one outer product of a whole matrix; without its residual."""
    found = outer.get(site.name)
    if found is None or len(entry.terms) != 1 or found[0].shape[1] != 1 or len(site.segments) != 1:
        return None
    flat, (a, b, s) = site.read(), found
    if site.segments[0] != (0, 0, b.numel() * a.numel()) or not (a.is_contiguous() and b.is_contiguous()):
        return None
    from zerothorder.grids.outer import Outer

    rates = entry.rates[site.group]
    rate, decay = 1.0 if entry.absolute else rates.lr, rates.decay if decays else 0.0
    seed = Key("round", entry.step).seed(run_key, site.id)
    return flat, Outer(flat, None, a, b, entry.terms[0][1] * s, rate, decay, seed)


def _fits(site: Site) -> bool:
    return site.grid.fused and site.parameter.device.type == "cpu"
