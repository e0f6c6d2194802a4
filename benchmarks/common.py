"""What the measurements share: models, rows, interleaved timing, and the environment of a result."""

import copy
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from zerothorder.data import load_model
from zerothorder.objectives.classification import Classification
from zerothorder.objectives.language_model import LanguageModel

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MODEL = "smollm2-135m"
FAMILIES = {"smollm2": "SmolLM2-135M", "opt": "OPT-125M shape"}
LEAST = 5
"""Rounds that are measured even where `Settings.until` has passed."""


@dataclass(frozen=True)
class Settings:
    """How much is measured. `until` (`time.perf_counter`): no round of a measurement begins that would end after it.
    `small`: models of a few thousand weights and few repeats, to try the scripts."""

    model: str = MODEL
    repeats: int = 7
    threads: int = 2
    until: float = math.inf
    small: bool = False


@dataclass(frozen=True)
class Row:
    """One example of random tokens with two candidate answers of a token."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...] = ((7,), (9,))
    label: int = 0
    references: tuple[str, ...] = ()


def rows(count: int, tokens: int, loss: str = "choice", seed: int = 0) -> list[Row]:
    """`count` rows of which the model reads exactly `tokens` tokens: nothing is padding."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(10, 200, (count, tokens + (loss == "lm")), generator=generator).tolist()
    return [Row((), (tuple(row),)) if loss == "lm" else Row(tuple(row)) for row in drawn]


def load(settings: Settings, dtype: str, attention: str | None = None, family: str = "smollm2") -> Any:
    """The model in eval mode: SmolLM2 as packaged, or one of OPT-125M's shape with random weights."""
    if family == "smollm2" and not settings.small:
        return load_model(settings.model, dtype, attn_implementation=attention).model
    from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig

    config: Any
    if family == "smollm2":
        config = LlamaConfig(
            vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            tie_word_embeddings=True,
        )  # fmt: skip
    elif settings.small:
        config = OPTConfig(
            vocab_size=512, hidden_size=64, ffn_dim=128, num_hidden_layers=2, num_attention_heads=4,
            word_embed_proj_dim=64,
        )  # fmt: skip
    else:
        config = OPTConfig(
            vocab_size=50272, hidden_size=768, ffn_dim=3072, num_hidden_layers=12, num_attention_heads=12,
            word_embed_proj_dim=768, max_position_embeddings=2048,
        )  # fmt: skip
    torch.manual_seed(0)
    chosen = {} if attention is None else {"attn_implementation": attention}
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), **chosen).eval()


def twin(model: Any) -> Any:
    """A model of its own with the same weights."""
    return copy.deepcopy(model)


def objective(loss: str = "choice") -> Classification | LanguageModel:
    """Of "choice": cross-entropy over two words, one forward over the prompts, logits of the last position. Of "lm":
    negative log-likelihood of every token."""
    return LanguageModel(0) if loss == "lm" else Classification(0)


def forward(model: Any, batch: list[Row], loss: str = "choice") -> float:
    """The denominator: the objective's value at the weights as they are."""
    with torch.inference_mode():
        return objective(loss).evaluate(model, batch).mean()


SETTLED = 1.0
"""Seconds above which a task's own start weighs nothing."""


def interleaved(
    tasks: Mapping[str, Callable[[], object]],
    settings: Settings,
    repeats: int | None = None,
    *,
    least: int = LEAST,
    warm: Callable[[], object] | None = None,
) -> dict[str, list[float]]:
    """Seconds of every task, one after the other in every round, so that a slow minute falls on all of them.

    Training takes step after step, so a task of less than `SETTLED` seconds runs twice in a round and the second time
    counts: what the task before it left in caches and thread pools is not its own. Every side of a ratio is timed so.

    `settings.repeats` rounds, or fewer but at least `least` where the time is up. A round that is not counted comes
    first, to compile, fill caches and make State; `warm` is run instead of it where it would cost too much.
    """
    wanted, longest = settings.repeats if repeats is None else repeats, 0.0
    for task in tasks.values() if warm is None else [warm]:
        task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    settles = dict.fromkeys(tasks, False)
    for done in range(wanted):
        round_began = time.perf_counter()
        if done >= least and round_began + longest > settings.until:
            break
        for name, task in tasks.items():
            if settles[name]:
                task()
            began = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - began)
            settles[name] = seconds[name][-1] < SETTLED
        longest = max(longest, time.perf_counter() - round_began)
    return seconds


@dataclass(frozen=True)
class Measured:
    """A median, the lowest and the highest of what it is the median of, and how many these are."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Measured":
        return cls(statistics.median(values), min(values), max(values), len(values))


def against(seconds: Mapping[str, Sequence[float]], name: str, base: str, factor: float = 1.0) -> Measured:
    """factor · a task ÷ the base: the ratio is taken within every round, the median over the rounds."""
    return Measured.of([factor * one / other for one, other in zip(seconds[name], seconds[base], strict=True)])


def summary(seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """Medians, and all that was measured."""
    return {
        "rounds": len(next(iter(seconds.values()))),
        "median_seconds": {name: statistics.median(found) for name, found in seconds.items()},
        "seconds": {name: [round(second, 6) for second in found] for name, found in seconds.items()},
    }


def ratios(seconds: Mapping[str, list[float]], base: str) -> dict[str, float]:
    """The medians of `against` for all other tasks."""
    return {name: against(seconds, name, base).median for name in seconds if name != base}


def fastest_attention(
    settings: Settings, dtype: str, batch: list[Row], family: str = "smollm2", loss: str = "choice"
) -> tuple[str, Any, dict[str, float]]:
    """Name and model of the attention whose forward is fastest here, and the medians of those tried."""
    models = {name: load(settings, dtype, name, family) for name in ("sdpa", "eager")}
    times = interleaved({name: lambda m=model: forward(m, batch, loss) for name, model in models.items()}, settings, 3)
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
