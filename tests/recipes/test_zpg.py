"""ZPG, ZBCPG and ZSPO: with an exact judge the steps are those of values; and what noise does to them."""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zerothorder import catalogue
from zerothorder.errors import UsageError
from zerothorder.execution.batched import Batched
from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.ledger.entry import Entry
from zerothorder.objectives.comparison import INVERSE, Comparison
from zerothorder.point import Values
from zerothorder.replay import replay
from zerothorder.run import Run
from zerothorder.space import ParameterSpace

SIGMOID: dict[str, Callable[[float], float]] = {
    "logit": lambda x: 1 / (1 + math.exp(-x)),
    "probit": statistics.NormalDist().cdf,
}


class Weights(nn.Module):
    """Two layers by name, so that they are two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = (4, 3)
        self.layers = nn.ModuleList([nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)]).double()
        with torch.no_grad():
            for at, own in enumerate(self.parameters()):
                own.copy_((torch.arange(own.numel()).reshape(own.shape) - 4 + at) / 8)

    def forward(self) -> Tensor:
        # each weight is read where its layer runs: by the identity
        ones = [torch.eye(size, dtype=torch.float64) for size in self.sizes]
        return torch.cat([layer(one).T.flatten() for layer, one in zip(self.layers, ones, strict=True)])


def reward(flat: Tensor) -> float:
    return float(torch.sin(flat).sum() + 0.3 * (flat**2).sum())


class Value:
    """-reward, as a number: what the comparisons of an exact judge stand for."""

    def prepare(self, model: nn.Module, batch: Any, key: Key) -> Any:
        return batch

    def evaluate(self, model: nn.Module, prepared: Any) -> Values:
        return Values.of(-reward(model()))


def exact(link: str = "logit", of: Callable[[Tensor], float] = reward) -> Callable[..., list[float]]:
    """As many judges as there are: the share that prefers the first is σ of the difference."""
    return lambda batch, ours, theirs: [SIGMOID[link](of(a) - of(b)) for a, b in zip(ours, theirs, strict=True)]


def samples(model: nn.Module, batch: Any) -> list[Tensor]:
    return [model().detach().clone() for _ in batch]


def run_of(recipe: str, objective: Any, seed: int = 0, executor: Any = None, **settings: Any) -> Run:
    model = Weights()
    named: dict[str, Any] = {"lr": 1e-2, "eps": 1e-2} | settings
    built = catalogue.build(recipe, **named)
    return Run(model, ParameterSpace.of(model), built, objective, executor or Swap(), seed=seed)


def entries(recipe: str, objective: Any, steps: int = 5, **named: Any) -> list[Entry]:
    run = run_of(recipe, objective, **named)
    return [run.step((0, 1)) for _ in range(steps)]


@pytest.mark.parametrize("link", sorted(SIGMOID))
@pytest.mark.parametrize(("sides", "against"), [("two", "next"), ("one", "first")])
@pytest.mark.parametrize("executor", [Swap, Batched])
def test_with_an_exact_judge_the_steps_are_those_of_values(link: str, sides: str, against: Any, executor: type) -> None:
    """Card, check 1: the forward and the central estimator, to the bits that a scalar of the ledger has."""
    compared = Comparison(samples, exact(link), link=link, clip=1e-6, against=against)
    found = entries("zpg", compared, sides=sides, draws=3, executor=executor())
    plain = entries("zo-sgd", Value(), sides=sides, draws=3)
    for one, other in zip(found, plain, strict=True):
        assert [key for key, _ in one.terms] == [key for key, _ in other.terms]
        assert [s for _, s in one.terms] == pytest.approx([s for _, s in other.terms], rel=1e-5)
    assert len({scalar for entry in found for _, scalar in entry.terms}) == 15


def _mean_estimate(steps: int, **settings: Any) -> tuple[Tensor, Tensor]:
    """(mean, standard error) over steps of Σ ρ z on a linear reward of slope `slope`, at the same place."""
    run = run_of("zpg", Comparison(samples, exact(of=lambda flat: float(flat @ SLOPE)), clip=1e-6), lr=0.0, **settings)
    found: list[Tensor] = []
    for _ in range(steps):
        entry, z = run.step((0,)), torch.zeros(18, dtype=torch.float64)
        for key, scalar in entry.terms:
            at = 0
            for site in run.space:
                if getattr(run.direction, "moves", lambda *given: True)(site, key, run.state):
                    part = z[at : at + site.numel]
                    run.direction.shift(part, part.clone(), site, key, scalar, 0, run.state)
                at += site.numel
        found.append(-z)  # what is minimised is -reward
    every = torch.stack(found)
    return every.mean(0), every.std(0) / steps**0.5


SLOPE = torch.linspace(-1, 1, 18, dtype=torch.float64)


@pytest.mark.parametrize(
    "settings",
    [{"law": "gaussian"}, {"law": "rademacher"}, {"over": "block", "law": "rademacher"}],
    ids=["Gaussian", "signs", "signs of a block"],
)
def test_the_mean_over_draws_is_the_gradient_of_a_linear_reward(settings: dict[str, Any]) -> None:
    """Card, check 2: E[z zᵀ] = I. 18 means of 2,000 draws within 4.5 standard errors (chance of a miss 1e-4), and so
    small an error that a factor of 1.2 would show."""
    mean, error = _mean_estimate(2000, **settings)
    assert float(((mean - SLOPE) / error).abs().max()) < 4.5
    assert float(mean @ SLOPE / (SLOPE @ SLOPE)) == pytest.approx(1, abs=0.1)


def test_signs_lie_on_the_sphere() -> None:
    """Card: v is uniform on a sphere; of signs z/√d has length 1 exactly, of a Gaussian nearly."""
    run = run_of("zpg", Value(), law="rademacher")
    for step in range(20):
        square = 0.0
        for site in run.space:
            z = torch.zeros(site.numel, dtype=torch.float64)
            run.direction.shift(z, z.clone(), site, Key("z", step), 1.0, 0, run.state)
            square += float((z * z).sum())
        assert square == 18


def test_a_block_moves_alone_and_every_block_has_its_turn() -> None:
    run = run_of("zpg", Value(), over="block", draws=2)
    moved: set[int] = set()
    for _ in range(20):
        before = [own.detach().clone() for own in run.model.parameters()]
        entry = run.step((0,))
        blocks = {key.b % 2 for key, _ in entry.terms}
        assert len({key.b for key, _ in entry.terms}) == 2
        changed = [not torch.equal(a, b) for a, b in zip(run.model.parameters(), before, strict=True)]
        assert changed == [0 in blocks, 1 in blocks]
        moved |= {next(iter(blocks))} if len(blocks) == 1 else set()
    assert moved == {0, 1}


def test_a_sign_needs_no_link_and_a_wrong_link_distorts_a_slope() -> None:
    """Card, check 3. The wrong inverse rescales small differences alike, and large ones not."""
    steps = [entries("zspo", Comparison(samples, exact(link), link="votes"), steps=20) for link in ("logit", "probit")]
    right = entries("zspo", Comparison(samples, exact("logit"), link="logit"), steps=20)
    assert [e.terms for e in steps[0]] == [e.terms for e in steps[1]] == [e.terms for e in right]
    assert {abs(scalar) for entry in right for _, scalar in entry.terms} == {1.0}

    def ratio(eps: float) -> list[float]:
        own, wrong = (
            [e.terms[0][1] for e in entries("zpg", Comparison(samples, exact("probit"), link=link, clip=1e-9),
                                            steps=8, lr=0.0, eps=eps)]
            for link in ("probit", "logit")
        )  # fmt: skip
        return [b / a for a, b in zip(own, wrong, strict=True)]

    small, large = ratio(1e-3), ratio(0.3)
    assert small == pytest.approx([4 / math.sqrt(2 * math.pi)] * 8, rel=1e-3)
    assert max(large) > 1.1 * min(large)


def _noisy(judges: int, generator: torch.Generator, difference: float) -> Callable[..., list[float]]:
    def judge(batch: Any, ours: Sequence[Any], theirs: Sequence[Any]) -> list[float]:
        votes = torch.rand(len(ours), judges, generator=generator) < SIGMOID["logit"](difference)
        return votes.float().mean(1).tolist()

    return judge


def _said(pairs: int, judges: int, repeats: int, difference: float) -> list[float]:
    """D of `repeats` comparisons, with clip 1/(2M)."""
    generator = torch.Generator().manual_seed(pairs * 100 + judges)
    objective = Comparison(samples, _noisy(judges, generator, difference), clip=1 / (2 * judges))
    point = Values(torch.zeros(pairs), torch.ones(pairs), detail=(None, [None] * pairs))
    found: list[float] = []
    for _ in range(repeats):
        up, down = objective.compare([point, point])
        found.append(down.mean() - up.mean())
    return found


def test_noise_falls_with_the_judgements_and_the_bias_is_that_of_a_noisy_share() -> None:
    """Card, check 4: std ∝ 1/√(N·M) where the link is nearly straight, and E σ⁻¹(p̂) is the sum over the binomial."""
    repeats = 1500
    spreads = {(n, m): statistics.stdev(_said(n, m, repeats, 0.1)) for n, m in ((4, 40), (16, 40), (16, 160))}
    # a ratio of two standard deviations of 1,500 has a relative error of 0.026
    assert spreads[4, 40] / spreads[16, 40] == pytest.approx(2, rel=0.1)
    assert spreads[16, 40] / spreads[16, 160] == pytest.approx(2, rel=0.1)
    judges, difference = 5, 0.8
    p = SIGMOID["logit"](difference)
    shares = [min(max(k / judges, 0.1), 0.9) for k in range(judges + 1)]
    chances = [math.comb(judges, k) * p**k * (1 - p) ** (judges - k) for k in range(judges + 1)]
    expected = sum(c * INVERSE["logit"](s) for c, s in zip(chances, shares, strict=True))
    said = _said(8, judges, 2000, difference)
    assert abs(expected - difference) > 0.03  # there is a bias to be seen
    assert statistics.fmean(said) == pytest.approx(expected, abs=4 * statistics.stdev(said) / 2000**0.5)


@pytest.mark.parametrize("recipe", ["zpg", "zspo"])
def test_a_run_is_its_scalars_and_no_graph_is_made(recipe: str, tmp_path: Any) -> None:
    """Card, check 5: replay has the same bits; samples are drawn where nothing is kept for a gradient."""
    graphs: list[bool] = []

    def watched(model: nn.Module, batch: Any) -> list[Tensor]:
        out = model()
        graphs.append(out.requires_grad)
        return [out.clone() for _ in batch]

    model = Weights()
    built = catalogue.build(recipe, lr=1e-2, eps=1e-2, over="block")
    objective = Comparison(watched, exact())
    run = Run(model, ParameterSpace.of(model), built, objective, Swap(), path=tmp_path / "ledger.zo")
    for _ in range(10):
        run.step((0, 1))
    run.ledger.close()
    assert graphs == [False] * 20
    again = Weights()
    replay(again, tmp_path / "ledger.zo")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(Weights().parameters(), model.parameters(), strict=True))


class Bandit(nn.Module):
    """A policy of 20 parameters: two contexts, ten arms each."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(2, 10).double()
        nn.init.zeros_(self.table.weight)

    def forward(self, contexts: Tensor) -> Tensor:
        return torch.log_softmax(self.table(contexts), 1)


