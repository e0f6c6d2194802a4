"""The checkpoints of a trainer, and the ledger beside them that they belong to."""

import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from zerothorder.errors import UsageError
from zerothorder.ledger.attachments import write_durably
from zerothorder.ledger.lock import claimed, release
from zerothorder.ledger.writer import cut

_log = logging.getLogger(__name__)

LEDGER = "ledger.zo"
"""In the trainer's output_dir."""
_STATE = "trainer_state.json"


def checkpoint(asked: str | Path | bool | None, output: str) -> Path | None:
    """The folder to resume from, as transformers understands the argument."""
    if not asked:
        return None
    if asked is not True:
        return Path(asked)
    # transformers writes the state last: a folder without it was being written when the run was killed
    whole = [p for p in Path(output).glob("checkpoint-*") if p.name[11:].isdigit() and (p / _STATE).exists()]
    steps = [int(p.name.partition("-")[2]) for p in whole]
    if not steps:
        raise UsageError(f"there is no checkpoint in {output} to resume from; leave resume_from_checkpoint out")
    return Path(output) / f"checkpoint-{max(steps)}"


def step_of(folder: Path) -> int:
    """The step a checkpoint was written at. UsageError where it is none."""
    try:
        return int(json.loads((folder / _STATE).read_text())["global_step"])
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder} is not a checkpoint of a trainer: it has no {_STATE} ({error})") from error


def counted(folder: Path) -> dict[str, float]:
    """What the run had counted when the checkpoint was written, as it was logged last."""
    history = json.loads((folder / _STATE).read_text()).get("log_history", [])
    return next((row for row in reversed(history) if "zo/tokens" in row), {})


@contextmanager
def ledger_at(output: str, step: int | None) -> Generator[Path]:
    """The ledger in a trainer's output_dir, made ready: cut after `step` to go on from there, or none, to begin with.
    What it held beyond that is kept beside it, under a number; where the block fails the file is as it was.

    UsageError when there is no ledger to go on from.
    """
    path = Path(output) / LEDGER
    if step is not None and not path.exists():
        raise UsageError(f"there is no {path} to resume from; a checkpoint alone does not hold the run")
    path.parent.mkdir(parents=True, exist_ok=True)
    number = next(n for n in range(1, 10**6) if not path.with_suffix(f".{n}.zo").exists())
    kept = path.with_suffix(f".{number}.zo")
    if step is None and path.exists():
        with claimed(path):
            path.rename(kept)
    elif step is not None and (before := cut(path, step)) is not None:
        write_durably(kept, before)
    try:
        yield path
    except BaseException:
        release(path)
        if kept.exists():
            kept.replace(path)
        raise
    if kept.exists():
        _log.warning("the steps of an earlier run are kept in %s", kept)
