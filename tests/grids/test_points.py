"""Weights of many points, and of parts of a site, have the bits of one point's pass over the whole site."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from zerothorder import space as spaces
from zerothorder.directions.blocks import BLOCK, Blocks
from zerothorder.directions.guided import Guided
from zerothorder.directions.laws import Dense
from zerothorder.directions.lowrank import LowRank
from zerothorder.directions.maps import Multiply
from zerothorder.execution.probe import write_probe, write_probes
from zerothorder.grids import Grid, Precision, points
from zerothorder.key import Key
from zerothorder.point import Point
from zerothorder.random.cpu import TILE
from zerothorder.space import Site, shard_segments
from zerothorder.state import RESIDUAL, State, residual_of

KINDS: dict[str, tuple[torch.dtype, Precision]] = {
    "float32": (torch.float32, "residual"),
    "float64": (torch.float64, "residual"),
    "bfloat16": (torch.bfloat16, "residual"),
    "bfloat16, nearest": (torch.bfloat16, "nearest"),
    "float16": (torch.float16, "residual"),
    "float16, stochastic": (torch.float16, "stochastic"),
}
DIRECTIONS: dict[str, Any] = {
    "gaussian": Dense(b"points", "gaussian"),
    "signs": Dense(b"points", "rademacher"),
    "rank-1": LowRank(b"points", 1, "rademacher"),
    "rank-3": LowRank(b"points", 3, "gaussian"),
    "masked": Dense(b"points", "gaussian", (Multiply("mask"),)),
    "a masked block": Blocks(Dense(b"points", "gaussian", (Multiply("mask"),))),
}


class HalfByZ(Dense):
    def z(self, out, site, term, start, state, view="probe"):
        super().z(out, site, term, start, state, view)
        out *= 0.5


class HalfByShift(Dense):
    def shift(self, out, source, site, term, coefficient, start, state, view="probe"):
        super().shift(out, source, site, term, 0.5 * coefficient, start, state, view)


LAWS = st.sampled_from(["gaussian", "rademacher"])
COEFFICIENTS = st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=5)
KERNEL = settings(max_examples=25, deadline=None)
COMBINED = settings(max_examples=6, deadline=None)


def bits(tensor: Tensor) -> Tensor:
    """Its bits; which of the many NaN a cast gives depends on where in a vector it stands."""
    return torch.where(tensor.isnan(), torch.nan, tensor).contiguous().view(torch.uint8)


def numbers(count: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Ordinary weights; and zeros of both signs, infinities and a NaN among them."""
    found = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for n, value in enumerate((-0.0, 0.0, float("inf"), float("-inf"), float("nan"), 1e-40)):
        found[n :: max(8, count // 3)] = value
    return found.to(dtype)


def site_of(
    kind: str, shape: tuple[int, ...], box: tuple[tuple[int, ...], tuple[int, ...]] | None = None
) -> tuple[Site, State]:
    """A site with its residual, its mask and a vector; `box` (offset, sizes) is the shard of it that is held."""
    dtype, precision = KINDS[kind]
    whole = numbers(torch.Size(shape).numel(), dtype).view(shape)
    offset, local = box or ((0,) * len(shape), shape)
    cut = tuple(slice(o, o + n) for o, n in zip(offset, local, strict=True))
    held = torch.nn.Parameter(whole[cut].clone(), False)
    site = Site("w", held, Grid.of(dtype, precision), "decay", shape, shard_segments(shape, offset, local))
    state, generator = State(), torch.Generator().manual_seed(1)
    if site.grid.has_residual:
        residual = torch.randint(-128, 128, whole.shape, generator=generator, dtype=torch.int8)
        state.tensor(RESIDUAL, "w", lambda: residual[cut].reshape(-1).clone())
    state.tensor("mask", "w", lambda: torch.randint(0, 2, shape, generator=generator).float())
    state.tensor(BLOCK, "w", lambda: torch.tensor([0.0, 1.0]))
    state.tensor("velocity", "w", lambda: torch.randn(shape, generator=generator))
    return site, state


SHAPES = st.sampled_from([(40,), (7, 9), (30, 41), (3, 2 * TILE + 5), (5, 4, 3), (2 * TILE + 1, 3)])


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[tuple[int, ...], tuple[int, ...]] | None]:
    """(shape, None or a box in it): whole sites, whole rows of one, any box."""
    shape = draw(SHAPES)
    how = draw(st.sampled_from(["whole", "rows", "any"]))
    if how == "whole":
        return shape, None
    offset, local = [0] * len(shape), list(shape)
    for d in range(len(shape)) if how == "any" else (0,):
        offset[d] = draw(st.integers(0, shape[d] - 1))
        local[d] = draw(st.integers(1, shape[d] - offset[d]))
    return shape, (tuple(offset), tuple(local))


@st.composite
def parts(draw: st.DrawFn, count: int) -> slice:
    first = draw(st.integers(0, count - 1))
    return slice(first, draw(st.integers(first + 1, count)))


def whole_probe(site: Site, terms: Sequence[Any], direction: Any, state: State) -> Tensor:
    out = torch.empty_like(site.parameter, memory_format=torch.contiguous_format)
    write_probe(out, site, terms, direction, state)
    return out


# The kernels by themselves


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
@KERNEL
@given(
    law=LAWS, coefficients=COEFFICIENTS, seed=st.integers(0, 2**64 - 1), size=st.integers(1, 3 * TILE),
    start=st.one_of(st.integers(0, 3 * TILE), st.sampled_from([TILE - 1, TILE, 2**33 + 5])), bare=st.booleans(),
    spare=st.integers(0, 3),
)  # fmt: skip
def test_a_range_at_many_points_is_a_pass_for_each(
    kind: str, law: str, coefficients: list[float], seed: int, size: int, start: int, bare: bool, spare: int
) -> None:
    """At any place of the whole site; with the residual byte or, before the first step, without."""
    dtype, _ = KINDS[kind]
    grid, stored = Grid.of(dtype), numbers(size, dtype)
    residual = None
    if dtype == torch.bfloat16 and not bare:
        residual = torch.randint(-128, 128, (size,), generator=torch.Generator().manual_seed(2), dtype=torch.int8)
    out = torch.empty(len(coefficients), size + spare, dtype=dtype)[:, :size]
    points.probe_range(out, stored, residual, (law, seed), coefficients, start)
    for found, c in zip(out, coefficients, strict=True):
        alone = torch.empty(size, dtype=dtype)
        grid.probe_draw(alone, stored, residual, (law, seed), c, start)
        assert torch.equal(bits(found), bits(alone))


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
@KERNEL
@given(
    law=LAWS, coefficients=COEFFICIENTS, seed=st.integers(0, 2**64 - 1), count=st.integers(1, 40),
    width=st.sampled_from([1, 3, 100, TILE - 1, TILE, TILE + 1, 2 * TILE + 3]), bare=st.booleans(), data=st.data(),
)  # fmt: skip
def test_rows_at_many_points_are_those_of_a_pass_for_each(
    kind: str, law: str, coefficients: list[float], seed: int, count: int, width: int, bare: bool, data: st.DataObject
) -> None:
    """In any order, some of them twice."""
    dtype, _ = KINDS[kind]
    grid, stored = Grid.of(dtype), numbers(count * width, dtype)
    rows = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=6)))
    residual = None
    if dtype == torch.bfloat16 and not bare:
        generator = torch.Generator().manual_seed(2)
        residual = torch.randint(-128, 128, (count * width,), generator=generator, dtype=torch.int8)
    out = torch.empty(len(coefficients), len(rows), width, dtype=dtype)
    points.probe_rows(out, stored, residual, (law, seed), coefficients, rows)
    for found, c in zip(out, coefficients, strict=True):
        alone = torch.empty(count * width, dtype=dtype)
        grid.probe_draw(alone, stored, residual, (law, seed), c, 0)
        assert torch.equal(bits(found), bits(alone.view(count, width)[rows]))


