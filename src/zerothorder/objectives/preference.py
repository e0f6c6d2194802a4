"""Preference by pairs: a loss of four sequence log-probabilities, and MPO's family of such losses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from zerothorder.errors import UsageError
from zerothorder.key import Key
from zerothorder.objectives.sequences import Tokens, answer_nll
from zerothorder.point import Values


@dataclass(frozen=True)
class Pair:
    """A prompt and two answers in token ids. `references`: log-probabilities of (chosen, rejected) under the reference,
    None until `with_reference` has filled them. A step of a solution is a pair too: the prompt is all before the step.
    """

    prompt: Tokens
    chosen: Tokens
    rejected: Tokens
    references: tuple[float, float] | None = None


@dataclass(frozen=True)
class LogProbs:
    """Summed log-probabilities (pairs,) of both answers under policy and reference, and the answers' lengths."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    len_chosen: Tensor
    len_rejected: Tensor

    def averaged(self) -> "LogProbs":
        """A token's mean in place of the sum, of answers of length 1: probabilities of long ones are 0 in floating
        point."""
        c, r = self.len_chosen, self.len_rejected
        return LogProbs(
            self.chosen / c, self.rejected / r, self.ref_chosen / c, self.ref_rejected / r, torch.ones_like(c),
            torch.ones_like(r),
        )  # fmt: skip


Loss = Callable[[LogProbs], Tensor]
"""Four log-probabilities a pair → a loss a pair."""


def dpo(beta: float = 0.1) -> Loss:
    """-log σ(β((l_w - r_w) - (l_l - r_l))). Source: Rafailov et al. 2023; for steps of a solution SVPO, Chen 2024."""
    return mpo(Potential(log=1.0), beta)


@dataclass(frozen=True)
class Potential:
    """φ⁻¹(p) = linear·p + log·ln p + Σ_j weight_j·act_j(scale_j·p + shift_j), increasing where nothing is negative.

    Units are (act, weight, scale, shift), act one of `UNITS`. Computed from ln p. `odds` adds ln(p / (1 - p)). A
    potential of `log` alone makes `mpo` DPO; one of `odds` alone, without a reference and over `averaged`
    log-probabilities, ORPO's odds-ratio term. Source: MPO (Alfano et al., arXiv 2411.06568), from memory.
    """

    linear: float = 0.0
    log: float = 0.0
    units: Sequence[tuple[str, float, float, float]] = ()
    odds: float = 0.0
    constant: float = 0.0

    def __post_init__(self) -> None:
        numbers = [self.linear, self.log, self.odds, *(n for _, *own in self.units for n in own)]
        if min(numbers) < 0:
            raise UsageError("a potential falls somewhere with a negative parameter; give numbers of 0 or more")
        for act, *_ in self.units:
            if act not in UNITS:
                raise UsageError(f"there is no unit {act!r}; give one of {', '.join(UNITS)}")

    def __call__(self, log_p: Tensor) -> Tensor:
        """φ⁻¹ of probabilities given by their logarithms."""
        p = log_p.exp()
        found = self.constant + self.linear * p + self.log * log_p
        if self.odds:
            found = found + self.odds * (log_p - torch.log1p(-p))
        for act, weight, scale, shift in self.units:
            found = found + weight * UNITS[act](scale * p + shift)
        return found

    def divergence(self, y: Tensor, y0: Tensor) -> Tensor:
        """D(y ‖ y₀) = h(y) - h(y₀) - φ⁻¹(y₀)·(y - y₀) with h' = φ⁻¹, elementwise for probabilities in (0, 1].

        What the potential puts in the place of KL, `log` alone keeps: y ln(y/y₀) - (y - y₀). At least 0, and 0 only
        where y = y₀, unless all but the constant is 0.
        """
        found = self.linear * (y - y0) ** 2 / 2 + self.log * _generalised_kl(y, y0)
        if self.odds:
            found = found + self.odds * (_generalised_kl(y, y0) + _generalised_kl(1 - y, 1 - y0))
        for act, weight, scale, shift in self.units:
            if scale:  # a unit that stands still adds a constant to φ⁻¹, which cancels
                found = found + weight * _DIVERGENCES[act](scale * y + shift, scale * y0 + shift) / scale
        return found


def _generalised_kl(u: Tensor, v: Tensor) -> Tensor:
    """u ln(u/v) - (u - v), also where u and v are close; v where u is 0."""
    return torch.where(u > 0, u * torch.log1p((u - v) / v), torch.zeros_like(u)) - (u - v)


UNITS: dict[str, Callable[[Tensor], Tensor]] = {
    "cube": lambda x: x**3,
    "square": lambda x: x.clamp(min=0) ** 2,
    "root": lambda x: x.clamp(min=0).sqrt(),
    "cube_root": lambda x: x.clamp(min=0) ** (1 / 3),
    "log": lambda x: (x.clamp(min=0) + 1e-3).log(),
    "exp": lambda x: x.exp(),
}
"""Increasing functions that a potential is made of; x ≥ 0 where its parameters are."""

_DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cube": lambda u, v: (u - v) ** 2 * (u**2 + 2 * u * v + 3 * v**2) / 4,
    "square": lambda u, v: (u - v) ** 2 * (u + 2 * v) / 3,
    "root": lambda u, v: (u**0.5 - v**0.5) ** 2 * (2 * u**0.5 + v**0.5) / 3,
    "cube_root": lambda u, v: _of_cube_roots(u ** (1 / 3), v ** (1 / 3)),
    "log": lambda u, v: _generalised_kl(u + 1e-3, v + 1e-3),
    "exp": lambda u, v: v.exp() * (torch.expm1(u - v) - (u - v)),
}
"""∫ (act(s) - act(v)) ds from v to u, of `UNITS` at u, v ≥ 0; factored, so that close u and v do not cancel."""


def _of_cube_roots(r: Tensor, s: Tensor) -> Tensor:
    """¾(r⁴ - s⁴) - s(r³ - s³)."""
    return (r - s) ** 2 * (3 * r**2 + 2 * r * s + s**2) / 4


def mpo(potential: Potential, beta: float = 0.1, *, reference: bool = True, imitation: float = 0.0) -> Loss:
    """-log σ(β Δ) - imitation·l_w/|y_w|, Δ = φ⁻¹(π_w) - φ⁻¹(ref_w) - φ⁻¹(π_l) + φ⁻¹(ref_l), φ⁻¹ the potential.

    Without `reference` its two terms are left out. `imitation` falling over a run is MPO's temporally aware loss.
    """

    def loss(p: LogProbs) -> Tensor:
        delta = potential(p.chosen) - potential(p.rejected)
        if reference:
            delta = delta - potential(p.ref_chosen) + potential(p.ref_rejected)
        return -logsigmoid(beta * delta) - imitation * p.chosen / p.len_chosen

    return loss


@dataclass(frozen=True)
class Preference:
    """A loss of pairs at the model as it is, one value a pair. The reference's log-probabilities are constants of the
    rows (`with_reference`), so memory is that of one model."""

    pad_id: int
    loss: Loss

    def prepare(self, model: nn.Module, batch: Sequence[Pair], key: Key) -> tuple[Pair, ...]:
        """The pairs; UsageError where one has no reference yet."""
        if any(pair.references is None for pair in batch):
            raise UsageError("a pair has no reference; call with_reference(model, pairs, pad_id) before training")
        return tuple(batch)

    def count(self, prepared: Sequence[Pair]) -> int:
        """Number of prepared pairs."""
        return len(prepared)

    def token_count(self, prepared: Sequence[Pair]) -> int:
        """Tokens of the prepared pairs with their padding: two rows a pair times the longest."""
        return 2 * len(prepared) * max(len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in prepared)

    def select(self, prepared: Sequence[Pair], rows: Sequence[int]) -> tuple[Pair, ...]:
        """Some of the prepared pairs."""
        return tuple(prepared[row] for row in rows)

    def evaluate(self, model: nn.Module, prepared: Sequence[Pair]) -> Values:
        """The loss of each pair."""
        return Values.of(self.loss(log_probs(model, prepared, self.pad_id)))


def log_probs(model: nn.Module, pairs: Sequence[Pair], pad_id: int) -> LogProbs:
    """Both answers of every pair in one forward; references as the pairs have them, 0 where they have none."""
    answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    scores = -answer_nll(model, [pair.prompt for pair in pairs] * 2, answers, pad_id)
    chosen, rejected = scores[: len(pairs)], scores[len(pairs) :]

    def of(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=scores.dtype, device=scores.device)

    references = [pair.references or (0.0, 0.0) for pair in pairs]
    lengths = [(float(len(pair.chosen)), float(len(pair.rejected))) for pair in pairs]
    return LogProbs(
        chosen, rejected, of([a for a, _ in references]), of([b for _, b in references]), of([a for a, _ in lengths]),
        of([b for _, b in lengths]),
    )  # fmt: skip


def with_reference(model: nn.Module, pairs: Sequence[Pair], pad_id: int, rows: int = 16) -> list[Pair]:
    """The pairs with the model's log-probabilities as it is now."""
    found: list[Pair] = []
    with torch.inference_mode():
        for at in range(0, len(pairs), rows):
            piece = pairs[at : at + rows]
            now = log_probs(model, piece, pad_id)
            for pair, chosen, rejected in zip(piece, now.chosen, now.rejected, strict=True):
                found.append(replace(pair, references=(float(chosen), float(rejected))))
    return found


__all__ = [
    "LogProbs", "Loss", "Pair", "Potential", "Preference", "dpo", "log_probs", "mpo", "with_reference",
]  # fmt: skip
