"""Storage grids: the fast path is the specification bit by bit; rounding is unbiased and never drifts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zerothorder.directions.laws import Dense
from zerothorder.errors import UsageError
from zerothorder.grids import Grid, cpu, reference
from zerothorder.key import Key, run_key
from zerothorder.ledger.entry import Entry, Rates
from zerothorder.random import byte_lanes
from zerothorder.recipes.mezo import MeZO
from zerothorder.space import ParameterSpace
from zerothorder.state import RESIDUAL, State

LOW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
EVERY = torch.arange(-(2**15), 2**15).to(torch.int16)
BYTES = torch.arange(256, dtype=torch.uint8)


def finite(dtype: torch.dtype) -> torch.Tensor:
    """Every finite value of a 16-bit dtype, both zeros included."""
    values = EVERY.view(dtype)
    return values[values.isfinite()]


def load(stored: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    out = torch.empty(stored.shape)
    Grid.of(stored.dtype).load(out, stored, residual)
    return out


def store(values: torch.Tensor, dtype: torch.dtype, random: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By the specification, with the given rounding bytes."""
    stored, residual = torch.empty(values.shape, dtype=dtype), torch.empty(values.shape, dtype=torch.int8)
    reference.store(stored, residual, values, random)
    return stored, residual


def floats(bits: st.SearchStrategy[int]) -> st.SearchStrategy[torch.Tensor]:
    """float32 tensors from arbitrary bit patterns."""

    def build(patterns: list[int]) -> torch.Tensor:
        signed = [p - (p >> 31 << 32) for p in patterns]
        return torch.tensor(signed, dtype=torch.int32).view(torch.float32)

    return st.lists(bits, min_size=1, max_size=50).map(build)


# any finite float32, and those next to the ties and carries of bfloat16
PATTERNS = st.integers(0, 2**32 - 1).filter(lambda p: p & 0x7F800000 != 0x7F800000) | st.builds(
    lambda sign, top, low: (sign << 31 | top << 16) + low,
    st.integers(0, 1),
    st.integers(1, 0x7F7E),
    st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x7F00, 0x7FFF, 0x8000, 0x8001, 0xFF00, 0xFFFF]),
)


def test_fast_load_is_the_specification_for_every_bf16_and_every_residual() -> None:
    stored = finite(torch.bfloat16).clone()
    seen = 0
    for byte in range(-128, 128):
        # a residual cannot take the magnitude below zero: only positive ones stand beside ±0
        kept = stored if byte >= 0 else stored[stored != 0]
        residual = torch.full(kept.shape, byte, dtype=torch.int8)
        fast, slow = torch.empty(kept.shape), torch.empty(kept.shape)
        cpu.load(fast, kept, residual)
        reference.load(slow, kept, residual)
        assert torch.equal(fast.view(torch.int32), slow.view(torch.int32)), byte
        seen += kept.numel()
    assert seen == 256 * (2**16 - 2 * 128) - 128 * 2


@given(values=floats(PATTERNS))
@settings(max_examples=60, deadline=None)
def test_fast_store_is_the_specification(values: torch.Tensor) -> None:
    values, random = values.repeat_interleave(256), BYTES.repeat(values.numel())
    count = values.numel()
    expected = store(values, torch.bfloat16, random)
    stored, residual = torch.empty(count, dtype=torch.bfloat16), torch.empty(count, dtype=torch.int8)
    cpu.store(stored, residual, values, random)
    assert torch.equal(stored.view(torch.int16), expected[0].view(torch.int16))
    assert torch.equal(residual, expected[1])


@LOW
def test_a_stored_weight_and_its_residual_come_back_as_they_were(dtype: torch.dtype) -> None:
    """load then store is the identity on every finite weight × residual, whatever the rounding byte."""
    weights = finite(dtype).clone()
    for byte in (0, 1, 63, 126, 127, -1, -64, -127):
        kept = weights if byte >= 0 else weights[weights != 0]
        if byte:  # beside the largest weights a residual would be infinity or clamped
            kept = kept[kept.abs() < torch.finfo(dtype).max]
        residual = torch.full(kept.shape, byte, dtype=torch.int8)
        values = load(kept, residual)
        for u in (0, 128, 255):
            again = store(values, dtype, torch.full(kept.shape, u, dtype=torch.uint8))
            assert torch.equal(again[0].view(torch.int16), kept.view(torch.int16)), (byte, u)
            assert torch.equal(again[1], residual), (byte, u)


