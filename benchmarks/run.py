"""`make bench`: measure, write benchmarks/results/*.json, and make docs/benchmarks.md from them.

    python benchmarks/run.py                        what has no result yet
    python benchmarks/run.py --only step- pass-     names that begin like this
    python benchmarks/run.py --again                everything anew
    python benchmarks/run.py --page                 the page alone
    python benchmarks/run.py --try FOLDER           one thread, few repeats, results to FOLDER: does it work?

Every measurement is a process of its own, of less than six minutes, and is written as soon as it is there.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
DTYPES = ("float32", "bfloat16")


def measurements() -> dict[str, Callable[[Any], dict[str, Any]]]:
    """Name → measurement, in the order in which they run."""
    from benchmarks import ledgers, memory, passes, plans, steps, together

    found: dict[str, Callable[[Any], dict[str, Any]]] = {}
    for dtype in DTYPES:
        found[f"pass-{dtype}"] = lambda s, d=dtype: passes.measure(s, d)
    for dtype in DTYPES:
        for count in (16, 4):
            found[f"step-{dtype}-{count}x64"] = lambda s, d=dtype, n=count: steps.measure(s, d, n, 64)
    for dtype in DTYPES:
        for count in (4, 1):
            found[f"together-{dtype}-{count}x64"] = lambda s, d=dtype, n=count: together.measure(s, d, n, 64)
    for dtype in DTYPES:
        found[f"memory-{dtype}"] = lambda s, d=dtype: memory.measure(s, d, min(5, s.repeats))
        found[f"ledger-{dtype}"] = lambda s, d=dtype: ledgers.measure(s, d)
    for model, dtype, count in (
        ("smollm2-135m", "float32", 16), ("smollm2-135m", "bfloat16", 16), ("smollm2-135m", "float32", 4),
        ("minilm", "float32", 16), ("random-gpt2", "float32", 8), ("random-gpt2", "bfloat16", 8),
    ):  # fmt: skip
        found[f"plan-{model}-{dtype}-{count}x64"] = lambda s, m=model, d=dtype, n=count: plans.measure(s, m, d, n, 64)
    return found


def one(name: str, folder: Path, small: bool) -> None:
    """Measure in this process and write the result."""
    import torch
    from benchmarks.common import Settings, environment

    settings = Settings(repeats=2, threads=1) if small else Settings(threads=min(2, os.cpu_count() or 1))
    torch.set_num_threads(settings.threads)
    before = os.getloadavg()
    began = datetime.now(UTC)
    found = measurements()[name](settings)
    result = {
        "name": name,
        "model": settings.model,
        "began": began.isoformat(timespec="seconds"),
        "seconds_taken": round((datetime.now(UTC) - began).total_seconds(), 1),
        "load_average_before": before,
        "load_average_after": os.getloadavg(),
        "environment": environment(settings),
        **found,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(path)
    print(f"{name}: {json.dumps({k: round(v, 3) for k, v in result.get('ratio', {}).items()})}", flush=True)


def main() -> int:
    from benchmarks.common import RESULTS
    from benchmarks.page import write_page

    parser = argparse.ArgumentParser(description="the committed measurements, again on this machine")
    parser.add_argument("--only", nargs="*", default=[""], help="names that begin with one of these words")
    parser.add_argument("--again", action="store_true", help="also what has a result already")
    parser.add_argument("--page", action="store_true", help="write docs/benchmarks.md from the results and stop")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--try", dest="folder", type=Path, help="tiny settings, results to this folder, no page")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.folder or RESULTS
    if given.one:
        one(given.one, folder, small=given.folder is not None)
        return 0
    chosen = [name for name in measurements() if name.startswith(tuple(given.only))]
    if given.list:
        print("\n".join(chosen))
        return 0
    failed = 0
    for name in [] if given.page else chosen:
        if (folder / f"{name}.json").exists() and not given.again:
            continue
        command = [sys.executable, __file__, "--one", name]
        failed += bool(
            subprocess.run(command + (["--try", str(folder)] if given.folder else []), check=False).returncode
        )
    if given.folder is None:
        write_page()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
