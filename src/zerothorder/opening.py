"""The run of a folder: a new one, or the one its ledger tells of."""

from importlib.metadata import version
from pathlib import Path

import torch

from zerothorder.config import TrainConfig
from zerothorder.errors import UsageError
from zerothorder.execution import Executor
from zerothorder.execution.batched import Batched
from zerothorder.execution.copy import Copy
from zerothorder.execution.swap import Swap
from zerothorder.integrations.peft import start_of
from zerothorder.ledger.attachments import Attachments
from zerothorder.ledger.header import check_base
from zerothorder.ledger.reader import Contents, read
from zerothorder.ledger.snapshot import load_snapshot
from zerothorder.ledger.writer import Ledger, cut
from zerothorder.movement import Movement
from zerothorder.recipe import Recipe
from zerothorder.replay import START, apply_entries, load_attached
from zerothorder.reporter import Reporter
from zerothorder.run import Run
from zerothorder.space import ParameterSpace
from zerothorder.state import State
from zerothorder.task import Task, data_digest


def open_run(
    config: TrainConfig,
    task: Task,
    space: ParameterSpace,
    recipe: Recipe,
    contents: Contents | None,
    report: Reporter,
) -> tuple[Run, Movement]:
    """A new run, or with the `contents` of its ledger the run where it stopped: snapshot, then replay. With what
    compares its weights with those of step 0.

    Steps after the snapshot that replay cannot take are taken back, for they can be taken again: the file is cut.
    """
    state, ledger = State(), None
    digest = data_digest(task.splits)
    path = config.output / "ledger.zo"
    movement = Movement(space, task.source)
    if contents is not None:
        if contents.header.data.get("sha256", digest) != digest:
            raise UsageError(
                f"the data {config.data} gives other rows than when this run began (or the tokenizer cuts them "
                "otherwise); resume needs the same: put them back, or start a new run"
            )
        load_attached(contents, Attachments(path.parent / "attachments"), task.model, space, state, str(path))
        check_base(contents.header, task.model, space, str(path))
        movement = Movement(space, task.source)  # from where the ledger starts
        done = load_snapshot(config.output / "snapshots", contents.chains, space, state)
        contents = _taken_back(contents, done, path, report)
        ledger = Ledger.resume(path)
        todo = contents.entries[done:]
        apply_entries(
            todo, contents, space, state, ledger.attachments, str(path),
            lambda entry: report.progress("replaying", entry.step + 1 - done, len(todo)),
        )  # fmt: skip
    run = Run(
        task.model,
        space,
        recipe,
        task.objective,
        executor_of(config),
        seed=config.seed,
        steps=config.steps,
        path=path,
        ledger=ledger,
        state=state,
        origin={
            "zerothorder": version("zerothorder"),
            "torch": torch.__version__,
            "model": _name(config.model),
            "scheme": config.scheme,
            "dtype": config.dtype,
            "objective": config.objective,
            **({"head": len(task.classes), "classes": list(task.classes)} if task.classes else {}),
        },
        data={
            "source": _name(config.data),
            "batch_size": config.batch_size,
            "group_by_length": config.group_by_length,
            "sha256": digest,
        },
    )
    start = start_of(config.scheme, space)
    if start and START not in run.ledger.attached:
        run.attach(START, start)
    if contents is not None:
        report.note(f"resumed at step {run.index}")
    return run, movement


def _taken_back(contents: Contents, done: int, path: Path, report: Reporter) -> Contents:
    """What the ledger holds once nothing is left after the first `done` steps that only the data can bring again:
    gradients of which it has the hash. A run without a step loses its attachments too, which its recipe makes again.

    The shorter file replaces the longer one whole: a crash leaves one of the two, and either can be resumed.
    """
    store = Attachments(path.parent / "attachments")
    lost = [e for e in contents.entries[done:] if e.dense_hash is not None and not store.has(e.dense_hash)]
    if lost:
        first, last = done, len(contents.entries) - 1
        which = f"step {first} is" if first == last else f"steps {first} to {last} are"
        where = f"the snapshot of step {done}" if done else "the start, for there is no snapshot"
        report.note(f"the ledger keeps no gradients to replay: {which} taken again, from {where}")
    elif contents.entries or not contents.attachments:
        return contents
    cut(path, done)
    return read(path)


def executor_of(config: TrainConfig) -> Executor:
    """How the config has points evaluated."""
    if config.executor == "batched":
        return Batched(copies=config.copies, check=config.check != "off")
    return Swap() if config.executor == "swap" else Copy()


def _name(place: str) -> str:
    """A ledger is shared: of a local path it tells the last part, a packaged name or hub id whole."""
    return Path(place).name if Path(place).is_absolute() else place