WORTH = torch.linspace(0, 2, 10, dtype=torch.float64)
CONTEXTS = torch.tensor([0, 1] * 32)


def _expected(model: Bandit) -> float:
    return float((model(torch.tensor([0, 1])).exp() @ WORTH).mean().detach())


class Expected:
    """-E[reward], summed up rather than sampled."""

    def prepare(self, model: nn.Module, batch: Any, key: Key) -> Any:
        return batch

    def evaluate(self, model: nn.Module, prepared: Any) -> Values:
        return Values.of(-(model(prepared).exp() @ WORTH))


def _arms(model: nn.Module, contexts: Tensor) -> list[int]:
    """A drawn arm a context; the generator is seeded alike at both points, so most pairs are the same arm."""
    return torch.multinomial(model(contexts).exp(), 1)[:, 0].tolist()


def _trained(recipe: str, objective: Any, seed: int, lr: float) -> float:
    model = Bandit()
    built = catalogue.build(recipe, lr=lr, eps=0.5)
    run = Run(model, ParameterSpace.of(model), built, objective, Swap(), seed=seed, steps=150)
    for _ in range(150):
        run.step(CONTEXTS)
    return _expected(model)


def test_comparisons_find_the_better_arms_as_values_do() -> None:
    """Card, check 6, which was expected and not run there: uniform is 1.0, the best arm 2.0. Five judges a pair; ZSPO
    has the same from judges whose link is another. That values need fewer steps did not show: signs were no slower."""

    def judging(link: str) -> Callable[..., list[float]]:
        generator = torch.Generator().manual_seed(5)

        def judge(batch: Any, ours: Sequence[int], theirs: Sequence[int]) -> list[float]:
            chance = [SIGMOID[link](float(WORTH[a] - WORTH[b])) for a, b in zip(ours, theirs, strict=True)]
            votes = torch.rand(len(ours), 5, generator=generator) < torch.tensor(chance)[:, None]
            # the same arm twice is a tie, not a vote
            return [0.5 if a == b else float(v.float().mean()) for a, b, v in zip(ours, theirs, votes, strict=True)]

        return judge

    seeds = range(3)
    values = [_trained("zo-sgd", Expected(), seed, 2.0) for seed in seeds]
    compared = [_trained("zpg", Comparison(_arms, judging("logit"), clip=0.1), seed, 0.5) for seed in seeds]
    signs = [
        _trained("zspo", Comparison(_arms, judging(link), link="votes"), seed, 0.1)
        for link, seed in itertools.product(("logit", "probit"), seeds)
    ]
    assert min(values) > 1.5
    assert min(compared) > 1.5
    assert min(signs) > 1.5


