"""What bad input gets: exit code 2, one sentence that says what, where and what to do, and nothing half-written."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli.conftest import TASK, Said, Zo, write_rows
from zerothorder.data import BatchStream
from zerothorder.errors import UsageError

LIMITED = """
import resource, signal, sys
import torch
from zerothorder import random
from zerothorder.cli import main

random.shift(torch.zeros(8), torch.zeros(8), "gaussian", 1, 1.0)  # compiled before the disk is full
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


def refused(said: Said, *parts: str) -> str:
    """Exit code 2 and one line that holds these parts."""
    assert said.code == 2, said
    lines = [line for line in said.err.splitlines() if line.startswith("zo: ")]
    assert len(lines) == 1, said.err
    assert "Traceback" not in said.err
    for part in parts:
        assert part in lines[0]
    return lines[0]


@pytest.fixture
def nothing_left(tmp_path: Path) -> Callable[[], None]:
    def check() -> None:
        assert not (tmp_path / "run").exists()

    return check


def test_a_missing_file(train: Zo, tmp_path: Path, nothing_left: Callable[[], None]):
    refused(train("--data", tmp_path / "none.jsonl"), "none.jsonl", "does not exist", "check the path")
    nothing_left()


def test_an_unreadable_model(train: Zo, tmp_path: Path, llama_folder: Path, nothing_left: Callable[[], None]):
    refused(train("--model", tmp_path / "none"), "the model folder", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(train("--model", tmp_path / "empty"), "is not a model folder: it has no config.json")
    (llama_folder / "model.safetensors").write_bytes(b"torn")
    refused(train(), str(llama_folder), "cannot be loaded")
    nothing_left()


def test_an_unknown_recipe_and_tracker(train: Zo, nothing_left: Callable[[], None]):
    refused(train("--recipe", "mezzo"), "unknown recipe 'mezzo'", "did you mean 'mezo'")
    refused(train("--report-to", "tensorbord"), "unknown tracker", "did you mean 'tensorboard'")
    nothing_left()


def test_an_empty_data_set(train: Zo, tmp_path: Path, nothing_left: Callable[[], None]):
    (tmp_path / "empty.jsonl").write_text("")
    refused(train("--data", tmp_path / "empty.jsonl"), "empty.jsonl holds no rows")
    nothing_left()


def test_a_missing_column(train: Zo, tmp_path: Path, nothing_left: Callable[[], None]):
    data = write_rows(tmp_path / "d.jsonl", [{"sentence": f"film {n}", "label": n % 2} for n in range(20)])
    refused(train("--data", data), "column 'text'", "d.jsonl row", "does not have")
    data = write_rows(tmp_path / "e.jsonl", [{"text": f"film {n}", "stars": n % 2} for n in range(20)])
    refused(train("--data", data), "no column 'label'", "--label-column")
    refused(train("--data", data, "--label-column", "star"), "no column 'star'", "did you mean 'stars'")
    nothing_left()


def test_a_label_without_a_verbalizer(train: Zo, tmp_path: Path, nothing_left: Callable[[], None]):
    rows = [{"text": f"film {n}", "label": 7 if n == 12 else n % 2} for n in range(40)]
    refused(train("--data", write_rows(tmp_path / "d.jsonl", rows)), "d.jsonl row 13", "label '7'", "verbalizers")
    nothing_left()


def test_verbalizers_with_the_same_first_token(train: Zo, nothing_left: Callable[[], None]):
    said = train("--template", "{text} It was", "--verbalizers", "0=good zzz,1=good yyy")
    refused(said, "begin with the same token", "take other words")
    nothing_left()


def test_a_task_that_is_not_told_asks_for_both_parts(
    zo: Zo, llama_folder: Path, data_file: Path, tmp_path: Path, nothing_left: Callable[[], None]
):
    said = zo("train", "--model", llama_folder, "--data", data_file, "--output", tmp_path / "run")
    refused(said, "give a template like '{text} It was'", "verbalizers that complete it, like 0=terrible,1=great")
    nothing_left()


def test_a_single_row_is_one_row(tmp_path: Path):
    with pytest.raises(UsageError, match="larger than the train split of 1 row: "):
        BatchStream([5], 4, b"")


def test_a_malformed_row_is_named_by_its_number(train: Zo, tmp_path: Path, nothing_left: Callable[[], None]):
    rows = [{"text": f"film {n}", "label": n % 2} for n in range(20)]
    data = write_rows(tmp_path / "d.jsonl", [*rows[:7], '{"text": "torn', *rows[7:]])
    refused(train("--data", data), "d.jsonl", "row 8", "not JSON")
    nothing_left()


def test_too_long_texts_are_counted_and_the_run_goes_on(train: Zo, tmp_path: Path):
    rows = [{"text": f"film {n} " + "and actors " * (30 if n % 4 == 0 else 0), "label": n % 2} for n in range(40)]
    said = train("--data", write_rows(tmp_path / "d.jsonl", rows), "--max-length", "20")
    assert said.code == 0, said.err
    cut = re.findall(r"(\d+) of (\d+) (train|dev|test) texts were too long", said.err)
    assert sum(int(count) for count, _, _ in cut) == 10


def test_losses_that_are_not_numbers_stop_the_run_after_twenty(train: Zo, zo: Zo, llama_folder: Path, tmp_path: Path):
    path = llama_folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, path, {"format": "pt"})
    said = train("--steps", "50")
    refused(said, "not a number at 20 steps in a row", "lower lr or eps")
    run = tmp_path / "run"
    shown = zo("ledger", "show", run / "ledger.zo", "--json").rows[0]
    assert (shown["steps"], shown["skipped"]) == (20, 20)
    assert not (run / "model").exists()
    # gone on with, it does not need twenty more to see
    refused(zo("train", "--output", run, "--resume"), "(up to step 20)")


