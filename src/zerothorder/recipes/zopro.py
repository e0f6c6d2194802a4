"""ZOPrO: two points along a mixture of the previous policy update and noise off the reward model's last change."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from safetensors.torch import load
from torch import Tensor

from zerothorder.directions.guided import Guided
from zerothorder.errors import UsageError, nearest
from zerothorder.estimate import Estimator, Step
from zerothorder.estimators.finite_difference import central
from zerothorder.exact import ordered_dot
from zerothorder.key import Key
from zerothorder.ledger.entry import Rates
from zerothorder.space import ParameterSpace, stored_name
from zerothorder.updates import Update
from zerothorder.updates.schedules import rates_of
from zerothorder.updates.transforms import WeightDecay

if TYPE_CHECKING:
    from zerothorder.run import Run

MU, V = "mu", "v"
NEAR_ONE = 1 - 1e-3


@dataclass(frozen=True)
class ZOPrO:
    """θ ← θ - lr·ρ z, ρ = (L(θ + εz) - L(θ - εz)) / 2ε, z = d·mu + √(1-d²)·‖mu‖·u a tensor, u random, unit, off v.

    Paper: Galatolo, Dai, Winkle, Beloucif, "Visualising Policy-Reward Interplay to Inform Zeroth-Order Preference
    Optimisation of Large Language Models", Findings of ACL 2025, arXiv 2503.03460. mu is the policy's previous update,
    v the reward model's last change, of length 1 a tensor (or missing). d falls from 0.999: "linear" by 1/horizon a
    step, to 0 and no further; "exponential" as e^-t. `horizon` 0 means the run's steps.

    Its settings: ε 1e-5, lr 1e-4 falling linearly to 0, LoRA r 64 of a 1 B model, RLOO with two samples a prompt.
    ‖z‖ = ‖mu‖, so a step moves by lr·ρ·‖mu‖ and ε is a share of the previous update, not MeZO's ε. Over a base in
    bfloat16 small shares are lost in rounding (docs/log.md): take ε about 1 there.

    mu and v are attachments of the ledger: `guide(run, mu, v)`, or `mu` and `v` here as files of safetensors.

    When not to use it: where no earlier update is known to point the right way, plain draws lose nothing.
    """

    name: ClassVar[str] = "zopro"
    paper: ClassVar[str] = "Galatolo et al., Visualising Policy-Reward Interplay …, arXiv 2503.03460"
    columns: ClassVar[tuple[str, ...]] = ("loss", "projected_gradient")
    tags: ClassVar[tuple[str, ...]] = ("z", MU)

    lr: float = 1e-4
    eps: float = 1e-5
    draws: int = 1
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: int = 0
    decay: Literal["linear", "exponential"] = "linear"
    horizon: int = 0
    law: Literal["gaussian", "rademacher"] = "gaussian"
    mu: str = ""
    v: str = ""

    def direction(self, run_key: bytes) -> Guided:
        return Guided(run_key, self.law, along=MU, off=V)

    def estimator(self) -> Estimator:
        return central(self.eps, self.draws, self.mixture)

    def mixture(self, step: Step, draw: int) -> tuple[tuple[Key, float], ...]:
        """d·mu + √(1-d²)·z."""
        share = self.share(step.index, self.horizon or step.steps)
        # the written scalars hold d, so no library's exp is asked again in replay
        parts = ((Key(MU, 0), share), (step.key(draw), math.sqrt(1 - share * share)))
        return tuple(part for part in parts if part[1])

    def share(self, step: int, horizon: int) -> float:
        """d at a step. UsageError for a linear decay over nobody knows how many steps."""
        if self.decay == "exponential":
            return NEAR_ONE * math.exp(-step)
        if self.decay != "linear":
            raise UsageError(f"unknown decay {self.decay!r}{nearest(self.decay, ('linear', 'exponential'))}")
        if horizon < 1:
            raise UsageError("a linear decay needs to know over how many steps; give horizon, or steps of the run")
        return max(0.0, NEAR_ONE - step / horizon)

    def update(self) -> Update:
        return Update((WeightDecay(),))

    def rates(self, step: int, steps: int) -> Mapping[str, Rates]:
        return rates_of(self, step, steps)

    def setup(self, run: "Run") -> None:
        """Attach what the fields name. Without them, `guide` is to be called before the first step."""
        if self.mu:
            guide(run, _read(self.mu), _read(self.v) if self.v else None)


def guide(run: "Run", mu: Mapping[str, Tensor], v: Mapping[str, Tensor] | None = None) -> None:
    """Attach the previous update `mu` and, if there is one, the change `v` to lead away from, by parameter name.

    v is brought to length 1 a tensor; a tensor of it that is all zero leads nowhere. UsageError for other names or
    shapes than the searched tensors', for numbers that are none, for a mu that is zero everywhere.
    """
    found = _fitted(mu, run.space, MU)
    if not any(bool(tensor.any()) for tensor in found.values()):
        raise UsageError("mu is zero in every tensor, so every direction would be; give an update that moved something")
    away = None if v is None else _fitted(v, run.space, V)  # before anything is written
    run.attach(MU, found)
    if away is None:
        if V in run.state.tensors:  # that of an earlier mu
            run.attach(V, {})
        return
    units: dict[str, Tensor] = {}
    for name, tensor in away.items():
        length = math.sqrt(ordered_dot(tensor, tensor))
        units[name] = tensor / length if length else tensor
    run.attach(V, units)


def difference(after: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """after - before by name, in float32: a mu from two checkpoints."""
    missing = sorted(set(after) ^ set(before))
    if missing:
        raise UsageError(f"{missing[0]!r} is in one of the two checkpoints only; give two of the same training")
    return {name: tensor.float() - before[name].float() for name, tensor in after.items()}


def _fitted(given: Mapping[str, Tensor], space: ParameterSpace, what: str) -> dict[str, Tensor]:
    named = {stored_name(name): tensor for name, tensor in given.items()}
    found: dict[str, Tensor] = {}
    for site in space:
        tensor = named.get(stored_name(site.name))
        if tensor is None:
            raise UsageError(
                f"{what} has no tensor {site.name!r}{nearest(site.name, named)}; each searched one needs one"
            )
        tensor = tensor.to(site.parameter.device)
        if tuple(tensor.shape) != site.shape:
            raise UsageError(f"{what} has {site.name!r} of shape {list(tensor.shape)}, the model {list(site.shape)}")
        if not bool(tensor.isfinite().all()):
            raise UsageError(f"{what} has numbers in {site.name!r} that are none (NaN or infinite)")
        found[site.name] = tensor.detach().to(torch.float32)
    return found


def _read(path: str) -> dict[str, Tensor]:
    try:
        return load(Path(path).read_bytes())
    except Exception as error:
        raise UsageError(f"cannot read the vectors in {path}: {error}; give a file of safetensors") from error
