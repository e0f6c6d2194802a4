"""Peak of training minus peak of inference over the same rows, ÷ bytes of the weights; fresh processes."""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

if __package__ is None or __package__ == "":  # run as a script by `measure`
    sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from benchmarks.common import Settings, forward, load, objective, rows

from zerothorder.execution.swap import Swap
from zerothorder.objectives.wrap import Closure
from zerothorder.plan.memory import largest_module
from zerothorder.recipes.mezo import MeZO
from zerothorder.run import Run
from zerothorder.space import ParameterSpace

ROWS, TOKENS = 16, 64


def measure(settings: Settings, dtype: str, processes: int = 5) -> dict[str, Any]:
    """Medians over `processes` pairs of processes, in turns."""
    found: dict[str, list[dict[str, int]]] = {"inference": [], "training": []}
    for _ in range(processes):
        for kind, list_ in found.items():
            command = [sys.executable, __file__, kind, dtype, settings.model, str(settings.threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            list_.append(json.loads(done.stdout.splitlines()[-1]))
    peak = {kind: statistics.median(one["peak"] for one in list_) for kind, list_ in found.items()}
    last = found["training"][-1]
    extra = peak["training"] - peak["inference"]
    return {
        "dtype": dtype,
        "peak": peak,
        "peaks": {kind: [one["peak"] for one in list_] for kind, list_ in found.items()},
        "weights": last["weights"],
        "largest_module": last["largest_module"],
        "residual": last["state"],
        "ratio": {
            "all": extra / last["weights"],
            "without_residual": (extra - last["state"]) / last["weights"],
            "largest_module": last["largest_module"] / last["weights"],
        },
    }


def child(kind: str, dtype: str, model_name: str, threads: int) -> dict[str, int]:
    """The peak of a few evaluations or steps after loading."""
    torch.set_num_threads(threads)
    warm = ParameterSpace(
        [ParameterSpace.site("warm", torch.nn.Parameter(torch.ones(1 << 21, dtype=getattr(torch, dtype))))]
    )
    closure = lambda: warm.sites[0].parameter.sum()  # noqa: E731
    one = Run(torch.nn.Identity(), warm, MeZO(law="rademacher"), Closure(), Swap(), steps=2)
    one.step(closure), one.step(closure)  # the kernels are part of both processes
    settings = Settings(model=model_name, threads=threads)
    model = load(settings, dtype)
    batch, state = rows(ROWS, TOKENS), 0
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on, not from loading
    space = ParameterSpace.of(model)
    if kind == "inference":
        for _ in range(6):
            forward(model, batch)
    else:
        run = Run(model, space, MeZO(lr=1e-7, law="rademacher"), objective(), Swap(), steps=3)
        for _ in range(3):
            run.step(batch)
        state = run.state.nbytes
    peak = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert peak
    return {
        "peak": int(peak[1]) * 1024,
        "weights": sum(p.numel() * p.element_size() for p in model.parameters()),
        "largest_module": largest_module(model, space),
        "state": state,
    }


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))))
