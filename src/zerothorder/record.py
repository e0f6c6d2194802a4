"""What a run tells while it goes on: rows of metrics.jsonl, the reporter's, and those of trackers."""

import dataclasses
import resource
import time
from collections.abc import Mapping
from typing import Any

from zerothorder.config import TrainConfig
from zerothorder.execution.meter import Meter
from zerothorder.journal import Journal
from zerothorder.ledger.entry import Entry
from zerothorder.report import Tracker, open_trackers
from zerothorder.reporter import Reporter


class Record:
    """The rows of one run, each written once. On resume those at or after step `resume_at` are taken back first."""

    def __init__(self, config: TrainConfig, report: Reporter, resume_at: int | None) -> None:
        self.journal = Journal(config.output / "metrics.jsonl", resume_at)
        self._report = report
        self._trackers: list[Tracker] = []
        try:
            self._trackers = open_trackers(config.report_to, config.output, dataclasses.asdict(config))
        except BaseException:
            self.close()
            raise
        self.restart_clocks()

    def restart_clocks(self) -> None:
        """A step's seconds count from here."""
        self._began, self._worked = time.monotonic(), time.process_time()

    def write(self, row: Mapping[str, Any]) -> None:
        """To the journal, which is kept, and to who looks on."""
        self.journal.write(row)
        self._report.row(row)
        for tracker in self._trackers:
            tracker.log(row)

    def step(self, entry: Entry, meter: Meter) -> None:
        """The row of a step that was just taken."""
        self.write(
            step_row(entry)
            | {
                "forwards": meter.examples,
                "tokens": meter.tokens,
                "seconds": time.monotonic() - self._began,
                "cpu_seconds": time.process_time() - self._worked,
                "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )

    def missing(self, past: list[Entry], meter: Meter) -> None:
        """Rows of steps that were written to the ledger, and killed before their own; and the meter as it was. They
        count no forwards: what these steps took nobody knows."""
        if (last := self.journal.last) is not None:
            meter.examples, meter.tokens = last["forwards"], last["tokens"]
        for entry in past[self.journal.next_step :]:
            self.write(step_row(entry))

    def close(self) -> None:
        """Close the file and the trackers."""
        self.journal.close()
        for tracker in self._trackers:
            tracker.close()


def step_row(entry: Entry) -> dict[str, Any]:
    """What a step's row of metrics.jsonl takes from its entry."""
    return {
        "kind": "step",
        "step": entry.step,
        "loss": entry.notes.get("loss"),
        "projected_gradient": entry.projected_gradient if entry.terms else None,
        "lr": max(rate.lr for rate in entry.rates.values()),
        "skipped": entry.skipped,
    }
