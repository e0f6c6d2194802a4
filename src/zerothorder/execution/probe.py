"""A site's weights at a point: one arithmetic for every executor."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zerothorder import random
from zerothorder.directions import Direction, factors, folded, moving, plain_draws, z_of
from zerothorder.key import Key
from zerothorder.point import Point, Term
from zerothorder.profile import timed
from zerothorder.scratch import buffer
from zerothorder.space import CHUNK, Site
from zerothorder.state import State, residual_of

if TYPE_CHECKING:
    from zerothorder.grids import Grid


@timed("perturbation")
def write_probe(
    out: Tensor,
    site: Site,
    terms: Sequence[Term],
    direction: Direction,
    state: State,
    part: slice = slice(None),
) -> None:
    """out = round(θ + Σ coefficient·direction) on the site's grid; out is contiguous, of the stored dtype.

    θ is read with its residual; the sum runs in the compute dtype, term after term, and is rounded once. `part`:
    these elements of the site's storage only.
    """
    terms = moving(direction, site, terms, state)
    stored, residual, target = site.read(), residual_of(site, state), out.view(-1)
    offset = part.indices(site.numel)[0]
    if site.grid.fused and out.device.type == "cpu":
        draws = plain_draws(direction, site, terms) if len(terms) == 1 else None
        keys = [key for key, _ in terms] if draws is None else []
        found = factors(direction, [site], keys, site.grid.compute).get(site.name) if keys else None
        outer = None if found is None else folded(found, terms)
        if draws is not None or outer is not None:
            for local, start in site.runs(part):
                to = target[local.start - offset : local.stop - offset]
                rest = None if residual is None else residual[local]
                if draws is not None:
                    site.grid.probe_draw(to, stored[local], rest, draws[0], terms[0][1], start)
                elif outer is not None:
                    site.grid.probe_factors(to, stored[local], rest, outer, start)
            return
    if len(terms) == 1 and (z := _own_z(direction, site, terms[0][0])) is not None:
        ((key, coefficient),) = terms
        _write_along(target[None], site, key, [coefficient], z, state, part)
        return
    size = min(CHUNK, site.numel)
    room = None if site.grid.exact else buffer("probe", size, site.grid.compute, out.device)
    for local, start in site.chunks(part):
        to = target[local.start - offset : local.stop - offset]
        if room is None:
            chunk, source = to, stored[local]
        else:
            chunk = source = room[: local.stop - local.start]
            site.grid.load(chunk, stored[local], None if residual is None else residual[local])
        if not terms and chunk is not source:
            chunk.copy_(source)
        for term, coefficient in terms:
            direction.shift(chunk, source, site, term, coefficient, start, state)
            source = chunk
        if room is not None:
            site.grid.probe(to, chunk)


@timed("perturbation")
def write_probes(
    out: Tensor,
    site: Site,
    points: Sequence[Point],
    direction: Direction,
    state: State,
    rows: slice | Tensor | None = None,
) -> None:
    """out (points, …) = `write_probe` for each point, whole or `rows` of the site's first dimension.

    Points along one z share the drawing of it and the reading of the weights.
    """
    width = site.numel // site.parameter.shape[0] if site.parameter.ndim else 1
    part = slice(None)
    if isinstance(rows, slice):
        part = slice(rows.start * width, rows.stop * width)
    # rows anywhere are addressed from the whole tensor's first element on
    in_one = len(site.segments) == 1 and (site.segments[0][1] == 0 or not isinstance(rows, Tensor))
    line = _line(site, points, direction, state)
    draw = None if line is None else _plain(site, line[0], direction)
    if line is not None and draw is not None and in_one:
        coefficients = line[1]
        stored, residual = site.read(), residual_of(site, state)
        if isinstance(rows, Tensor):
            flat = out.view(len(points), len(rows), width)
            site.grid.probe_rows(flat, stored, residual, draw, coefficients, rows)
        else:
            ((local, start),) = site.runs(part)
            rest = None if residual is None else residual[local]
            site.grid.probe_range(out.view(len(points), -1), stored[local], rest, draw, coefficients, start)
        return
    z = None if line is None else _own_z(direction, site, line[0])
    parts = [(part, out)]
    if isinstance(rows, Tensor):
        numbers: list[int] = rows.tolist()  # type: ignore[reportUnknownMemberType]
        parts = [(slice(row * width, (row + 1) * width), out[:, i]) for i, row in enumerate(numbers)]
    for own, targets in parts:
        if line is not None and z is not None:
            _write_along(targets.view(len(points), -1), site, *line, z, state, own)
        else:
            for point, target in zip(points, targets, strict=True):
                write_probe(target, site, point.terms, direction, state, own)


def _write_along(
    out: Tensor,
    site: Site,
    key: Key | str,
    coefficients: Sequence[float],
    fill: Callable[..., object],
    state: State,
    part: slice,
) -> None:
    """`write_probe` of points that lie along one z, into the rows of out (points, n): it is drawn once for all."""
    stored, residual, offset = site.read(), residual_of(site, state), part.indices(site.numel)[0]
    for local, start in site.chunks(part):
        z = buffer("line", local.stop - local.start, site.grid.compute, out.device)
        fill(z, site, key, start, state, "probe")
        rest = None if residual is None else residual[local]
        to = out[:, local.start - offset : local.stop - offset]
        site.grid.probe_along(to, stored[local], rest, z, coefficients)


@timed("perturbation")
def small_probes(
    sites: Sequence[Site], points: Sequence[Point], direction: Direction, state: State
) -> dict[str, Tensor]:
    """`write_probes` of many small sites with a few launches in all; by name (points, …), where it can be done so."""
    kinds: dict[tuple[Grid, str, torch.device, tuple[float, ...]], list[tuple[Site, int]]] = {}
    for site in sites:
        line = _line(site, points, direction, state)
        draw = None if line is None else _plain(site, line[0], direction)
        if line is not None and draw is not None and site.segments == ((0, 0, site.numel),):
            kinds.setdefault((site.grid, draw[0], site.parameter.device, tuple(line[1])), []).append((site, draw[1]))
    found: dict[str, Tensor] = {}
    for (grid, law, device, coefficients), drawn in kinds.items():
        own = [site for site, _ in drawn]
        sizes = [site.numel for site in own]
        ends = list(accumulate(sizes))
        z, w = (torch.empty(ends[-1], dtype=grid.compute, device=device) for _ in range(2))
        random.pieces(z, law, [seed for _, seed in drawn], [0] * len(drawn), ends)
        residuals = [residual_of(site, state) for site in own]
        rest = None
        if any(byte is not None for byte in residuals):
            none = [torch.zeros(0, dtype=torch.int8)] if None in residuals else []
            rest = torch.cat([none[0].new_zeros(n) if b is None else b for b, n in zip(residuals, sizes, strict=True)])
        grid.load(w, torch.cat([site.read() for site in own]), rest)
        c = torch.tensor(coefficients, dtype=grid.compute, device=device)
        probes = (w + z * c[:, None]).to(grid.dtype)
        for site, part in zip(own, torch.split(probes, sizes, 1), strict=True):
            found[site.name] = part.unflatten(1, site.parameter.shape) if site.parameter.ndim != 1 else part
    return found


def _line(
    site: Site, points: Sequence[Point], direction: Direction, state: State
) -> tuple[Key | str, list[float]] | None:
    """The one z that all points lie along, and how far each does; None where there is none."""
    terms = [moving(direction, site, point.terms, state) for point in points]
    if not all(len(own) == 1 and own[0][0] == terms[0][0][0] for own in terms):
        return None
    return terms[0][0][0], [own[0][1] for own in terms]


def _own_z(direction: Direction, site: Site, key: Key | str) -> Callable[..., object] | None:
    """What gives z by itself; None for a plain draw, which is added as it is drawn, and where nothing does."""
    return z_of(direction) if plain_draws(direction, site, [(key, 1.0)]) is None else None


def _plain(site: Site, key: Key | str, direction: Direction) -> tuple[str, int] | None:
    """(law, seed) of a z that is a plain draw, where there is a pass for it."""
    if not site.grid.fused or site.parameter.device.type != "cpu":
        return None
    draws = plain_draws(direction, site, [(key, 1.0)])
    return None if draws is None else draws[0]
