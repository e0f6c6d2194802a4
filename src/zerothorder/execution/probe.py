"""A site's weights at a point: one arithmetic for every executor."""

from collections.abc import Sequence

from torch import Tensor

from zerothorder.directions import Direction, factored, plain_draws
from zerothorder.point import Term
from zerothorder.scratch import buffer
from zerothorder.space import CHUNK, Site
from zerothorder.state import State, residual_of


def write_probe(out: Tensor, site: Site, terms: Sequence[Term], direction: Direction, state: State) -> None:
    """out = round(θ + Σ coefficient·direction) on the site's grid; out is contiguous, of the stored dtype.

    θ is read with its residual; the sum runs in the compute dtype, term after term, and is rounded once.
    """
    stored, target = site.read(), out.view(-1)
    residual = residual_of(site, state)
    if site.grid.fused and out.device.type == "cpu":
        draws = plain_draws(direction, site, terms) if len(terms) == 1 else None
        factors = factored(direction, site, terms, site.grid.compute) if draws is None else None
        for local, start in site.runs() if draws or factors else ():
            rest = None if residual is None else residual[local]
            if draws is not None:
                site.grid.probe_draw(target[local], stored[local], rest, draws[0], terms[0][1], start)
            elif factors is not None:
                site.grid.probe_factors(target[local], stored[local], rest, factors, start)
        if draws or factors:
            return
    size = min(CHUNK, site.numel)
    room = None if site.grid.exact else buffer("probe", size, site.grid.compute, out.device)
    for local, start in site.chunks():
        if room is None:
            chunk, source = target[local], stored[local]
        else:
            chunk = source = room[: local.stop - local.start]
            site.grid.load(chunk, stored[local], None if residual is None else residual[local])
        if not terms and chunk is not source:
            chunk.copy_(source)
        for term, coefficient in terms:
            direction.shift(chunk, source, site, term, coefficient, start, state)
            source = chunk
        if room is not None:
            site.grid.probe(target[local], chunk)
