"""Fused passes, for plain draws and for factors, over terms and steps, give the bits of the general pass."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zerothorder.directions import factors
from zerothorder.directions.laws import Dense
from zerothorder.directions.lowrank import LowRank
from zerothorder.execution.probe import write_probe, write_probes
from zerothorder.grids import Grid
from zerothorder.key import Key
from zerothorder.ledger.entry import Entry, Rates
from zerothorder.point import Point
from zerothorder.random.cpu import TILE
from zerothorder.space import CHUNK, ParameterSpace, Site
from zerothorder.state import State
from zerothorder.updates import Update, WeightDecay

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
SIZES = st.one_of(st.integers(1, 3 * TILE), st.sampled_from([TILE, 2 * TILE, CHUNK - 1, CHUNK, CHUNK + 1]))


DIRECTIONS = {
    "rademacher": Dense(b"fused", "rademacher"),
    "gaussian": Dense(b"fused", "gaussian"),
    "rank-1": LowRank(b"fused", 1, "rademacher"),
    "rank-3": LowRank(b"fused", 3, "gaussian"),
}


def site(dtype: torch.dtype, size: int, offset: int, columns: int = 1) -> Site:
    """A shard of two segments when `offset` is not 0: the draw starts in the middle of a tile, and of a row."""
    generator = torch.Generator().manual_seed(size)
    weights = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
    weights[:: max(1, size // 7)] = -0.0
    half = size // 2
    segments = ((0, 0, size),) if not offset else ((0, offset, half), (half, 3 * offset + size, size - half))
    shape = (10**9,) if columns == 1 else (-(-(2 * size + 3 * offset) // columns), columns)
    return Site("w", torch.nn.Parameter(weights, False), Grid.of(dtype), "decay", shape, segments)


def run(direction: Any, only: Site, entries: list[Entry], decays: bool) -> list[torch.Tensor]:
    """Weights, residual and probes after every step, as integers."""
    space, state = ParameterSpace([only]), State()
    update = Update((WeightDecay(),) if decays else ())
    seen: list[torch.Tensor] = []
    for entry in entries:
        for eps in (1e-3, -1e-3):
            out = torch.empty_like(only.parameter)
            write_probe(out, only, ((entry.terms[0][0], eps),), direction, state)
            seen.append(out)
        update.apply(entry, space, direction, state)
        seen += [only.parameter.detach().clone(), *(tensor.clone() for _, tensor in state.flat())]
    return [tensor.view(torch.uint8) for tensor in seen]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", sorted(DIRECTIONS))
@settings(max_examples=12, deadline=None)
@given(
    size=SIZES,
    offset=st.integers(0, 2 * TILE),
    columns=st.sampled_from([7, 100, TILE, 2 * TILE + 3]),
    decay=st.sampled_from([0.0, 0.1]),
    decays=st.booleans(),
    absolute=st.booleans(),
    draws=st.sampled_from([1, 2, 9]),
    seed=st.integers(0, 9),
)
def test_fused_passes_have_the_bits_of_the_general_ones(
    dtype: torch.dtype, name: str, size: int, offset: int, columns: int, decay: float, decays: bool, absolute: bool,
    draws: int, seed: int,
) -> None:  # fmt: skip
    rates = {"decay": Rates(3e-3, decay), "plain": Rates(3e-3)}
    entries = [
        Entry(step, tuple((Key("z", step, seed + d), scalar - d) for d in range(draws)), {}, rates, absolute=absolute)
        for step, scalar in enumerate((1.7, 0.0, -3.1))
    ]
    make = lambda: site(dtype, size, offset, columns if name.startswith("rank") else 1)  # noqa: E731
    direction, one = DIRECTIONS[name], make()
    assert Grid.of(dtype).fused
    found = factors(direction, [one], [Key("z", 0)], torch.float64)
    assert bool(found) == (len(one.shape) == 2) or min(one.shape) <= 6
    fused = run(direction, one, entries, decays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grid, "fused", False)
        general = run(direction, make(), entries, decays)
    assert all(torch.equal(a, b) for a, b in zip(fused, general, strict=True))
    # all steps in one pass
    one, state = make(), State()
    Update((WeightDecay(),) if decays else ()).apply_all(entries, ParameterSpace([one]), direction, state)
    last = [one.parameter.detach(), *(tensor for _, tensor in state.flat())]
    assert all(torch.equal(a, b.view(torch.uint8)) for a, b in zip(general[-len(last) :], last, strict=True))


def test_sites_of_several_dtypes_are_each_drawn_in_their_own():
    entry = Entry(0, ((Key("z", 0), 0.3),), {}, {"decay": Rates(1e-2), "plain": Rates(1e-2)})

    def moved() -> list[torch.Tensor]:
        sites = [site(dtype, 700, 0, 100) for dtype in DTYPES]
        sites = [replace(one, name=str(one.parameter.dtype)) for one in sites]
        Update().apply(entry, ParameterSpace(sites), DIRECTIONS["rank-3"], State())
        return [one.parameter.detach() for one in sites]

    fused = moved()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grid, "fused", False)
        general = moved()
    assert all(torch.equal(a, b) for a, b in zip(fused, general, strict=True))


def test_a_direction_that_is_more_than_a_draw_takes_the_general_pass():
    class Doubled(Dense):
        def shift(self, out, source, site, term, coefficient, start, state, view="probe"):
            super().shift(out, source, site, term, 2 * coefficient, start, state, view)

    one = site(torch.float32, 100, 0)
    probes = [torch.empty(100) for _ in range(2)]
    key = Key("z", 0)
    write_probe(probes[0], one, ((key, 1.0),), Doubled(b"x"), State())
    write_probe(probes[1], one, ((key, 2.0),), Dense(b"x"), State())
    assert torch.equal(*probes)
    pair = torch.empty(2, 100)
    write_probes(pair, one, [Point(((key, 1.0),)), Point(((key, -1.0),))], Doubled(b"x"), State())
    assert torch.equal(pair[0], probes[1])
    masked = Dense(b"x", maps=(lambda z, *rest: z.zero_(),))
    write_probe(probes[0], one, ((key, 1.0),), masked, State())
    assert torch.equal(probes[0], one.parameter.detach() + 0.0)


def test_not_a_number_stays_one_in_a_bf16_probe():
    one = site(torch.bfloat16, 5000, 0)
    with torch.no_grad():
        one.parameter[7], one.parameter[9] = float("nan"), float("inf")
    out = torch.empty_like(one.parameter)
    write_probe(out, one, ((Key("z", 0), 1e-3),), Dense(b"x", "rademacher"), State())
    assert out[7].isnan()
    assert out[9].isposinf()
    assert int(out.isfinite().sum()) == 4998
