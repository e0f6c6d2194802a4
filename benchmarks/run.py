"""`make bench`: measure, write benchmarks/results/*.json, and make docs/benchmarks.md from them.

    python benchmarks/run.py                        what has no result yet
    python benchmarks/run.py --only step- pass-     names that begin like this
    python benchmarks/run.py --again                everything anew
    python benchmarks/run.py --page                 the page alone
    python benchmarks/run.py --try FOLDER           tiny models, one thread, few repeats, results and page to FOLDER:
                                                    does it work? (`plan-` takes the real models all the same)

Every measurement is a process of its own, of less than six minutes, and is written as soon as it is there. Where the
machine is too slow for seven rounds in that time there are fewer, and the page says so.
"""

import argparse
import faulthandler
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
DTYPES = ("float32", "bfloat16")
SHAPES = (1, 4, 16)
MINUTES = 5.2
"""No further round begins that would end after this; rounds are few, not measurements long, on a slow machine."""
HANGS = 15
"""Minutes after which a measurement is given up: it tells where it stands, and the next one begins."""

Measurement = Callable[[Any], dict[str, Any]]


def measurements() -> dict[str, Measurement]:
    """Name → measurement, in the order in which they run."""
    from benchmarks import keys, ledgers, memory, overheads, passes, plans, populations, replays

    found: dict[str, Measurement] = {}
    for dtype in DTYPES:
        found[f"pass-{dtype}"] = lambda s, d=dtype: passes.measure(s, d)
    for dtype in DTYPES:
        found |= _steps(dtype)
    for dtype in DTYPES:
        for method in ("low-rank", "spsa", "plain"):
            found[f"population-{dtype}-{method}"] = lambda s, d=dtype, m=method: populations.measure(s, d, m)
    for dtype in DTYPES:
        found[f"memory-{dtype}"] = lambda s, d=dtype: memory.measure(s, d, "spsa", "swap", min(5, s.repeats))
        for method, executor in (*((m, "batched") for m in ("low-rank", "spsa", "mezo")), ("low-rank", "unchecked")):
            name = f"memory-{dtype}-{method}" + ("-unchecked" if executor == "unchecked" else "")
            found[name] = lambda s, d=dtype, m=method, e=executor: memory.measure(s, d, m, e, min(5, s.repeats))
    for dtype in DTYPES:
        for method in ("low-rank", "spsa"):
            found[f"replay-{dtype}-{method}"] = lambda s, d=dtype, m=method: replays.measure(s, d, m)
    for dtype in DTYPES:
        for method in ("low-rank", "spsa", "mezo"):
            found[f"keys-{dtype}-{method}"] = lambda s, d=dtype, m=method: keys.measure(s, d, m)
    for dtype in DTYPES:
        found[f"overhead-{dtype}"] = lambda s, d=dtype: overheads.measure(s, d)
    for dtype in DTYPES:
        found[f"ledger-{dtype}"] = lambda s, d=dtype: ledgers.measure(s, d)
    for model, dtype, count in (
        ("smollm2-135m", "float32", 16), ("smollm2-135m", "bfloat16", 16), ("smollm2-135m", "float32", 4),
        ("minilm", "float32", 16), ("random-gpt2", "float32", 8), ("random-gpt2", "bfloat16", 8),
    ):  # fmt: skip
        found[f"plan-{model}-{dtype}-{count}x64"] = lambda s, m=model, d=dtype, n=count: plans.measure(s, m, d, n, 64)
    return found


def _steps(dtype: str) -> dict[str, Measurement]:
    """Our steps and the plain loops; at 16 rows in two halves, each with its own two forwards, which bind them."""
    from benchmarks import steps

    found: dict[str, Measurement] = {}
    for family in ("smollm2", "opt"):
        for count in SHAPES:
            parts = {"step": steps.OWN, "peers": ("low-rank", *steps.PEERS)}
            if count < max(SHAPES):
                parts = {"step": (*steps.OWN, *steps.PEERS)}
            for part, tasks in parts.items():
                found[f"{part}-{dtype}-{count}x64-{family}"] = lambda s, n=count, f=family, t=tasks: steps.measure(
                    s, dtype, n, 64, f, tasks=t
                )
    found[f"step-{dtype}-4x64-smollm2-lm"] = lambda s: steps.measure(s, dtype, 4, 64, loss="lm")
    return found


def one(name: str, folder: Path, small: bool) -> None:
    """Measure in this process and write the result."""
    import torch
    from benchmarks.common import Settings, environment

    faulthandler.dump_traceback_later(60 * HANGS, exit=True)
    until = time.perf_counter() + 60 * MINUTES
    settings = Settings(threads=min(2, os.cpu_count() or 1), until=until)
    if small:
        settings = Settings(repeats=2, threads=1, small=True)
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
    from benchmarks.page import PAGE, write_page

    parser = argparse.ArgumentParser(description="the committed measurements, again on this machine")
    parser.add_argument("--only", nargs="*", default=[""], help="names that begin with one of these words")
    parser.add_argument("--again", action="store_true", help="also what has a result already")
    parser.add_argument("--page", action="store_true", help="write docs/benchmarks.md from the results and stop")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--try", dest="folder", type=Path, help="tiny settings, results and page to this folder")
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
    write_page(folder, given.folder or PAGE.parent, list(measurements()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
