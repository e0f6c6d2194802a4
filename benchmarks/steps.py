"""step ÷ (2 × forward): what a step costs beyond the two forwards that it needs."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import Row, Settings, fastest_attention, forward, interleaved, load, objective, rows, summary
from benchmarks.plain_mezo import PlainMeZO

from zerothorder.execution.swap import Swap
from zerothorder.journal import Journal
from zerothorder.recipes.mezo import MeZO
from zerothorder.run import Run
from zerothorder.space import ParameterSpace

LR, EPS = 1e-7, 1e-3  # small enough that the weights, and so the forwards, stay what they were


class Stepper:
    """Whole training steps as `zo train` takes them: points, ledger on disk, update, a row of metrics."""

    def __init__(self, model: Any, law: str, folder: Path, aim: Any = None) -> None:
        recipe = MeZO(lr=LR, eps=EPS, law=law)  # type: ignore[arg-type]
        space = ParameterSpace.of(model)
        self.run = Run(model, space, recipe, aim or objective(), Swap(), steps=1000, path=folder / f"{law}.zo")
        self.journal = Journal(folder / f"{law}.jsonl")

    def step(self, batch: Any) -> None:
        entry, meter = self.run.step(batch), self.run.around.meter
        self.journal.write(
            {
                "kind": "step",
                "step": entry.step,
                "loss": entry.notes["loss"],
                "projected_gradient": entry.terms[0][1],
                "lr": LR,
                "forwards": meter.examples,
                "tokens": meter.tokens,
                "seconds": 0.0,
                "skipped": entry.skipped,
                "memory": 0,
            }
        )


def measure(settings: Settings, dtype: str, count: int, tokens: int) -> dict[str, Any]:
    """Two forwards, our step under both laws, and the plain loop, in turns."""
    batch = rows(count, tokens)
    attention, model, tried = fastest_attention(settings, dtype, batch)
    other = load(settings, dtype, attention)
    plain = PlainMeZO(other, LR, EPS)
    with tempfile.TemporaryDirectory() as folder:
        gaussian, rademacher = (Stepper(model, law, Path(folder)) for law in ("gaussian", "rademacher"))
        seconds = interleaved(
            {
                "two_forwards": lambda: (forward(model, batch), forward(model, batch)),
                "gaussian": lambda: gaussian.step(batch),
                "rademacher": lambda: rademacher.step(batch),
                "plain": lambda: plain.step(lambda: plain_loss(other, batch)),
            },
            settings.repeats,
        )
    found = summary(seconds)
    base = found["median_seconds"]["two_forwards"]
    return {
        "dtype": dtype,
        "rows": count,
        "tokens": tokens,
        "attention": attention,
        "attention_tried": tried,
        "ratio": {name: found["median_seconds"][name] / base for name in ("gaussian", "rademacher", "plain")},
        **found,
    }


def plain_loss(model: Any, batch: list[Row]) -> float:
    """Cross-entropy over the two words, written without the library."""
    ids = torch.tensor([row.prompt for row in batch])
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1, [7, 9]].float()
    return float(torch.nn.functional.cross_entropy(logits, torch.zeros(len(batch), dtype=torch.int64)))
