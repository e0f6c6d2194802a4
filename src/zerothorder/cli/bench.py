"""`zo bench SUITE`: methods × tasks × seeds of a suite file, resumed where it was stopped, and their page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerothorder.cli.flags import parse
from zerothorder.cli.terminal import Terminal, table, terminal
from zerothorder.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Run the cells of a suite that are not done, each in a process of one thread, and write OUTPUT/README.md.

    A cell's folder is OUTPUT/TASK/METHOD/seed-N: result.json, log.txt and its ledgers. What is done is skipped; results
    of other settings or another commit are never mixed silently.
    """

    suite: Path | None = None
    """The suite, a TOML file."""
    output: Path | None = None
    """Folder of the results; by default one beside the suite with its name. --quick needs one."""
    processes: int = 2
    """Cells at once."""
    only: tuple[str, ...] = ()
    """Tasks or methods; other cells are left for another time."""
    page: bool = False
    """Write the page from the results there are, and run nothing."""
    check: int | None = None
    """Replay the ledgers of so many results, drawn at random, and measure them on test again; run nothing."""
    quick: bool = False
    """The small suite that comes with the library, in place of a file: minutes, to see that everything works."""
    any_commit: bool = False
    """Add to results that other code made; the page says so."""
    quiet: bool = False
    """Print nothing but errors."""
    json: bool = False
    """Print one JSON object a line instead of progress and tables."""


def main(words: Sequence[str]) -> int:
    """Run, then the table and the page; or replay what stands there."""
    asked = parse(Bench, words, "zo bench", positional=("suite",), aliases={"output": ("-o",)})
    with terminal(quiet=asked.quiet, as_json=asked.json) as out:
        out.progress("starting", 0, 1)
        from zerothorder.bench.suite import QUICK, chosen, read_suite

        path = QUICK if asked.quick else asked.suite
        if asked.quick and asked.suite:
            raise UsageError("--quick is a suite of its own; leave it out, or the file")
        if asked.processes < 1:
            raise UsageError(f"--processes is {asked.processes}; at least one is needed")
        if path is None or (asked.quick and asked.output is None):
            raise UsageError("give a suite (a TOML file), or --quick and --output FOLDER")
        suite = read_suite(path)
        part = chosen(suite, asked.only)
        folder = asked.output or path.parent / path.stem
        out.progress("starting", 1, 1)
        if asked.check is not None:
            return _check(out, part, folder, asked.check)
        failed = [] if asked.page else _run(out, part, folder, asked)
        _tell(out, suite, folder, failed)
    return 0


def _run(out: Terminal, part: Any, folder: Path, asked: Bench) -> list[str]:
    from zerothorder.bench.predict import predicted
    from zerothorder.bench.runner import LOG, check_suite, read_result, run_suite
    from zerothorder.report.text import duration

    waiting = check_suite(part, folder, asked.any_commit)
    if not waiting:
        out.note("nothing is left to run")
        return []
    seconds = predicted(part, folder, waiting, asked.processes)
    about = f"about {duration(seconds)}" if seconds is not None else "for how long shows when the first is done"
    out.note(f"{len(waiting)} of {len(part.cells)} runs to do, {about}")

    def progress(done: int, total: int) -> None:
        out.progress("runs", done, total)

    def ended(name: str, well: bool) -> None:
        if well:
            found = read_result(folder, part.cell(name)) or {}
            out.note(f"{name} done in {duration(found['seconds'])}")
        else:
            out.note(f"{name} FAILED; {folder / name / LOG} says why")

    try:
        return run_suite(part, folder, asked.processes, progress, ended, any_commit=asked.any_commit)
    except KeyboardInterrupt:
        out.note("stopped; the same command goes on")
        raise


def _tell(out: Terminal, suite: Any, folder: Path, failed: list[str]) -> None:
    from zerothorder.bench.results import results
    from zerothorder.bench.runner import LOG
    from zerothorder.bench.suite import page_of

    found = results(suite, folder)
    if not found and not failed:
        raise UsageError(
            f"{folder} has no results of {suite.path} that a page could show; run it, or give its --output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    page = page_of(suite).write_page(suite, found, folder)
    head, rows = page_of(suite).summary(suite, found)
    out.result(
        {"page": str(page), "done": len(found), "of": len(suite.cells), "failed": failed}, table(head, rows), f"{page}"
    )
    if failed:
        raise UsageError(f"{len(failed)} runs ended in an error; the first says why in {folder / failed[0] / LOG}")


def _check(out: Terminal, suite: Any, folder: Path, count: int) -> int:
    from zerothorder.bench.check import check_results, replayable

    if count < 1:
        raise UsageError(f"--check is {count}; give how many results to replay, 1 or more")
    rows = check_results(suite, folder, count, out.progress)
    shown = [(c.name, c.measure, f"{c.recorded:.6f}", f"{c.again:.6f}", "yes" if c.same else "NO") for c in rows]
    bad = [c.name for c in rows if not c.same]
    out.result(
        {"checked": [c.name for c in rows], "different": bad},
        table(("run", "measure", "recorded", "replayed", "same"), shown),
        f"{len(rows) - len(bad)} of {len(rows)} are as recorded; {len(replayable(suite, folder))} keep a ledger",
    )
    if bad:
        raise UsageError(f"{bad[0]} has another score than its ledger gives; the results were changed or badly copied")
    return 0
