"""Trackers get every finite number under its group, and what is missing is one sentence with the fix."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zerothorder.errors import UsageError
from zerothorder.report import open_trackers
from zerothorder.report.trackers import scalars

ROWS: list[dict[str, Any]] = [
    {"kind": "step", "step": 1, "loss": 0.7, "skipped": False},
    {"kind": "step", "step": 2, "loss": None, "skipped": True},
    {"kind": "step", "step": 3, "loss": float("nan"), "skipped": True},
    {"kind": "eval", "step": 3, "split": "dev", "accuracy": 0.6},
    {"kind": "end", "step": 3, "reason": "all steps done"},
]


class Fake:
    """Both wandb and trackio, as far as they are used: a module, and the session it gives."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **asked: Any) -> "Fake":
        self.asked = asked
        return self

    def log(self, row: dict[str, float], step: int) -> None:
        self.rows.append((step, row))

    def finish(self) -> None:
        self.finished += 1


def test_tensorboard_holds_the_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tracker,) = open_trackers(["tensorboard"], tmp_path, {"recipe": {"name": "mezo"}})
    for row in ROWS:
        tracker.log(row)
    tracker.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = events.Tags()["scalars"]
    assert {"train/loss", "dev/accuracy"} <= set(scalars)
    assert [(event.step, round(event.value, 3)) for event in events.Scalars("train/loss")] == [(1, 0.7)]
    assert [event.step for event in events.Scalars("train/skipped")] == [1, 2, 3]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_sessions_get_one_row_a_step_in_order(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    monkeypatch.setitem(sys.modules, name, fake)
    (tracker,) = open_trackers([name], tmp_path / "demo", {"recipe": {"name": "mezo"}})
    for row in ROWS:
        tracker.log(row)
    tracker.close()
    assert fake.asked["project"] == "zerothorder"
    assert fake.asked["name"] == "demo"
    assert fake.rows == [
        (1, {"train/loss": 0.7, "train/skipped": 0.0}),
        (2, {"train/skipped": 1.0}),
        (3, {"train/skipped": 1.0, "dev/accuracy": 0.6}),
    ]
    assert fake.finished == 1


def test_of_a_profile_trackers_get_what_is_a_number() -> None:
    row = {"kind": "profile", "step": 3, "steps": 3, "ratio": 1.5, "phases": {"forward": {"seconds": 1.0}}}
    assert scalars(row) == {"profile/steps": 3.0, "profile/ratio": 1.5}


def test_an_unknown_name_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        open_trackers(["tensorbord"], tmp_path, {})


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_package_is_named_and_the_others_are_closed(
    tmp_path: Path, name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    monkeypatch.setitem(sys.modules, "trackio", fake)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"{name}, which is not installed: pip install 'zerothorder\["):
        open_trackers(["trackio", name], tmp_path, {})
    assert fake.finished == 1


def test_no_tracker_and_a_repeated_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=Fake().init, log=None, finish=lambda: None))
    assert open_trackers([], tmp_path, {}) == []
    assert len(open_trackers(["trackio", "trackio"], tmp_path, {})) == 1
