"""A language model fine-tuned by `training.train`: killed and resumed, and rebuilt by another process."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from crashes import boundaries, dying, in_child
from small_runs import use_forkable_kernels
from zerothorder import training
from zerothorder.config import TrainConfig
from zerothorder.training import train

pytestmark = pytest.mark.slow


class Silent:
    """A reporter that keeps nothing."""

    def note(self, text: str) -> None: ...

    def row(self, row: Mapping[str, Any]) -> None: ...

    def progress(self, what: str, done: int, total: int) -> None: ...


@pytest.fixture
def config(tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr(training, "write_report", lambda folder: folder)
    data = tmp_path / "films.jsonl"
    rows = [{"text": f"a {'good' if n % 2 else 'bad'} film {n}", "label": n % 2} for n in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TrainConfig(
        output=tmp_path / "run",
        model=str(llama_folder),
        data=str(data),
        template="{text} It was",
        verbalizers="0=terrible,1=great",
        steps=5,
        batch_size=4,
        eval_rows=4,
        test_rows=4,
        lr=1e-2,
        eps=1e-2,
        schedule="linear",
        optimizer="momentum",
        snapshot_every=2,
        check="off",
        threads=1,
    )


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_process_gives_the_sha256_of_the_model(config: TrainConfig, tmp_path: Path, dtype: Any) -> None:
    """From a folder that holds only base and ledger, with 1 and 2 threads."""
    train(dataclasses.replace(config, dtype=dtype), Silent())
    expected = digest(config.output / "model")
    assert expected
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copytree(config.model, alone / "base")
    shutil.copy(config.output / "ledger.zo", alone / "ledger.zo")
    zo = (sys.executable, "-c", "from zerothorder.cli import main; raise SystemExit(main())")
    for threads in ("1", "2"):
        done = subprocess.run(
            [*zo, "replay", str(alone / "base"), str(alone / "ledger.zo"), "-o", str(alone / threads)],
            env={**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert digest(alone / threads) == expected


def test_killed_at_boundaries_all_over_the_run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ninth call that changes the disk, from the first folder to the saved model and the end record."""
    use_forkable_kernels(monkeypatch)
    names = boundaries(lambda: train(config, Silent()))
    expected, ledger = digest(config.output / "model"), (config.output / "ledger.zo").read_bytes()
    assert len(names) > 50
    for at in range(0, len(names), 9):
        again = dataclasses.replace(config, output=config.output.with_name(f"at-{at}"))

        def work(at: int = at, again: TrainConfig = again) -> None:
            with dying(at, True):
                train(again, Silent())

        assert in_child(work) == -signal.SIGKILL
        begun = (again.output / "config.json").exists()
        train(dataclasses.replace(again, resume=begun), Silent())
        assert digest(again.output / "model") == expected, (at, names[at])
        assert (again.output / "ledger.zo").read_bytes() == ledger, (at, names[at])
