"""Where to evaluate, and what came back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from zerothorder.errors import UsageError
from zerothorder.key import Key

Term = tuple[Key | str, float]
"""(direction, coefficient): a `Key` names a draw, a string names a vector in the State."""


@dataclass(frozen=True, slots=True)
class Point:
    """θ + Σ coefficient·direction, evaluated on some rows of a named batch. Never a copied model.

    `rows` restricts to these examples (None: all). `want` is "value"; or "gradient", by autograd, of every site or of
    `sites`; or "slope", the derivative along the terms at θ itself, by forward-mode differentiation.
    """

    terms: tuple[Term, ...] = ()
    on: str = "main"
    rows: tuple[int, ...] | None = None
    want: Literal["value", "gradient", "slope"] = "value"
    sites: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Values:
    """Per-example values and weights at one point, float32 or better, shape (examples,).

    `gradient` (site name → tensor) and `slope` (examples,) are filled for points that wanted one; `detail` is the
    objective's own affair.
    """

    value: Tensor
    weight: Tensor
    gradient: dict[str, Tensor] | None = None
    detail: Any = None
    slope: Tensor | None = None

    @classmethod
    def of(cls, value: Tensor | float | Sequence[float], weight: Tensor | None = None) -> "Values":
        """Values of equal weight from a scalar, a list or a tensor, which keeps its graph if it has one."""
        tensor = torch.as_tensor(value, dtype=None if torch.is_tensor(value) else torch.float64).cpu()
        tensor = tensor.reshape(-1)
        if tensor.dtype not in (torch.float32, torch.float64):
            tensor = tensor.float()
        return cls(tensor, torch.ones_like(tensor) if weight is None else weight.detach().cpu().to(tensor.dtype))

    @classmethod
    def joined(cls, parts: "Sequence[Values]") -> "Values":
        """The examples of several, in order."""
        slopes = [p.slope for p in parts if p.slope is not None]
        value, weight = torch.cat([p.value for p in parts]), torch.cat([p.weight for p in parts])
        return cls(value, weight, slope=torch.cat(slopes) if slopes else None)

    def mean(self) -> float:
        """Σ weight·value / Σ weight, in float64 and in the order of the rows."""
        return self._mean(self.value)

    def mean_slope(self) -> float:
        """Σ weight·slope / Σ weight. UsageError where nobody computed slopes."""
        if self.slope is None:
            raise UsageError("these values hold no slope; points that want one need an executor that differentiates")
        return self._mean(self.slope)

    def _mean(self, values: Tensor) -> float:
        weight = self.weight.double()
        return float((values.detach().double() * weight).sum() / weight.sum())


@dataclass(frozen=True)
class Estimate:
    """What an estimator learned: terms [(key, scalar)] whose Σ scalar·z estimates the gradient, and named scalars.

    `absolute`: the scalars already hold the step size (the update subtracts them as they are). `dense`: a
    first-order part by site name; an update that cannot use it refuses. The ledger has its hash, and where it is `kept`
    its numbers beside it: one that is not cannot be replayed without the data.
    """

    terms: tuple[tuple[Key, float], ...]
    notes: dict[str, float] = field(default_factory=dict[str, float])
    dense: dict[str, Tensor] | None = None
    absolute: bool = False
    kept: bool = True
