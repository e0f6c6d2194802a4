"""`zo baselines DATA`: what a task gives away without a model, to stand beside every score."""

from collections.abc import Sequence
from dataclasses import dataclass

from zerothorder.cli.flags import parse
from zerothorder.cli.terminal import label, table, terminal

SPLITS = ("dev", "test")


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """The commonest answer, and the words that texts and answers share, on dev and test. No model is loaded."""

    data: str
    """A named task, a JSONL, CSV or Parquet file, a folder of splits, or a `datasets` name."""
    template: str | None = None
    """Columns that make up the text, in braces; by default those of the task, else {text}."""
    text_column: str | None = None
    """Name of the column to use as {text}."""
    label_column: str | None = None
    """Name of the column to use as label."""
    quiet: bool = False
    """Print nothing but errors."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(words: Sequence[str]) -> int:
    """Print a table (or JSON) of the baselines."""
    config = parse(Baselines, words, "zo baselines", positional=("data",))
    with terminal(quiet=config.quiet, as_json=config.json) as report:
        from zerothorder.data.baselines import baselines

        named = {"text": config.text_column, "label": config.label_column}
        columns = {ours: theirs for ours, theirs in named.items() if theirs}
        found = {split: baselines(config.data, split, config.template, columns) for split in SPLITS}
        report.result(
            {"data": config.data, **found},
            table(
                (config.data, *SPLITS),
                [(label(name), *(f"{found[split][name]:.3f}" for split in SPLITS)) for name in found[SPLITS[0]]],
            ),
        )
    return 0
