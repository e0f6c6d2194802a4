"""Where the time goes: a stopwatch of nested phases, off unless somebody looks."""

import functools
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from statistics import median
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
StepPhase = Literal["data", "forward", "perturbation", "update", "ledger", "logging", "other"]
Phase = StepPhase | Literal["evaluation", "snapshots"]

STEP: tuple[StepPhase, ...] = ("data", "forward", "perturbation", "update", "ledger", "logging", "other")
"""What a step is made of; `other` is what no phase claims, so that all of them together are the time that passed."""
BESIDE: tuple[Phase, ...] = ("evaluation", "snapshots")
"""What happens between steps. Whole: a forward inside an evaluation is not one of a step."""
_ALL: tuple[Phase, ...] = (*STEP, *BESIDE)


class Profile:
    """Seconds by phase since it was made. Times are exclusive: an inner phase's are not the outer one's."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = self._since = clock()
        self._stack: list[Phase] = ["other"]
        self.seconds: dict[Phase, float] = dict.fromkeys(_ALL, 0.0)
        self._before = dict(self.seconds)
        self.steps: list[dict[StepPhase, float]] = []

    def enter(self, name: Phase) -> int:
        """Begin a phase inside the one that runs; returns what `leave` takes."""
        self._turn()
        outer = self._stack[-1]
        self._stack.append(outer if outer in BESIDE else name)
        return len(self._stack) - 1

    def leave(self, depth: int) -> None:
        """End the phase entered at this depth, and any inside it that an interrupt left open."""
        self._turn()
        del self._stack[depth:]

    def lap(self) -> None:
        """A step is done: what was spent since the last one is its time."""
        self._turn()
        self.steps.append({name: self.seconds[name] - self._before[name] for name in STEP})
        self._before = dict(self.seconds)

    def _turn(self) -> None:
        now = self._clock()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def row(self) -> dict[str, Any]:
        """Of the steps so far (one at least) as JSON: wall time, the median step, its ratio to the forwards, phases.

        Shares are of the wall time, which the phases sum to. Of what happens between steps only what happened.
        """
        self._turn()
        wall = self._since - self._began
        step = median(sum(spent.values()) for spent in self.steps)
        phases: dict[str, dict[str, float]] = {}
        for name, seconds in self.seconds.items():
            if seconds or name in STEP:
                phases[name] = {"seconds": seconds, "share": seconds / wall if wall else 0.0}
        for name in STEP:
            phases[name]["median"] = median(spent[name] for spent in self.steps)
        forward = phases["forward"]["median"]
        ratio = step / forward if forward else None
        return {"steps": len(self.steps), "seconds": wall, "step_seconds": step, "ratio": ratio, "phases": phases}


class _Watch(Protocol):
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


class _Off:
    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


class _On:
    __slots__ = ("_depth", "_name", "_profile")

    def __init__(self, profile: Profile, name: Phase) -> None:
        self._profile = profile
        self._name: Phase = name

    def __enter__(self) -> None:
        self._depth = self._profile.enter(self._name)

    def __exit__(self, *error: object) -> None:
        self._profile.leave(self._depth)


# of this thread alone: phases of two threads do not nest
_CURRENT: ContextVar[Profile | None] = ContextVar("profile", default=None)
_OFF = _Off()


def phase(name: Phase) -> _Watch:
    """A context whose time is that phase's; nothing at all where no profile is taken (a step enters it hundreds of
    times)."""
    profile = _CURRENT.get()
    return _OFF if profile is None else _On(profile, name)


def timed(name: Phase) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function all of whose time is that phase's, whoever calls it."""

    def around(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **named: P.kwargs) -> R:
            with phase(name):
                return function(*args, **named)

        return call

    return around


@contextmanager
def profiling(clock: Callable[[], float] = time.perf_counter) -> Generator[Profile]:
    """Take a profile of the block: phases entered in it, in this thread, are timed."""
    profile = Profile(clock)
    token = _CURRENT.set(profile)
    try:
        yield profile
    finally:
        _CURRENT.reset(token)


__all__ = ["BESIDE", "STEP", "Phase", "Profile", "StepPhase", "phase", "profiling", "timed"]
