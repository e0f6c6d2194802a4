"""Bytes of ledger a step, and replayed steps a second."""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import Settings, load, rows, summary
from benchmarks.steps import Stepper

from zerothorder.ledger.attachments import Attachments
from zerothorder.ledger.reader import read
from zerothorder.replay import apply_entries
from zerothorder.state import State


def measure(settings: Settings, dtype: str, law: str = "rademacher") -> dict[str, Any]:
    """A short run on disk; then its entries applied again, as replay applies them, and compared with the run."""
    model = load(settings, dtype)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    steps = settings.repeats + 1
    with tempfile.TemporaryDirectory() as folder:
        stepper = Stepper(model, law, Path(folder))
        path, sizes = Path(folder) / f"{law}.zo", list[int]()
        for _ in range(steps):
            stepper.step(rows(1, 8))
            sizes.append(path.stat().st_size)
        stepper.run.ledger.close()
        contents = read(path)
        trained = {name: p.detach().clone() for name, p in model.named_parameters()}
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(start[name])
        state, seconds, began = State(), list[float](), time.perf_counter()

        def tick(entry: Any) -> None:
            nonlocal began
            seconds.append(time.perf_counter() - began)
            began = time.perf_counter()

        store = Attachments(Path(folder) / "attachments")
        apply_entries(contents.entries, contents, stepper.run.space, state, store, "ledger", tick)
        same = all(torch.equal(p.detach(), trained[name]) for name, p in model.named_parameters())
    found = summary({"replayed_step": seconds[1:]})
    return {
        "dtype": dtype,
        "law": law,
        "bytes_a_step": (sizes[-1] - sizes[0]) / (steps - 1),
        "first_bytes": sizes[0],
        "replayed_steps_a_second": 1 / found["median_seconds"]["replayed_step"],
        "bitwise_equal": same,
        **found,
    }
