"""`zo train` from the first word to the model folder: what it leaves, how it stops, and that it goes on exactly."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.conftest import TASK, Zo
from zerothorder.journal import Journal, read_journal
from zerothorder.ledger.reader import read

KILLED = """
import os, signal, sys
from zerothorder import training
from zerothorder.cli import main
from zerothorder.journal import Journal

write = Journal.write
def write_and_die(self, row):
    if row["kind"] == "step" and row["step"] == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)  # the entry is written and applied, its row is not
    write(self, row)
Journal.write = write_and_die
main(sys.argv[2:])
"""


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def step_rows(run: Path) -> list[dict[str, Any]]:
    return [row for row in read_journal(run / "metrics.jsonl") if row["kind"] == "step"]


def test_a_run_leaves_a_whole_folder_and_a_model_that_others_read(train: Zo, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    said = train("--eval-every", "4")
    assert said.code == 0, said.err
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        "config.json", "environment.json", "ledger.zo", "metrics.jsonl", "model",
    }  # fmt: skip
    assert [row["step"] for row in step_rows(run)] == list(range(8))
    kinds = [(row["kind"], row.get("split"), row["step"]) for row in read_journal(run / "metrics.jsonl")]
    kinds = [kind for kind in kinds if kind[0] != "step"]
    assert kinds == [
        ("eval", "zero-shot", 0), ("eval", "dev", 4), ("eval", "dev", 8), ("eval", "test", 8), ("end", None, 8),
    ]  # fmt: skip
    # two points a step, four rows each; the steps' own time only
    assert [row["forwards"] for row in step_rows(run)] == [8 * n for n in range(1, 9)]
    for name in ("accuracy", "calibrated accuracy", "AUC", "loss", "zero-shot", "trained"):
        assert name in said.out
    assert json.loads((run / "environment.json").read_text())["threads"] == 1
    assert AutoModelForCausalLM.from_pretrained(run / "model").dtype == torch.float32


def test_json_is_one_object_a_line_and_quiet_is_quiet(train: Zo):
    rows = train("--json").rows
    assert {row["kind"] for row in rows} >= {"step", "eval", "end", "result"}
    assert set(rows[-1]["measures"]) == {"zero-shot", "dev", "test"}
    said = train("--quiet", "--overwrite")
    assert (said.code, said.out, said.err) == (0, "", "")


@pytest.mark.slow
def test_killed_resumed_and_replayed_ends_in_the_same_bits(
    train: Zo, zo: Zo, llama_folder: Path, data_file: Path, tmp_path: Path
):
    whole, cut = tmp_path / "run", tmp_path / "cut"
    assert train("--snapshot-every", "3", "--eval-every", "2", "--check", "sites").code == 0
    flags = ["--model", llama_folder, "--data", data_file, "--output", cut, "--steps", 8, "--batch-size", 4]
    flags += ["--lr", "1e-2", "--eps", "1e-2", "--snapshot-every", 3, "--eval-every", 2, *TASK]
    words = [sys.executable, "-c", KILLED, "5", "train", *map(str, flags)]
    done = subprocess.run(words, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(step_rows(cut)) == 5
    assert not (cut / "model").exists()

    said = zo("train", "--output", cut, "--resume")
    assert said.code == 0, said.err
    assert "resumed at step 6" in said.err
    assert weights(cut / "model") == weights(whole / "model")
    assert (cut / "ledger.zo").read_bytes() == (whole / "ledger.zo").read_bytes()
    timed = ("seconds", "cpu_seconds", "memory", "forwards", "tokens")
    rows = [[{k: v for k, v in row.items() if k not in timed} for row in step_rows(run)] for run in (cut, whole)]
    assert rows[0] == rows[1]
    # the row that was lost comes back from the ledger, and the totals go on
    totals = [row.get("forwards") for row in step_rows(cut)]
    checked = step_rows(whole)[0]["forwards"] - 8
    assert totals == [checked + n for n in (8, 16, 24, 32, 40)] + [None] + [checked + n for n in (48, 56)]
    evaluations = [
        [
            (row["split"], row["step"], row["loss"])
            for row in read_journal(run / "metrics.jsonl")
            if row["kind"] == "eval"
        ]
        for run in (cut, whole)
    ]
    assert evaluations[0] == evaluations[1]

    out = tmp_path / "out"
    said = zo("replay", llama_folder, cut / "ledger.zo", "-o", out)
    assert said.code == 0, said.err
    assert weights(out) == weights(whole / "model")


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_saves_and_the_run_goes_on(
    train: Zo, zo: Zo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, presses: int
):
    from zerothorder import training

    assert train("--output", tmp_path / "whole").code == 0
    write, save = Journal.write, training.save_snapshot

    def pressed(self: Journal, row: Any) -> None:
        write(self, row)
        if row["kind"] == "step" and row["step"] == 4:
            signal.raise_signal(signal.SIGINT)

    def saved(*args: Any) -> Path:
        for _ in range(presses - 1):
            signal.raise_signal(signal.SIGINT)
        return save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", pressed)
        patch.setattr(training, "save_snapshot", saved)
        said = train()
    assert said.code == 130
    assert "stopped at step 5, saved" in said.err
    assert [path.name for path in (tmp_path / "run/snapshots").iterdir()] == ["step-00000005.safetensors"]
    assert zo("train", "--output", tmp_path / "run", "--resume").code == 0
    assert weights(tmp_path / "run/model") == weights(tmp_path / "whole/model")
    assert not (tmp_path / "run/snapshots").exists()


def test_resume_takes_everything_from_the_run_and_refuses_to_change_it(train: Zo, zo: Zo, tmp_path: Path):
    run = tmp_path / "run"
    assert train("--eval-every", "4").code == 0
    finished = (run / "ledger.zo").read_bytes()
    said = zo("train", "--output", run, "--resume")
    assert said.code == 0
    assert "is finished: 8 steps" in said.err
    assert (run / "ledger.zo").read_bytes() == finished
    # 1000 is the default of --steps: given all the same
    refusals = (("--lr", "0.5", "0.01"), ("--steps", "1000", "8"), ("--recipe", "other", "mezo"), ("--draws", "2", "1"))
    for flag, value, was in refusals:
        said = zo("train", "--output", run, "--resume", flag, value)
        assert said.code == 2
        assert f"was started with {flag[2:]} = " in said.err
        assert f"= {was!r}" in said.err or f"= {was}, not" in said.err
    # a schedule runs over the steps: more of them are another run
    said = zo("train", "--output", run, "--resume", "--steps", "9")
    assert f"start a new run in another output folder, with --model {run}/model" in said.err
    # what the recipe's default was all along is no change
    assert zo("train", "--output", run, "--resume", "--draws", "1").code == 0
    assert zo("train", "--output", run, "--resume", "--eval-every", "0", "--report-to", "tensorboard").code == 0
    said = zo("train", "--output", tmp_path / "none", "--resume")
    assert said.code == 2
    assert "no run to resume" in said.err
    assert not (tmp_path / "none").exists()


def test_a_run_goes_on_from_another_folder(
    train: Zo, zo: Zo, llama_folder: Path, data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert train("--model", os.path.relpath(llama_folder), "--data", data_file.name).code == 0
    run = tmp_path / "run"
    saved = json.loads((run / "config.json").read_text())
    assert (saved["model"], saved["data"]) == (str(llama_folder), str(data_file))
    whole = (run / "ledger.zo").read_bytes()
    (tmp_path / "elsewhere").mkdir()
    for words in ((), ("--data", f"../{data_file.name}", "--model", os.path.relpath(llama_folder, "elsewhere"))):
        _reopen(run)
        monkeypatch.chdir(tmp_path / "elsewhere")
        said = zo("train", "--output", run, "--resume", *words)
        assert said.code == 0, said.err
        assert (run / "ledger.zo").read_bytes() == whole
    (tmp_path / "elsewhere" / data_file.name).write_text(data_file.read_text())
    said = zo("train", "--output", run, "--resume", "--data", data_file.name)
    assert said.code == 2
    assert f"was started with data = {str(data_file)!r}" in said.err


def test_packaged_names_and_hub_ids_are_not_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from zerothorder.config import TrainConfig
    from zerothorder.data import MODELS, TASKS
    from zerothorder.data.sources import SHIPPED
    from zerothorder.errors import UsageError
    from zerothorder.places import PACKAGED, absolute
    from zerothorder.saved import check_resumable

    assert sorted(PACKAGED) == sorted({*MODELS, *TASKS, *SHIPPED})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm").mkdir()
    (tmp_path / "mine").mkdir()
    assert [absolute(name) for name in ("minilm", "./minilm", "mine", "org/name")] == [
        "minilm", str(tmp_path / "minilm"), str(tmp_path / "mine"), "org/name",
    ]  # fmt: skip
    config = TrainConfig(output=Path("run"), model="minilm")
    assert config.with_absolute_paths() == config
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(config.to_json())
    with pytest.raises(UsageError, match=r"was started with model = 'minilm', not '\./minilm'"):
        check_resumable(dataclasses.replace(config, model="./minilm"))


def test_the_python_interface_resumes_with_the_folder_alone(train: Zo, tmp_path: Path):
    from zerothorder.config import TrainConfig
    from zerothorder.errors import UsageError
    from zerothorder.saved import check_resumable

    assert train("--eval-every", "4").code == 0
    bare = TrainConfig(output=tmp_path / "run", resume=True)
    config = check_resumable(bare)
    assert (config.steps, config.lr, config.eval_every, config.resume) == (8, 0.01, 4, True)
    with pytest.raises(UsageError, match="was started with seed = 0, not 1"):
        check_resumable(TrainConfig(output=tmp_path / "run", resume=True, seed=1))


def test_threads_come_back_and_what_changed_is_told(train: Zo, zo: Zo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from zerothorder import environment

    asked: list[int] = []
    monkeypatch.setattr(environment.torch, "set_num_threads", asked.append)
    monkeypatch.setattr(environment.torch, "get_num_threads", lambda: asked[-1] if asked else 7)
    assert train("--threads", "3").code == 0
    run = tmp_path / "run"
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"threads": None}))
    _reopen(run)
    asked[:] = [5]
    said = zo("train", "--output", run, "--resume")
    assert said.code == 0, said.err
    assert asked == [5, 3]
    assert "may differ in their last bits" not in said.err
    _reopen(run)
    said = zo("train", "--output", run, "--resume", "--threads", "2")
    assert asked[-1] == 2
    assert "goes on with threads 2 (was 3)" in said.err


def _reopen(run: Path) -> None:
    """Cut the end record and one step off a finished run."""
    from zerothorder.ledger.entry import CHAIN, PREFIX

    path = run / "ledger.zo"
    end = PREFIX.size + 32 + CHAIN
    step = PREFIX.size + 8 + CHAIN
    os.truncate(path, path.stat().st_size - end - step)


def test_rows_reach_a_tracker(train: Zo, tmp_path: Path):
    assert train("--report-to", "tensorboard").code == 0
    assert list((tmp_path / "run/tensorboard").glob("events*"))


def test_the_report_is_written_at_the_end_and_after_ctrl_c(train: Zo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from zerothorder import training

    seen: list[Path] = []
    monkeypatch.setattr(training, "write_report", seen.append)
    assert train().code == 0
    monkeypatch.setattr(training, "save_model", _stop)
    assert train("--overwrite").code == 130
    assert seen == [tmp_path / "run"] * 2


def _stop(*args: Any, **named: Any) -> None:
    raise KeyboardInterrupt


def test_settings_of_a_recipe_that_have_no_flag_are_given_by_name(train: Zo, tmp_path: Path):
    said = train("--recipe", "sparse-gradient", "--settings", "sparsity=0.75", "ratio=layer", "resample=4")
    assert said.code == 0, said.err
    header = read(tmp_path / "run" / "ledger.zo").header
    own = {name: header.settings[name] for name in ("sparsity", "ratio", "resample")}
    assert own == {"sparsity": 0.75, "ratio": "layer", "resample": 4}
    again = train("--resume", "--settings", "sparsity=0.5")
    assert again.code == 2
    assert "was started with settings" in again.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sparsity",), "takes NAME=VALUE, not 'sparsity'"),
        (("sparsty=0.5",), "no setting 'sparsty'; did you mean 'sparsity'"),
        (("sparsity=tiny",), "is 'tiny'; it is a number"),
        (("draws=1.5",), "is 1.5; it is a whole number"),
        (("draws=true",), "is True; it is a whole number"),
        (("sparsity=0.5", "sparsity=0.6"), "sparsity is given twice"),
        (("lr=0.5",), "lr is given twice"),
    ],
)
def test_a_setting_that_is_none_is_named(train: Zo, words: tuple[str, ...], said: str):
    found = train("--recipe", "sparse-gradient", "--settings", *words)
    assert found.code == 2
    assert said in found.err


@pytest.mark.parametrize("recipe", ["zo-sgd-cons", "forward-grad", "block-wise", "hybrid", "zo-sgd-sign"])
def test_a_run_of_the_family_is_resumed_to_the_same_weights(zo: Zo, train: Zo, tmp_path: Path, recipe: str):
    """The check of every site too: directions in blocks, dual numbers and gradients go through it."""
    assert train("--recipe", recipe, "--check", "sites", "--lr", "1e-3").code == 0
    whole = weights(tmp_path / "run" / "model")
    script = [sys.executable, "-c", KILLED, "4", "train", "--output", str(tmp_path / "parted"), "--recipe", recipe]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    flags = ["--model", config["model"], "--data", config["data"], "--steps", "8", "--batch-size", "4", "--lr", "1e-3"]
    flags += ["--eps", "1e-2", "--snapshot-every", "2", *TASK]
    assert subprocess.run([*script, *flags], env=os.environ | {"HF_HUB_OFFLINE": "1"}).returncode == -signal.SIGKILL
    said = zo("train", "--output", tmp_path / "parted", "--resume")
    assert said.code == 0, said.err
    # step 4 is in the ledger without its gradient, and the snapshot is of step 4's beginning
    again = "step 4 is taken again, from the snapshot of step 4"
    assert (again in said.err) == (recipe == "hybrid")
    assert weights(tmp_path / "parted" / "model") == whole
    assert (tmp_path / "parted" / "ledger.zo").read_bytes() == (tmp_path / "run" / "ledger.zo").read_bytes()
