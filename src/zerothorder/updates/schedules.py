"""Learning-rate schedules, and the rates of the two groups of weights that follow them."""

import math
from collections.abc import Mapping
from typing import Protocol

from zerothorder.errors import UsageError, nearest
from zerothorder.ledger.entry import Rates, float32

SCHEDULES = ("constant", "linear", "cosine")


def scheduled(base: float, kind: str, step: int, steps: int, warmup: int = 0) -> float:
    """The rate at `step` of `steps`: constant, linear to 0, or cosine to 0, after a linear warm-up.

    It goes into the entry as float32, so nothing here needs to be the same on another machine.
    """
    if kind not in SCHEDULES:
        raise UsageError(f"unknown schedule {kind!r}{nearest(kind, SCHEDULES)}")
    if step < warmup:
        return base * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return base * {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[kind]


class Scheduled(Protocol):
    """Settings that a rate follows from, as recipes have them."""

    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def schedule(self) -> str: ...
    @property
    def warmup(self) -> int: ...


def rates_of(recipe: Scheduled, step: int, steps: int) -> Mapping[str, Rates]:
    """{"decay", "plain"}: the same scheduled rate for both, weight decay for the first alone."""
    lr = float32(scheduled(recipe.lr, recipe.schedule, step, steps, recipe.warmup))
    return {"decay": Rates(lr, float32(recipe.weight_decay)), "plain": Rates(lr, 0.0)}
