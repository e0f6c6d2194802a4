"""How long cells will take: by those that are done, else by what their kind expects."""

from collections.abc import Callable, Sequence
from pathlib import Path

from zerothorder.bench.results import results
from zerothorder.bench.suite import Cell, Suite


def predicted(suite: Suite, folder: Path, waiting: Sequence[Cell], processes: int) -> float | None:
    """Seconds for the waiting cells: those of their method and task that are done, else of their method, else what the
    kind expects (`seconds()`), else the mean of all. None where nothing is known. Searches are apart from the rest."""
    done = results(suite, folder)
    cells = {cell.name: cell for cell in suite.cells}
    known = [(cells[name], float(result["seconds"])) for name, result in done.items()]

    def guess(cell: Cell) -> float | None:
        alike = [(c, s) for c, s in known if bool(c.stage) == bool(cell.stage)]
        for near in (
            [s for c, s in alike if (c.task, c.method) == (cell.task, cell.method)],
            [s for c, s in alike if c.method == cell.method],
        ):
            if near:
                return sum(near) / len(near)
        expected: Callable[[], float] | None = getattr(cell.made(), "seconds", None)
        if expected is not None:
            return expected()
        return sum(s for _, s in known) / len(known) if known else None

    guesses = [guess(cell) for cell in waiting]
    if any(found is None for found in guesses):
        return None
    return sum(found or 0.0 for found in guesses) / min(processes, max(1, len(waiting)))
