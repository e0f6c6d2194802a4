"""What a step of low rank costs where the weights cost nothing: as many modules as SmolLM2 has, each of 36 columns."""

from typing import Any

import torch
from benchmarks.common import Settings, against, forward, interleaved, objective, rows, summary

from zerothorder.directions.lowrank import LowRank
from zerothorder.execution import Surroundings
from zerothorder.execution.batched import Batched
from zerothorder.key import Key, run_key
from zerothorder.ledger.entry import Entry, Rates
from zerothorder.point import Point
from zerothorder.space import ParameterSpace
from zerothorder.state import State
from zerothorder.updates import Update
from zerothorder.updates.transforms import WeightDecay

LAYERS, TOKENS, EPS, LR = 30, 64, 1e-3, 1e-12
CALLS = 5
"""Calls timed together: one is a few hundredths of a second."""


def measure(settings: Settings, dtype: str) -> dict[str, Any]:
    """Both points of one row together, the same two rows unperturbed, and the update, in turns."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=36, intermediate_size=96, num_hidden_layers=2 if settings.small else LAYERS, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(getattr(torch, dtype)).eval()
    space, direction, state = ParameterSpace.of(model), LowRank(run_key(0), 1, "rademacher"), State()
    around, executor, update = Surroundings(model, space, direction, state), Batched(), Update((WeightDecay(),))
    points = [Point(((Key("z", 0), sign * EPS),)) for sign in (1.0, -1.0)]
    batch = rows(1, TOKENS)
    entry = Entry(0, ((Key("z", 0), 1.0),), {}, {group: Rates(LR) for group in ("decay", "plain")})

    def points_together() -> None:
        executor.evaluate(points, objective(), {"main": batch}, Key("prepare", 0), around)

    tasks = {
        "both_points": points_together,
        "unperturbed": lambda: forward(model, batch * 2),
        "update": lambda: update.apply(entry, space, direction, state),
    }
    repeated = {name: lambda task=task: [task() for _ in range(CALLS)] for name, task in tasks.items()}
    seconds = {name: [one / CALLS for one in found] for name, found in interleaved(repeated, settings).items()}
    return {
        "dtype": dtype,
        "modules": sum(1 for _ in model.modules()),
        "parameters": len(space),
        "ratio": {"both_points": against(seconds, "both_points", "unperturbed").median},
        **summary(seconds),
    }