@pytest.mark.parametrize("kind", KINDS)
@KERNEL
@given(coefficients=COEFFICIENTS, size=st.integers(1, 3 * TILE), spare=st.integers(0, 3), bare=st.booleans())
def test_points_along_a_given_z_are_sums_rounded_once(
    kind: str, coefficients: list[float], size: int, spare: int, bare: bool
) -> None:
    """The product, the sum, then the stored dtype: as the executors that know one point at a time have it."""
    site, state = site_of(kind, (size,))
    grid, stored = site.grid, site.read()
    residual = None if bare else residual_of(site, state)
    z = torch.randn(size, generator=torch.Generator().manual_seed(3), dtype=grid.compute)
    out = torch.empty(len(coefficients), size + spare, dtype=stored.dtype)[:, :size]
    grid.probe_along(out, stored, residual, z, coefficients)
    w = torch.empty_like(z)
    grid.load(w, stored, residual)
    for found, c in zip(out, coefficients, strict=True):
        assert torch.equal(bits(found), bits((w + z * c).to(stored.dtype)))


@pytest.mark.parametrize("kind", KINDS)
@KERNEL
@given(
    rate=st.floats(-2, 2, width=32), seed=st.integers(0, 2**64 - 1), size=st.integers(1, 3 * TILE),
    start=st.one_of(st.integers(0, 3 * TILE), st.sampled_from([TILE - 1, TILE, 2**33 + 5])),
)  # fmt: skip
def test_a_descent_is_a_load_a_difference_and_a_store(kind: str, rate: float, seed: int, size: int, start: int) -> None:
    site, state = site_of(kind, (size,))
    other, same = site_of(kind, (size,))
    g = torch.randn(size, generator=torch.Generator().manual_seed(3), dtype=site.grid.compute)
    w = torch.empty_like(g)
    other.grid.load(w, other.read(), residual_of(other, same))
    other.grid.store(other.read(), residual_of(other, same), w - g * rate, seed, start)
    site.grid.descend(site.read(), residual_of(site, state), g, rate, seed, start)
    assert torch.equal(bits(site.read()), bits(other.read()))
    if site.grid.has_residual:
        assert torch.equal(residual_of(site, state), residual_of(other, same))  # type: ignore[arg-type]


