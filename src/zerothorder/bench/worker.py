"""The process of one cell: `python -m zerothorder.bench.worker SUITE CELL FOLDER`."""

import sys
import time
from pathlib import Path

from zerothorder.bench.results import write_result
from zerothorder.bench.suite import read_suite


def main(suite: str, name: str, folder: str) -> int:
    """Run the cell and write its result."""
    import torch

    torch.set_num_threads(1)
    cell = read_suite(Path(suite)).cell(name)
    began = time.perf_counter()
    found = cell.made().run(Path(folder) / cell.name, cell.seed)
    write_result(Path(folder), cell, {"seconds": round(time.perf_counter() - began, 1), **found})
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
