"""Replayed steps a second ÷ trained steps a second: a ledger of a thousand steps against whole training steps."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmarks import floors
from benchmarks.common import Settings, against, interleaved, load, rows, summary, twin
from benchmarks.steps import LR, Stepper, recipe

from zerothorder.execution.batched import Batched
from zerothorder.key import Key, run_key
from zerothorder.ledger.entry import Entry, Rates, float32
from zerothorder.ledger.writer import Ledger
from zerothorder.replay import replay
from zerothorder.run import new_header
from zerothorder.space import ParameterSpace

STEPS, ROWS, TOKENS = 1000, 16, 64
REPEATS = 3


def write_ledger(model: Any, method: str, path: Path, steps: int) -> None:
    """A ledger of this base with `steps` made-up entries: one draw, a scalar of either sign, a constant rate."""
    space = ParameterSpace.of(model)
    ledger = Ledger(new_header(model, space, recipe(method), run_key(0), {}, {}), path)
    rates = {group: Rates(float32(LR)) for group in ("decay", "plain")}
    for step in range(steps):
        scalar = float32((-1) ** step * (1 + step % 7))
        ledger.append(Entry(step, ((Key("z", step, 0), scalar),), {"loss": 0.0}, rates))
    ledger.close()


def measure(settings: Settings, dtype: str, method: str) -> dict[str, Any]:
    """`zerothorder.replay` of the whole ledger (reading it and checking the base included) and one training step, in
    turns."""
    model, batch = load(settings, dtype), rows(ROWS, TOKENS)
    live, steps = twin(model), 50 if settings.small else STEPS
    start = [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def back() -> None:
        for p, own in zip(model.parameters(), start, strict=True):
            p.copy_(own)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "thousand.zo"
        write_ledger(model, method, path, steps)
        stepper = Stepper(live, recipe(method), Batched(), Path(folder))

        def again(until: int | None = None) -> None:
            replay(model, path, until)

        seconds = interleaved(
            {
                "step": lambda: stepper.step(batch),
                "replay": again,
                # the next replay starts at the base again; its time belongs to nobody
                "back": back,
                "draw": floors.drawing("rademacher"),
                "multiply": floors.multiplying(),
            },
            settings,
            min(settings.repeats, REPEATS),
            least=REPEATS,
            warm=lambda: (
                stepper.step(batch),
                again(2),
                back(),
                floors.drawing("rademacher")(),
                floors.multiplying()(),
            ),
        )
    found, space = summary(seconds), ParameterSpace.of(model)
    medians = found["median_seconds"]
    return {
        "dtype": dtype,
        "method": method,
        "steps": steps,
        "rows": ROWS,
        "tokens": TOKENS,
        "weights": space.numel,
        # a step cannot be replayed faster than its draw is added, in cache; with factors than its products are summed
        "least_seconds_a_step": space.numel
        * (medians["multiply"] / floors.MULTIPLIED if method == "low-rank" else medians["draw"] / floors.DRAWN),
        "steps_a_second": {"trained": 1 / medians["step"], "replayed": steps / medians["replay"]},
        "ratio": {"replayed_to_trained": against(seconds, "step", "replay", steps).median},
        **found,
    }