# What executors ask for


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", KINDS)
@COMBINED
@given(held=boxes(), coefficients=COEFFICIENTS, data=st.data())
def test_sites_at_many_points_are_those_of_each_point(
    kind: str, direction: str, held: Any, coefficients: list[float], data: st.DataObject
) -> None:
    """Whole, some rows in a run, some rows anywhere; of a shard, of points along one draw, several, a vector, none."""
    site, state = site_of(kind, *held)
    law, one = DIRECTIONS[direction], Key("z", 3)
    looked = [Point(((one, c),)) for c in coefficients]
    if data.draw(st.booleans()):
        looked += [Point(), Point(((Key("z", 4), 0.1), (one, -0.2))), Point((("velocity", 0.3),))]
    expected = torch.stack([whole_probe(site, point.terms, law, state) for point in looked])
    first = site.parameter.shape[0]
    which = data.draw(st.sampled_from(["all", "run", "some"]))
    if which == "all":
        rows, cut = None, slice(None)
    elif which == "run":
        rows = cut = data.draw(parts(first))
    else:
        rows = cut = torch.tensor(data.draw(st.lists(st.integers(0, first - 1), min_size=1, max_size=4)))
    expected = expected[:, cut]
    # rows of a larger scratch, as executors have
    room = torch.empty(len(looked), expected.shape[1] + 2, *expected.shape[2:], dtype=expected.dtype)
    out = room[:, : expected.shape[1]]
    write_probes(out, site, looked, law, state, rows)
    assert torch.equal(bits(out), bits(expected))


