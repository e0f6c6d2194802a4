"""The laws of z: their table, their moments, their independence. Fixed seeds; bounds in standard errors."""

import math

import pytest
import torch

from zerothorder.key import Key, run_key
from zerothorder.random import philox
from zerothorder.random.laws import GAUSSIAN_SCALE, LAWS, gaussian, gaussian_table, rademacher
from zerothorder.space import ParameterSpace

N = 1 << 20
RUN = run_key(2305)


def exact_moment(law: str, order: int) -> float:
    """E[z^order] over all lanes of the law."""
    if law == "rademacher":
        return 1.0
    return float((gaussian_table().double() * GAUSSIAN_SCALE).pow(order).mean())


def test_table_is_the_normal_quantiles_of_another_implementation() -> None:
    quantile = torch.special.ndtri(0.5 + (torch.arange(32768).double() + 0.5) / 65536)
    units = quantile / quantile.square().mean().sqrt() / GAUSSIAN_SCALE
    assert torch.equal(torch.floor(units + 0.5).to(torch.int16), gaussian_table())
    # so far from a tie that another platform's last bits cannot round an entry elsewhere (and change the hash)
    from_tie = (units - torch.floor(units) - 0.5).abs().min()
    assert from_tie > 1e4 * units.max() * torch.finfo(torch.float64).eps


def test_table_is_monotone_and_of_unit_second_moment() -> None:
    table = gaussian_table()
    assert table.dtype == torch.int16
    assert table.shape == (32768,)
    assert (table[1:] >= table[:-1]).all()
    assert table[0] == 0
    # 2^15 roundings of at most half a unit of 2^-12: the rest of the normalisation is below that
    assert abs(exact_moment("gaussian", 2) - 1) < 2e-6
    assert abs(exact_moment("gaussian", 4) - 3) < 2e-3


def test_a_16_bit_lane_is_sign_and_table_index() -> None:
    lanes = philox.lanes(11, 16, 0, 4096)
    z = gaussian(11, 0, 4096)
    assert torch.equal(z.abs(), gaussian_table()[lanes % 32768].float() / 4096)
    assert torch.equal(z < 0, (lanes >= 32768) & (z != 0))


@pytest.mark.parametrize("law", sorted(LAWS))
def test_moments(law: str) -> None:
    z = LAWS[law](Key("z", 3, 1).seed(RUN, 99), 0, N).double()
    for order in (1, 2, 3, 4):
        mean = 0.0 if order % 2 else exact_moment(law, order)
        error = math.sqrt((exact_moment(law, 2 * order) - mean**2) / N)
        assert abs(float(z.pow(order).mean()) - mean) <= 4 * error, (order, error)


def test_rademacher_is_its_bits() -> None:
    z = rademacher(4, 0, 1000)
    assert set(z.tolist()) == {-1.0, 1.0}
    assert torch.equal(z, 1.0 - 2 * philox.lanes(4, 1, 0, 1000))


@pytest.mark.parametrize("bits", [8, 16])
def test_lanes_are_uniform(bits: int) -> None:
    lanes = philox.lanes(Key("z", 0).seed(RUN, 5), bits, 0, N)
    for shift in range(0, bits, 8):
        counts = torch.bincount(lanes >> shift & 255, minlength=256).double()
        chi_square = float(((counts - N / 256).square() / (N / 256)).sum())
        assert abs(chi_square - 255) < 4 * math.sqrt(2 * 255)


def test_every_bit_of_a_word_is_fair_and_independent_of_the_others() -> None:
    words = philox.words(Key("z", 1).seed(RUN, 6), 0, N // 16)
    bits = (words[:, None] >> torch.arange(32) & 1).double() * 2 - 1
    count = bits.shape[0]
    assert bits.mean(0).abs().max() < 4 / math.sqrt(count)
    pairs = bits.T @ bits / count - torch.eye(32)
    assert pairs.abs().max() < 4.5 / math.sqrt(count)  # 496 pairs


@pytest.mark.parametrize("law", sorted(LAWS))
def test_sites_steps_and_draws_are_uncorrelated(law: str) -> None:
    n = 1 << 16
    names = ("layers.0.weight", "layers.1.weight")
    ids = [ParameterSpace.site(name, torch.empty(n)).id for name in names]
    keys = [Key(tag, step, draw) for tag in ("z", "round") for step in (0, 1, 2**40) for draw in (0, 1)]
    z = torch.stack([LAWS[law](key.seed(RUN, site), 0, n) for key in keys for site in ids]).double()
    correlation = z @ z.T / n
    correlation.fill_diagonal_(0)
    assert correlation.abs().max() < 4 / math.sqrt(n)  # 276 pairs
    lagged = torch.stack([(z[:, lag:] * z[:, :-lag]).mean(1) for lag in (1, 2, 4, 8, 32, 128, 4096)])
    assert lagged.abs().max() < 4 / math.sqrt(n - 4096)
    mixed = (z[:1, 1:] * z[1:, :-1]).mean(1)
    assert mixed.abs().max() < 4 / math.sqrt(n - 1)


def test_keys_do_not_collide_where_linear_seeds_do() -> None:
    seeds = {
        Key(tag, a, b).seed(run_key(seed), site)
        for tag in ("z", "eval")
        for a in range(-3, 12)
        for b in range(12)
        for seed in (0, 1)
        for site in (0, 1, 2)
    }
    assert len(seeds) == 2 * 15 * 12 * 2 * 3
