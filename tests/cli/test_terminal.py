"""What is shown while work goes on: the mean of the last steps, the speed, nothing for what is over at once."""

import io
import json
import math
from typing import Any

import pytest
from rich.console import Console

from zerothorder.cli import terminal
from zerothorder.cli.terminal import JsonLines, Live, Log, table
from zerothorder.cli.train import summary


def step(number: int, loss: float, seconds: float = 0.5, rows: int = 8) -> dict[str, Any]:
    return {
        "kind": "step", "step": number, "loss": loss, "forwards": rows * (number + 1), "seconds": seconds,
        "skipped": not math.isfinite(loss),
    }  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def test_a_log_speaks_every_ten_seconds_and_at_evaluations(clock: list[float], capsys: pytest.CaptureFixture[str]):
    log = Log()
    for number in range(40):
        clock[0] += 1.0
        log.row(step(number, 2.0 if number % 2 else 1.0))
        log.progress("training", number + 1, 40)
    log.row({"kind": "eval", "step": 40, "split": "dev", "accuracy": 0.5, "auc": 0.75, "moved": 0.1, "forwards": 3})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training 12/40: loss 1.5000 · 16 forwards/s, 28 s left"
    assert len(lines) == 4
    assert lines[-1] == "step 40, dev: accuracy 0.5000, AUC 0.7500"


def test_the_time_left_of_work_that_is_gone_on_with(clock: list[float], capsys: pytest.CaptureFixture[str]):
    log = Log()
    log.progress("runs", 90, 100)
    clock[0] += 11.0
    log.progress("runs", 90, 100)  # nothing is known yet
    clock[0] += 11.0
    log.progress("runs", 92, 100)
    assert capsys.readouterr().err.splitlines() == ["runs 90/100", "runs 92/100, 88 s left"]


def test_quick_work_is_not_mentioned(clock: list[float], capsys: pytest.CaptureFixture[str]):
    log = Log()
    for what in ("loading the model", "evaluating"):
        log.progress(what, 0, 1)
        clock[0] += 1.0
        log.progress(what, 1, 1)
    assert capsys.readouterr() == ("", "")


def test_skipped_steps_are_left_out_of_the_loss():
    log = Log()
    for number, loss in enumerate((1.0, math.nan, 3.0)):
        shown = log._step(step(number, loss))
    assert shown == "loss 2.0000 · 16 forwards/s"


@pytest.mark.parametrize(("elapsed", "seen"), [(1.0, False), (3.0, True)])
def test_a_bar_appears_once_work_takes_more_than_two_seconds(
    monkeypatch: pytest.MonkeyPatch, elapsed: float, seen: bool
):
    screen = io.StringIO()
    monkeypatch.setattr(
        terminal, "Console", lambda **named: Console(file=screen, force_terminal=True, width=100, highlight=False)
    )
    with Live() as live:
        live._bars.get_time = live._bars.live.get_time = lambda: 0.0  # type: ignore[method-assign]
        live.progress("training", 0, 10)
        live.row(step(0, 0.25))
        live.row(step(1, 0.75))
        live.progress("training", 4, 10)
        task = live._bars.tasks[0]
        task._get_time = lambda: elapsed
        live._bars.refresh()
        live.note("a sentence")
    assert ("training" in screen.getvalue()) == seen
    assert ("loss 0.5000 · 16 forwards/s" in screen.getvalue()) == seen
    assert ("4/10" in screen.getvalue()) == seen
    assert "a sentence" in screen.getvalue()


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]):
    out = JsonLines()
    out.row(step(0, math.nan))
    out.result({"measures": {"auc": math.nan, "list": [math.inf, 1.0]}})
    rows = [json.loads(line, parse_constant=pytest.fail) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["loss"] is None
    assert rows[1] == {"kind": "result", "measures": {"auc": None, "list": [None, 1.0]}}


@pytest.mark.parametrize("rows", [{}, {"rows": 1066}])
def test_the_last_table_counts_the_rows_where_they_are_known(rows: dict[str, int]):
    screen = io.StringIO()
    measures = {"zero-shot": {"accuracy": 0.5}, "test": {**rows, "accuracy": 0.625}}
    Console(file=screen, width=60).print(summary(measures))
    last = ["rows measured – 1,066"] if rows else []
    lines = [" ".join(line.split()) for line in screen.getvalue().splitlines()]
    assert lines == ["test zero-shot trained", "accuracy 0.5000 0.6250", *last]


def test_a_table_shows_what_is_missing():
    screen = io.StringIO()
    Console(file=screen, width=60).print(table(("name", "value"), [("a", None), ("b", math.nan), ("c", 2)]))
    assert [line.split() for line in screen.getvalue().splitlines()] == [
        ["name", "value"], ["a", "–"], ["b", "–"], ["c", "2"],
    ]  # fmt: skip