def test_numbers_that_no_run_can_have(train: Zo, nothing_left: Callable[[], None]):
    refused(train("--eps", "0"), "eps is 0", "above 0")
    refused(train("--steps", "0"), "--steps is 0")
    refused(train("--micro-batch", "0"), "--micro-batch is 0")
    refused(train("--batch-size", "1000"), "batch size 1000", "the train split of", "at most")
    refused(train("--warmup", "9"), "--warmup is 9, but the run has 8 steps")
    refused(train("--freeze", "nowhere"), "freeze 'nowhere' matches no parameter")
    nothing_left()


def test_a_perturbation_below_the_resolution(train: Zo, nothing_left: Callable[[], None]):
    refused(train("--dtype", "bfloat16", "--eps", "1e-7"), "of the weights do not feel the perturbation", "raise --eps")
    nothing_left()
    said = train("--dtype", "bfloat16", "--eps", "2e-4")
    assert said.code == 0
    share = re.search(r"(\d+)% of the weights do not feel the perturbation", said.err)
    assert share is not None
    assert 1 <= int(share[1]) <= 50


def test_an_output_folder_that_is_in_use(train: Zo, tmp_path: Path):
    assert train().code == 0
    run = tmp_path / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    refused(train(), "holds another run", "--resume", "--overwrite")
    # what would be overwritten stays as long as the new run has a mistake
    refused(train("--overwrite", "--dtype", "bfloat16", "--eps", "1e-7"), "raise --eps")
    refused(train("--overwrite", "--data", tmp_path / "none.jsonl"), "does not exist")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert train("--overwrite", "--seed", "1").code == 0
    assert (run / "ledger.zo").read_bytes() != before[run / "ledger.zo"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("mine")
    refused(train("--output", tmp_path / "other", "--overwrite"), "is not empty and holds no run")
    refused(train("--output", tmp_path / "other/thesis.txt"), "is a file")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_a_full_disk(train: Zo, zo: Zo, llama_folder: Path, data_file: Path, tmp_path: Path):
    assert train("--output", tmp_path / "whole", "--steps", 60).code == 0
    flags = ["--model", llama_folder, "--data", data_file, "--steps", 60, "--batch-size", 4, "--lr", "1e-2"]
    flags += ["--eps", "1e-2", "--check", "off", "--json", "--output"]
    run = tmp_path / "run"

    def limited(nbytes: int) -> Said:
        words = [sys.executable, "-c", LIMITED, nbytes, "train", *flags, run, *TASK]
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=120, check=False)
        return Said(done.returncode, done.stdout, done.stderr)

    # no room for the ledger's header: as if it had never been tried
    refused(limited(1500), "ledger.zo", "File too large", "free some space")
    assert not run.exists()
    refused(limited(9000), str(run), "File too large", "free some space, then resume the run")
    assert zo("ledger", "verify", llama_folder, run / "ledger.zo").code == 0
    said = zo("train", "--output", run, "--resume")
    assert said.code == 0, said.err
    assert (run / "model/model.safetensors").read_bytes() == (tmp_path / "whole/model/model.safetensors").read_bytes()


def test_what_nobody_foresaw_asks_for_a_report(train: Zo, monkeypatch: pytest.MonkeyPatch):
    from zerothorder import training

    def broken(*args: object, **named: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(training, "load_task", broken)
    said = train()
    assert said.code == 1
    assert len(said.err.splitlines()) == 1
    assert "defect in zerothorder (ZeroDivisionError: of all things); please report it" in said.err
    assert "Traceback" in train("--debug").err
    monkeypatch.setenv("ZO_DEBUG", "1")
    assert "Traceback" in train().err
