"""Are the results what their ledgers say? Weights are replayed and measured on test again."""

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zerothorder.bench.kept import ATTACHMENTS, LEDGER
from zerothorder.bench.results import RESULT, read_result, results
from zerothorder.bench.suite import Cell, Suite
from zerothorder.errors import LedgerError, UsageError
from zerothorder.evaluation import CALIBRATION_ROWS, evaluate
from zerothorder.ledger.header import fingerprint
from zerothorder.replay import replay
from zerothorder.task import load_task

if TYPE_CHECKING:
    from zerothorder.bench.score import Score

CLOSE = 1e-3
"""Of the cross-entropy, in nats: the weights are the same to the bit, but other machines' forwards round otherwise."""


@dataclass(frozen=True)
class Checked:
    """A measure as it was recorded and as the replayed weights give it."""

    name: str
    measure: str
    recorded: float
    again: float

    @property
    def same(self) -> bool:
        """Whether the two are as close as two machines' forwards."""
        return abs(self.recorded - self.again) <= CLOSE or (self.recorded != self.recorded and self.again != self.again)


def check_results(
    suite: Suite, folder: Path, count: int, progress: Callable[[str, int, int], None] = lambda what, done, total: None
) -> list[Checked]:
    """The cross-entropy on test of `count` results that have a ledger, drawn at random. UsageError where none has."""
    cells = replayable(suite, folder)
    if not cells:
        raise UsageError(f"no result of {suite.path} in {folder} has a ledger to replay; run the suite first")
    drawn = random.SystemRandom().sample(cells, min(count, len(cells)))
    found: list[Checked] = []
    for number, cell in enumerate(drawn):
        progress(f"replaying {cell.name}", number, len(drawn))
        found.append(check_cell(cell, folder))
    progress("replaying", len(drawn), len(drawn))
    return found


def replayable(suite: Suite, folder: Path) -> list[Cell]:
    """The cells whose results keep a ledger. UsageError where it is gone."""
    found = results(suite, folder)
    cells = [cell for cell in suite.cells if "ledger_bytes" in found.get(cell.name, {})]
    for cell in cells:
        if not (folder / cell.name / LEDGER).exists():
            raise UsageError(
                f"{folder / cell.name / LEDGER} is gone; take it again from where the results came, or remove "
                f"{RESULT} beside it to run the cell again"
            )
    return cells


def check_cell(cell: Cell, folder: Path) -> Checked:
    """One of them. UsageError for a ledger that is damaged or of another base."""
    result = read_result(folder, cell)
    if result is None:
        raise UsageError(f"{cell.name} has a ledger but no result; run it again")
    own: Score = cell.made()
    with tempfile.TemporaryDirectory() as scratch:
        ledger = Path(scratch) / LEDGER
        ledger.write_bytes((folder / cell.name / LEDGER).read_bytes())
        if (folder / ATTACHMENTS).exists():
            (Path(scratch) / ATTACHMENTS).symlink_to((folder / ATTACHMENTS).resolve(), target_is_directory=True)
        task = load_task(own.config(Path(scratch) / "run", cell.seed, result["rate"], result["steps"]))
        try:
            _, _, contents = replay(task.model, ledger)
        except LedgerError as error:
            said = str(error).replace(str(ledger), str(folder / cell.name / LEDGER))
            raise UsageError(f"{said}; remove {RESULT} beside it to run the cell again") from error
        if contents.final not in (None, fingerprint(task.model)):
            raise UsageError(f"the ledger of {cell.name} does not lead to the weights that its run ended with")
    again = evaluate(task, "test", own.objective, own.test_rows, CALIBRATION_ROWS)
    return Checked(cell.name, "cross-entropy", float(result["test"]["loss"]), float(again["loss"]))
