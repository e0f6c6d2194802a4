"""Step-level preferences: a search tree's values, pairs of sibling steps, a value loss.

SVPO: Chen, Liao, Li, Fan, "Step-level Value Preference Optimization for Mathematical Reasoning", Findings of EMNLP
2024, arXiv 2406.10858; the search is that of its sibling AlphaMath (arXiv 2405.03553), whose code was published. A step
is a pair of `zerothorder.objectives.preference` whose prompt is all before the step, so `Preference` trains on it with
`dpo`. Trees stay as they are while a policy trains on them: one searched anew by a perturbed policy is another loss.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zerothorder.errors import UsageError
from zerothorder.objectives.preference import Pair
from zerothorder.objectives.sequences import Tokens


@dataclass(eq=False)
class Node:
    """One step of a solution in a search tree; a root's step is the question.

    `prior` is exp(mean log-probability of the step's tokens), N is `visits`, Q = `total` / N the mean of the values
    that were backed up through the node, 0 before the first. UsageError where a prior is not in [0, 1].
    """

    step: Tokens
    prior: float = 1.0
    parent: "Node | None" = field(default=None, repr=False)
    children: list["Node"] = field(default_factory=list["Node"])
    visits: int = 0
    total: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.prior <= 1:
            raise UsageError(f"a prior is {self.prior}; give exp(mean log-probability of the step's tokens), 0 to 1")

    @property
    def q(self) -> float:
        """Q, in [-1, 1]."""
        return self.total / self.visits if self.visits else 0.0

    def expand(self, steps: Sequence[tuple[Tokens, float]]) -> None:
        """Children from (step, prior): what a model sampled after this node."""
        self.children += [Node(step, prior, self) for step, prior in steps]

    def tokens(self) -> tuple[int, ...]:
        """The question and all steps down to this one."""
        return (*(self.parent.tokens() if self.parent else ()), *self.step)

    def walk(self) -> Iterator["Node"]:
        """This node and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def puct(node: Node, c_puct: float = 1.5) -> float:
    """Q + c_puct·prior·√N_parent / (1 + N); a root's is its Q."""
    above = node.parent.visits if node.parent else 0
    return node.q + c_puct * node.prior * math.sqrt(above) / (1 + node.visits)


def select(root: Node, c_puct: float = 1.5) -> Node:
    """The leaf that the highest `puct` among siblings leads to; of equal ones the first."""
    node = root
    while node.children:
        node = max(node.children, key=lambda child: puct(child, c_puct))
    return node


def back_up(leaf: Node, value: float) -> None:
    """Adds a value to the leaf and to every ancestor, the root included. UsageError where it is not in [-1, 1].

    A value is a terminal's reward (1 right, -1 wrong) or a leaf's estimate. N of a node is the visits of its children
    and the back-ups that began at the node itself: N - 1 are its children's where every node that has children was
    evaluated once as a leaf, the root too.
    """
    if not -1 <= value <= 1:
        raise UsageError(f"the value backed up is {value}; give a reward or an estimate in [-1, 1]")
    node: Node | None = leaf
    while node is not None:
        node.visits += 1
        node.total += value
        node = node.parent


def tree_pairs(root: Node, *, visits: int = 2, gap: float = 0.1) -> list[Pair]:
    """The pairs of all siblings of a tree (`step_pairs`), a prompt being what comes before them."""
    found: list[Pair] = []
    for node in root.walk():
        steps = [(child.step, child.q, child.visits) for child in node.children]
        found += step_pairs(node.tokens(), steps, visits=visits, gap=gap)
    return found


def step_pairs(
    prefix: Tokens, steps: Sequence[tuple[Tokens, float, int]], *, visits: int = 2, gap: float = 0.1
) -> list[Pair]:
    """The best and the worst of sibling steps (tokens, Q, visits) that were seen often enough and differ clearly: at
    most one pair. Equal Q give none."""
    seen = sorted((own for own in steps if own[2] >= visits), key=lambda own: own[1])
    if len(seen) < 2 or seen[-1][1] - seen[0][1] < max(gap, 1e-12):
        return []
    return [Pair(prefix, seen[-1][0], seen[0][0])]


def value_loss(
    values: Tensor, returns: Tensor, ends: Tensor, *, margin: float = 0.0, pairs: Tensor | None = None
) -> Tensor:
    """Mean over step ends of (tanh V - Q)², plus the mean of max(0, margin - (tanh V_w - tanh V_l)) over `pairs`.

    `values` and `returns` (rows, tokens), `ends` a mask of the last tokens of steps, `pairs` (n, 2, 2) of (row, token)
    of better and worse steps. Source: SVPO (Chen et al. 2024), from its card: the margin term is a summary's.
    """
    bounded = torch.tanh(values)
    found = ((bounded - returns) ** 2)[ends].mean()
    if pairs is not None and len(pairs):
        better, worse = (bounded[pairs[:, at, 0], pairs[:, at, 1]] for at in (0, 1))
        found = found + (margin - (better - worse)).clamp(min=0).mean()
    return found


__all__ = ["Node", "back_up", "puct", "select", "step_pairs", "tree_pairs", "value_loss"]
