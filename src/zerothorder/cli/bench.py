"""`zo bench SUITE`: methods × tasks × seeds of a suite file, resumed where it was stopped, and their page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zerothorder.cli.flags import parse
from zerothorder.cli.terminal import table, terminal


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Run the cells of a suite that are not done, each in a process of one thread, and write OUTPUT/README.md.

    A cell's folder is OUTPUT/TASK/METHOD/seed-N: result.json, log.txt, ledgers/ and the run itself. What is done is
    skipped; results of other settings are refused, never mixed.
    """

    suite: Path
    """The suite, a TOML file."""
    output: Path | None = None
    """Folder of the results; by default one beside the suite with its name."""
    processes: int = 2
    """Cells at once."""
    only: tuple[str, ...] = ()
    """Tasks or methods; other cells are left for another time."""
    page: bool = False
    """Write the page from the results there are, and run nothing."""
    quiet: bool = False
    """Print nothing but errors."""
    json: bool = False
    """Print one JSON object a line instead of progress and tables."""


def main(words: Sequence[str]) -> int:
    """Run, then the table and the page."""
    asked = parse(Bench, words, "zo bench", positional=("suite",), aliases={"output": ("-o",)})
    with terminal(quiet=asked.quiet, as_json=asked.json) as out:
        out.progress("starting", 0, 1)
        from zerothorder.bench.page import mean, write_page
        from zerothorder.bench.results import read_result, results
        from zerothorder.bench.runner import LOG, predicted, run_suite
        from zerothorder.bench.suite import chosen, read_suite
        from zerothorder.errors import UsageError
        from zerothorder.report.text import duration

        suite = read_suite(asked.suite)
        part = chosen(suite, asked.only)
        folder = asked.output or asked.suite.parent / asked.suite.stem
        waiting = [cell for cell in part.cells if read_result(folder, cell) is None]
        out.progress("starting", 1, 1)
        failed: list[str] = []
        if waiting and not asked.page:
            seconds = predicted(suite, folder, waiting, asked.processes)
            about = f"about {duration(seconds)}" if seconds is not None else "for how long shows when the first is done"
            out.note(f"{len(waiting)} of {len(part.cells)} runs to do, {about}")
            failed = run_suite(part, folder, asked.processes, out.progress)
        found = results(suite, folder)
        folder.mkdir(parents=True, exist_ok=True)
        page = write_page(suite, found, folder)
        rows = [
            (task, method, str(len(own)), mean([r["after"]["reward"] - r["before"]["reward"] for r in own]))
            for task in suite.tasks
            for method in suite.methods
            if (own := [r for name, r in found.items() if name.startswith(f"{task}/{method}/")])
        ]
        out.result(
            {"page": str(page), "done": len(found), "of": len(suite.cells), "failed": failed},
            table(("task", "method", "seeds", "gain in reward"), rows),
            f"{page}",
        )
        if failed:
            raise UsageError(f"{len(failed)} runs ended in an error; the first says why in {folder / failed[0] / LOG}")
    return 0
