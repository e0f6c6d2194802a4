"""`zo replay BASE LEDGER -o OUT`: the fine-tuned model again, from its ledger."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zerothorder.cli.flags import parse
from zerothorder.cli.terminal import terminal
from zerothorder.errors import UsageError

if TYPE_CHECKING:
    from zerothorder.ledger.reader import Contents

_MEASURES = ("accuracy", "f1", "auc", "loss")
"""What "best" looks at: the first of these that was evaluated on dev."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Rebuild a run's model from its base and its ledger: the same bits as RUN/model, on any CPU."""

    base: str
    """The model the run started from: a folder, a hub id, or a packaged model."""
    ledger: Path
    """The run's ledger.zo."""
    output: Path
    """Folder for the model; it must not exist."""
    until: str | None = None
    """How many steps, or 'best': the step of the best evaluation on dev in the metrics.jsonl beside the ledger."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Dtype to load the base in; by default the run's."""
    device: str = "cpu"
    """Where to replay; the bits are those of a CPU run."""
    trust_remote_code: bool = False
    """Allow code that comes with a model."""
    quiet: bool = False
    """Print nothing but errors."""
    json: bool = False
    """Print one JSON object a line instead of progress."""


def main(words: Sequence[str]) -> int:
    """Replay and save; prints the SHA-256 of the weight files."""
    asked = parse(Replay, words, "zo replay", positional=("base", "ledger"), aliases={"output": ("-o",)})
    with terminal(quiet=asked.quiet, as_json=asked.json) as report:
        if asked.output.exists():
            raise UsageError(f"{asked.output} exists already; name another folder or remove it")
        report.progress("starting", 0, 1)
        from zerothorder.cli.base import load_base, replayed
        from zerothorder.data import save_model
        from zerothorder.ledger.reader import read

        report.progress("starting", 1, 1)
        contents = read(asked.ledger)
        until, why = _until(asked.until, asked.ledger, contents)
        if why:
            report.note(why)
        if until is None and contents.final is None:
            report.note(
                f"{asked.ledger} has no end record: the run was stopped or is running; {_what_there_is(contents)}"
            )
        report.progress("loading the model", 0, 1)
        base = load_base(asked.base, contents, asked.dtype, asked.device, asked.trust_remote_code)
        report.progress("loading the model", 1, 1)
        replayed(base, asked.ledger, contents, until, report.progress)
        report.progress("saving the model", 0, 1)
        save_model(base.model, base.tokenizer, asked.output)
        report.progress("saving the model", 1, 1)
        files = {path.name: sha256(path) for path in sorted(asked.output.glob("*.safetensors"))}
        steps = len(contents.entries) if until is None else until
        report.result(
            {"output": str(asked.output), "steps": steps, "sha256": files},
            *(f"{digest}  {asked.output / name}" for name, digest in files.items()),
        )
    return 0


def _what_there_is(contents: "Contents") -> str:
    steps = f"{len(contents.entries)} complete steps are replayed"
    return f"its last entry is cut ({contents.torn} bytes), so the {steps}" if contents.torn else f"its {steps}"


def _until(asked: str | None, ledger: Path, contents: "Contents") -> tuple[int | None, str]:
    """(steps to replay or None for all, a sentence where it was chosen)."""
    if asked is None:
        return None, ""
    if asked == "best":
        return _best(ledger, len(contents.entries))
    if not asked.isdigit():
        raise UsageError(f"--until is {asked!r}; give a number of steps, or best")
    if int(asked) > len(contents.entries):
        raise UsageError(f"--until is {asked}, but {ledger} has {len(contents.entries)} steps; give at most that")
    return int(asked), ""


def _best(ledger: Path, steps: int) -> tuple[int, str]:
    from zerothorder.report.metrics import best, read_metrics

    path = ledger.parent / "metrics.jsonl"
    if not path.is_file():
        raise UsageError(f"--until best needs the run's evaluations, but there is no {path}; give a number of steps")
    metrics = read_metrics(path)
    for name in _MEASURES:
        at, values = metrics.evaluated(name, "dev")
        at, values = at[at <= steps], values[at <= steps]
        if at.size:
            value, step = best(name, at, values)
            return step, f"best {name} on dev: {value:.4f} after step {step}"
    raise UsageError(f"--until best needs an evaluation on dev, but {path} has none; give a number of steps")


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
