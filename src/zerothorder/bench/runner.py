"""Cells as processes of one thread each, several at once; what is done is skipped, what was stopped goes on."""

import multiprocessing
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerothorder.bench.results import RESULT, identity, read_result, results, same_code
from zerothorder.bench.suite import Cell, Suite
from zerothorder.bench.worker import LOG, run_cell
from zerothorder.errors import UsageError
from zerothorder.ledger.lock import claimed

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
_CALM = {"TOKENIZERS_PARALLELISM": "false"}
_ASKED_EVERY = 0.1
_PATIENCE = 20.0
"""Seconds that a cell has to save what it did."""


def check_suite(suite: Suite, folder: Path, any_commit: bool = False) -> list[Cell]:
    """The cells that are to be run. UsageError, before anything runs, for results of other settings, for results of
    another commit unless `any_commit`, and for a cell that cannot be run."""
    found, now = results(suite, folder), identity()
    others = {str(result["commit"]) for result in found.values() if not same_code(result, now)}
    waiting = [cell for cell in suite.cells if cell.name not in found]
    if waiting and others and not any_commit:
        raise UsageError(
            f"{len(found)} results in {folder} were made by the code of {', '.join(sorted(others))}, this is "
            f"{now['commit']} (source {now['code']}); go on with that code, give another output folder, or mix them "
            "with --any-commit (the page will say so)"
        )
    for cell in waiting:
        check: Callable[[], None] = getattr(cell.made(), "check", lambda: None)
        try:
            check()
        except UsageError as error:
            raise UsageError(f"{cell.name} of {suite.path}: {error}") from error
    return waiting


def run_suite(
    suite: Suite,
    folder: Path,
    processes: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
    ended: Callable[[str, bool], None] = lambda name, well: None,
    any_commit: bool = False,
) -> list[str]:
    """Run what is not done; names of cells that failed, whose folder holds `log.txt`, and of those that waited for
    them. `progress(done, total)` counts what there was to do, `ended(name, well)` tells of each cell. On Ctrl-C the
    running ones are ended; what they had done is gone on with next time. UsageError as `check_suite`, and while another
    process works in the folder."""
    if processes < 1:
        raise UsageError(f"processes is {processes}; at least one is needed")
    waiting = check_suite(suite, folder, any_commit)
    total, failed, made_by = len(waiting), list[str](), identity()
    missing = {cell.name for cell in waiting}
    running: dict[str, BaseProcess] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with claimed(folder), _server() as context:
        try:
            while waiting or running:
                for cell in _ready(waiting, missing, len(running) < processes, failed):
                    waiting.remove(cell)
                    asked = (suite.path.absolute(), cell.name, folder.absolute(), dict(os.environ), made_by)
                    process = context.Process(target=run_cell, args=asked)
                    process.start()
                    running[cell.name] = process
                    if len(running) == processes:
                        break
                progress(total - len(waiting) - len(running), total)
                time.sleep(_ASKED_EVERY)
                for name, process in list(running.items()):
                    if process.exitcode is not None:
                        del running[name]
                        well = process.exitcode == 0 and (folder / name / RESULT).exists()
                        missing.remove(name) if well else failed.append(name)
                        ended(name, well)
            progress(total, total)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.join(_PATIENCE)
                process.kill()
                process.join()
    return failed


def _ready(waiting: list[Cell], missing: set[str], room: bool, failed: list[str]) -> list[Cell]:
    """Those whose turn it is, if there is room; one that waits for a failed cell fails with it."""
    for cell in list(waiting):
        if any(name in failed for name in cell.after):
            waiting.remove(cell)
            failed.append(cell.name)
    return [cell for cell in waiting if missing.isdisjoint(cell.after)] if room else []


@contextmanager
def _server() -> Generator[Any]:
    """Where processes are forked from: a server of one thread that has imported torch; a fresh process each where the
    system has no fork."""
    way = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(way)
    asked = _ONE_THREAD | _CALM
    before = {name: os.environ.get(name) for name in asked}
    os.environ.update(asked)
    try:
        if way == "forkserver":
            context.set_forkserver_preload(["zerothorder.bench.warm"])
        yield context
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


__all__ = ["LOG", "check_suite", "read_result", "run_suite"]
