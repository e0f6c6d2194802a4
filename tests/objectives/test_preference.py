"""MPO's family of losses and SVPO's steps: what they are at known points, and their slopes along a direction."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import text_models
from text_models import PAD
from zerothorder import minimize
from zerothorder.errors import UsageError
from zerothorder.execution.batched import Batched
from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.objectives.preference import (
    UNITS,
    LogProbs,
    Pair,
    Potential,
    Preference,
    dpo,
    log_probs,
    mpo,
    step_pairs,
    value_loss,
    with_reference,
)
from zerothorder.point import Point
from zerothorder.recipes.mezo import MeZO
from zerothorder.run import Run
from zerothorder.space import ParameterSpace

PAIRS = [
    Pair((5, 6, 7), (8, 9), (10, 11, 12)),
    Pair((20,), (21,), (22, 23)),
    Pair((30, 31), (32, 33, 34, 35), (36,)),
    Pair((40, 41, 42, 43), (44, 45), (46, 47)),
]


def random_log_probs(seed: int = 0, count: int = 6) -> LogProbs:
    generator = torch.Generator().manual_seed(seed)
    scores = [-4 * torch.rand(count, generator=generator, dtype=torch.float64) - 0.05 for _ in range(4)]
    lengths = [torch.randint(1, 9, (count,), generator=generator).double() for _ in range(2)]
    return LogProbs(*scores, *lengths)


def test_a_logarithm_makes_dpo_and_log_odds_orpo_s_term() -> None:
    """MPO's card, check 1."""
    p = random_log_probs()
    own = mpo(Potential(log=1.0), beta=0.3)(p)
    d = (p.chosen - p.ref_chosen) - (p.rejected - p.ref_rejected)
    assert torch.allclose(own, -torch.log(torch.sigmoid(0.3 * d)), rtol=0, atol=1e-12)
    assert torch.equal(own, dpo(0.3)(p))
    mean = p.averaged()
    odds = mpo(Potential(odds=1.0), beta=1.0, reference=False)(mean)
    a, b = p.chosen / p.len_chosen, p.rejected / p.len_rejected
    ratio = (a - b) - (torch.log1p(-a.exp()) - torch.log1p(-b.exp()))
    assert torch.allclose(odds, -torch.log(torch.sigmoid(ratio)), rtol=0, atol=1e-12)


@settings(deadline=None)
@given(
    st.tuples(*[st.floats(0, 3)] * 3),
    st.lists(st.tuples(st.sampled_from(sorted(UNITS)), st.floats(0, 2), st.floats(0, 2), st.floats(0, 1)), max_size=4),
    st.floats(-20, -1e-3),
    st.floats(1e-2, 3),
)
def test_a_potential_rises_where_nothing_is_negative(
    plain: tuple[float, float, float], units: list[tuple[str, float, float, float]], low: float, more: float
) -> None:
    """MPO's card, check 2: strictly, where linear, log or odds is there."""
    linear, log, odds = plain
    potential = Potential(linear, log, units, odds)
    high = min(low + more, -1e-4)
    a, b = (float(potential(torch.tensor(x, dtype=torch.float64))) for x in (low, high))
    assert b >= a - 1e-12 * max(1.0, abs(a))
    if log > 1e-3 or odds > 1e-3:
        assert b > a


def test_the_divergence_of_a_logarithm_is_the_generalised_kl() -> None:
    """Check 2: D = ∫ (φ⁻¹(s) - φ⁻¹(y₀)) ds from y₀ to y is y ln(y/y₀) - (y - y₀), and never below 0."""
    potential = Potential(log=1.0)
    for y, y0 in ((0.3, 0.7), (0.9, 0.2), (0.5, 0.5)):
        s = torch.linspace(y0, y, 20001, dtype=torch.float64)
        found = torch.trapezoid(potential(s.log()) - potential(torch.tensor(y0, dtype=torch.float64).log()), s)
        assert float(found) == pytest.approx(y * math.log(y / y0) - (y - y0), abs=1e-8)
        assert float(found) >= -1e-12


