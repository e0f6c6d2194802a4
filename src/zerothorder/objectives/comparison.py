"""Comparisons: what two points are worth to each other, from which of two samples is preferred. No reward, no model of
one: people, a judge or two versions in use give the answers."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from zerothorder.errors import UsageError, nearest
from zerothorder.key import Key
from zerothorder.point import Values

Sample = Callable[[nn.Module, Any], Sequence[Any]]
"""(the model as it is, a batch) → one sample of each example, drawn from torch's generator: it is seeded alike at every
point, so both samples of a pair share prompt and noise."""
Judge = Callable[[Any, Sequence[Any], Sequence[Any]], Sequence[float | None]]
"""(batch, samples of one point, samples of another) → of each pair the share of its judges that prefer the first: 1/2
for a tie, None where nobody answered."""

INVERSE: dict[str, Callable[[float], float]] = {
    "logit": lambda p: math.log(p / (1 - p)),
    "probit": statistics.NormalDist().inv_cdf,
    "votes": lambda p: p - 0.5,
}
"""σ⁻¹ of a link σ, by which a share of judges becomes a difference of values: that of Bradley-Terry, that of Thurstone;
"votes" is no link's, its sign is the majority's whatever the link."""


@dataclass(frozen=True)
class Comparison:
    """Values of two points whose difference is what a comparison says: L(a) - L(b) = -mean_n σ⁻¹(clip(p_n)).

    p_n is the share of judges that prefer what point a sampled for example n, clipped to [`clip`, 1 - `clip`]; 1/(2M)
    for M judges is customary. Where σ(r_a - r_b) is the chance that a sample of reward r_a is preferred, the difference
    is that of the expected rewards, but for two things: σ⁻¹ of a noisy share is biased, less with more judges, and
    clipping bounds it. With one judge a pair it has two values only: take "votes" then, and a recipe of signs (`zspo`).

    `against` says who is compared: "next", the points of a step two by two, as two-sided recipes ask for them; or
    "first", every later point with the first, as one-sided ones do. A step costs pairs times judges, each time.

    UsageError for an unknown link, a clip outside (0, 1/2), points that do not pair up, and a judge that gives other
    than a share a pair. Source: ZPG (Zhang and Ying, ICLR 2025, arXiv 2409.17401), from memory.
    """

    sample: Sample
    judge: Judge
    link: str = "logit"
    clip: float = 0.05
    against: Literal["next", "first"] = "next"

    def __post_init__(self) -> None:
        if self.link not in INVERSE:
            raise UsageError(f"unknown link {self.link!r}{nearest(self.link, INVERSE)}")
        if not 0 < self.clip < 0.5:
            raise UsageError(f"clip is {self.clip:g}; it is a share between 0 and 1/2, 1/(2M) for M judges")
        if self.against not in ("next", "first"):
            raise UsageError(f"against is {self.against!r}; there is next and first")

    def prepare(self, model: nn.Module, batch: Any, key: Key) -> Any:
        """The batch: nothing is computed at θ."""
        return batch

    def evaluate(self, model: nn.Module, prepared: Any) -> Values:
        """The point's samples, of no value by themselves."""
        drawn = list(self.sample(model, prepared))
        if not drawn:
            raise UsageError("the policy sampled nothing; a comparison needs one sample of each example of the batch")
        return Values(torch.zeros(len(drawn), dtype=torch.float64), torch.ones(len(drawn)), detail=(prepared, drawn))

    def compare(self, values: Sequence[Values]) -> list[Values]:
        """Of each two points -q/2 and q/2, or 0 at the first and -q at every later one; q a pair."""
        if self.against == "first":
            base, *later = values
            asked = [self._asked(own, base) for own in later]
            return [
                _values([0.0] * len(base.value)),
                *(_values([None if q is None else -q for q in own]) for own in asked),
            ]
        if len(values) % 2:
            raise UsageError(
                f"{len(values)} points do not make pairs; give against='first', or take a recipe with two sides"
            )
        found: list[Values] = []
        for up, down in zip(values[::2], values[1::2], strict=True):
            asked = self._asked(up, down)
            found += [_values([None if q is None else sign * q / 2 for q in asked]) for sign in (-1.0, 1.0)]
        return found

    def _asked(self, one: Values, other: Values) -> list[float | None]:
        """σ⁻¹ of what the judge says of one's samples beside the other's."""
        (batch, ours), (_, theirs) = one.detail, other.detail
        shares = list(self.judge(batch, ours, theirs))
        if len(shares) != len(ours):
            raise UsageError(
                f"the judge gave {len(shares)} shares for {len(ours)} pairs; give one each, None for no answer"
            )
        for number, share in enumerate(shares):
            if share is not None and not 0 <= share <= 1:
                raise UsageError(f"the judge gave {share} for pair {number}; a share of judges is from 0 to 1")
        return [None if p is None else INVERSE[self.link](min(max(p, self.clip), 1 - self.clip)) for p in shares]


def _values(found: Sequence[float | None]) -> Values:
    """Pairs without an answer have no weight."""
    value = torch.tensor([0.0 if own is None else own for own in found], dtype=torch.float64)
    return Values(value, torch.tensor([float(own is not None) for own in found], dtype=torch.float64))


__all__ = ["INVERSE", "Comparison", "Judge", "Sample"]
