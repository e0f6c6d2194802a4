"""z = A Bᵀ/√r: its factors, its slices, its moments."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zerothorder as zo
from zerothorder.directions.laws import Dense
from zerothorder.directions.lowrank import LowRank
from zerothorder.key import Key, run_key
from zerothorder.ledger.entry import Entry, Rates
from zerothorder.random.laws import GAUSSIAN_SCALE, gaussian_table
from zerothorder.space import ParameterSpace, Site
from zerothorder.state import State
from zerothorder.updates import Update

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


def fourth(law: str) -> float:
    """E of the fourth power of one drawn element: 2.9992 from the table, 1 for a sign."""
    return 1.0 if law == "rademacher" else float(((gaussian_table().double() * GAUSSIAN_SCALE) ** 4).mean())


def many(direction: LowRank, where: Site, draws: int) -> torch.Tensor:
    """(draws, m, n): z of so many keys, from factors that are drawn in one go."""
    found = direction.factors([where], [Key("z", 7, draw) for draw in range(draws)], torch.float64)
    a, b, scale = found["w"]
    a, b = a.view(len(a), draws, direction.rank), b.view(draws, direction.rank, -1)
    return scale * torch.einsum("mdr,drn->dmn", a, b)


@pytest.mark.parametrize("law", ["gaussian", "rademacher"])
@pytest.mark.parametrize("rank", [1, 2, 4, 8])
def test_an_element_has_variance_one_and_kurtosis_three_and_six_over_the_rank(rank: int, law: str) -> None:
    """E[z⁴] = (κ² + 3(r-1))/r with κ the law's own: for a Gaussian 3 + 6/r (9, 6, 4.5, 3.75), for signs 3 - 2/r.

    2,000 draws of a 40 × 40 matrix. Elements of a draw are not independent, so standard errors are those of the means
    of draws: at most 0.008 and 0.16. The bounds are four of them: 0.64 at rank 1, where rank 2 is 3 away, and 0.15 at
    rank 4. A scale of 1/r, or none, would show in the variance by a factor of r.
    """
    z = many(LowRank(run_key(0), rank, law), site(40, 40), 2000).flatten(1)
    expected = (fourth(law) ** 2 + 3 * (rank - 1)) / rank
    for power, value in ((1, 0.0), (2, 1.0), (4, expected)):
        means = (z**power).mean(1)
        error = float(means.std()) / len(means) ** 0.5
        assert error < 0.18
        assert abs(float(means.mean()) - value) <= 4 * error + 1e-6


@pytest.mark.parametrize(
    ("rank", "law", "shape", "expected"),
    [
        (1, "gaussian", (24, 16), 26 * 18),
        (2, "gaussian", (24, 16), 24 * 16 + 2 + 82 / 2),
        (4, "gaussian", (24, 16), 24 * 16 + 2 + 82 / 4),
        (1, "rademacher", (24, 16), 24 * 16),
        (3, "rademacher", (24, 16), 24 * 16 + 2 - 2 / 3),
    ],
)
def test_second_moment_and_mean_of_the_estimate_on_a_linear_loss(
    rank: int, law: str, shape: tuple[int, int], expected: float
) -> None:
    """E[⟨G,z⟩z] = G. E‖⟨G,z⟩z‖² / ‖G‖² = (m+2)(n+2) for Gaussian factors of rank 1, mn for signs, where a dense
    Gaussian has mn + 2; of rank r it is the mean of the first and r-1 times the last.

    20,000 draws, G of random elements. Standard errors below 2.5 % of the moment: the bounds, four of them, tell rank 1
    from dense, 21 % apart at 24 × 16, and ranks from each other, 10 % and more.
    """
    z = many(LowRank(run_key(1), rank, law), site(*shape), 20_000).flatten(1)
    g = torch.randn(z.shape[1], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    g /= g.norm()
    slope = z @ g
    norms = slope**2 * (z**2).sum(1)
    error = float(norms.std()) / len(norms) ** 0.5
    assert error < 0.025 * expected
    assert abs(float(norms.mean()) - expected) < 4 * error
    mean = (slope[:, None] * z).mean(0)
    assert float((mean - g).norm()) < 1.5 * (expected / len(z)) ** 0.5
    # four standard errors along G itself, where a scale would show: 1 ± 0.04
    assert abs(float(mean @ g) - 1) < 4 * float((slope**2).std()) / len(z) ** 0.5


def test_many_keys_and_sites_in_one_go_are_each_one_s_own() -> None:
    """Whatever else is drawn with it, whole or by rows of three tiles."""
    direction, shapes = LowRank(run_key(0), 2), {"a": (30, 20), "vector": (7,), "b": (9, 4, 5), "wide": (3, 9000)}
    sites = [ParameterSpace.site(name, torch.nn.Parameter(torch.zeros(shape), False)) for name, shape in shapes.items()]
    keys = [Key("z", step, draw) for step in range(2) for draw in range(2)]
    together = direction.factors(sites, keys, torch.float32)
    assert sorted(together) == ["a", "b", "wide"]
    for where in sites:
        if where.name in together:
            a, b, scale = together[where.name]
            for n, key in enumerate(keys):
                own_a, own_b, own = direction.factors([where], [key], torch.float32)[where.name]
                assert own == scale
                assert torch.equal(a[:, 2 * n : 2 * n + 2], own_a)
                assert torch.equal(b[2 * n : 2 * n + 2], own_b)
    assert direction.factors(sites, ["momentum"], torch.float32) == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("draws", "rank"), [(1, 1), (3, 1), (4, 3), (9, 2)])
def test_an_update_is_the_sum_of_outer_products_and_has_their_rank(draws: int, rank: int, dtype: torch.dtype) -> None:
    """w - lr Σ_j ρ_j A_j B_jᵀ/√r, of rank min(draws · r, m, n): 20 × 14, so that nine draws of rank 2 fill it."""
    direction, lr = LowRank(run_key(0), rank), 0.5
    where = ParameterSpace.site("w", torch.nn.Parameter(torch.zeros(20, 14, dtype=dtype), False))
    terms = tuple((Key("z", 5, j), 0.1 * (j + 1) * (-1) ** j) for j in range(draws))
    entry = Entry(5, terms, {}, {"decay": Rates(lr), "plain": Rates(lr)})
    Update(()).apply(entry, ParameterSpace([where]), direction, State())
    z = [drawn(direction, site(20, 14), key=key).view(20, 14) for key, _ in terms]
    expected = -lr * sum(scalar * one for (_, scalar), one in zip(terms, z, strict=True))
    found = where.parameter.detach().double()
    error = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]
    assert torch.allclose(found, expected, rtol=error, atol=error)
    if dtype == torch.float64:
        assert torch.linalg.matrix_rank(found) == min(draws * rank, 14)


def test_mistakes_get_a_sentence() -> None:
    with pytest.raises(zo.UsageError, match="rank is 0"):
        LowRank(run_key(0), 0)
    with pytest.raises(zo.UsageError, match="unknown law 'gausian'; did you mean 'gaussian'"):
        LowRank(run_key(0), 1, "gausian")
