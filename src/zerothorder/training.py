"""Fine-tuning from a config: the run folder, the loop, evaluations, snapshots, resume."""

import dataclasses
import resource
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import zerothorder
from zerothorder import catalogue, environment, folder
from zerothorder.config import TrainConfig
from zerothorder.data import BatchStream, save_model
from zerothorder.errors import UsageError
from zerothorder.estimate import Step
from zerothorder.evaluation import CALIBRATION_ROWS, evaluate
from zerothorder.execution.check import check_sites
from zerothorder.execution.copy import Copy
from zerothorder.execution.resolution import lost_share
from zerothorder.execution.swap import Swap
from zerothorder.integrations.peft import start_of
from zerothorder.journal import Journal, read_journal
from zerothorder.key import run_key
from zerothorder.ledger.attachments import Attachments
from zerothorder.ledger.entry import Entry
from zerothorder.ledger.header import check_base, fingerprint
from zerothorder.ledger.reader import Contents, read
from zerothorder.ledger.snapshot import load_snapshot, save_snapshot
from zerothorder.ledger.writer import Ledger
from zerothorder.movement import Movement
from zerothorder.recipe import Recipe
from zerothorder.replay import START, apply_entries, load_attached
from zerothorder.report import Tracker, check_trackers, open_trackers, write_report
from zerothorder.reporter import Reporter
from zerothorder.run import Run, uninterrupted
from zerothorder.space import ParameterSpace
from zerothorder.state import State
from zerothorder.task import Task, load_task, space_of

_SKIPS_ALLOWED = 20
_LOST_TOLD, _LOST_REFUSED = 0.01, 0.5


