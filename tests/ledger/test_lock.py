"""A ledger has one writer, a suite's folder one runner; what a killed process had claimed is free."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from small_runs import Case, batch_at
from zerothorder.bench.runner import run_suite
from zerothorder.bench.suite import read_suite
from zerothorder.errors import UsageError
from zerothorder.ledger.lock import claim, release
from zerothorder.ledger.reader import read
from zerothorder.ledger.writer import Ledger, cut

fcntl = pytest.importorskip("fcntl")
HOLD = """
import sys, time
from pathlib import Path
from zerothorder.ledger.lock import claim
claim(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""
REFUSED = "another process is writing to .*; wait until it is done, or stop it first"


@contextmanager
def another(path: Path) -> Iterator[None]:
    """Another process that has claimed the path; killed at the end."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield
        finally:
            process.kill()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Of a run of two steps, whose writer is done."""
    run = Case(steps=4).start(tmp_path)
    for step in range(2):
        run.step(batch_at(step))
    run.ledger.close()
    return tmp_path / "ledger.zo"


def test_a_ledger_that_is_written_can_be_read_and_neither_resumed_nor_cut(ledger: Path) -> None:
    before = ledger.read_bytes()
    with another(ledger):
        assert len(read(ledger).entries) == 2
        with pytest.raises(UsageError, match=REFUSED):
            Ledger.resume(ledger)
        with pytest.raises(UsageError, match=REFUSED):
            cut(ledger, 1)
        assert ledger.read_bytes() == before
    Ledger.resume(ledger).close()  # the other was killed


def test_a_writer_keeps_others_out_until_it_is_closed(ledger: Path) -> None:
    own = Ledger.resume(ledger)
    refused = subprocess.run([sys.executable, "-c", HOLD, str(ledger)], capture_output=True, text=True, check=False)
    assert "another process is writing to" in refused.stderr
    own.close()
    with another(ledger):
        pass


def test_a_run_that_was_abandoned_here_is_resumed_here(ledger: Path) -> None:
    Ledger.resume(ledger)  # as in a notebook whose cell was stopped
    Ledger.resume(ledger).close()


def test_a_suite_has_one_runner(tmp_path: Path) -> None:
    path, folder = tmp_path / "suite.toml", tmp_path / "out"
    path.write_text(
        'kind = "preference"\nseeds = [0]\n[tasks.one]\ndata = "summaries"\nprompt = "{text}"\n'
        'reference = "{summary}"\n[methods.plain]\n'
    )
    folder.mkdir()
    with another(folder), pytest.raises(UsageError, match=REFUSED):
        run_suite(read_suite(path), folder)
    assert not any(folder.iterdir())


def test_a_file_system_without_locks_refuses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(handle: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    claim(tmp_path)
    release(tmp_path)