@LOW
def test_a_weight_without_residual_is_read_exactly(dtype: torch.dtype) -> None:
    weights = finite(dtype).clone()
    zero = torch.zeros(weights.shape, dtype=torch.int8)
    assert torch.equal(load(weights, zero), weights.float())
    out = torch.empty(weights.shape)
    Grid.of(dtype).load(out, weights, None)
    assert torch.equal(out, weights.float())


@LOW
def test_the_weight_is_the_value_rounded_to_nearest(dtype: torch.dtype) -> None:
    """What a forward sees is the extended value to the nearest: half a unit off at most, on every scale."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1e-7, 1e-4, 1.0, 100.0])
    values = (torch.randn(5000, 4, generator=generator) * scale).reshape(-1)
    random = torch.randint(0, 256, values.shape, generator=generator).to(torch.uint8)
    stored, residual = store(values, dtype, random)
    exact = load(stored, residual).double()
    unit = torch.maximum(values.abs().double(), torch.tensor(torch.finfo(dtype).smallest_normal))
    unit = 2.0 ** (torch.log2(unit).floor() - reference.MANTISSA[dtype])
    assert ((exact - values.double()).abs() <= unit / 256).all()
    assert ((stored.double() - exact).abs() <= unit * (1 + 2**-8) / 2).all()


@LOW
@given(values=floats(st.integers(0x38800000, 0x477F0000) | st.integers(0xB8800000, 0xC77F0000)))
@settings(max_examples=60, deadline=None)
def test_rounding_is_unbiased_exactly(dtype: torch.dtype, values: torch.Tensor) -> None:
    """The mean over all 256 rounding bytes is the value itself (normal numbers of both dtypes)."""
    count = values.numel()
    stored, residual = store(values.repeat_interleave(256), dtype, BYTES.repeat(count))
    back = load(stored, residual).double().view(count, 256)
    assert torch.equal(back.mean(1), values.double())


def test_fp16_subnormals_lose_at_most_a_256th_of_their_last_unit() -> None:
    unit = 2.0 ** (-14 - 18)  # 10 bits of mantissa and the residual's 8
    values = (torch.rand(2000, generator=torch.Generator().manual_seed(3)) * 2.0**-14).float()
    stored, residual = store(values.repeat_interleave(256), torch.float16, BYTES.repeat(2000))
    back = load(stored, residual).double().view(2000, 256)
    assert ((back - values.double()[:, None]).abs() <= unit).all()
    assert ((values.double() - back.mean(1)) >= 0).all()
    assert ((values.double() - back.mean(1)) < unit / 256).all()
    assert (stored[stored != 0].abs() < 2.0**-14).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bare_stochastic_rounding_is_unbiased_exactly(dtype: torch.dtype) -> None:
    spare = 23 - reference.MANTISSA[dtype]
    random = torch.arange(1 << spare)
    for value in (1.2345678, -0.0031415927, 777.77, 6.2e-5):
        values = torch.full(random.shape, value)
        out = torch.empty(random.shape, dtype=dtype)
        reference.stochastic(out, values, random)
        assert float(out.double().mean()) == float(values[0].double())
        assert len(out.unique()) == 2


@LOW
def test_keyed_rounding_is_unbiased_within_standard_errors(dtype: torch.dtype) -> None:
    """Through `Grid.store`, with the generator's own bytes."""
    n, value = 1 << 18, 0.0123456789
    grid = Grid.of(dtype)
    stored, residual = torch.empty(n, dtype=dtype), torch.empty(n, dtype=torch.int8)
    values = torch.full((n,), value)
    grid.store(stored, residual, values, seed=12345, start=99)
    back = load(stored, residual).double()
    assert back.std() > 0
    assert abs(float(back.mean() - values[0].double())) < 4 * float(back.std()) / math.sqrt(n)


@LOW
def test_rounding_bits_are_addressed_by_index(dtype: torch.dtype) -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    grid = Grid.of(dtype)
    whole = torch.empty(5000, dtype=dtype), torch.empty(5000, dtype=torch.int8)
    grid.store(*whole, values, 7, 1000)
    part = torch.empty(1234, dtype=dtype), torch.empty(1234, dtype=torch.int8)
    grid.store(*part, values[777:2011], 7, 1777)
    for a, b in zip(whole, part, strict=True):
        assert torch.equal(a[777:2011], b)
    random = torch.empty(5000, dtype=torch.uint8)
    byte_lanes(random, 7, 1000)
    assert all(torch.equal(a, b) for a, b in zip(store(values, dtype, random), whole, strict=True))


