"""Ctrl-C at any moment: what is written is applied, and what is applied is written."""

import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from small_runs import Case, CrossEntropy, batch_at, load_base, save_base, weights_hash
from zerothorder.ledger.reader import read
from zerothorder.replay import replay
from zerothorder.run import Run, uninterrupted
from zerothorder.updates import Update

CASE = Case(torch.float16, steps=3, settings={"optimizer": "momentum"})


class PressedBetweenSites(Update):
    """Ctrl-C comes when the second site is about to move."""

    def apply(self, entry: Any, space: Any, direction: Any, state: Any) -> None:
        first, *rest = space.sites
        super().apply(entry, type(space)([first]), direction, state)
        signal.raise_signal(signal.SIGINT)
        super().apply(entry, type(space)(rest), direction, state)


def replayed(folder: Path) -> str:
    model = load_base(folder)
    replay(model, folder / "ledger.zo")
    return weights_hash(model)


def test_ctrl_c_amid_the_update_waits_until_it_is_through(tmp_path: Path) -> None:
    model = CASE.base()
    save_base(model, tmp_path)
    run = CASE.start(tmp_path, model)
    run.step(batch_at(0))
    run.update = PressedBetweenSites(run.update.transforms)
    with pytest.raises(KeyboardInterrupt):
        run.step(batch_at(1))
    assert run.index == 2
    assert weights_hash(model) == replayed(tmp_path)


def test_ctrl_c_amid_the_write_waits_until_it_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    model = CASE.base()
    save_base(model, tmp_path)
    run = CASE.start(tmp_path, model)
    real = os.write

    def write(handle: int, data: bytes) -> int:
        signal.raise_signal(signal.SIGINT)
        return real(handle, data[:5])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(KeyboardInterrupt):
        run.step(batch_at(0))
    monkeypatch.undo()
    assert run.index == len(read(tmp_path / "ledger.zo").entries) == 1
    assert weights_hash(model) == replayed(tmp_path)


def test_ctrl_c_amid_an_evaluation_writes_nothing(tmp_path: Path) -> None:
    class Pressed(CrossEntropy):
        def evaluate(self, model: Any, prepared: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            return super().evaluate(model, prepared)

    model = CASE.base()
    save_base(model, tmp_path)
    run = CASE.start(tmp_path, model)
    run.step(batch_at(0))
    run.objective = Pressed()
    with pytest.raises(KeyboardInterrupt):
        run.step(batch_at(1))
    assert run.index == len(read(tmp_path / "ledger.zo").entries) == 1
    assert weights_hash(model) == replayed(tmp_path)
    # and the run goes on where it was, to the bits of one that nobody stopped
    run.objective = CrossEntropy()
    assert weights_hash(CASE.go(run).model) == weights_hash(CASE.go(CASE.start()).model)


def test_the_handler_is_put_back_and_hears_of_it_once() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        mine = signal.getsignal(signal.SIGINT)
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert heard == []
        assert heard == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is mine
        with pytest.raises(ZeroDivisionError), uninterrupted():
            raise ZeroDivisionError
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_step_in_another_thread_needs_no_handler() -> None:
    run: Run = CASE.start()
    thread = threading.Thread(target=lambda: run.step(batch_at(0)))
    thread.start()
    thread.join()
    assert run.index == 1
