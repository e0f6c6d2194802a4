"""The process of one cell: forked from a server that has imported what all cells need."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from zerothorder.bench.results import read_result, write_result
from zerothorder.bench.suite import read_suite
from zerothorder.errors import UsageError

LOG = "log.txt"


def run_cell(suite: Path, name: str, folder: Path, surroundings: Mapping[str, str], made_by: Mapping[str, str]) -> None:
    """Run the cell and write its result; what it prints goes to its log. Leaves with 1 for an error. `surroundings` are
    the environment variables of who asked: the server may have been there before they were set. `made_by`: what the
    code was when the suite began, which is what runs here."""
    import torch

    os.environ.update(surroundings)
    _hear_once()
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    whole = read_suite(suite)
    cell = whole.cell(name)
    own = folder / cell.name
    own.mkdir(parents=True, exist_ok=True)
    log = os.open(own / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    torch.set_num_threads(1)
    try:
        before = [read_result(folder, whole.cell(other)) for other in cell.after]
        began = time.perf_counter()
        found = cell.made().run(own, cell.seed, [result for result in before if result is not None])
        write_result(folder, cell, {"seconds": round(time.perf_counter() - began, 1), **found}, made_by)
    except KeyboardInterrupt:
        sys.exit(130)
    except UsageError as error:
        sys.exit(f"error: {error}")
    except Exception:  # noqa: BLE001 - the log is where it is read
        traceback.print_exc()
        sys.exit(1)


def _hear_once() -> None:
    """SIGINT and SIGTERM are one Ctrl-C. A terminal sends the first to suite and cells, the suite the second to each
    cell; saving, which the one began, is not to be ended by the other."""
    asked = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    # by way of SIGINT, which waits while weights are exchanged
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))


def _end_with_the_parent() -> None:
    """A suite that is killed leaves no cell running, which the next one would run again beside it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
