"""Predicted ÷ measured seconds of a step: `zo plan` and real steps in turns."""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import Row, Settings, objective, rows
from benchmarks.steps import Stepper, recipe

from zerothorder.data import load_model
from zerothorder.execution.batched import Batched
from zerothorder.plan import PlanConfig, make_plan
from zerothorder.point import Values


class Head:
    """Cross-entropy of a classification head, for an encoder."""

    def prepare(self, model: Any, batch: list[Row], key: Any) -> torch.Tensor:
        return torch.tensor([row.prompt for row in batch])

    def count(self, ids: torch.Tensor) -> int:
        return len(ids)

    def select(self, ids: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        return ids[list(rows)]

    def evaluate(self, model: Any, ids: torch.Tensor) -> Values:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
        labels = torch.zeros(len(ids), dtype=torch.int64)
        return Values.of(torch.nn.functional.cross_entropy(logits, labels, reduction="none"))


def measure(
    settings: Settings, model_name: str, dtype: str, count: int, tokens: int, rounds: int = 3
) -> dict[str, Any]:
    """Each round: a prediction from nothing but the configuration, then two steps."""
    with tempfile.TemporaryDirectory() as scratch:
        name = settings.model if model_name == "smollm2-135m" else model_name
        if name == "random-gpt2":  # a shape the prediction was not tuned on
            name = random_gpt2(Path(scratch) / "gpt2")
        head = 2 if model_name == "minilm" else None
        model = load_model(name, dtype, head=head).model
        config = PlanConfig(
            model=name, dtype=dtype, batch_size=count, tokens=tokens, law="rademacher", head=head,
            threads=settings.threads,
        )  # fmt: skip
        stepper = Stepper(
            model, recipe("mezo", law="rademacher"), Batched(), Path(scratch), Head() if head else objective()
        )
        batch = rows(count, tokens)
        stepper.step(batch)
        predicted: list[float] = []
        measured: list[float] = []
        clocks: list[dict[str, Any]] = []
        for _ in range(rounds):
            plan = make_plan(config)
            assert plan.clock is not None
            predicted.append(plan.clock.step)
            clocks.append(dataclasses.asdict(plan.clock))
            for _ in range(3):
                began = time.perf_counter()
                stepper.step(batch)
                measured.append(time.perf_counter() - began)
    medians = statistics.median(predicted), statistics.median(measured)
    return {
        "model": model_name,
        "dtype": dtype,
        "rows": count,
        "tokens": tokens,
        "predicted": predicted,
        "measured": measured,
        "clocks": clocks,
        "alone": stepper.alone,
        "ratio": {"time": medians[0] / medians[1]},
    }


def random_gpt2(folder: Path) -> str:
    """A GPT-2 of a shape of its own, with the tokenizer of the packaged model."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from zerothorder.data.sources import model_folder

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_embd=512, n_layer=6, n_head=8)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(model_folder("smollm2-135m"))).save_pretrained(str(folder))
    return str(folder)
