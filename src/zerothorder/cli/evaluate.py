"""`zo eval MODEL`: measures on held-out rows."""

from collections.abc import Sequence
from pathlib import Path

from zerothorder.cli.flags import parse
from zerothorder.cli.terminal import label, table, terminal
from zerothorder.cli.train import DATA_FLAGS, MODEL_FLAGS
from zerothorder.config import EvalConfig
from zerothorder.errors import UsageError

GROUPS = {"model": MODEL_FLAGS, "data": (*DATA_FLAGS, "split", "rows", "calibrate"), "output": ("quiet", "json")}


def main(words: Sequence[str]) -> int:
    """Print a table (or JSON) of the model's measures."""
    config = parse(EvalConfig, words, "zo eval", GROUPS, positional=("model",))
    run = Path(config.model)
    if (run / "ledger.zo").exists():
        there = f"evaluate {run / 'model'}" if (run / "model").exists() else "the run has no model yet: resume it"
        raise UsageError(f"{config.model} is the folder of a run, not of a model; {there}")
    if config.rows < 0 or config.calibrate < 0:
        raise UsageError("--rows and --calibrate must be 0 or more")
    with terminal(quiet=config.quiet, as_json=config.json) as report:
        report.progress("starting", 0, 1)
        from zerothorder.environment import use_threads
        from zerothorder.evaluation import evaluate
        from zerothorder.task import load_task

        report.progress("starting", 1, 1)
        use_threads(config.threads, {})
        splits = dict.fromkeys((config.split, *(("train",) if config.calibrate else ())))
        task = load_task(config, tuple(splits), progress=report.progress)
        if cut := task.truncated[config.split]:
            report.note(f"{cut} of {len(task.splits[config.split])} texts were too long and lost their beginning")
        found = evaluate(
            task, config.split, config.objective, config.rows, config.calibrate,
            progress=lambda done, total: report.progress("evaluating", done, total),
        )  # fmt: skip
        rows = min(config.rows or 1 << 62, len(task.splits[config.split]))
        measures = {name: value for name, value in found.items() if name != "rows"}
        report.result(
            {"model": config.model, "data": config.data, "split": config.split, "rows": rows, **measures},
            table(
                (f"{config.split} of {config.data}, {rows} rows", config.model),
                [(label(name), None if value != value else f"{value:.4f}") for name, value in measures.items()],
            ),
        )
    return 0
