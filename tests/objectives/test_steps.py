"""SVPO's steps: what a search tree counts, which steps a loss moves, and both on a toy whose errors come late."""

import math
import random
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import text_models
from text_models import PAD
from zerothorder import ZerothOrder
from zerothorder.errors import UsageError
from zerothorder.objectives.preference import Pair, Preference, dpo, log_probs, with_reference
from zerothorder.objectives.steps import Node, back_up, puct, select, step_pairs, tree_pairs, value_loss

PRIORS, REWARDS = st.floats(0, 1), st.floats(-1, 1)
SIMULATIONS = st.lists(st.tuples(REWARDS, st.lists(PRIORS, max_size=4)), min_size=1, max_size=30)


# The tree


@settings(deadline=None)
@given(st.lists(st.lists(PRIORS, min_size=1, max_size=4), max_size=6), REWARDS)
def test_after_one_simulation_the_path_has_been_seen_once_with_the_reward_and_nothing_else_has(
    levels: list[list[float]], reward: float
) -> None:
    """SVPO's card, check 1."""
    root = Node((0,))
    for priors in levels:
        select(root).expand([((n,), prior) for n, prior in enumerate(priors)])
    leaf = select(root)
    back_up(leaf, reward)
    path = [leaf]
    while path[-1].parent is not None:
        path.append(path[-1].parent)
    assert len(path) == len(levels) + 1
    for node in root.walk():
        assert (node.visits, node.q) == ((1, reward) if any(node is own for own in path) else (0, 0.0))


@settings(deadline=None)
@given(SIMULATIONS, st.floats(0, 3))
def test_visits_of_children_are_all_of_the_parent_s_but_its_own_and_q_is_a_mean(
    simulations: list[tuple[float, list[float]]], c_puct: float
) -> None:
    """Check 1: N - 1 where a node was evaluated once, as a leaf; only terminals, which stay leaves, are seen again."""
    root = Node((0,))
    below: dict[int, list[float]] = {}
    for reward, priors in simulations:
        leaf = select(root, c_puct)
        back_up(leaf, reward)
        if leaf.visits == 1:  # the first look decides what follows, nothing for a terminal
            leaf.expand([((n,), prior) for n, prior in enumerate(priors)])
        node: Node | None = leaf
        while node is not None:
            below.setdefault(id(node), []).append(reward)
            node = node.parent
    assert root.visits == len(simulations)
    for node in root.walk():
        if node.children:
            assert sum(child.visits for child in node.children) == node.visits - 1
        values = below.get(id(node), [])
        assert node.visits == len(values)
        assert node.q == pytest.approx(sum(values) / max(1, len(values)), abs=1e-12)
        assert -1 <= node.q <= 1


def test_selection_weighs_the_mean_value_against_the_prior_of_what_was_seldom_seen() -> None:
    root = Node((0,), visits=9, total=3.0)
    root.expand([((1,), 0.2), ((2,), 0.5), ((3,), 0.5)])
    first, second, third = root.children
    first.visits, first.total = 3, 1.5
    second.visits, second.total = 5, 0.5
    assert puct(first) == pytest.approx(0.5 + 1.5 * 0.2 * 3 / 4)
    assert puct(second) == pytest.approx(0.1 + 1.5 * 0.5 * 3 / 6)
    assert puct(third, c_puct=2.0) == pytest.approx(2.0 * 0.5 * 3 / 1)
    assert select(root) is third
    assert select(root, c_puct=0.0) is first
    first.expand([((4,), 0.5), ((5,), 0.5)])
    assert select(root, c_puct=0.0) is first.children[0], "of equal ones the first"
    assert first.children[1].tokens() == (0, 1, 5)


def test_every_group_of_siblings_gives_a_pair_whose_prompt_is_all_before_them() -> None:
    root = Node((7, 8))
    root.expand([((1,), 0.5), ((2,), 0.5)])
    for way, rewards in zip(root.children, ((1.0, -1.0), (-1.0, -0.5)), strict=True):
        way.expand([((3, 4), 0.5), ((5,), 0.5)])
        for end, reward in zip(way.children, rewards, strict=True):
            back_up(end, reward)
    late = [Pair((7, 8, 1), (3, 4), (5,)), Pair((7, 8, 2), (5,), (3, 4))]
    assert tree_pairs(root, visits=1) == [Pair((7, 8), (1,), (2,)), *late]
    assert tree_pairs(root) == [Pair((7, 8), (1,), (2,))], "the last steps were seen once"
    assert tree_pairs(root, visits=1, gap=1.0) == [late[0]]


