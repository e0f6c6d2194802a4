"""`zo` in this process on a tiny model, and the data and flags that go with it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

TASK = ("--template", "{text} It was", "--verbalizers", "0=terrible,1=great", "--threads", "1")


@dataclass(frozen=True)
class Said:
    """What a command left: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]


Zo = Callable[..., Said]


@pytest.fixture
def zo(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Zo:
    """Runs a command line; the report page (seconds of matplotlib) is left out."""
    from zerothorder import training
    from zerothorder.cli import main

    monkeypatch.setattr(training, "write_report", lambda folder: folder)

    def run(*words: object) -> Said:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return Said(code, *capfd.readouterr())

    return run


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """60 rows, half of them positive, that a rule of one word decides."""
    return write_rows(
        tmp_path / "films.jsonl",
        [{"text": f"a {'good' if n % 2 else 'bad'} film {n} and actors", "label": n % 2} for n in range(60)],
    )


@pytest.fixture
def train(zo: Zo, llama_folder: Path, data_file: Path, tmp_path: Path) -> Zo:
    """`zo train` on the tiny model into tmp_path/run, unless the words say otherwise (the last of a flag counts)."""

    def run(*words: object) -> Said:
        flags = {"--model": llama_folder, "--data": data_file, "--output": tmp_path / "run", "--check": "off"}
        flags |= {"--steps": 8, "--batch-size": 4, "--lr": "1e-2", "--eps": "1e-2"}
        given = [word for word in words if str(word) in flags]
        base = [word for name, value in flags.items() if name not in given for word in (name, value)]
        task = [] if "--template" in words else TASK
        return zo("train", *base, *task, *words)

    return run


def write_rows(path: Path, rows: list) -> Path:
    """JSON lines; a str is a line as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path
