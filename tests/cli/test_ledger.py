"""Looking into runs, checking them, and rebuilding their models: `zo ledger`, `zo replay`, `zo eval`."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from cli.conftest import TASK, Zo
from zerothorder.ledger.entry import CHAIN, PREFIX

END = PREFIX.size + 32 + CHAIN
STEP = PREFIX.size + 8 + CHAIN  # a loss and one scalar


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("flags", [(), ("--dtype", "bfloat16", "--freeze", "embed_tokens"), ("--dtype", "float16")])
def test_replay_gives_the_bits_of_the_run(
    train: Zo, zo: Zo, llama_folder: Path, tmp_path: Path, flags: tuple[str, ...]
):
    assert train(*flags).code == 0
    said = zo("replay", llama_folder, tmp_path / "run/ledger.zo", "-o", tmp_path / "out", "--json")
    assert said.code == 0, said.err
    digest = sha256(tmp_path / "run/model/model.safetensors")
    assert said.rows[-1]["sha256"] == {"model.safetensors": digest}
    assert sha256(tmp_path / "out/model.safetensors") == digest
    assert digest != sha256(llama_folder / "model.safetensors")
    said = zo("replay", llama_folder, tmp_path / "run/ledger.zo", "-o", tmp_path / "out")
    assert said.code == 2
    assert "exists already" in said.err


def test_an_adapter_is_rebuilt_too(train: Zo, zo: Zo, llama_folder: Path, tmp_path: Path):
    said = train("--scheme", "lora")
    assert said.code == 0, said.err
    said = zo("replay", llama_folder, tmp_path / "run/ledger.zo", "-o", tmp_path / "out")
    assert said.code == 0, said.err
    files = [tmp_path / where / "adapter_model.safetensors" for where in ("run/model", "out")]
    assert sha256(files[0]) == sha256(files[1])
    assert any(tensor.any() for name, tensor in load_file(files[0]).items() if "lora_B" in name)


def test_replay_until_a_step_or_the_best(train: Zo, zo: Zo, llama_folder: Path, tmp_path: Path):
    assert train("--eval-every", "2").code == 0
    run = tmp_path / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    marked = {2: 0.5, 4: 0.9, 6: 0.9, 8: 0.7}
    rows = [row | ({"accuracy": marked[row["step"]]} if row.get("split") == "dev" else {}) for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def replayed(until: str) -> Any:
        said = zo("replay", llama_folder, run / "ledger.zo", "-o", tmp_path / until, "--until", until)
        assert said.code == 0, said.err
        return said

    said = replayed("best")
    assert "best accuracy on dev: 0.9000 after step 4" in said.err
    replayed("4")
    replayed("0")
    assert sha256(tmp_path / "best/model.safetensors") == sha256(tmp_path / "4/model.safetensors")
    base, nothing = load_file(llama_folder / "model.safetensors"), load_file(tmp_path / "0/model.safetensors")
    assert all(base[name].equal(nothing[name]) for name in base)
    for until, part in (("9", "has 8 steps"), ("soon", "give a number of steps, or best")):
        said = zo("replay", llama_folder, run / "ledger.zo", "-o", tmp_path / "x", "--until", until)
        assert (said.code, part in said.err) == (2, True)
    (run / "metrics.jsonl").unlink()
    assert "there is no" in zo("replay", llama_folder, run / "ledger.zo", "-o", tmp_path / "x", "--until", "best").err
    assert not (tmp_path / "x").exists()


def test_verify_tells_sound_cut_torn_damaged_and_foreign(train: Zo, zo: Zo, llama_folder: Path, tmp_path: Path):
    assert train().code == 0
    path = tmp_path / "run/ledger.zo"
    whole = path.read_bytes()

    def verify(data: bytes, *words: str) -> Any:
        path.write_bytes(data)
        return zo("ledger", "verify", llama_folder, path, *words)

    said = verify(whole)
    assert said.code == 0
    assert "sound: 8 steps" in said.out
    said = verify(whole[:-END])
    assert said.code == 0
    assert "without an end record: a valid run of 8 steps" in said.out
    assert verify(whole[:-END], "--finished").code == 2
    said = verify(whole[: -END - 5])
    assert said.code == 2
    assert "the last entry" in said.err
    assert f"cut off ({STEP - 5} bytes after step 6)" in said.err
    flipped = bytearray(whole)
    flipped[len(whole) - END - 2 * STEP - CHAIN - 1] ^= 1
    said = verify(bytes(flipped))
    assert said.code == 2
    assert "damaged at step 5" in said.err
    path.write_bytes(whole)
    tensors = load_file(llama_folder / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, llama_folder / "model.safetensors", {"format": "pt"})
    said = zo("ledger", "verify", llama_folder, path)
    assert said.code == 2
    assert "belongs to another base" in said.err
    assert "folder of a run" in zo("ledger", "verify", tmp_path / "run", path).err


def test_verify_finds_weights_that_the_end_record_does_not_name(train: Zo, zo: Zo, llama_folder: Path, tmp_path: Path):
    from zerothorder.ledger.writer import Ledger

    assert train().code == 0
    path = tmp_path / "run/ledger.zo"
    path.write_bytes(path.read_bytes()[:-END])
    ledger = Ledger.resume(path)
    ledger.end("ab" * 32)
    ledger.close()
    said = zo("ledger", "verify", llama_folder, path)
    assert said.code == 2
    assert "end record says abababababab" in said.err
    said = zo("replay", llama_folder, path, "-o", tmp_path / "out")
    assert said.code == 2
    assert not (tmp_path / "out").exists()


def test_show_sums_a_ledger_up(train: Zo, zo: Zo, tmp_path: Path):
    assert train().code == 0
    path = tmp_path / "run/ledger.zo"
    found = zo("ledger", "show", path, "--json", "--rows", "2").rows[0]
    assert (found["steps"], found["skipped"], found["state"]) == (8, 0, "complete")
    assert found["settings"]["lr"] == 0.01
    assert found["origin"]["scheme"] == "full"
    assert found["weights"] == sum(t.numel() for t in load_file(tmp_path / "run/model/model.safetensors").values())
    assert [entry["step"] for entry in found["entries"]] == [0, 1, 6, 7]
    journal = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = {row["step"]: row for row in journal if row["kind"] == "step"}
    for entry in found["entries"]:
        assert entry["loss"] == steps[entry["step"]]["loss"]
        assert entry["scalars"] == [steps[entry["step"]]["projected_gradient"]]
    said = zo("ledger", "show", path, "--rows", "2")
    assert "mezo" in said.out
    assert "…" in said.out
    said = zo("ledger", "show", tmp_path / "none.zo")
    assert said.code == 2
    assert "cannot read the ledger" in said.err


def test_replay_of_a_cut_ledger_says_what_is_left_out(train: Zo, zo: Zo, llama_folder: Path, tmp_path: Path):
    assert train().code == 0
    path = tmp_path / "run/ledger.zo"
    whole = path.read_bytes()
    for cut, words in (
        (END, "its 8 complete"),
        (END + 5, f"its last entry is cut ({STEP - 5} bytes), so the 7 complete"),
    ):
        path.write_bytes(whole[:-cut])
        said = zo("replay", llama_folder, path, "-o", tmp_path / str(cut))
        assert said.code == 0, said.err
        assert f"{words} steps are replayed" in said.err


def test_bytes_a_step_are_an_entrys_and_the_header_stands_apart(train: Zo, zo: Zo, tmp_path: Path):
    from zerothorder.ledger.reader import read
    from zerothorder.report.origin import read_origin

    assert train().code == 0
    path = tmp_path / "run/ledger.zo"
    header = len(read(path).header.encode())
    found = zo("ledger", "show", path, "--json").rows[0]
    origin, _ = read_origin(path)
    planned = 24 + 4 * 2  # as `zo plan` has it (tests/plan): prefix and chain, a loss and one scalar
    assert (found["bytes a step"], found["header bytes"]) == (planned, header)
    assert (origin.step_bytes, origin.header_bytes) == (planned, header)
    shown = zo("ledger", "show", path).out
    assert [line.split()[-1] for line in shown.splitlines() if line.startswith("bytes a step")] == ["32"]


def test_diff_names_headers_and_the_first_step(train: Zo, zo: Zo, tmp_path: Path):
    a, b = tmp_path / "run/ledger.zo", tmp_path / "b/ledger.zo"
    assert train().code == 0
    assert train("--output", tmp_path / "b").code == 0
    said = zo("ledger", "diff", a, b)
    assert (said.code, said.out) == (0, "the same run: 8 steps\n")
    assert train("--output", tmp_path / "b", "--overwrite", "--schedule", "linear").code == 0
    said = zo("ledger", "diff", a, b, "--json")
    found = said.rows[0]
    assert said.code == 1
    assert [row["what"] for row in found["header"]] == ["settings.schedule"]
    # the rate of step 0 is the same, so its entry is; step 1 starts from the same weights with another rate
    assert found["step"] == 1
    assert [row["what"] for row in found["entry"]] == ["rates"]
    b.write_bytes(a.read_bytes()[: -END - STEP])
    said = zo("ledger", "diff", a, b)
    assert said.code == 1
    assert "first difference at step 7" in said.out


def test_eval_measures_what_training_measured(train: Zo, zo: Zo, llama_folder: Path, data_file: Path, tmp_path: Path):
    measures = train("--json").rows[-1]["measures"]
    for model, split in ((llama_folder, "zero-shot"), (tmp_path / "run/model", "test")):
        said = zo("eval", model, "--data", data_file, *TASK, "--json")
        assert said.code == 0, said.err
        found = said.rows[-1]
        assert {name: found[name] for name in measures[split]} == measures[split]
        assert set(measures[split]) - {"rows"} == {"accuracy", "calibrated_accuracy", "auc", "loss"}
    shown = zo("eval", tmp_path / "run/model", "--data", data_file, *TASK).out
    assert "calibrated accuracy" in shown
    assert not [line for line in shown.splitlines() if line.startswith("rows")]  # they stand in the heading
    said = zo("eval", tmp_path / "run", "--data", data_file, *TASK)
    assert said.code == 2
    assert "is the folder of a run, not of a model; evaluate" in said.err
