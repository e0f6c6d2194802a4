"""`zo train --profile` shows where the time of a step goes, and changes nothing else."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Zo
from zerothorder.journal import Journal, read_journal
from zerothorder.profile import STEP


def profiles(run: Path) -> list[dict[str, Any]]:
    return [row for row in read_journal(run / "metrics.jsonl") if row["kind"] == "profile"]


def test_the_flag_stands_in_the_help(zo: Zo):
    text = " ".join(zo("train", "--help").out.replace("│", " ").split())
    assert "--profile Time the parts of a step" in text


def test_a_table_and_a_row_and_the_same_bits(train: Zo, zo: Zo, tmp_path: Path):
    flags = ("--eval-every", "4", "--snapshot-every", "3")
    assert "ms a step" not in train(*flags, "--output", tmp_path / "plain").out
    said = train(*flags, "--profile")
    assert said.code == 0, said.err
    run = tmp_path / "run"
    for name in ("ledger.zo", "model/model.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert profiles(tmp_path / "plain") == []

    (row,) = profiles(run)
    assert (row["step"], row["steps"]) == (8, 8)
    phases = row["phases"]
    assert list(phases) == [*STEP, "evaluation", "snapshots"]
    assert all(found["seconds"] > 0 for found in phases.values())
    assert sum(found["seconds"] for found in phases.values()) == pytest.approx(row["seconds"])
    assert sum(found["share"] for found in phases.values()) == pytest.approx(1)
    steps = [step for step in read_journal(run / "metrics.jsonl") if step["kind"] == "step"]
    # what a step's own row says, which its logging, unlike its profile, does not belong to
    inside = sum(phases[name]["seconds"] for name in STEP)
    assert sum(step["seconds"] for step in steps) == pytest.approx(inside - phases["logging"]["seconds"], rel=0.2)
    assert row["ratio"] == pytest.approx(row["step_seconds"] / phases["forward"]["median"])

    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert lines[0] == "phase ms a step share"
    names = [*STEP, "a whole step", "evaluation", "snapshots"]
    assert [line.startswith(name) for line, name in zip(lines[1:], names, strict=False)] == [True] * len(names)
    assert lines[len(names) + 1].startswith(f"a step takes {row['ratio']:.2f} × its forwards; 8 steps, ")
    assert "rows measured" in said.out


def test_json_has_one_object_of_it_and_quiet_none(train: Zo, tmp_path: Path):
    said = train("--profile", "--json")
    shown = [row for row in said.rows if row["kind"] == "profile"]
    assert shown == profiles(tmp_path / "run")
    assert len(shown) == 1
    said = train("--profile", "--quiet", "--overwrite")
    assert (said.out, said.err) == ("", "")
    assert len(profiles(tmp_path / "run")) == 1


def test_a_stopped_run_tells_and_the_resumed_one_is_asked_again(
    train: Zo, zo: Zo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert train("--output", tmp_path / "whole").code == 0
    write = Journal.write

    def pressed(self: Journal, row: Any) -> None:
        write(self, row)
        if row["kind"] == "step" and row["step"] == 4:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", pressed)
        said = train("--profile")
    assert said.code == 130
    assert "ms a step" in said.out
    run = tmp_path / "run"
    # the fifth step was taken, but stopped before it was through
    assert [(row["step"], row["steps"]) for row in profiles(run)] == [(5, 4)]
    assert json.loads((run / "config.json").read_text())["profile"]

    said = zo("train", "--output", run, "--resume")
    assert said.code == 0, said.err
    assert "ms a step" not in said.out
    assert [(row["step"], row["steps"]) for row in profiles(run)] == [(5, 4)]
    assert (run / "ledger.zo").read_bytes() == (tmp_path / "whole" / "ledger.zo").read_bytes()


def test_a_run_begun_without_it_is_profiled_from_where_it_goes_on(
    train: Zo, zo: Zo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert train().code == 0
    run = tmp_path / "run"
    whole = (run / "ledger.zo").read_bytes()
    _cut_off(run, steps=3)
    said = zo("train", "--output", run, "--resume", "--profile")
    assert said.code == 0, said.err
    assert "resumed at step 5" in said.err
    assert "3 steps, " in said.out
    assert [(row["step"], row["steps"]) for row in profiles(run)] == [(8, 3)]
    assert (run / "ledger.zo").read_bytes() == whole
    # with nothing left to do there is nothing to tell
    said = zo("train", "--output", run, "--resume", "--profile")
    assert "is finished" in said.err
    assert "ms a step" not in said.out


def test_the_python_interface_resumes_with_a_profile(train: Zo, tmp_path: Path):
    from zerothorder.config import TrainConfig
    from zerothorder.saved import check_resumable

    assert train("--profile").code == 0
    assert not check_resumable(TrainConfig(output=tmp_path / "run", resume=True)).profile
    assert check_resumable(TrainConfig(output=tmp_path / "run", resume=True, profile=True)).profile


def _cut_off(run: Path, steps: int) -> None:
    """Cut the end record and some steps off a finished run."""
    from zerothorder.ledger.entry import CHAIN, PREFIX

    path = run / "ledger.zo"
    os.truncate(path, path.stat().st_size - (PREFIX.size + 32 + CHAIN) - steps * (PREFIX.size + 8 + CHAIN))
