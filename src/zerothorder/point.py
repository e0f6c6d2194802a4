"""Where to evaluate, and what came back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from zerothorder.key import Key

Term = tuple[Key | str, float]
"""(direction, coefficient): a `Key` names a draw, a string names a vector in the State."""


@dataclass(frozen=True, slots=True)
class Point:
    """θ + Σ coefficient·direction, evaluated on some rows of a named batch. Never a copied model.

    `rows` restricts to these examples (None: all). `want` is "value" or "gradient" (of every site, by autograd).
    """

    terms: tuple[Term, ...] = ()
    on: str = "main"
    rows: tuple[int, ...] | None = None
    want: Literal["value", "gradient"] = "value"


@dataclass(frozen=True, slots=True)
class Values:
    """Per-example values and weights at one point, float32 or better, shape (examples,).

    `gradient` (site name → tensor) is filled for points that wanted one; `detail` is the objective's own affair.
    """

    value: Tensor
    weight: Tensor
    gradient: dict[str, Tensor] | None = None
    detail: Any = None

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
        return cls(torch.cat([p.value for p in parts]), torch.cat([p.weight for p in parts]))

    def mean(self) -> float:
        """Σ weight·value / Σ weight, in float64 and in the order of the rows."""
        weight = self.weight.double()
        return float((self.value.detach().double() * weight).sum() / weight.sum())


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