def test_greedy_samples_tie_and_move_nothing() -> None:
    """Card, trap: most pairs of a greedy policy are the same answer, and a random vote would be taken for a slope."""
    greedy = Comparison(lambda model, batch: model(batch).argmax(1).tolist(), lambda batch, a, b: [0.5] * len(a))
    for recipe in ("zpg", "zspo"):
        model = Bandit()
        run = Run(model, ParameterSpace.of(model), catalogue.build(recipe, lr=1.0), greedy, Swap())
        entry = run.step(CONTEXTS)
        assert [scalar for _, scalar in entry.terms] == [0.0]
        assert not model.table.weight.any()


def test_pairs_share_prompt_and_noise() -> None:
    """Card, trap: at the same weights both points draw the same samples, in every step others."""
    drawn: list[list[int]] = []

    def judge(batch: Any, ours: Sequence[int], theirs: Sequence[int]) -> list[float]:
        drawn.append(list(ours))
        assert ours == theirs
        return [0.5] * len(ours)

    run = Run(
        model := Bandit(), ParameterSpace.of(model), catalogue.build("zpg", eps=1e-12), Comparison(_arms, judge), Swap()
    )
    for _ in range(3):
        run.step(CONTEXTS)
    assert drawn[0] != drawn[1] != drawn[2]


