"""Fine-tuning from a config: the run folder, the loop, evaluations, snapshots, resume."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zerothorder import catalogue, environment, folder
from zerothorder.config import TrainConfig
from zerothorder.data import BatchStream, save_model
from zerothorder.errors import UsageError
from zerothorder.evaluation import CALIBRATION_ROWS
from zerothorder.execution.batched import Batched
from zerothorder.journal import read_journal
from zerothorder.key import run_key
from zerothorder.ledger.header import fingerprint
from zerothorder.ledger.lock import claim, release
from zerothorder.ledger.reader import Contents, read
from zerothorder.ledger.snapshot import save_snapshot
from zerothorder.measuring import Measuring, measures
from zerothorder.opening import open_run
from zerothorder.preflight import check_resolution, settle_executor
from zerothorder.profile import phase, profiling
from zerothorder.record import Record
from zerothorder.report import check_trackers, write_report
from zerothorder.reporter import Reporter
from zerothorder.run import Run, uninterrupted
from zerothorder.state import State
from zerothorder.task import Task, load_task, space_of


@dataclass
class Training:
    """A run in its folder. `go()` trains to the last step and returns the final measures.

    `complete` says that a config to resume was made from the saved one, so that every field of it is meant; without
    `tests` rows of test are never looked at, as a search of rates should not; without `page` there is no report.html.
    `measures` holds what was measured so far: split name ("zero-shot", "dev", "test") → name → value; `profile` the
    row of where the time of the steps went, once they are done or were stopped, if the config asks for it.
    """

    config: TrainConfig
    report: Reporter
    complete: bool = False
    tests: bool = True
    page: bool = True
    task: Task = field(init=False)
    run: Run = field(init=False)
    measures: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]], init=False)
    profile: dict[str, Any] | None = field(default=None, init=False)
    _told: tuple[str, ...] = field(default=(), init=False)

    def go(self) -> dict[str, float]:
        """Train, resume or finish the run. UsageError for what the user can mend; Ctrl-C saves and stops."""
        self.config = config = folder.inspect(self.config, complete=self.complete)
        check_trackers(config.report_to)
        before = environment.load(config.output) if config.resume else {}
        environment.use_threads(config.threads, before)
        contents = self._written()
        if contents and contents.final and len(contents.entries) >= config.steps:
            release(config.output / "ledger.zo")
            return self._already_finished()
        self.task = load_task(config, progress=self.report.progress)
        self._tell_cuts()
        examples = self.task.splits["train"]
        lengths = [len(e.prompt) for e in examples]
        stream = BatchStream(lengths, config.batch_size, run_key(config.seed), config.group_by_length)
        space = space_of(config, self.task.model)
        recipe = catalogue.build(config.recipe, config.scheme, **config.recipe_settings())
        if contents is None and not hasattr(recipe, "setup"):
            check_resolution(recipe, space, State(), config, self.report.note)
        if not config.resume:
            folder.create(config)
        try:
            self.run, movement = open_run(config, self.task, space, recipe, contents, self.report)
            self._record = Record(config, self.report, self.run.index if config.resume else None)
            self._measuring = Measuring(self.task, config, self.run, movement, self._record, self.report, self.measures)
            self._prepare(examples, before)
        except BaseException as error:
            if hasattr(self, "run"):
                self.run.ledger.close()
            if hasattr(self, "_record"):
                self._record.close()
            if isinstance(error, UsageError) and not config.resume:
                folder.discard(config.output)
            raise
        return self._guarded(examples, stream)

    def _written(self) -> Contents | None:
        path = self.config.output / "ledger.zo"
        if not self.config.resume or not path.exists():
            return None
        claim(path)  # nobody adds to what is read now until the run goes on from it
        return read(path)

    def _tell_cuts(self) -> None:
        for split, count in self.task.truncated.items():
            if count:
                self.report.note(
                    f"{count} of {len(self.task.splits[split])} {split} texts were too long and lost their beginning"
                )

    def _prepare(self, examples: Any, before: Mapping[str, Any]) -> None:
        """Everything between the ledger and the first step of this process."""
        config, run = self.config, self.run
        now = environment.environment(config.executor, config.device)
        if before:
            environment.compare(before, now, self.report.note)
        if run.index == 0 and hasattr(run.recipe, "setup"):
            check_resolution(run.recipe, run.space, run.state, config, self.report.note)
        self._record.missing(run.ledger.past, run.around.meter)
        found = settle_executor(run, examples, config.check, before, self.report)
        if not before:
            environment.save(config.output, now | found)

    def _tell_executor(self) -> None:
        """Once: how the executor evaluates points, where that is not as the user expects."""
        executor = self.run.executor
        told = tuple(executor.sentences()) if isinstance(executor, Batched) else ()
        if told != self._told:
            self._told = told
            for sentence in told:
                self.report.note(sentence)

    def _guarded(self, examples: Any, stream: BatchStream) -> dict[str, float]:
        """The loop and what follows; whatever ends it, the folder is left in order."""
        config, run = self.config, self.run
        try:
            if self.tests:
                self._measuring.measure("zero-shot", "test", config.test_rows, CALIBRATION_ROWS, only_at=0)
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
                self._record.close()
            if self.page:
                self._leave_report()

    def _loop(self, examples: Any, stream: BatchStream) -> None:
        """Step by step to the last; however it ends, a profile tells of the steps that were taken."""
        if not self.config.profile:
            return self._steps(examples, stream, lambda: None)
        with profiling() as profile:
            try:
                self._steps(examples, stream, profile.lap)
            finally:
                if profile.steps:
                    self.profile = {"kind": "profile", "step": self.run.index, **profile.row()}
                    self._record.write(self.profile)

    def _steps(self, examples: Any, stream: BatchStream, lap: Callable[[], None]) -> None:
        config, run = self.config, self.run
        while True:
            at = run.index
            if config.eval_every and 0 < at < config.steps and at % config.eval_every == 0:
                with phase("evaluation"):
                    self._measuring.measure("dev", "dev", config.eval_rows)
            if at >= config.steps:
                return
            self._record.restart_clocks()
            with phase("data"):
                batch = [examples[i] for i in stream.indices(at)]
            entry = run.step(batch)
            self._tell_executor()
            with phase("logging"):
                self._record.step(entry, run.around.meter)
                self.report.progress("training", run.index, config.steps)
            lap()
            if config.snapshot_every and run.index % config.snapshot_every == 0 and run.index < config.steps:
                with phase("snapshots"):
                    self._snapshot()

    def _finish(self) -> dict[str, float]:
        config, run = self.config, self.run
        dev = self._measuring.measure("dev", "dev", config.eval_rows)
        final = self._measuring.measure("test", "test", config.test_rows, CALIBRATION_ROWS) if self.tests else dev
        if skipped := sum(entry.skipped for entry in run.ledger.past):
            left = "; the model is as it was" if skipped == run.index else ""
            self.report.note(f"{skipped} of {run.index} steps were skipped, for their loss was not a number{left}")
        self.report.progress("saving the model", 0, 1)
        save_model(self.task.model, self.task.tokenizer, config.output / "model", overwrite=True)
        run.ledger.end(fingerprint(self.task.model))
        self.report.progress("saving the model", 1, 1)
        self._record.write({"kind": "end", "step": run.index, **final, **{f"dev_{k}": v for k, v in dev.items()}})
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
                self.measures[row["split"]] = measures(row)
        return self.measures.get("test", {})

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


def train(config: TrainConfig, report: Reporter) -> dict[str, float]:
    """Fine-tune as the config says; returns the final measures on test."""
    return Training(config, report).go()


__all__ = ["Path", "Reporter", "Training", "train"]
