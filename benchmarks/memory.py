"""Peak of training minus peak of inference over the same rows, ÷ bytes of the weights; fresh processes."""

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __package__ is None or __package__ == "":  # run as a script by `measure`
    sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from benchmarks.common import Settings, forward, load, objective, rows
from benchmarks.steps import recipe

from zerothorder.execution.batched import Batched
from zerothorder.execution.swap import Swap
from zerothorder.plan.scratch import largest_module
from zerothorder.run import Run
from zerothorder.space import ParameterSpace

ROWS, TOKENS, STEPS = 16, 64, 2
LEAST = 3


def measure(settings: Settings, dtype: str, method: str, executor: str, processes: int = 5) -> dict[str, Any]:
    """Medians over `processes` pairs of processes, in turns; then one pair whose allocations are counted.

    Inference is over as many rows as a pass of the executor has: those of both points for `Batched` ("unchecked":
    without the comparison with `Swap` at its first step), of one for `Swap`.
    """
    found: dict[str, list[dict[str, int]]] = {"inference": [], "training": []}
    longest = 0.0

    def child(kind: str, how: str) -> dict[str, int]:
        words = [kind, dtype, method, executor, how, str(settings.threads), "small" if settings.small else "whole"]
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    for pair in range(processes):
        began = time.perf_counter()
        # the counted pair is still to come
        if pair >= LEAST and began + 2 * longest > settings.until:
            break
        for kind, list_ in found.items():
            list_.append(child(kind, "resident"))
        longest = max(longest, time.perf_counter() - began)
    allocated = {kind: child(kind, "allocated")["peak"] for kind in found}
    peaks = {kind: [one["peak"] for one in list_] for kind, list_ in found.items()}
    last = found["training"][-1]
    weights, residual = last["weights"], last["state"]
    extra = statistics.median(t - i for t, i in zip(peaks["training"], peaks["inference"], strict=True))
    return {
        "dtype": dtype,
        "method": method,
        "executor": executor,
        "rows": ROWS,
        "tokens": TOKENS,
        "inference_rows": ROWS * (1 if executor == "swap" else 2),
        "peaks": peaks,
        "allocated": allocated,
        "weights": weights,
        "largest_module": last["largest_module"],
        "residual": residual,
        "ratio": {
            "all": extra / weights,
            "without_residual": (extra - residual) / weights,
            "allocated": (allocated["training"] - allocated["inference"] - residual) / weights,
            "largest_module": last["largest_module"] / weights,
        },
    }


def child(kind: str, dtype: str, method: str, executor: str, how: str, settings: Settings) -> dict[str, int]:
    """The peak of a few evaluations or steps after loading, of the process or of what torch allocates."""
    torch.set_num_threads(settings.threads)
    choose = {"batched": Batched, "unchecked": lambda: Batched(check=False), "swap": Swap}[executor]
    # compiled kernels, imported modules and threads are part of both processes
    tiny = load(Settings(small=True), dtype)
    warm = Run(tiny, ParameterSpace.of(tiny), recipe(method), objective(), choose(), steps=2)
    warm.step(rows(2, 8)), warm.step(rows(2, 8))
    model = load(settings, dtype)
    batch, state = rows(ROWS, TOKENS), 0
    space = ParameterSpace.of(model)

    def inference() -> None:
        for _ in range(STEPS):
            forward(model, batch if executor == "swap" else batch * 2)

    def training() -> None:
        nonlocal state
        run = Run(model, space, recipe(method), objective(), choose(), steps=STEPS)
        for _ in range(STEPS):
            run.step(batch)
        state = run.state.nbytes

    work = inference if kind == "inference" else training
    peak = resident(work) if how == "resident" else allocated(work)
    return {
        "peak": peak,
        "weights": sum(p.numel() * p.element_size() for p in model.parameters()),
        "largest_module": largest_module(model, space),
        "state": state,
    }


def resident(work: Callable[[], object]) -> int:
    """Largest resident memory of the process from here on, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # loading is not what is measured
    work()
    peak = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert peak
    return int(peak[1]) * 1024


def allocated(work: Callable[[], object]) -> int:
    """Most bytes of torch's CPU allocator that were alive at once, of those allocated from here on.

    Every allocation and release that the profiler saw, added up; what a kernel allocates inside is among them, what
    numba does (tiles of some kilobytes) is not.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    alive = most = 0
    for event in seen.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most


if __name__ == "__main__":
    *words, threads, size = sys.argv[1:]
    print(json.dumps(child(*words, Settings(threads=int(threads), small=size == "small"))))