def test_siblings_make_a_pair_where_they_were_seen_and_differ() -> None:
    steps = [((1,), 0.9, 5), ((2,), -0.4, 5), ((3,), -1.0, 1)]
    assert step_pairs((9, 9), steps) == [Pair((9, 9), (1,), (2,))]
    assert step_pairs((9, 9), steps, visits=1) == [Pair((9, 9), (1,), (3,))]
    assert step_pairs((9, 9), steps, gap=2.0) == []
    assert step_pairs((9, 9), [((1,), 0.5, 5), ((2,), 0.5, 5)], gap=0.0) == []


def test_what_no_tree_can_hold_is_said() -> None:
    for prior in (-0.1, 1.1, math.nan):
        with pytest.raises(UsageError, match="a prior is"):
            Node((1,), prior)
    root = Node((1,))
    for value in (-1.1, 1.1, math.nan):
        with pytest.raises(UsageError, match="the value backed up is"):
            back_up(root, value)
    assert root.visits == 0


# The policy loss


def total_log_prob(model: nn.Module, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
    """log π(answer | prompt) from the logits of one row."""
    scores = model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    return torch.stack([scores[len(prompt) + n - 1, token] for n, token in enumerate(answer)]).sum()


def test_of_solutions_with_one_step_and_of_those_that_share_the_first_the_loss_is_dpo() -> None:
    """Check 2, with another model's references: a shared step cancels in the policy's ratio and in the reference's."""
    model, other = text_models.build("llama", 0), text_models.build("llama", 1)
    question, shared = (5, 6), (7, 8)
    root = Node(question)
    root.expand([((7, 8, 9), 0.5), ((7, 8, 10), 0.5)])
    for answer, reward in zip(root.children, (1.0, -1.0), strict=True):
        back_up(answer, reward)
    pairs = [*tree_pairs(root, visits=1), Pair((*question, *shared), (9,), (10,))]
    whole, step = with_reference(other, pairs, PAD)
    assert whole.references is not None
    assert step.references is not None
    assert abs(whole.references[0] - step.references[0]) > 0.1, "the shared step is in one of them"
    with torch.no_grad():
        d = [
            total_log_prob(m, question, (*shared, 9)) - total_log_prob(m, question, (*shared, 10))
            for m in (model, other)
        ]
        expected = -torch.nn.functional.logsigmoid(0.5 * (d[0] - d[1]))
        found = dpo(0.5)(log_probs(model, [whole, step], PAD))
    assert abs(float(expected) - math.log(2)) > 0.01
    assert torch.allclose(found, expected.expand(2), atol=1e-5)


QUESTIONS, TOKENS, WORDS = 10, 3, 4
VOCABULARY = QUESTIONS + TOKENS * WORDS + 10


class TwoSteps(nn.Module):
    """Sums in two steps as tables of logits. Step 1 is right in every wording: `TOKENS` tokens, one of `WORDS` each.
    Step 2 is a digit, one of ten is right."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.sums = torch.randint(0, 10, (QUESTIONS,), generator=generator)
        self.first = nn.Parameter(torch.randn(QUESTIONS, TOKENS, WORDS, generator=generator, dtype=torch.float64))
        second = torch.randn(QUESTIONS, 10, generator=generator, dtype=torch.float64)
        second[torch.arange(QUESTIONS), self.sums] += 1.0
        self.second = nn.Parameter(second)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        question = input_ids[:, 0]
        logits = self.first.new_full((len(question), TOKENS + 1, VOCABULARY), -math.inf)
        for at in range(TOKENS):
            logits[:, at, QUESTIONS + WORDS * at : QUESTIONS + WORDS * (at + 1)] = self.first[question, at]
        logits[:, TOKENS, -10:] = self.second[question]
        return SimpleNamespace(logits=logits[:, : input_ids.shape[1]])

    def right(self, question: int) -> tuple[int]:
        """The step 2 that is right."""
        return (VOCABULARY - 10 + int(self.sums[question]),)

    def step_accuracy(self) -> float:
        """Probability of the right step 2 after a question; step 1 is always right."""
        return float(self.second.detach().softmax(-1)[torch.arange(QUESTIONS), self.sums].mean())

    def log_first(self, question: int, step: tuple[int, ...]) -> float:
        """log π of a step 1."""
        scores = self.first[question].detach().log_softmax(-1)
        return sum(float(scores[at, (token - QUESTIONS) % WORDS]) for at, token in enumerate(step))

    def sampled(self, question: int, dice: random.Random, last: bool) -> tuple[tuple[int, ...], float]:
        """A step 1 or 2 and its prior, exp(mean log-probability of its tokens)."""
        tables = [self.second[question]] if last else list(self.first[question])
        start, step, score = VOCABULARY - 10 if last else QUESTIONS, [], 0.0
        for at, table in enumerate(tables):
            chances = table.softmax(-1).tolist()
            (drawn,) = dice.choices(range(len(chances)), chances)
            step.append(start + WORDS * at + drawn)
            score += math.log(chances[drawn]) / len(tables)
        return tuple(step), math.exp(score)


def wording(word: int) -> tuple[int, ...]:
    """A step 1 made of the same word of each token's `WORDS`."""
    return tuple(QUESTIONS + WORDS * at + word for at in range(TOKENS))


def test_a_right_first_step_is_left_alone_by_the_step_s_loss_and_unlearnt_by_the_solution_s() -> None:
    """Check 4: of a right and a wrong solution with two right first steps, and of the wrong one's own last step."""
    reference = TwoSteps(1)
    ends = [(TwoSteps(0).right(q), (VOCABULARY - 10 + (int(TwoSteps(0).sums[q]) + 3) % 10,)) for q in range(QUESTIONS)]
    wholes = [Pair((q,), (*wording(0), *right), (*wording(1), *wrong)) for q, (right, wrong) in enumerate(ends)]
    steps = [Pair((q, *wording(1)), right, wrong) for q, (right, wrong) in enumerate(ends)]
    for pairs, alone in ((steps, True), (wholes, False)):
        model = TwoSteps(0)
        own = with_reference(reference, pairs, PAD)
        before = [model.log_first(q, wording(1)) for q in range(QUESTIONS)]
        Preference(PAD, dpo()).evaluate(model, own).value.mean().backward()
        assert model.first.grad is not None
        assert model.second.grad is not None
        assert model.second.grad.abs().sum() > 0.01
        with torch.no_grad():
            for parameter, slope in ((model.first, model.first.grad), (model.second, model.second.grad)):
                parameter -= slope
        after = [model.log_first(q, wording(1)) for q in range(QUESTIONS)]
        if alone:
            assert torch.equal(model.first.grad, torch.zeros_like(model.first))
            assert after == before
        else:
            assert all(later < earlier - 1e-3 for later, earlier in zip(after, before, strict=True))


def searched(model: TwoSteps, dice: random.Random) -> list[Node]:
    """A tree a question, of 40 simulations with 5 samples a node; a leaf's value is the reward of one rollout."""
    roots: list[Node] = []
    for question in range(QUESTIONS):
        root = Node((question,))
        roots.append(root)
        for _ in range(40):
            leaf = select(root)
            ended = len(leaf.tokens()) == TOKENS + 2
            if not ended:
                last = leaf is not root
                leaf.expand(list(dict(model.sampled(question, dice, last) for _ in range(5)).items()))
            end = leaf.step if ended else model.sampled(question, dice, last=True)[0]
            back_up(leaf, 1.0 if end == model.right(question) else -1.0)
    return roots


def late_pairs(model: TwoSteps, dice: random.Random) -> list[Pair]:
    """Last steps of the trees. One look is enough at them: a terminal's reward is no estimate."""
    return [p for root in searched(model, dice) for p in tree_pairs(root, visits=1) if len(p.prompt) == TOKENS + 1]


def test_two_points_give_the_slope_of_the_loss_of_fixed_trees() -> None:
    """Check 5, on pairs of a search, with another model's references."""
    model = TwoSteps(0)
    pairs = with_reference(TwoSteps(1), late_pairs(model, random.Random(0)), PAD)
    objective = Preference(PAD, dpo())
    exact = torch.autograd.grad(objective.evaluate(model, pairs).value.mean(), [model.second])[0].reshape(-1)
    run = ZerothOrder(model, "mezo", objective=objective, lr=0.0, eps=1e-2).run
    found, expected = [], []
    for _ in range(5):
        ((key, slope),) = run.step(pairs).terms
        z = torch.zeros(exact.numel(), dtype=torch.float64)
        run.direction.shift(z, z.clone(), run.space.by_name["second"], key, 1.0, 0, run.state)
        found.append(slope)
        expected.append(float(exact @ z))  # the step's loss knows nothing of `first`
    assert max(map(abs, expected)) > 1e-2
    assert found == pytest.approx(expected, abs=2e-3 * max(map(abs, expected)))


def solution(model: TwoSteps, step: Pair, end: Sequence[int], dice: random.Random) -> tuple[int, ...]:
    """A sampled step 1, then the given step 2."""
    return (*model.sampled(step.prompt[0], dice, last=False)[0], *end)


def test_late_errors_are_unlearnt_faster_from_steps_than_from_solutions_at_equal_forwards() -> None:
    """Check 5: the same last steps with the tree's step 1 as their prompt, and after two sampled ones, as solutions."""
    gains: list[float] = []
    for seed in range(4):
        base, dice = TwoSteps(seed), random.Random(seed)
        steps = late_pairs(base, dice)
        wholes = [
            Pair(own.prompt[:1], solution(base, own, own.chosen, dice), solution(base, own, own.rejected, dice))
            for own in steps
        ]
        found: list[tuple[float, int]] = []
        for pairs in (steps, wholes):
            model = TwoSteps(seed)
            optimizer = ZerothOrder(model, "spsa", objective=Preference(PAD, dpo()), lr=10.0, eps=1e-2, seed=seed)
            own = with_reference(model, pairs, PAD)
            for _ in range(100):
                optimizer.step(own)
            found.append((model.step_accuracy(), optimizer.run.around.meter.examples))
        assert found[0][1] == found[1][1] > 0
        assert found[0][0] > base.step_accuracy() + 0.1
        gains.append(found[0][0] - found[1][0])
    assert min(gains) >= 0
    assert sum(gains) / len(gains) > 0.1


# The value loss


def test_values_are_zero_at_the_right_ones_and_only_ends_count() -> None:
    """Check 3."""
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


def test_the_value_loss_has_the_slope_of_autograd() -> None:
    """With a pair inside the margin and one beyond it."""
    generator = torch.Generator().manual_seed(0)
    values, returns, along = (torch.randn(2, 6, generator=generator, dtype=torch.float64) for _ in range(3))
    returns = torch.tanh(returns)
    ends = torch.tensor([[False, True, False, True, False, True], [False, False, True, False, True, True]])
    values[0, 1], values[1, 2], values[0, 3], values[1, 4] = 0.2, 0.1, 1.0, -1.0
    pairs = torch.tensor([[[0, 1], [1, 2]], [[0, 3], [1, 4]]])

    def loss(at: Tensor, margin: float = 0.5) -> Tensor:
        return value_loss(at, returns, ends, margin=margin, pairs=pairs)

    values.requires_grad_(True)
    slopes = {margin: torch.autograd.grad(loss(values, margin), [values])[0] for margin in (0.0, 0.5)}
    assert not torch.equal(slopes[0.0], slopes[0.5]), "the margin is in it"
    assert torch.equal(slopes[0.5][~ends], torch.zeros(6, dtype=torch.float64))
    exact = float((slopes[0.5] * along).sum())
    with torch.no_grad():
        found = float(loss(values + 1e-5 * along) - loss(values - 1e-5 * along)) / 2e-5
    assert abs(exact) > 1e-2
    assert found == pytest.approx(exact, rel=1e-6)
