"""step ÷ (2 × forward): what a step costs beyond the two forwards that it needs."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import floors
from benchmarks.common import (
    Row,
    Settings,
    fastest_attention,
    forward,
    interleaved,
    objective,
    ratios,
    rows,
    summary,
    twin,
)
from benchmarks.plain_mezo import FusedMeZO, PlainMeZO

from zerothorder.execution import Executor
from zerothorder.execution.batched import Batched
from zerothorder.execution.swap import Swap
from zerothorder.journal import Journal
from zerothorder.profile import profiling
from zerothorder.recipe import Recipe
from zerothorder.recipes.low_rank import LowRankSPSA
from zerothorder.recipes.mezo import MeZO
from zerothorder.recipes.spsa import SPSA
from zerothorder.run import Run
from zerothorder.space import ParameterSpace

LR, EPS = 1e-7, 1e-3  # small enough that the weights, and so the forwards, stay what they were
RECIPES: Mapping[str, type[MeZO]] = {"low-rank": LowRankSPSA, "spsa": SPSA, "mezo": MeZO}
OWN = (*RECIPES, "mezo-swap")
PEERS = ("plain", "fused")


def recipe(name: str, **settings: Any) -> MeZO:
    """The recipe with this benchmark's rate and ε."""
    return RECIPES[name](lr=LR, eps=EPS, **settings)


class Stepper:
    """Whole training steps as `zo train` takes them: points, ledger on disk, update, a row of metrics."""

    def __init__(
        self, model: Any, method: Recipe, executor: Executor, folder: Path, aim: Any = None, name: str = "run"
    ) -> None:
        space = ParameterSpace.of(model)
        self.path, self.executor = folder / f"{name}.zo", executor
        self.run = Run(model, space, method, aim or objective(), executor, steps=1000, path=self.path)
        self.journal = Journal(folder / f"{name}.jsonl")

    def step(self, batch: Any) -> None:
        entry, meter = self.run.step(batch), self.run.around.meter
        if entry.skipped:
            raise RuntimeError("the loss is not a number: the step moved nothing, and its time means nothing")
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

    def phases(self, batch: Any) -> dict[str, float]:
        """Seconds of one more step, by phase."""
        with profiling() as profile:
            self.step(batch)
        profile.lap()
        return {name: round(second, 6) for name, second in profile.steps[0].items()}

    @property
    def alone(self) -> dict[str, Any]:
        """What `Batched` could not do together: the reason it went to `Swap`, modules that ran once a point."""
        one_by_one = sorted(getattr(self.executor, "one_by_one", ()))
        return {"reason": getattr(self.executor, "reason", None), "one_by_one": one_by_one}


def measure(
    settings: Settings,
    dtype: str,
    count: int,
    tokens: int,
    family: str = "smollm2",
    loss: str = "choice",
    tasks: Sequence[str] = (*OWN, *PEERS),
) -> dict[str, Any]:
    """Two forwards, one forward of the rows twice over, our steps and the plain loops, in turns.

    Every step evaluates the objective of the denominator; what differs is what is done around it.
    """
    batch = rows(count, tokens, loss)
    attention, model, tried = fastest_attention(settings, dtype, batch, family, loss)
    other = twin(model) if set(tasks) & set(PEERS) else model  # the plain loops move the weights between their passes
    copy_, moved = floors.copying(settings)
    with tempfile.TemporaryDirectory() as folder:
        steppers = {
            name: Stepper(
                model, recipe(name.removesuffix("-swap")), Swap() if name.endswith("-swap") else Batched(),
                Path(folder), objective(loss), name,
            )
            for name in tasks
            if name in OWN
        }  # fmt: skip
        seconds = interleaved(
            {
                "two_forwards": lambda: (forward(model, batch, loss), forward(model, batch, loss)),
                "both_in_one": lambda: forward(model, batch * 2, loss),
                **{name: lambda s=stepper: s.step(batch) for name, stepper in steppers.items()},
                **{name: step for name, step in plain_steps(other, batch, loss).items() if name in tasks},
                "copy": copy_,
            },
            settings,
        )
        phases = {name: stepper.phases(batch) for name, stepper in steppers.items() if name in RECIPES}
    found, space = summary(seconds), ParameterSpace.of(model)
    moves, speed = floors.bytes_of_step(model, space, loss), floors.bandwidth(seconds["copy"], moved)
    two = found["median_seconds"]["two_forwards"]
    return {
        "family": family,
        "dtype": dtype,
        "rows": count,
        "tokens": tokens,
        "loss": loss,
        "attention": attention,
        "attention_tried": tried,
        "weights": space.numel,
        "bytes": moves,
        "bandwidth": speed,
        # of two separate forwards
        "floor": {"low_rank": 1 + moves["update"] / speed / two, "dense": 1 + moves["dense"] / speed / two},
        "alone": {name: stepper.alone for name, stepper in steppers.items()},
        "phases": phases,
        "ratio": ratios(seconds, "two_forwards"),
        **found,
    }


def plain_steps(model: Any, batch: list[Row], loss: str) -> dict[str, Callable[[], object]]:
    """The loops of `plain_mezo` on this model."""
    plain, fused = PlainMeZO(model, LR, EPS), FusedMeZO(model, LR, EPS)
    return {
        "plain": lambda: plain.step(lambda: forward(model, batch, loss)),
        "fused": lambda: fused.step(lambda: forward(model, batch, loss)),
    }
