"""`zo rounds`: a policy in rounds from prompts and references, resumed, and told in numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from trl_toys import llama, tokenizer
from zerothorder.cli.main import main
from zerothorder.ledger.reader import read

FREE = ("spsa", "lr=1e-2", "eps=1e-2")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tiny model and texts for it."""
    folder = tmp_path_factory.mktemp("given")
    llama().save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    (folder / "data").mkdir()
    for split, count in (("train", 8), ("dev", 4), ("test", 4)):
        rows = [{"text": f"w{i} w{i + 1} w{i + 2}", "summary": f"w{i} w{i + 1}"} for i in range(count)]
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--model", str(folder / "model"), "--data", str(folder / "data"), "--prompt", "{text}"]
    words += ["--reference", "{summary}", "--prompts", "2", "--tokens", "4", "--rank", "2", "--dtype", "float32"]
    return [*words, "--updates", "1", "--fits", "1", "--first", *FREE, "--fit", *FREE]


def last(captured: Any) -> dict[str, Any]:
    return json.loads(captured.readouterr().out.splitlines()[-1])


@pytest.mark.slow
def test_a_whole_run_of_fitted_rewards_without_a_backward_pass(given: list[str], tmp_path: Path, capsys: Any) -> None:
    words = ["rounds", *given, "--reward", "fitted", "--truth", "chrf", "--sft", "--output", str(tmp_path / "run")]
    assert main([*words, "--json"]) == 0
    told = last(capsys)
    stages = ["policy-0", "policy-1", "reward-0", "reward-1", "sft"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir()) == stages
    for stage in stages:
        assert not any(entry.dense_hash for entry in read(tmp_path / "run" / stage / "ledger.zo").entries)
    assert told["policy"] == str(tmp_path / "run" / "policy-1")
    assert told["before"]["kl"] == 0
    assert {"reward", "kl", "length"} <= told["after"].keys()
    done = (tmp_path / "run/policy-1/stage.json").stat().st_mtime_ns
    assert main([*words, "--test-rows", "0"]) == 0  # nothing is left to do
    assert (tmp_path / "run/policy-1/stage.json").stat().st_mtime_ns == done
    assert capsys.readouterr().out.strip() == f"policy: {tmp_path / 'run' / 'policy-1'}"


@pytest.mark.slow
def test_a_given_reward_and_what_is_printed(given: list[str], tmp_path: Path, capsys: Any) -> None:
    words = ["rounds", *given, "--reward", "chrf", "--rounds", "1", "--output", str(tmp_path / "run")]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "KL from the reference, nats" in said.out
    assert "before: " in said.out
    assert "policy-0 is done in" in said.err
    assert "{'" not in said.out + said.err, "the trainer's own lines"
    assert main([*words, "--updates", "2"]) == 2
    assert "was begun with updates = 1, not 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--rounds", "0"], "--rounds is 0; it must be 1 or more"),
        (["--samples", "1"], "--samples is 1; RLOO compares"),
        (["--then", "zopo"], "unknown recipe 'zopo'"),
        (["--then", "zopro", "lrr=3"], "no setting 'lrr'"),
        (["--first", "adamw", "2e-4"], "--first adamw takes NAME=VALUE, not '2e-4'"),
        (["--reward", "rouge"], "there is no reward 'rouge'"),
        (["--first", "zopro"], "first is zopro, which follows an earlier update where there is none yet"),
        (["--longest", "1"], "has at most 1 tokens"),
        (["--prompt", "{body}"], "column 'body'"),
    ],
)
def test_a_mistake_is_told(given: list[str], tmp_path: Path, capsys: Any, more: list[str], said: str) -> None:
    assert main(["rounds", *given, *more, "--output", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_left_alone(given: list[str], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "letters").write_text("mine")
    assert main(["rounds", *given, "--output", str(tmp_path)]) == 2
    assert "is not empty and holds no run of rounds" in capsys.readouterr().err