@LOW
def test_the_sign_of_zero_is_kept(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, -0.0, 1e-30, -1e-30])
    for u in (0, 255):
        stored, residual = store(values, dtype, torch.full((4,), u, dtype=torch.uint8))
        back = load(stored, residual)
        assert torch.signbit(stored).tolist() == torch.signbit(back).tolist() == [False, True, False, True]
        assert back[:2].tolist() == [0.0, 0.0]


def test_fp16_never_overflows_to_infinity() -> None:
    values = torch.tensor([65504.0, 65519.0, 65520.0, 1e30, -1e30])
    stored, residual = store(values, torch.float16, torch.full((5,), 255, dtype=torch.uint8))
    assert stored.isfinite().all()
    assert load(stored, residual).abs().max() <= 65520


def entry(step: int, scalar: float, lr: float) -> Entry:
    rates = {"decay": Rates(lr), "plain": Rates(lr)}
    return Entry(step, ((Key("z", step), scalar),), {}, rates)


def moved(weights: torch.Tensor, precision: str, scalars: list[float], lr: float) -> tuple[torch.Tensor, State]:
    """The weights after one sgd step a scalar."""
    site = ParameterSpace.site("w", weights.clone(), precision)  # type: ignore[arg-type]
    recipe, state = MeZO(law="rademacher"), State()
    for step, scalar in enumerate(scalars):
        recipe.update().apply(entry(step, scalar, lr), ParameterSpace([site]), Dense(run_key(0), "rademacher"), state)
    return site.parameter, state


@LOW
def test_idle_cycles_never_drift(dtype: torch.dtype) -> None:
    weights = finite(dtype).clone()
    # a step that leaves residuals, then a hundred of size zero
    weights = weights[(weights.abs() < 1e3) & (weights.abs() > 1e-6)]
    once, state = moved(weights, "residual", [1.0], 1e-5)
    often, after = moved(weights, "residual", [1.0] + [0.0] * 100, 1e-5)
    assert torch.equal(once, often)
    residual = state.tensor(RESIDUAL, "w")
    assert torch.equal(residual, after.tensor(RESIDUAL, "w"))
    assert (residual != 0).any()


@LOW
def test_small_updates_survive(dtype: torch.dtype) -> None:
    """Steps so small that rounding to nearest loses more than 95 % of them; the residual byte keeps them."""
    n, steps = 1 << 15, 32
    weights = (torch.randn(n, generator=torch.Generator().manual_seed(5)) * 0.02).to(dtype)
    lr = 1e-6 if dtype == torch.bfloat16 else 1.2e-7
    scalars = [1.0] * steps
    recorded: dict[str, tuple[float, float]] = {}
    intended, _ = moved(weights.double(), "residual", scalars, lr)
    wanted = intended - weights.double()
    for precision in ("residual", "stochastic", "nearest"):
        stored, state = moved(weights, precision, scalars, lr)
        exact = stored.double()
        if precision == "residual":
            exact = load(stored, state.tensor(RESIDUAL, "w")).double()
        got = exact - weights.double()
        kept = float((got * wanted).sum() / wanted.square().sum())
        noise = float((got - kept * wanted).square().sum().sqrt() / wanted.square().sum().sqrt())
        recorded[precision] = kept, noise
        # standard error of the kept share (the noise is independent of what was wanted), and what float32 arithmetic
        # itself rounds: half a unit of the weight's 24 bits a step, the same way every time
        if precision != "nearest":
            arithmetic = float(weights.double().abs().mean()) * 2.0**-24 / lr
            assert abs(kept - 1) < 4 * noise / math.sqrt(n) + arithmetic, recorded
    assert abs(recorded["nearest"][0]) < 0.05, recorded
    assert recorded["residual"][1] < 0.7, recorded
    assert recorded["stochastic"][1] > 2.5, recorded


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_weights_are_their_own_grid(dtype: torch.dtype) -> None:
    grid = Grid.of(dtype)
    assert grid.exact
    assert not grid.has_residual
    assert grid.compute == dtype
    weights = torch.zeros(8, dtype=dtype)
    _, state = moved(weights, "residual", [1.0], 1e-3)
    assert state.nbytes == 0


@LOW
def test_the_residual_costs_one_byte_a_weight(dtype: torch.dtype) -> None:
    _, state = moved(torch.zeros(1000, dtype=dtype), "residual", [1.0], 1e-3)
    assert state.nbytes == 1000
    for precision in ("stochastic", "nearest"):
        assert moved(torch.zeros(1000, dtype=dtype), precision, [1.0], 1e-3)[1].nbytes == 0


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float8_e4m3fn])
def test_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(UsageError, match=str(dtype)):
        Grid.of(dtype)