def test_a_constant_of_the_potential_cancels() -> None:
    """Check 3."""
    p, units = random_log_probs(), [("root", 0.5, 1.0, 0.1)]
    plain, shifted = (mpo(Potential(0.2, 1.0, units, constant=c))(p) for c in (0.0, 7.0))
    assert torch.allclose(plain, shifted, rtol=0, atol=1e-12)


def test_imitation_is_the_mean_negative_log_likelihood_of_the_chosen() -> None:
    p = random_log_probs()
    more = mpo(Potential(log=1.0), imitation=0.5)(p) - mpo(Potential(log=1.0))(p)
    assert torch.allclose(more, -0.5 * p.chosen / p.len_chosen, atol=1e-12)


def test_an_antithetic_search_sees_nothing_in_a_constant() -> None:
    """Check 4: two points a draw cancel a constant exactly (the slope on quadratics: test_mezo)."""
    seen: list[float] = []

    def constant(x: Any) -> float:
        seen.append(1.0)
        return 3.0

    found = minimize(constant, [0.5, -1.0], budget=40, recipe="spsa", lr=0.1, eps=0.1)
    assert found.x.tolist() == [0.5, -1.0]
    assert 30 < len(seen) <= 40


def test_a_search_over_loss_parameters_is_no_worse_than_dpo_on_flipped_labels() -> None:
    """Check 5, on a model of three weights: β and label smoothing chosen by validation accuracy's smooth kin."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    x = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    label = torch.sign(x @ truth)
    noisy = torch.where(torch.rand(200, generator=generator) < 0.3, -label, label)
    held = torch.randn(200, 3, generator=generator, dtype=torch.float64)

    def inner(log_beta: float, smoothing: float) -> float:
        """Validation loss after 30 gradient steps on the pairs with flipped labels."""
        beta, share = math.exp(log_beta), 0.5 / (1 + math.exp(-smoothing))
        w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        for _ in range(30):
            d = beta * noisy * (x @ w)
            loss = (
                -(1 - share) * torch.nn.functional.logsigmoid(d) - share * torch.nn.functional.logsigmoid(-d)
            ).mean()
            (slope,) = torch.autograd.grad(loss, [w])
            w = (w - 5.0 * slope).detach().requires_grad_(True)
        return float(-torch.nn.functional.logsigmoid(torch.sign(held @ truth) * (held @ w)).mean().detach())

    start = [math.log(0.1), -4.0]
    before = inner(*start)
    found = minimize(lambda v: inner(float(v[0]), float(v[1])), start, budget=200, recipe="spsa", lr=0.5, eps=0.1)
    assert inner(*found.x.tolist()) < before


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("dpo", dpo()),
        ("mpo", mpo(Potential(0.3, 1.0, [("square", 1.0, 1.0, 0.1), ("cube_root", 0.5, 1.0, 0.2)]), 0.2)),
        ("orpo", lambda p: mpo(Potential(odds=1.0), 1.0, reference=False, imitation=1.0)(p.averaged())),
    ],
)
def test_the_slope_is_autograd_s(name: str, loss: Any) -> None:
    """The tolerance of the preference card: 2e-3 at ε 5e-4 in float32; SVPO's check 5 with steps as pairs."""
    torch.manual_seed(0)
    model = text_models.llama()
    pairs = with_reference(text_models.llama(), PAIRS, PAD)
    objective = Preference(PAD, loss)
    run = Run(model, ParameterSpace.of(model), MeZO(), objective, Swap())
    prepared = objective.prepare(model, pairs, Key("prepare", 0))
    (exact,) = Swap().evaluate([Point(want="gradient")], objective, {"main": prepared}, Key("e", 0), run.around)
    assert exact.gradient is not None
    errors, slopes = [], []
    for draw in range(5):
        key, eps = Key("z", draw), 5e-4
        slope = 0.0
        for site in run.space:
            z = torch.zeros(site.numel)
            run.direction.shift(z, z.clone(), site, key, 1.0, 0, run.state)
            slope += float((exact.gradient[site.name].reshape(-1).double() * z.double()).sum())
        points = [Point(((key, sign * eps),)) for sign in (1.0, -1.0)]
        up, down = Swap().evaluate(points, objective, {"main": prepared}, Key("e", 0), run.around)
        errors.append(abs((up.mean() - down.mean()) / (2 * eps) - slope))
        slopes.append(abs(slope))
    assert max(errors) < 2e-3 * max(slopes)
    assert max(slopes) > 1e-3


