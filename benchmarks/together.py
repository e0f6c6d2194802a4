"""Evaluating θ ± εz ÷ two forwards: one point after the other (`Swap`), and both in one pass (`Batched`)."""

from collections.abc import Callable
from typing import Any

from benchmarks.common import Settings, forward, interleaved, load, objective, rows, summary

from zerothorder.directions import Direction
from zerothorder.directions.laws import Dense
from zerothorder.directions.lowrank import LowRank
from zerothorder.execution import Executor, Surroundings
from zerothorder.execution.batched import Batched
from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.point import Point
from zerothorder.space import ParameterSpace
from zerothorder.state import State

POINTS = [Point(((Key("z", 0), sign * 1e-3),)) for sign in (1.0, -1.0)]


def measure(settings: Settings, dtype: str, count: int, tokens: int) -> dict[str, Any]:
    """All weights but the embedding table; no update, no ledger."""
    model, batch = load(settings, dtype), rows(count, tokens)
    model.get_input_embeddings().weight.requires_grad_(False)
    space = ParameterSpace.of(model)

    def look(executor: Executor, direction: Direction) -> Callable[[], object]:
        around = Surroundings(model, space, direction, State())
        return lambda: executor.evaluate(POINTS, objective(), {"main": batch}, Key("prepare", 0), around)

    dense, low = Dense(bytes(16), "rademacher"), LowRank(bytes(16), 1)
    seconds = interleaved(
        {
            "two_forwards": lambda: (forward(model, batch), forward(model, batch)),
            "two_copies_in_one": lambda: forward(model, batch * 2),
            "swap": look(Swap(), dense),
            "batched": look(Batched(), dense),
            "batched_rank_1": look(Batched(), low),
        },
        settings.repeats,
    )
    found = summary(seconds)
    medians = found["median_seconds"]
    return {
        "dtype": dtype,
        "rows": count,
        "tokens": tokens,
        "ratio": {name: medians[name] / medians["two_forwards"] for name in medians},
        **found,
    }
