"""A run goes on with the rows it began with, or not at all."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tests.cli.conftest import Zo


def unfinished(run: Path) -> None:
    """Take the end record away: a run that was stopped after its last step."""
    ledger = run / "ledger.zo"
    ledger.write_bytes(ledger.read_bytes()[:-1])


def test_resume_refuses_rows_that_changed_and_takes_the_same_rows_back(
    train: Zo, zo: Zo, data_file: Path, tmp_path: Path
):
    run = tmp_path / "run"
    assert train().code == 0
    unfinished(run)
    before, ledger = data_file.read_text(), (run / "ledger.zo").read_bytes()
    data_file.write_text(before.replace("film 7 ", "movie 7 "))
    said = zo("train", "--output", run, "--resume")
    assert said.code == 2
    assert "films.jsonl gives other rows than when this run began" in said.err
    assert (run / "ledger.zo").read_bytes() == ledger
    data_file.write_text(before)
    assert zo("train", "--output", run, "--resume").code == 0


def test_steps_that_were_skipped_are_told(train: Zo, llama_folder: Path):
    path = llama_folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, path, {"format": "pt"})
    said = train()
    assert said.code == 0, said.err
    assert "8 of 8 steps were skipped, for their loss was not a number; the model is as it was" in said.err
    assert "the model's outputs are not numbers" in said.err


def test_a_ledger_does_not_tell_where_files_lie(train: Zo, tmp_path: Path):
    assert train().code == 0
    assert str(tmp_path).encode() not in (tmp_path / "run/ledger.zo").read_bytes()
