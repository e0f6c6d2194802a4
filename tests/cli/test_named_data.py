"""Named tasks and options of a row's own on the command line: trained, measured, resumed from anywhere, refused."""

import json
from pathlib import Path

import pytest

from cli.conftest import Said, Zo, write_rows

SMALL = ("--steps", 4, "--batch-size", 4, "--lr", "1e-2", "--eps", "1e-2", "--check", "off", "--threads", 1)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder in the public columns of SST-2."""
    (tmp_path / "films").mkdir()
    for split, count in (("train", 60), ("validation", 12)):
        rows = [
            {"sentence": f"a {'good' if n % 2 else 'bad'} film {n}", "label": n % 2, "idx": n} for n in range(count)
        ]
        write_rows(tmp_path / "films" / f"{split}.jsonl", rows)
    return tmp_path / "films"


def refused(said: Said, *parts: str) -> None:
    assert said.code == 2, said
    (line,) = [line for line in said.err.splitlines() if line.startswith("zo: ")]
    assert all(part in line for part in parts), line


def test_a_task_from_a_folder_is_trained_resumed_from_elsewhere_and_measured(
    zo: Zo, llama_folder: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    given = ("--model", llama_folder, "--output", run, *SMALL)
    assert zo("train", *given, "--data", "sst2:films", "--bare").code == 0
    saved = json.loads((run / "config.json").read_text())
    assert (saved["data"], saved["bare"]) == (f"sst2:{films}", True)
    monkeypatch.chdir(films)
    for data in ("sst2:.", "sst2:../films", f"sst2:{films}"):
        said = zo("train", "--output", run, "--resume", "--data", data)
        assert said.code == 0, said.err
    refused(zo("train", "--output", run, "--resume", "--data", "rte:."), "was started with data = ", "sst2:")
    asked = ("--data", "sst2:.", "--calibrate", 8, "--threads", 1, "--json")
    told = [zo("eval", llama_folder, *asked, *more).rows[-1] for more in ((), ("--bare",), ("--template", "{text}"))]
    assert [row["rows"] for row in told] == [12, 12, 12]
    assert told[0]["loss"] != told[1]["loss"], "with and without the wording"
    assert told[1] == told[2], "what --bare stands for"
    assert {"accuracy", "auc", "calibrated_accuracy"} <= set(told[0])


def test_what_cannot_be_asked(zo: Zo, llama_folder: Path, films: Path, data_file: Path, tmp_path: Path):
    given = ("--model", llama_folder, "--output", tmp_path / "run", *SMALL)
    refused(zo("train", *given, "--data", "synopsis"), "'synopsis'", "did you mean 'synopses'?")
    refused(zo("train", *given, "--data", data_file, "--bare"), "--bare takes the wording off a named task", "is none")
    refused(zo("train", *given, "--data", f"sst2:{films}", "--bare", "--template", "{text}"), "both say how to ask")
    refused(
        zo("train", *given, "--data", f"rte:{films}"), "train.jsonl row 1 has no column 'premise' (it has sentence,"
    )
    refused(zo("train", *given, "--data", f"squad:{films}"), "is answered in free text", "--objective metric")
    refused(zo("train", *given, "--data", "copa:nowhere"), "nowhere does not exist")
    assert not (tmp_path / "run").exists()


def test_options_that_cannot_be_chosen_from_name_their_row(zo: Zo, llama_folder: Path, tmp_path: Path):
    rows = [{"text": f"film {n}", "options": ["good", "bad"], "label": n % 2} for n in range(40)]
    rows[12] |= {"label": "fair"}
    data = write_rows(tmp_path / "d.jsonl", rows)
    said = zo("train", "--model", llama_folder, "--data", data, "--output", tmp_path / "run", *SMALL)
    refused(said, "d.jsonl row 13 has the label 'fair', which is none of its 2 options: give an index from 0 to 1")
    assert not (tmp_path / "run").exists()
