"""Fine-tuning from a config: the run folder, the loop, evaluations, snapshots, resume."""

import dataclasses
import resource
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

import zerothorder
from zerothorder import catalogue
from zerothorder.config import TrainConfig, check_resumable, load_config
from zerothorder.data import BatchStream, save_model
from zerothorder.errors import UsageError
from zerothorder.evaluation import evaluate
from zerothorder.execution.copy import Copy
from zerothorder.execution.swap import Swap
from zerothorder.integrations.peft import start_of
from zerothorder.journal import Journal
from zerothorder.key import run_key
from zerothorder.ledger.attachments import Attachments
from zerothorder.ledger.header import check_base, fingerprint
from zerothorder.ledger.reader import read
from zerothorder.ledger.snapshot import load_snapshot, save_snapshot
from zerothorder.ledger.writer import Ledger
from zerothorder.movement import Movement
from zerothorder.replay import START, apply_entries, load_attached
from zerothorder.run import Run
from zerothorder.state import State
from zerothorder.task import Task, load_task, space_of

CALIBRATION_ROWS = 500
_SKIPS_ALLOWED = 20


class Reporter(Protocol):
    """Where a run says what it does."""

    def note(self, text: str) -> None:
        """A sentence the user should read."""
        ...

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of metrics.jsonl, as it is written."""
        ...

    def progress(self, what: str, done: int, total: int) -> None:
        """How far a named piece of work is."""
        ...


@dataclass
class Training:
    """A run in its folder. `go()` trains to the last step and returns the final measures."""

    config: TrainConfig
    report: Reporter
    task: Task = field(init=False)
    run: Run = field(init=False)

    def go(self) -> dict[str, float]:
        """Train, resume or finish the run. UsageError for what the user can mend; Ctrl-C saves and stops."""
        self.config = open_folder(self.config)
        config = self.config
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.task = load_task(config)
        for split, count in self.task.truncated.items():
            if count:
                self.report.note(
                    f"{count} of {len(self.task.splits[split])} {split} texts were too long and lost their beginning"
                )
        examples = self.task.splits["train"]
        lengths = [len(e.prompt) for e in examples]
        stream = BatchStream(lengths, config.batch_size, run_key(config.seed), config.group_by_length)
        self._start()
        journal = Journal(config.output / "metrics.jsonl", self.run.index if config.resume else None)
        self._rows = journal
        try:
            if self.run.index == 0:
                self._evaluate("zero-shot", "test", config.test_rows, CALIBRATION_ROWS)
                self._check(examples, stream)
            self._loop(examples, stream)
            final = self._finish()
        except KeyboardInterrupt:
            self._snapshot()
            self.report.note(
                f"stopped at step {self.run.index}, saved; go on with: zo train --output {config.output} --resume"
            )
            raise
        finally:
            self.run.ledger.close()
            journal.close()
        return final

    def _start(self) -> None:
        config = self.config
        space = space_of(config, self.task.model)
        recipe = catalogue.build(config.recipe, config.scheme, **config.recipe_settings())
        executor = {"swap": Swap, "copy": Copy}[config.executor]()
        state, ledger = State(), None
        self._movement = Movement(space, self.task.source)
        path = config.output / "ledger.zo"
        if config.resume and path.exists():
            contents = read(path)
            load_attached(contents, Attachments(path.parent / "attachments"), space, state, str(path))
            check_base(contents.header, self.task.model, space, str(path))
            ledger = Ledger.resume(path)
            self._movement = Movement(space, self.task.source)
            done = load_snapshot(config.output / "snapshots", contents.chains, space, state)
            todo = contents.entries[done:]
            apply_entries(
                todo, contents, space, state, ledger.attachments, str(path),
                lambda entry: self.report.progress("replaying", entry.step + 1 - done, len(todo)),
            )  # fmt: skip
            self.report.note(f"resumed at step {len(contents.entries)}")
        self.run = Run(
            self.task.model,
            space,
            recipe,
            self.task.objective,
            executor,
            seed=config.seed,
            steps=config.steps,
            path=path,
            ledger=ledger,
            state=state,
            origin={
                "zerothorder": zerothorder.__version__,
                "torch": torch.__version__,
                "model": config.model,
                "scheme": config.scheme,
                "dtype": config.dtype,
            },
            data={
                "source": config.data,
                "batch_size": config.batch_size,
                "group_by_length": config.group_by_length,
            },
        )

        start = start_of(config.scheme, space)
        if start and START not in self.run.ledger.attached:
            self.run.attach(START, start)

    def _check(self, examples: Any, stream: BatchStream) -> None:
        pass

    def _loop(self, examples: Any, stream: BatchStream) -> None:
        config, run, meter = self.config, self.run, self.run.around.meter
        skips, began = 0, time.monotonic()
        while run.index < config.steps:
            step = run.index
            entry = run.step([examples[i] for i in stream.indices(step)])
            row = {
                "kind": "step",
                "step": step,
                "loss": entry.notes["loss"],
                "projected_gradient": entry.terms[0][1],
                "lr": entry.rates["decay"].lr,
                "forwards": meter.examples,
                "tokens": meter.tokens,
                "seconds": time.monotonic() - began,
                "skipped": entry.skipped,
                "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
            began = time.monotonic()
            self._write(row)
            self.report.progress("training", run.index, config.steps)
            skips = skips + 1 if entry.skipped else 0
            if skips >= _SKIPS_ALLOWED:
                raise UsageError(
                    f"the loss was not a number at {skips} steps in a row (up to step {step}); "
                    "lower --lr or --eps, or use --dtype float32"
                )
            if config.snapshot_every and run.index % config.snapshot_every == 0 and run.index < config.steps:
                self._snapshot()
            if config.eval_every and run.index % config.eval_every == 0 and run.index < config.steps:
                self._evaluate("dev", "dev", config.eval_rows)

    def _finish(self) -> dict[str, float]:
        config, run = self.config, self.run
        dev = self._evaluate("dev", "dev", config.eval_rows)
        final = self._evaluate("test", "test", config.test_rows, CALIBRATION_ROWS)
        save_model(self.task.model, self.task.tokenizer, config.output / "model", overwrite=True)
        run.ledger.end(fingerprint(self.task.model))
        self._write({"kind": "end", "step": run.index, **final, **{f"dev_{k}": v for k, v in dev.items()}})
        shutil.rmtree(config.output / "snapshots", ignore_errors=True)
        return final

    def _evaluate(self, name: str, split: str, rows: int, calibrate: int = 0) -> dict[str, float]:
        found = evaluate(
            self.task, split, self.config.objective, rows, calibrate,
            progress=lambda done, total: self.report.progress(f"{name} evaluation", done, total),
        )  # fmt: skip
        moved = self._movement.measure() if self.run.index else {}
        meter = self.run.around.meter
        self._write(
            {
                "kind": "eval",
                "step": self.run.index,
                "split": name,
                "forwards": meter.examples,
                **found,
                **moved,
            }
        )
        return found

    def _write(self, row: dict[str, Any]) -> None:
        self._rows.write(row)
        self.report.row(row)

    def _snapshot(self) -> None:
        run = self.run
        if run.index:
            run.ledger.sync()
            save_snapshot(self.config.output / "snapshots", run.index, run.ledger.chain, run.space, run.state)


def open_folder(config: TrainConfig) -> TrainConfig:
    """Make or check the run's folder; returns the config to run with. UsageError when it holds another run."""
    folder = config.output
    saved = folder / "config.json"
    if config.resume:
        if not saved.exists():
            raise UsageError(f"there is no run to resume in {folder}; leave --resume out to start one")
        return check_resumable(load_config(saved), config)
    catalogue.build(config.recipe, config.scheme, **config.recipe_settings()).estimator()  # its mistakes come first
    if folder.exists() and any(folder.iterdir()):
        if not saved.exists():
            raise UsageError(f"the output folder {folder} is not empty and holds no run; choose another")
        if not config.overwrite:
            raise UsageError(
                f"the output folder {folder} holds another run; choose another, or --resume it, or --overwrite it"
            )
        for part in ("ledger.zo", "metrics.jsonl", "report.html", "config.json"):
            (folder / part).unlink(missing_ok=True)
        for part in ("model", "snapshots", "attachments"):
            shutil.rmtree(folder / part, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    saved.write_text(dataclasses.replace(config, overwrite=False).to_json())
    return config


def train(config: TrainConfig, report: Reporter) -> dict[str, float]:
    """Fine-tune as the config says; returns the final measures on test."""
    return Training(config, report).go()


__all__ = ["Path", "Reporter", "Training", "open_folder", "train"]
