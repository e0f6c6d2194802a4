"""Learning-rate schedules."""

import math

from zerothorder.errors import UsageError, nearest

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
