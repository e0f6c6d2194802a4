"""`zo train`: fine-tune, or go on with a run."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerothorder.cli import trl
from zerothorder.cli.flags import parse
from zerothorder.cli.terminal import label, table, terminal
from zerothorder.config import TrainConfig
from zerothorder.saved import saved_run

if TYPE_CHECKING:
    from rich.table import Table

ROWS = "rows"
"""How many rows an evaluation measured, which stands among its measures."""
DATA_FLAGS = (
    "data", "objective", "template", "verbalizers", "bare", "head", "text_column", "label_column", "chat", "max_length",
)  # fmt: skip
MODEL_FLAGS = ("model", "dtype", "attention", "device", "threads", "trust_remote_code")
GROUPS: Mapping[str, Sequence[str]] = {
    "run": ("output", "resume", "overwrite", "steps", "batch_size", "seed"),
    "model": (*MODEL_FLAGS, "freeze"),
    "data": (*DATA_FLAGS, "group_by_length"),
    "method": (
        "recipe", "scheme", "lr", "eps", "draws", "schedule", "warmup", "optimizer", "weight_decay", "law", "rank",
        "settings", "precision",
    ),
    "execution": ("micro_batch", "executor", "copies", "check"),
    "evaluation": ("eval_every", "eval_rows", "test_rows", "snapshot_every", "report_to"),
    "output": ("profile", "quiet", "json"),
}  # fmt: skip


def main(words: Sequence[str]) -> int:
    """Train as the flags say; the table at the end compares with the model before."""
    if (objective := trl.objective_of(words)) is not None:
        return trl.main(words, objective)
    config, complete = read_flags(words)
    with terminal(quiet=config.quiet, as_json=config.json) as report:
        report.progress("starting", 0, 1)
        from zerothorder.training import Training

        report.progress("starting", 1, 1)
        training = Training(config, report, complete)
        try:
            training.go()
        finally:
            if training.profile:  # a run that was stopped has one too
                report.show(*profile(training.profile))
        report.result(
            {"output": str(config.output), "measures": training.measures},
            summary(training.measures),
            f"model: {config.output / 'model'}    report: {config.output / 'report.html'}",
        )
    return 0


def read_flags(words: Sequence[str]) -> tuple[TrainConfig, bool]:
    """The config, and whether it was made from that of the run to resume (flags left out are the run's then)."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--output", type=Path)
    peek.add_argument("--resume", action="store_true")
    try:
        asked, _ = peek.parse_known_args([word for word in words if word not in ("-h", "--help")])
    except argparse.ArgumentError:  # --output without a value: the next line says so
        return parse(TrainConfig, words, "zo train", GROUPS), False
    if not asked.resume or asked.output is None:
        return parse(TrainConfig, words, "zo train", GROUPS), False
    saved = dataclasses.replace(saved_run(asked.output), resume=False)
    given = parse(TrainConfig, words, "zo train", GROUPS, default=saved)
    return dataclasses.replace(given, output=asked.output, resume=True), True


def summary(measures: Mapping[str, Mapping[str, Any]]) -> "Table":
    """Test measures before and after, side by side."""
    before, after = measures.get("zero-shot", {}), measures.get("test", {})
    names = [name for name in dict.fromkeys((*before, *after)) if name != ROWS]
    rows = [(label(name), _number(before.get(name)), _number(after.get(name))) for name in names]
    counts = [None if ROWS not in found else f"{int(found[ROWS]):,}" for found in (before, after)]
    return table(("test", "zero-shot", "trained"), [*rows, *([("rows measured", *counts)] if any(counts) else [])])


def profile(row: Mapping[str, Any]) -> "tuple[Table, str]":
    """Where the time of the steps went, and what that comes to."""
    from zerothorder.report import phases  # with numpy

    return table(phases.COLUMNS, phases.table(row)), f"{phases.sentence(row)}\n"


def _number(value: float | None) -> str | None:
    return None if value is None or value != value else f"{value:.4f}"