def test_pairs_without_an_answer_have_no_weight() -> None:
    point = Values(torch.zeros(3), torch.ones(3), detail=(None, "abc"))
    some = Comparison(samples, lambda batch, a, b: [None, 0.9, None], clip=0.01)
    up, down = some.compare([point, point])
    assert down.mean() - up.mean() == pytest.approx(math.log(9))
    model = Weights()
    nobody = Comparison(samples, lambda batch, a, b: [None] * len(a))
    run = Run(model, ParameterSpace.of(model), catalogue.build("zpg"), nobody, Swap())
    assert run.step((0, 1)).skipped


def test_what_cannot_be_meant_is_said() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"link": "logist"}, "unknown link 'logist'; did you mean 'logit'"),
        ({"clip": 0.5}, r"clip is 0\.5; it is a share between 0 and 1/2"),
        ({"against": "last"}, "against is 'last'; there is next and first"),
    ]
    for named, sentence in wrong:
        with pytest.raises(UsageError, match=sentence):
            Comparison(samples, exact(), **named)
    with pytest.raises(UsageError, match="3 points do not make pairs"):
        entries("zpg", Comparison(samples, exact()), sides="one", draws=2)
    with pytest.raises(UsageError, match="gave 1 shares for 2 pairs"):
        entries("zpg", Comparison(samples, lambda batch, a, b: [0.5]))
    with pytest.raises(UsageError, match=r"gave 3\.0 for pair 0"):
        entries("zpg", Comparison(samples, lambda batch, a, b: [3.0] * len(a)))
    with pytest.raises(UsageError, match="sampled nothing"):
        entries("zpg", Comparison(lambda model, batch: [], exact()))
    with pytest.raises(UsageError, match="over all or a block, not over 'blocks'"):
        run_of("zpg", Value(), over="blocks")
    with pytest.raises(UsageError, match="a block is looked at from two sides"):
        run_of("zpg", Value(), over="block", sides="one")
