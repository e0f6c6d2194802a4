"""Does the perturbation survive the storage dtype? The share of weights where round(θ + εz) = θ although εz ≠ 0."""

from collections.abc import Iterator, Sequence

import torch

from zerothorder.directions import Direction
from zerothorder.point import Term
from zerothorder.space import ParameterSpace, Site
from zerothorder.state import State, residual_of

_PIECES = 4
"""Places of a site that are looked at, spread over it."""
_LENGTH = 2048
"""Elements at each place, at most."""


def lost_share(space: ParameterSpace, direction: Direction, state: State, terms: Sequence[Term]) -> float:
    """Share of searched weights (0 to 1) that a probe at θ + Σ coefficient·z leaves where they are.

    The arithmetic is a probe's own: sums in the compute dtype, one rounding to the stored dtype. Weights whose
    Σ coefficient·z is zero (masked) are not counted. Estimated from up to 4 × 2048 elements of every site, sites
    weighing as many as they have; a pure function that writes nothing but scratch of its own.
    """
    lost = total = 0.0
    for site in space:
        held, tried = _count(site, direction, state, terms)
        if tried:
            lost += site.numel * held / tried
            total += site.numel
    return lost / total if total else 0.0


def _count(site: Site, direction: Direction, state: State, terms: Sequence[Term]) -> tuple[int, int]:
    """(weights that stayed, weights with a perturbation) among the sample of one site."""
    stored, residual = site.read(), residual_of(site, state)
    lost = tried = 0
    for local, start in _sample(site):
        theta = torch.empty(local.stop - local.start, dtype=site.grid.compute, device=stored.device)
        site.grid.load(theta, stored[local], None if residual is None else residual[local])
        moved, z = theta.clone(), torch.zeros_like(theta)
        for term, coefficient in terms:
            direction.shift(moved, moved, site, term, coefficient, start, state)
            direction.shift(z, z, site, term, coefficient, start, state)
        before, after = torch.empty_like(stored[local]), torch.empty_like(stored[local])
        site.grid.probe(before, theta)
        site.grid.probe(after, moved)
        asked = z != 0
        tried += int(asked.sum())
        lost += int((asked & (before == after)).sum())
    return lost, tried


def _sample(site: Site) -> Iterator[tuple[slice, int]]:
    """(local slice, global start) of a few stretches, spread evenly over the site's chunks."""
    chunks = list(site.chunks())
    step = max(1, len(chunks) // _PIECES)
    for local, start in chunks[step // 2 :: step][:_PIECES]:
        whole = local.stop - local.start
        length = min(whole, _LENGTH)
        skip = (whole - length) // 2
        yield slice(local.start + skip, local.start + skip + length), start + skip
