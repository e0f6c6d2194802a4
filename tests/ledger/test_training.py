"""A language model fine-tuned by `training.train`: killed and resumed, and rebuilt by another process."""

import dataclasses
import functools
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
from zerothorder import opening, training
from zerothorder.config import TrainConfig
from zerothorder.errors import UsageError
from zerothorder.journal import Journal
from zerothorder.ledger.reader import read
from zerothorder.ledger.writer import cut
from zerothorder.training import train

pytestmark = pytest.mark.slow


class Silent:
    """A reporter that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

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


def test_a_run_that_was_killed_while_its_config_was_written_begins_anew(config: TrainConfig) -> None:
    config.output.mkdir(parents=True)
    (config.output / ".config.json.tmp").write_text("{")
    train(config, Silent())
    assert not (config.output / ".config.json.tmp").exists()
    other = dataclasses.replace(config, output=config.output.with_name("other"))
    other.output.mkdir()
    (other.output / ".letters.tmp").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        train(other, Silent())


STEPS = 5


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """The step rows of a journal without what another process may have otherwise."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "cpu_seconds", "memory", "forwards", "tokens")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows if row["kind"] == "step"]


@pytest.mark.parametrize("recipe", ["hybrid", "adamw"])
@pytest.mark.parametrize("every", [0, 2])
def test_a_run_with_gradients_goes_back_to_its_snapshot_and_ends_in_the_same_bits(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, recipe: str, every: int
) -> None:
    """Killed with so many entries written, then amid each call of the resume's own cut, then at the next step."""
    use_forkable_kernels(monkeypatch)
    config = dataclasses.replace(config, recipe=recipe, optimizer=None, snapshot_every=every, eps=None)
    config = dataclasses.replace(config, eps=1e-2) if recipe == "hybrid" else config
    train(config, Silent())
    expected, ledger = digest(config.output / "model"), (config.output / "ledger.zo").read_bytes()
    whole = steps_of(config.output)
    assert [row["step"] for row in whole] == list(range(STEPS))

    def killed(run: TrainConfig, step: int) -> None:
        write = Journal.write

        def dies(self: Journal, row: Mapping[str, Any]) -> None:
            if row["kind"] == "step" and row["step"] == step:
                os.kill(os.getpid(), signal.SIGKILL)  # written and applied, but for its row
            write(self, row)

        def work() -> None:
            Journal.write = dies  # type: ignore[method-assign]
            train(run, Silent())

        assert in_child(work) == -signal.SIGKILL

    for step in range(STEPS):
        again = dataclasses.replace(config, output=config.output.with_name(f"at-{step}"))
        resumed = dataclasses.replace(again, resume=True)
        killed(again, step)
        assert len(read(again.output / "ledger.zo").entries) == step + 1
        # the cut itself is killed at each of its calls, and then the run once more at a later step
        for at in range(4):

            def cutting(at: int = at, resumed: TrainConfig = resumed) -> None:
                monkeypatch.setattr(opening, "cut", functools.partial(dies_in, at))
                train(resumed, Silent())

            assert in_child(cutting) == -signal.SIGKILL
        if step + 1 < STEPS:
            killed(resumed, step + 1)
        report = Silent()
        train(resumed, report)
        last = step + 1
        done = last - last % every if every else 0
        which = f"step {last} is" if done == last else f"steps {done} to {last} are"
        where = f"the snapshot of step {done}" if done else "the start, for there is no snapshot"
        sentence = f"the ledger keeps no gradients to replay: {which} taken again, from {where}"
        # after the last step nothing was killed but cuts, the last of them when it was through
        assert [note for note in report.notes if "taken again" in note] == [sentence] * (last < STEPS)
        assert digest(again.output / "model") == expected, step
        assert (again.output / "ledger.zo").read_bytes() == ledger, step
        assert steps_of(again.output) == whole


def dies_in(at: int, path: Path, done: int) -> None:
    with dying(at, True):
        cut(path, done)
    os.kill(os.getpid(), signal.SIGKILL)  # fewer calls than that


def test_killed_between_its_setup_and_its_first_step_a_run_is_set_up_once(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_forkable_kernels(monkeypatch)
    config = dataclasses.replace(config, recipe="block-wise", optimizer=None, scheme="prefix", eps=1e-1)
    train(config, Silent())
    ledger = (config.output / "ledger.zo").read_bytes()
    again = dataclasses.replace(config, output=config.output.with_name("again"))

    def work() -> None:
        monkeypatch.setattr(training.Training, "_loop", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        train(again, Silent())

    assert in_child(work) == -signal.SIGKILL
    assert len(read(again.output / "ledger.zo").attachments) == 2
    train(dataclasses.replace(again, resume=True), Silent())
    assert (again.output / "ledger.zo").read_bytes() == ledger
