"""A profile's phases are exclusive, closed whatever happens, and sum to the time that passed."""

import contextlib
import threading
from typing import Any

import pytest
import torch

import zerothorder as zo
from zerothorder import profile as module
from zerothorder.profile import BESIDE, STEP, Profile, phase, profiling


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


def spent(profile: Profile) -> dict[str, float]:
    """The phases that took time."""
    return {name: found["seconds"] for name, found in profile.row()["phases"].items() if found["seconds"]}


def test_an_inner_phase_is_not_counted_for_the_outer_one():
    clock = Clock()
    with profiling(clock) as profile:
        clock.work(1)
        with phase("forward"):
            clock.work(2)
            with phase("perturbation"):
                clock.work(4)
                with phase("perturbation"):
                    clock.work(8)
            clock.work(16)
        with phase("update"):
            clock.work(32)
        profile.lap()
    assert spent(profile) == {"other": 1, "forward": 2 + 16, "perturbation": 4 + 8, "update": 32}
    assert profile.row()["seconds"] == 63


def test_phases_sum_to_the_wall_time_with_whatever_lies_between_and_after_steps():
    clock = Clock()
    with profiling(clock) as profile:
        for at in range(4):
            for number, name in enumerate((*STEP, *BESIDE)):
                clock.work(0.25)
                with phase(name):
                    clock.work(number + at)
            profile.lap()
        with phase("forward"):
            clock.work(0.5)  # of a step that was not finished
        row = profile.row()
    passed = clock.now - 1000.0
    assert row["seconds"] == passed == sum(found["seconds"] for found in row["phases"].values())
    assert sum(found["share"] for found in row["phases"].values()) == pytest.approx(1)
    assert row["phases"]["forward"]["seconds"] == 4 * 1 + 6 + 0.5


def test_medians_are_of_whole_steps_and_evaluations_are_none_of_them():
    clock = Clock()
    with profiling(clock) as profile:
        for seconds in (100, 2, 4):
            with phase("forward"):
                clock.work(seconds)
            with phase("update"):
                clock.work(1)
            profile.lap()
            with phase("evaluation"), phase("forward"):
                clock.work(50)
        with phase("forward"):
            clock.work(7)
        row = profile.row()
    assert (row["steps"], row["step_seconds"], row["ratio"]) == (3, 5, 5 / 4)
    assert row["phases"]["forward"] == {"seconds": 113, "share": 113 / 266, "median": 4}
    assert row["phases"]["evaluation"] == {"seconds": 150, "share": 150 / 266}
    assert list(row["phases"]) == [*STEP, "evaluation"]  # no snapshot was taken


def test_a_phase_that_an_exception_leaves_is_closed():
    clock = Clock()
    with profiling(clock) as profile:
        with contextlib.suppress(KeyboardInterrupt), phase("forward"), phase("perturbation"):
            clock.work(1)
            raise KeyboardInterrupt
        clock.work(2)
        with phase("ledger"):
            profile.enter("forward")  # as if the interrupt came while it was being left
            clock.work(4)
        clock.work(8)
        profile.lap()
    assert spent(profile) == {"perturbation": 1, "forward": 4, "other": 2 + 8}
    assert phase("forward") is module._OFF


def test_nothing_is_timed_without_a_profile_or_in_another_thread():
    assert phase("data") is phase("update") is module._OFF
    clock = Clock()

    def elsewhere() -> None:
        with phase("update"):
            clock.work(1)

    with profiling(clock) as profile:
        thread = threading.Thread(target=elsewhere)
        with phase("data"):
            thread.start()
            thread.join()
        profile.lap()
    assert spent(profile) == {"data": 1}


def test_without_a_forward_there_is_no_ratio():
    with profiling(Clock()) as profile:
        profile.lap()
    row = profile.row()
    assert (row["ratio"], row["seconds"], row["step_seconds"]) == (None, 0, 0)
    assert {found["share"] for found in row["phases"].values()} == {0.0}


@pytest.mark.parametrize("executor", ["swap", "copy"])
def test_a_step_goes_through_its_phases(executor: str, monkeypatch: pytest.MonkeyPatch):
    """Each part of a step advances the clock by its own amount, which must come out under its own name."""
    from zerothorder.execution import copy, probe, swap
    from zerothorder.ledger.writer import Ledger
    from zerothorder.updates import Update

    clock = Clock()

    def costing(seconds: float, do: Any) -> Any:
        def done(*args: Any, **named: Any) -> Any:
            clock.work(seconds)
            return do(*args, **named)

        return done

    model = torch.nn.Linear(4, 1)
    monkeypatch.setattr(probe, "plain_draws", costing(1, probe.plain_draws))
    monkeypatch.setattr(Ledger, "append", costing(100, Ledger.append))
    monkeypatch.setattr(Update, "apply", costing(1000, Update.apply))
    made = {"swap": swap.Swap, "copy": copy.Copy}[executor]()
    opt = zo.ZerothOrder(model, "mezo", lr=1e-3, executor=made)
    loss = costing(10, lambda: model(torch.ones(2, 4)).square().mean())
    with profiling(clock) as profile:
        opt.step(loss)
        profile.lap()
    # two points of two tensors each
    assert spent(profile) == {"perturbation": 4, "forward": 20, "ledger": 100, "update": 1000}