def test_pairs_are_told_apart_so_that_points_share_a_pass() -> None:
    torch.manual_seed(0)
    model = text_models.llama().double()
    objective = Preference(PAD, dpo())
    prepared = objective.prepare(model, with_reference(model, PAIRS, PAD), Key("prepare", 0))
    run = Run(model, ParameterSpace.of(model), MeZO(), objective, Swap())
    points = [Point(((Key("z", 0), sign * 1e-2),)) for sign in (1.0, -1.0)]
    looked = [e.evaluate(points, objective, {"main": prepared}, Key("e", 0), run.around) for e in (Swap(), Batched())]
    for one, other in zip(*looked, strict=True):
        assert torch.allclose(one.value, other.value, rtol=1e-10)
        assert one.value.shape == (4,)
    at_reference = Swap().evaluate([Point()], objective, {"main": prepared}, Key("e", 0), run.around)[0]
    assert torch.allclose(at_reference.value.double(), torch.full((4,), math.log(2), dtype=torch.float64), atol=1e-6)


def test_one_step_a_solution_is_dpo_and_a_shared_first_step_has_no_slope() -> None:
    """SVPO's card, checks 2 and 4: the prefix is no part of either answer."""
    torch.manual_seed(0)
    model = text_models.llama()
    whole = Pair((5, 6), (7, 8, 9), (7, 8, 10))
    step = Pair((5, 6, 7, 8), (9,), (10,))
    scores = {pair: log_probs(model, [pair], PAD) for pair in (whole, step)}
    first = -scores[whole].chosen + scores[step].chosen  # the negative log-likelihood of the shared step
    same = -scores[whole].rejected + scores[step].rejected
    assert torch.allclose(first, same, atol=1e-5)
    assert first.item() > 0.1
    assert torch.allclose(dpo()(scores[whole]), dpo()(scores[step]), atol=1e-6)


def test_values_are_zero_at_the_right_ones_and_only_ends_count() -> None:
    """SVPO's card, check 3."""
    generator = torch.Generator().manual_seed(0)
    returns = torch.rand(3, 6, generator=generator, dtype=torch.float64) * 1.6 - 0.8
    ends = torch.zeros(3, 6, dtype=torch.bool)
    ends[:, 2], ends[:, 5] = True, True
    values = torch.atanh(returns)
    assert float(value_loss(values, returns, ends)) == pytest.approx(0, abs=1e-20)
    shuffled = torch.where(ends, returns, returns.flip(1))
    assert float(value_loss(values, shuffled, ends)) == pytest.approx(0, abs=1e-20)
    assert float(value_loss(values + 0.1, returns, ends)) > 1e-4
    pairs = torch.tensor([[[0, 2], [1, 2]]])
    better, worse = float(torch.tanh(values[0, 2])), float(torch.tanh(values[1, 2]))
    ranked = float(value_loss(values, returns, ends, margin=0.5, pairs=pairs))
    assert ranked == pytest.approx(max(0.0, 0.5 - (better - worse)))


def test_siblings_make_a_pair_where_they_were_seen_and_differ() -> None:
    steps = [((1,), 0.9, 5), ((2,), -0.4, 5), ((3,), -1.0, 1)]
    assert step_pairs((9, 9), steps) == [Pair((9, 9), (1,), (2,))]
    assert step_pairs((9, 9), steps, visits=1) == [Pair((9, 9), (1,), (3,))]
    assert step_pairs((9, 9), steps, gap=2.0) == []
    assert step_pairs((9, 9), [((1,), 0.5, 5), ((2,), 0.5, 5)], gap=0.0) == []


def test_what_cannot_be_meant_is_said() -> None:
    with pytest.raises(UsageError, match="falls somewhere with a negative parameter"):
        Potential(linear=-1.0)
    with pytest.raises(UsageError, match="no unit 'sine'"):
        Potential(units=[("sine", 1.0, 1.0, 0.0)])
    with pytest.raises(UsageError, match="has no reference; call with_reference"):
        Preference(PAD, dpo()).prepare(text_models.llama(), PAIRS, Key("prepare", 0))
