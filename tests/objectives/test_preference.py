"""MPO's family of losses: what they are at known points, their slopes along a direction, and a search among them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

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
    mpo,
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
    # and ORPO whole: the negative log-likelihood is a token's mean once, not twice
    orpo = mpo(Potential(odds=1.0), beta=1.0, reference=False, imitation=1.0)(mean)
    assert torch.allclose(orpo, odds - a, rtol=0, atol=1e-12)


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


def divergence_by_quadrature(potential: Potential, y: float, y0: float) -> float:
    """∫ (φ⁻¹(s) - φ⁻¹(y₀)) ds from y₀ to y, over ln s: smooth where s is near 0."""
    nodes, weights = np.polynomial.legendre.leggauss(120)
    low, high = math.log(y0), math.log(y)
    t = torch.from_numpy((low + high) / 2 + (high - low) / 2 * nodes)
    above = potential(t) - potential(torch.tensor(low, dtype=torch.float64))
    return float((above * t.exp()).numpy() @ weights) * (high - low) / 2


@settings(deadline=None)
@given(
    st.tuples(*[st.floats(0, 3)] * 4),
    st.lists(st.tuples(st.sampled_from(sorted(UNITS)), st.floats(0, 2), st.floats(0, 2), st.floats(0, 1)), max_size=4),
    st.floats(1e-4, 0.95),
    st.floats(1e-4, 0.95),
)
def test_the_divergence_is_the_integral_above_the_start_and_grows_with_the_square_of_the_distance(
    plain: tuple[float, float, float, float], units: list[tuple[str, float, float, float]], y: float, y0: float
) -> None:
    """Check 2: a rising φ⁻¹ leaves nothing negative; linear, log and odds have slopes of at least 1, 1 and 4."""
    linear, log, odds, constant = plain
    potential = Potential(linear, log, units, odds, constant)
    a, b = torch.tensor([y, y0], dtype=torch.float64)
    found = float(potential.divergence(a, b))
    assert found == pytest.approx(divergence_by_quadrature(potential, y, y0), rel=1e-8, abs=1e-10)
    assert found >= (linear + log + 4 * odds) / 2 * (y - y0) ** 2 * (1 - 1e-9) - 1e-12
    assert float(potential.divergence(a, a)) == 0.0


@pytest.mark.parametrize("part", ["linear", "log", "odds", *UNITS])
@settings(deadline=None)
@given(st.floats(1e-4, 0.95), st.floats(1e-3, 0.04), st.floats(0.1, 2), st.floats(0, 1))
def test_every_part_alone_rises_and_is_at_no_distance_only_from_itself(
    part: str, low: float, more: float, scale: float, shift: float
) -> None:
    """Check 2, strictly, in both directions."""
    plain: dict[str, Any] = {part: scale}
    potential = Potential(units=[(part, 1.0, scale, shift)]) if part in UNITS else Potential(**plain)
    a, b = torch.tensor([low, low + more], dtype=torch.float64)
    assert float(potential(b.log())) > float(potential(a.log()))
    assert float(potential.divergence(a, b)) > 0
    assert float(potential.divergence(b, a)) > 0


def test_the_divergence_of_a_logarithm_is_the_generalised_kl() -> None:
    """Check 2: c = 1 gives y ln(y/y₀) - (y - y₀)."""
    for y, y0 in ((0.3, 0.7), (0.9, 0.2), (1.0, 1e-9), (0.5, 0.5)):
        a, b = torch.tensor([y, y0], dtype=torch.float64)
        found = float(Potential(log=1.0).divergence(a, b))
        assert found == pytest.approx(y * math.log(y / y0) - (y - y0), abs=1e-12)
    one, half = torch.tensor([1.0, 0.5], dtype=torch.float64)
    odds = Potential(odds=1.0)
    assert float(odds.divergence(one, half)) == pytest.approx(math.log(2)), "finite where φ⁻¹ is not"
    assert float(odds.divergence(half, one)) == math.inf


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


class FlippedPairs:
    """A policy of two layers over four answers, trained on pairs of which 30 % have the wrong answer chosen.

    Four trainings side by side, each with questions, flips and initial weights of its own, the same for every loss.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.truth = self.random(6, 8) * 0.6, self.random(8, 4)
        self.initial = [self.random(4, 6, 16) / math.sqrt(6), self.random(4, 16, 4) / 4]
        x, better, worse = self.pairs(4, 120)
        flipped = torch.rand(4, 120, generator=self.generator) < 0.3
        self.train = x, torch.where(flipped, worse, better), torch.where(flipped, better, worse)
        self.validation, self.unseen = self.pairs(1, 500), self.pairs(1, 500)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def pairs(self, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
        """Questions, and of two answers to each the better and the worse one."""
        x = self.random(*shape, 6)
        scores = (x @ self.truth[0]).tanh() @ self.truth[1]
        two = torch.rand(*shape, 4, generator=self.generator).topk(2).indices
        ordered = two.gather(-1, scores.gather(-1, two).argsort(-1, descending=True))
        return x, ordered[..., 0], ordered[..., 1]

    def log_probs(self, weights: Sequence[Tensor], pairs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, *answers = (own.expand(4, *own.shape[1:]) for own in pairs)
        scores = ((x @ weights[0]).tanh() @ weights[1]).log_softmax(-1)
        better, worse = (scores.gather(-1, own[..., None])[..., 0] for own in answers)
        return better, worse

    def trained(self, beta: float, smoothing: float, share: Callable[[float], float]) -> list[Tensor]:
        """Weights after 20 gradient steps on (1 - a(t))·SFT + a(t)·L_pref, `share` a and t from 0 to 1."""
        preferred, one = dpo(beta), torch.ones(())
        reference = self.log_probs(self.initial, self.train)
        weights = self.initial
        for step in range(20):
            weights = [own.detach().requires_grad_() for own in weights]
            chosen, rejected = self.log_probs(weights, self.train)
            loss = preferred(LogProbs(chosen, rejected, *reference, one, one))
            if smoothing:
                swapped = LogProbs(rejected, chosen, reference[1], reference[0], one, one)
                loss = (1 - smoothing) * loss + smoothing * preferred(swapped)
            a = share(step / 19)
            # a sum over the four trainings, whose weights do not meet
            slopes = torch.autograd.grad((a * loss - (1 - a) * chosen).mean(1).sum(), weights)
            weights = [own - 4.0 * slope for own, slope in zip(weights, slopes, strict=True)]
        return [own.detach() for own in weights]

    def error(self, weights: Sequence[Tensor], pairs: tuple[Tensor, Tensor, Tensor]) -> float:
        """Share of pairs without flips whose better answer is not the likelier one, over the four trainings."""
        better, worse = self.log_probs(weights, pairs)
        return float((better <= worse).double().mean())


@pytest.mark.slow
def test_a_search_over_loss_parameters_finds_a_better_loss_than_dpo_for_flipped_labels() -> None:
    """Check 5: 16 perturbations × 20 steps over ln β, label smoothing and a ramp a(t), from one worse than DPO."""
    toy = FlippedPairs(seed=0)

    def trained(v: Any) -> list[Tensor]:
        """Everything real is allowed: ln β, smoothing's logit, a's logit at the start and how far it rises."""
        log_beta, smoothing, start, rise = v.tolist()
        return toy.trained(math.exp(log_beta), 0.5 * sigmoid(smoothing), lambda t: sigmoid(start + rise * t))

    plain = toy.trained(0.1, 0.0, lambda t: 1.0)
    start = np.array([math.log(0.1), -3.0, -1.0, 0.0])
    found = minimize(
        lambda v: toy.error(trained(v), toy.validation), start, budget=20 * 16 + 1, recipe="spsa", draws=8, eps=0.5,
        lr=20.0,
    )  # fmt: skip
    assert len(found.entries) == 20
    assert toy.error(trained(start), toy.validation) > toy.error(plain, toy.validation)
    assert found.value < toy.error(plain, toy.validation)
    assert toy.error(trained(found.x), toy.unseen) < toy.error(plain, toy.unseen)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("dpo", dpo()),
        ("mpo", mpo(Potential(0.3, 1.0, [("square", 1.0, 1.0, 0.1), ("cube_root", 0.5, 1.0, 0.2)]), 0.2)),
        ("orpo", lambda p: mpo(Potential(odds=1.0), 1.0, reference=False, imitation=1.0)(p.averaged())),
    ],
)
def test_the_slope_is_autograd_s(name: str, loss: Any) -> None:
    """The tolerance of the preference card: 2e-3 at ε 5e-4 in float32."""
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


def test_what_cannot_be_meant_is_said() -> None:
    with pytest.raises(UsageError, match="falls somewhere with a negative parameter"):
        Potential(linear=-1.0)
    with pytest.raises(UsageError, match="no unit 'sine'"):
        Potential(units=[("sine", 1.0, 1.0, 0.0)])
    with pytest.raises(UsageError, match="has no reference; call with_reference"):
        Preference(PAD, dpo()).prepare(text_models.llama(), PAIRS, Key("prepare", 0))
