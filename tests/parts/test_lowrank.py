"""z = A Bᵀ/√r: its factors, its slices, its moments."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zerothorder as zo
from zerothorder.directions.laws import Dense
from zerothorder.directions.lowrank import LowRank
from zerothorder.key import Key, run_key
from zerothorder.space import ParameterSpace, Site
from zerothorder.state import State

KEY = Key("z", 3)


def site(*shape: int) -> Site:
    return ParameterSpace.site("w", torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64), False))


def drawn(
    direction: LowRank | Dense, where: Site, start: int = 0, count: int | None = None, key: Key = KEY
) -> torch.Tensor:
    z = torch.zeros(where.numel if count is None else count, dtype=torch.float64)
    direction.shift(z, z, where, key, 1.0, start, State())
    return z


@pytest.mark.parametrize("rank", [1, 3])
def test_z_is_the_product_of_its_factors_and_has_their_rank(rank: int) -> None:
    direction, where = LowRank(run_key(0), rank), site(20, 5, 6)
    a, b, scale = direction.factors([where], [KEY], torch.float64)["w"]
    assert (a.shape, b.shape, scale) == ((20, rank), (rank, 30), rank**-0.5)
    z = drawn(direction, where).view(20, 30)
    assert torch.allclose(z, scale * a @ b, rtol=0, atol=1e-14)
    assert torch.linalg.matrix_rank(z) == rank


@given(rank=st.integers(1, 3), start=st.integers(0, 399), count=st.integers(1, 400))
def test_a_slice_is_the_slice_of_the_whole(rank: int, start: int, count: int) -> None:
    direction, where = LowRank(run_key(0), rank, "rademacher" if rank == 2 else "gaussian"), site(16, 25)
    count = min(count, where.numel - start)
    assert torch.equal(drawn(direction, where, start, count), drawn(direction, where)[start : start + count])


@pytest.mark.parametrize("shape", [(40,), (1, 40), (2, 2), ()])
def test_what_factors_would_not_make_smaller_is_dense(shape: tuple[int, ...]) -> None:
    direction, where = LowRank(run_key(0), 1), site(*shape)
    assert not direction.factors([where], [KEY], torch.float64)
    assert torch.equal(drawn(direction, where), drawn(Dense(run_key(0)), where))
    assert direction.draw(where, KEY) == Dense(run_key(0)).draw(where, KEY)


def test_moments() -> None:
    """E[⟨G,z⟩z] = G, and E‖⟨G,z⟩z‖² is (m+2)(n+2)‖G‖² at rank 1, mn + 2 for a dense draw: 100 and 66 at 8 × 8.

    20,000 draws; the standard errors were 2.4 and 0.7, the bounds are four of them. The norm of the mean's error is
    about √(expected / draws), bounded by half as much again.
    """
    where = site(8, 8)
    g = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g /= g.norm()
    for direction, expected, bound in ((LowRank(run_key(0), 1), 100, 9.6), (Dense(run_key(0)), 66, 2.8)):
        z = torch.stack([drawn(direction, where, key=Key("z", step)) for step in range(20_000)])
        slope = z @ g
        assert abs(float((slope**2 * (z**2).sum(1)).mean()) - expected) < bound
        error = (slope[:, None] * z).mean(0) - g
        assert float(error.norm()) < 1.5 * (expected / 20_000) ** 0.5


def test_mistakes_get_a_sentence() -> None:
    with pytest.raises(zo.UsageError, match="rank is 0"):
        LowRank(run_key(0), 0)
    with pytest.raises(zo.UsageError, match="unknown law 'gausian'; did you mean 'gaussian'"):
        LowRank(run_key(0), 1, "gausian")
