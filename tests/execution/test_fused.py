"""Passes fused for a single dense draw give the bits of the general pass, chunk by chunk and stage by stage."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zerothorder.directions.laws import Dense
from zerothorder.execution.probe import write_probe
from zerothorder.grids import Grid
from zerothorder.key import Key
from zerothorder.ledger.entry import Entry, Rates
from zerothorder.random.cpu import TILE
from zerothorder.space import CHUNK, ParameterSpace, Site
from zerothorder.state import State
from zerothorder.updates import Update, WeightDecay

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
SIZES = st.one_of(st.integers(1, 3 * TILE), st.sampled_from([TILE, 2 * TILE, CHUNK - 1, CHUNK, CHUNK + 1]))


def site(dtype: torch.dtype, size: int, offset: int) -> Site:
    """A shard of two segments when `offset` is not 0: the draw starts in the middle of a tile."""
    generator = torch.Generator().manual_seed(size)
    weights = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
    weights[:: max(1, size // 7)] = -0.0
    half = size // 2
    segments = ((0, 0, size),) if not offset else ((0, offset, half), (half, 3 * offset + size, size - half))
    return Site("w", torch.nn.Parameter(weights, False), Grid.of(dtype), "decay", (10**9,), segments)


def run(dtype: torch.dtype, law: str, size: int, offset: int, entries: list[Entry], decays: bool) -> list[torch.Tensor]:
    """Weights, residual and probes after every step, as integers."""
    space, state, direction = ParameterSpace([site(dtype, size, offset)]), State(), Dense(b"fused", law)
    update = Update((WeightDecay(),) if decays else ())
    (only,) = space
    seen: list[torch.Tensor] = []
    for entry in entries:
        for eps in (1e-3, -1e-3):
            out = torch.empty_like(only.parameter)
            write_probe(out, only, ((Key("z", entry.step), eps),), direction, state)
            seen.append(out)
        update.apply(entry, space, direction, state)
        seen += [only.parameter.detach().clone(), *(tensor.clone() for _, tensor in state.flat())]
    return [tensor.view(torch.uint8) for tensor in seen]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
@settings(max_examples=12, deadline=None)
@given(SIZES, st.integers(0, 2 * TILE), st.sampled_from([0.0, 0.1]), st.booleans(), st.booleans(), st.integers(0, 9))
def test_fused_passes_have_the_bits_of_the_general_ones(
    dtype: torch.dtype, law: str, size: int, offset: int, decay: float, decays: bool, absolute: bool, seed: int
):
    rates = {"decay": Rates(3e-3, decay), "plain": Rates(3e-3)}
    scalars = (1.7, 0.0, -3.1)
    entries = [
        Entry(step, ((Key("z", step, seed), scalar),), {}, rates, absolute=absolute)
        for step, scalar in enumerate(scalars)
    ]
    assert Grid.of(dtype).fused
    fused = run(dtype, law, size, offset, entries, decays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grid, "fused", False)
        general = run(dtype, law, size, offset, entries, decays)
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