@pytest.mark.parametrize("tag", ["z", "mu"])
@pytest.mark.parametrize("kind", KINDS)
def test_points_along_a_guided_z_are_those_of_each_point(kind: str, tag: str) -> None:
    site, state = site_of(kind, (30, 41))
    for name in ("mu", "v"):
        state.tensor(name, "w", lambda: torch.nn.functional.normalize(torch.randn(30 * 41), dim=0))
    looked = [Point(((Key(tag, 3), c),)) for c in (0.5, -0.5)]
    expected = [whole_probe(site, point.terms, Guided(b"points"), state) for point in looked]
    out = torch.empty(2, 30, 41, dtype=site.parameter.dtype)
    write_probes(out, site, looked, Guided(b"points"), state)
    assert torch.equal(bits(out), bits(torch.stack(expected)))
    assert not torch.equal(bits(out[0]), bits(out[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_z_of_its_own_is_what_every_pass_draws(kind: str) -> None:
    """A direction that changes `z` alone is not the plain draw its parent is; nor is one that changes `shift` alone."""
    site, state = site_of(kind, (30, 41))
    looked = [Point(((Key("z", 3), c),)) for c in (0.5, -0.5)]
    for kind_of in (HalfByZ, HalfByShift):
        out = torch.empty(2, 30, 41, dtype=site.parameter.dtype)
        write_probes(out, site, looked, kind_of(b"points"), state)
        half = [Point(((Key("z", 3), c),)) for c in (0.25, -0.25)]
        expected = torch.stack([whole_probe(site, point.terms, Dense(b"points"), state) for point in half])
        # of a -0.0 an added zero makes 0.0
        assert torch.equal(bits(out + 0.0), bits(expected + 0.0))
        alone = torch.stack([whole_probe(site, point.terms, kind_of(b"points"), state) for point in looked])
        assert torch.equal(bits(out), bits(alone))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", KINDS)
@COMBINED
@given(held=boxes(), terms=st.sampled_from(["none", "one", "two", "a vector"]), data=st.data())
def test_a_part_is_the_slice_of_the_whole(
    kind: str, direction: str, held: Any, terms: str, data: st.DataObject
) -> None:
    site, state = site_of(kind, *held)
    law, keys = DIRECTIONS[direction], (Key("z", 3), Key("z", 4))
    wanted = {
        "none": (), "one": ((keys[0], 0.3),), "two": ((keys[0], 0.3), (keys[1], -0.7)),
        "a vector": (("velocity", 0.2), (keys[0], 0.3)),
    }[terms]  # fmt: skip
    part = data.draw(parts(site.numel))
    out = torch.empty(part.stop - part.start, dtype=site.parameter.dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zerothorder.space.CHUNK", 50)
        patch.setattr("zerothorder.execution.probe.CHUNK", 50)
        write_probe(out, site, wanted, law, state, part)
    assert torch.equal(bits(out), bits(whole_probe(site, wanted, law, state).view(-1)[part]))


@settings(max_examples=40, deadline=None)
@given(held=boxes(), chunk=st.sampled_from([1, 7, 50, 1 << 18]), data=st.data())
def test_runs_and_chunks_are_the_places_of_a_part(held: Any, chunk: int, data: st.DataObject) -> None:
    """Each element of the part once, in order, with its place in the whole tensor; by chunks none is too long."""
    site, _ = site_of("float32", *held)
    shape, box = held
    assume(site.numel < 2000 or chunk > 1)
    offset, local = box or ((0,) * len(shape), shape)
    cut = tuple(slice(o, o + n) for o, n in zip(offset, local, strict=True))
    places = torch.arange(torch.Size(shape).numel()).view(shape)[cut].reshape(-1)
    part = data.draw(st.one_of(st.just(slice(None)), parts(site.numel)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spaces, "CHUNK", chunk)
        for pieces in (list(site.runs(part)), list(site.chunks(part))):
            at = torch.cat([torch.arange(piece.start, piece.stop) for piece, _ in pieces])
            assert torch.equal(at, torch.arange(site.numel)[part])
            found = torch.cat([torch.arange(start, start + piece.stop - piece.start) for piece, start in pieces])
            assert torch.equal(found, places[part])
        assert all(0 < piece.stop - piece.start <= chunk for piece, _ in site.chunks(part))
