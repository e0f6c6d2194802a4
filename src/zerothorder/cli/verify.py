"""`zo ledger verify BASE LEDGER`: every byte, the base, the attachments, and the weights it leads to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zerothorder.cli.flags import parse
from zerothorder.cli.terminal import terminal
from zerothorder.errors import LedgerError


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check a ledger: every byte, its base, its attachments, and that replay leads to the weights it recorded.

    Exit code 0: sound. 2: damaged, torn, of another base, or leading elsewhere. A ledger without an end record is a
    valid shorter run, which is said; --finished refuses it.
    """

    base: str
    """The model the run started from: a folder, a hub id, or a packaged model."""
    ledger: Path
    """The run's ledger.zo."""
    finished: bool = False
    """Refuse a run without an end record, too."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Dtype to load the base in; by default the run's."""
    device: str = "cpu"
    """Where to replay."""
    trust_remote_code: bool = False
    """Allow code that comes with a model."""
    quiet: bool = False
    """Print nothing but errors."""
    json: bool = False
    """Print one JSON object a line instead of progress."""


def main(words: Sequence[str]) -> int:
    """Verify; LedgerError (exit code 2) names the first thing that is wrong."""
    asked = parse(Verify, words, "zo ledger verify", positional=("base", "ledger"))
    with terminal(quiet=asked.quiet, as_json=asked.json) as report:
        report.progress("starting", 0, 1)
        from zerothorder.cli.base import load_base, replayed
        from zerothorder.ledger.reader import read

        report.progress("starting", 1, 1)
        contents = read(asked.ledger)
        steps = len(contents.entries)
        if contents.torn:
            raise LedgerError(
                f"the last entry of {asked.ledger} is cut off ({contents.torn} bytes after step {steps - 1}); "
                "resuming the run drops it"
            )
        if contents.final is None and asked.finished:
            raise LedgerError(f"{asked.ledger} has no end record after its {steps} steps; resume the run to its end")
        report.note(f"every byte of {asked.ledger} holds: {steps} steps")
        report.progress("loading the model", 0, 1)
        base = load_base(asked.base, contents, asked.dtype, asked.device, asked.trust_remote_code)
        report.progress("loading the model", 1, 1)
        weights = replayed(base, asked.ledger, contents, None, report.progress)
        if contents.final is not None:
            sentence = f"sound: {steps} steps from this base lead to the recorded weights {weights[:12]}…"
        else:
            sentence = (
                f"sound, but without an end record: a valid run of {steps} steps that was stopped, cut between two "
                f"entries or is running; it leads to weights {weights[:12]}…"
            )
        found = {"sound": True, "finished": contents.final is not None, "steps": steps, "weights": weights}
        report.result(found, sentence)
    return 0