@dataclass
class Training:
    """A run in its folder. `go()` trains to the last step and returns the final measures.

    `complete` says that a config to resume was made from the saved one, so that every field of it is meant.
    `measures` holds what was measured so far: split name ("zero-shot", "dev", "test") → name → value.
    """

    config: TrainConfig
    report: Reporter
    complete: bool = False
    task: Task = field(init=False)
    run: Run = field(init=False)
    measures: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]], init=False)
    _trackers: list[Tracker] = field(default_factory=list[Tracker], init=False)
    _lost: float = field(default=0.0, init=False)

    def go(self) -> dict[str, float]:
        """Train, resume or finish the run. UsageError for what the user can mend; Ctrl-C saves and stops."""
        self.config = config = folder.inspect(self.config, complete=self.complete)
        check_trackers(config.report_to)
        before = environment.load(config.output) if config.resume else {}
        environment.use_threads(config.threads, before)
        contents = self._written()
        if contents and contents.final and len(contents.entries) >= config.steps:
            return self._already_finished()
        self.task = load_task(config, progress=self.report.progress)
        self._tell_cuts()
        examples = self.task.splits["train"]
        lengths = [len(e.prompt) for e in examples]
        stream = BatchStream(lengths, config.batch_size, run_key(config.seed), config.group_by_length)
        space = space_of(config, self.task.model)
        recipe = catalogue.build(config.recipe, config.scheme, **config.recipe_settings())
        if contents is None and not hasattr(recipe, "setup"):
            self._check_resolution(recipe, space, State())
        if not config.resume:
            folder.create(config)
        try:
            self._start(space, recipe, contents)
            self._journal = Journal(config.output / "metrics.jsonl", self.run.index if config.resume else None)
            self._trackers = open_trackers(config.report_to, config.output, dataclasses.asdict(config))
            self._prepare(examples, stream, before)
        except BaseException as error:
            if hasattr(self, "run"):
                self.run.ledger.close()
            if isinstance(error, UsageError) and not config.resume:
                folder.discard(config.output)
            raise
        return self._guarded(examples, stream)

    def _written(self) -> Contents | None:
        path = self.config.output / "ledger.zo"
        return read(path) if self.config.resume and path.exists() else None

    def _tell_cuts(self) -> None:
        for split, count in self.task.truncated.items():
            if count:
                self.report.note(
                    f"{count} of {len(self.task.splits[split])} {split} texts were too long and lost their beginning"
                )

    def _start(self, space: ParameterSpace, recipe: Recipe, contents: Contents | None) -> None:
        config, state, ledger = self.config, State(), None
        path = config.output / "ledger.zo"
        self._movement = Movement(space, self.task.source)
        if contents is not None:
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
        self.run = Run(
            self.task.model,
            space,
            recipe,
            self.task.objective,
            {"swap": Swap, "copy": Copy}[config.executor](),
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
                "objective": config.objective,
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
        if contents is not None:
            self.report.note(f"resumed at step {self.run.index}")

    def _prepare(self, examples: Any, stream: BatchStream, before: Mapping[str, Any]) -> None:
        """Everything between the ledger and the first step of this process."""
        config, run = self.config, self.run
        now = environment.environment(config.executor, config.device)
        if before:
            environment.compare(before, now, self.report.note)
        if run.index == 0 and hasattr(run.recipe, "setup"):
            self._check_resolution(run.recipe, run.space, run.state)
        if (last := self._journal.last) is not None:
            run.around.meter.examples, run.around.meter.tokens = last["forwards"], last["tokens"]
        for entry in run.ledger.past[self._journal.next_step :]:
            self._write(_row(entry))  # written and applied, but killed before its row
        owners = before.get("owners")
        if owners is None:
            owners = self._check(examples, stream)
        elif isinstance(run.executor, Swap):
            run.executor = Swap(owners)
        if not before:
            environment.save(config.output, now | {"owners": owners})

    def _check(self, examples: Any, stream: BatchStream) -> dict[str, str]:
        """Compare Swap with Copy; returns the owners it must know."""
        run, mode = self.run, self.config.check
        if mode == "off" or not isinstance(run.executor, Swap):
            return {}
        batch = [examples[i] for i in stream.indices(run.index)[:4]]
        found = check_sites(
            run.around, run.objective, batch, mode=mode,
            progress=lambda done, total: self.report.progress("checking", done, total),
        )  # fmt: skip
        for sentence in found.sentences():
            self.report.note(sentence)
        run.executor = Swap(found.owners)
        return dict(found.owners)

    def _check_resolution(self, recipe: Recipe, space: ParameterSpace, state: State) -> None:
        """UsageError where the storage dtype swallows most of the perturbation."""
        first = next(recipe.estimator()(Step(0, recipe.rates(0, self.config.steps), (), state)))
        terms = next((point.terms for point in first if point.terms), ())
        if not terms:
            return
        lost = lost_share(space, recipe.direction(run_key(self.config.seed)), state, terms)
        what = f"{lost:.0%} of the weights do not feel the perturbation, which is below the resolution of their dtype"
        if lost > _LOST_REFUSED:
            raise UsageError(f"{what}; raise --eps, or use --dtype float32")
        if lost > _LOST_TOLD:
            self.report.note(f"{what}; a larger --eps or --dtype float32 would reach them")

    def _guarded(self, examples: Any, stream: BatchStream) -> dict[str, float]:
        """The loop and what follows; whatever ends it, the folder is left in order."""
        config, run = self.config, self.run
        try:
            self._evaluate("zero-shot", "test", config.test_rows, CALIBRATION_ROWS, only_at=0)
            self._loop(examples, stream)
            return self._finish()
        except KeyboardInterrupt:
            with uninterrupted():  # a second Ctrl-C waits
                self._snapshot()
                self.report.note(
                    f"stopped at step {run.index}, saved; go on with: zo train --output {config.output} --resume"
                )
            raise
        finally:
            try:
                run.ledger.close()
            finally:
                self._journal.close()
                for tracker in self._trackers:
                    tracker.close()
            self._leave_report()

    def _loop(self, examples: Any, stream: BatchStream) -> None:
        config, run = self.config, self.run
        while True:
            at = run.index
            if config.eval_every and 0 < at < config.steps and at % config.eval_every == 0:
                self._evaluate("dev", "dev", config.eval_rows)
            if at >= config.steps:
                return
            began = time.monotonic()
            entry = run.step([examples[i] for i in stream.indices(at)])
            meter = run.around.meter
            self._write(
                _row(entry)
                | {
                    "forwards": meter.examples,
                    "tokens": meter.tokens,
                    "seconds": time.monotonic() - began,
                    "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                }
            )
            self.report.progress("training", run.index, config.steps)
            recent = run.ledger.past[-_SKIPS_ALLOWED:]
            if len(recent) == _SKIPS_ALLOWED and all(past.skipped for past in recent):
                raise UsageError(
                    f"the loss was not a number at {_SKIPS_ALLOWED} steps in a row (up to step {at}); "
                    "lower --lr or --eps, or use --dtype float32"
                )
            if config.snapshot_every and run.index % config.snapshot_every == 0 and run.index < config.steps:
                self._snapshot()

    def _finish(self) -> dict[str, float]:
        config, run = self.config, self.run
        dev = self._evaluate("dev", "dev", config.eval_rows)
        final = self._evaluate("test", "test", config.test_rows, CALIBRATION_ROWS)
        self.report.progress("saving the model", 0, 1)
        save_model(self.task.model, self.task.tokenizer, config.output / "model", overwrite=True)
        run.ledger.end(fingerprint(self.task.model))
        self.report.progress("saving the model", 1, 1)
        self._write({"kind": "end", "step": run.index, **final, **{f"dev_{k}": v for k, v in dev.items()}})
        shutil.rmtree(config.output / "snapshots", ignore_errors=True)
        return final

    def _already_finished(self) -> dict[str, float]:
        """The measures of a run whose end record stands; nothing is computed again."""
        config = self.config
        self.report.note(
            f"the run in {config.output} is finished: {config.steps} steps, model in {config.output}/model"
        )
        path = config.output / "metrics.jsonl"
        for row in read_journal(path) if path.exists() else []:
            if row["kind"] == "eval":
                self.measures[row["split"]] = _measures(row)
        return self.measures.get("test", {})

    def _evaluate(
        self, name: str, split: str, rows: int, calibrate: int = 0, only_at: int | None = None
    ) -> dict[str, float]:
        """Measure and write a row; what the journal has of this step already is not measured again."""
        at = self.run.index
        row = self._journal.evaluations.get((name, at if only_at is None else only_at))
        if row is None:
            if only_at not in (None, at):
                return {}
            found = evaluate(
                self.task, split, self.config.objective, rows, calibrate,
                progress=lambda done, total: self.report.progress(f"{name} evaluation", done, total),
            )  # fmt: skip
            moved = self._movement.measure() if at else {}
            row = {"kind": "eval", "step": at, "split": name, "forwards": self.run.around.meter.examples}
            row |= {**found, **moved}
            self._write(row)
        self.measures[name] = _measures(row)
        return self.measures[name]

    def _write(self, row: dict[str, Any]) -> None:
        self._journal.write(row)
        self.report.row(row)
        for tracker in self._trackers:
            tracker.log(row)

    def _snapshot(self) -> None:
        run = self.run
        if run.index:
            run.ledger.sync()
            save_snapshot(self.config.output / "snapshots", run.index, run.ledger.chain, run.space, run.state)

    def _leave_report(self) -> None:
        """RUN/report.html; what keeps it from being written is told, and spoils nothing else."""
        self.report.progress("writing the report", 0, 1)
        try:
            write_report(self.config.output)
        except (UsageError, OSError) as error:
            self.report.note(f"there is no report.html: {error}")
        self.report.progress("writing the report", 1, 1)


def _row(entry: Entry) -> dict[str, Any]:
    """What a step's row of metrics.jsonl takes from its entry."""
    return {
        "kind": "step",
        "step": entry.step,
        "loss": entry.notes.get("loss"),
        "projected_gradient": entry.terms[0][1] if entry.terms else None,
        "lr": max(rate.lr for rate in entry.rates.values()),
        "skipped": entry.skipped,
    }


def _measures(row: Mapping[str, Any]) -> dict[str, float]:
    """The measures in an evaluation's row."""
    beside = ("kind", "step", "split", "forwards", "moved", "changed")
    return {name: float("nan") if value is None else value for name, value in row.items() if name not in beside}


def train(config: TrainConfig, report: Reporter) -> dict[str, float]:
    """Fine-tune as the config says; returns the final measures on test."""
    return Training(config, report).go()


__all__ = ["Path", "Reporter", "Training", "train"]
