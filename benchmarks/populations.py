"""Training with a population ÷ inference, in tokens a second: eight pairs of points a step, update included."""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks import floors
from benchmarks.common import Settings, against, fastest_attention, forward, interleaved, rows, summary, twin
from benchmarks.plain_mezo import PlainPopulation
from benchmarks.steps import EPS, LR, Stepper, recipe

from zerothorder.execution.batched import Batched, points_a_pass
from zerothorder.space import ParameterSpace

DRAWS, ROWS, TOKENS = 8, 16, 64
BATCHES = (4, 8, 16, 32, 64)
LEAST = 3


def measure(settings: Settings, dtype: str, method: str) -> dict[str, Any]:
    """Steps of `method` (a recipe, or "plain": the loop in plain torch) and plain inference, in turns.

    Inference is at all of `BATCHES` in every round: the fastest by its median is the denominator.
    """
    batches = {count: rows(count, TOKENS) for count in BATCHES}
    attention, model, tried = fastest_attention(settings, dtype, batches[min(BATCHES)])
    size = ROWS * points_a_pass(ROWS, ROWS * TOKENS, alone=method == "low-rank")
    copy_, moved = floors.copying(settings)
    phases: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        stepper = None
        if method == "plain":
            other = twin(model)
            plain = PlainPopulation(other, LR, EPS, DRAWS)
            step = lambda batch: plain.step(lambda: forward(other, batch))  # noqa: E731
        else:
            stepper = Stepper(model, recipe(method, draws=DRAWS), Batched(), Path(folder))
            step = lambda batch: phases.update({method: stepper.phases(batch)})  # noqa: E731
        seconds = interleaved(
            {
                **{f"inference-{count}": lambda b=batch: forward(model, b) for count, batch in batches.items()},
                "step": lambda: step(batches[ROWS]),
                "copy": copy_,
            },
            settings,
            least=LEAST,
            # on one row: a step takes the better part of a minute
            warm=lambda: step(rows(1, TOKENS)),
        )
        alone = {} if stepper is None else {method: stepper.alone}
    found, space = summary(seconds), ParameterSpace.of(model)
    tokens = 2 * DRAWS * ROWS * TOKENS
    medians = found["median_seconds"]
    fastest = max(BATCHES, key=lambda count: count / medians[f"inference-{count}"])
    return {
        "dtype": dtype,
        "method": method,
        "draws": DRAWS,
        "rows": ROWS,
        "tokens": TOKENS,
        "pass": size,
        "attention": attention,
        "attention_tried": tried,
        "fastest": fastest,
        "tokens_a_second": {
            "training": tokens / medians["step"],
            "inference": fastest * TOKENS / medians[f"inference-{fastest}"],
        },
        "bytes": floors.bytes_of_step(model, space, "choice"),
        "bandwidth": floors.bandwidth(seconds["copy"], moved),
        "alone": alone,
        "phases": phases,
        # a step's tokens at the speed of inference, over its time
        "ratio": {"share": against(seconds, f"inference-{fastest}", "step", 2 * DRAWS * ROWS / fastest).median},
        **found,
    }
