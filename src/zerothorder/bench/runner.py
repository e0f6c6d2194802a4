"""Cells as processes of one thread each, several at once; what is done is skipped, what was stopped goes on."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from zerothorder.bench.results import RESULT, read_result, results
from zerothorder.bench.suite import Cell, Suite
from zerothorder.errors import UsageError

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
_ASKED_EVERY = 0.2
LOG = "log.txt"


def predicted(suite: Suite, folder: Path, waiting: list[Cell], processes: int) -> float | None:
    """Seconds that the waiting cells will take, by those of their method and task that are done; None without any."""
    done = results(suite, folder)
    if not done:
        return None
    cells = {cell.name: cell for cell in suite.cells}
    known = [(cells[name], result["seconds"]) for name, result in done.items()]

    def guess(cell: Cell) -> float:
        for near in (
            [s for c, s in known if (c.task, c.method) == (cell.task, cell.method)],
            [s for c, s in known if c.method == cell.method],
            [s for _, s in known],
        ):
            if near:
                return sum(near) / len(near)
        return 0.0

    return sum(map(guess, waiting)) / min(processes, max(1, len(waiting)))


def run_suite(
    suite: Suite,
    folder: Path,
    processes: int = 2,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[str]:
    """Run what is not done; names of cells that failed, whose folder holds `log.txt`. On Ctrl-C the running ones are
    ended; what they had done is gone on with next time. UsageError for results of other settings, before anything."""
    if processes < 1:
        raise UsageError(f"processes is {processes}; at least one is needed")
    waiting = [cell for cell in suite.cells if read_result(folder, cell) is None]
    total, failed = len(suite.cells), list[str]()
    running: dict[str, subprocess.Popen[bytes]] = {}
    done = total - len(waiting)
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                cell = waiting.pop(0)
                running[cell.name] = _started(suite, folder, cell)
            progress(", ".join(running), done, total)
            time.sleep(_ASKED_EVERY)
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    done += 1
                    if process.returncode or not (folder / name / RESULT).exists():
                        failed.append(name)
        progress("", done, total)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return failed


def _started(suite: Suite, folder: Path, cell: Cell) -> "subprocess.Popen[bytes]":
    own = folder / cell.name
    own.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "zerothorder.bench.worker", str(suite.path), cell.name, str(folder)]
    with open(own / LOG, "ab") as log:
        return subprocess.Popen(words, env=os.environ | _ONE_THREAD, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
