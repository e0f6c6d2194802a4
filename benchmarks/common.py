"""What the measurements share: rows, the model, interleaved timing, and the environment of a result."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from zerothorder.data import load_model
from zerothorder.objectives.classification import Classification

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MODEL = "smollm2-135m"


@dataclass(frozen=True)
class Settings:
    """How much is measured. `model` and `repeats` are made small to try the scripts."""

    model: str = MODEL
    repeats: int = 7
    threads: int = 2


@dataclass(frozen=True)
class Row:
    """One example of random tokens with two candidate answers of a token."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...] = ((7,), (9,))
    label: int = 0
    references: tuple[str, ...] = ()


def rows(count: int, tokens: int, seed: int = 0) -> list[Row]:
    """`count` rows of exactly `tokens` tokens: nothing is padding."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(10, 200, (count, tokens), generator=generator).tolist()
    return [Row(tuple(row)) for row in drawn]


def load(settings: Settings, dtype: str, attention: str | None = None) -> Any:
    """The model in eval mode."""
    return load_model(settings.model, dtype, attn_implementation=attention).model


def objective() -> Classification:
    """Cross-entropy over two words: one forward over the prompts, logits of the last position."""
    return Classification(0)


def forward(model: Any, batch: list[Row]) -> None:
    """The denominator: the objective's value at the weights as they are."""
    with torch.inference_mode():
        objective().evaluate(model, batch)


def interleaved(tasks: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every task, one after the other in every round, so that a slow minute falls on all of them."""
    for task in tasks.values():
        task()  # compiles, fills caches, makes State
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def summary(seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """Medians, and all that was measured."""
    return {
        "median_seconds": {name: statistics.median(found) for name, found in seconds.items()},
        "seconds": {name: [round(second, 6) for second in found] for name, found in seconds.items()},
    }


def fastest_attention(settings: Settings, dtype: str, batch: list[Row]) -> tuple[str, Any, dict[str, float]]:
    """Name and model of the attention whose forward is fastest here, and the medians of those tried."""
    models = {name: load(settings, dtype, name) for name in ("sdpa", "eager")}
    times = interleaved({name: lambda m=model: forward(m, batch) for name, model in models.items()}, 3)
    medians = {name: statistics.median(found) for name, found in times.items()}
    best = min(medians, key=medians.__getitem__)
    return best, models[best], medians


def environment(settings: Settings) -> dict[str, Any]:
    """Machine, versions and commit, without a path or a name of the machine."""
    root = HERE.parent
    git = ["git", "-C", str(root)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", "src"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "commit": commit,
        "changed_since_commit": bool(changed),
        "threads": settings.threads,
        "cores": os.cpu_count(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "numba", "transformers")},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
