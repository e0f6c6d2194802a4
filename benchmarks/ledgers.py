"""Bytes of ledger a step, and replayed steps a second."""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import Settings, load, rows
from benchmarks.steps import Stepper, recipe

from zerothorder.execution.swap import Swap
from zerothorder.ledger.attachments import Attachments
from zerothorder.ledger.reader import read
from zerothorder.replay import apply_entries
from zerothorder.state import State


def measure(settings: Settings, dtype: str, method: str = "spsa") -> dict[str, Any]:
    """A short run on disk; then its entries applied again, as replay applies them, and compared with the run."""
    model = load(settings, dtype)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    steps = settings.repeats + 1
    with tempfile.TemporaryDirectory() as folder:
        stepper = Stepper(model, recipe(method), Swap(), Path(folder))
        path, sizes = stepper.path, list[int]()
        for _ in range(steps):
            stepper.step(rows(1, 8))
            sizes.append(path.stat().st_size)
        stepper.run.ledger.close()
        contents = read(path)
        trained = {name: p.detach().clone() for name, p in model.named_parameters()}
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(start[name])
        state, store = State(), Attachments(Path(folder) / "attachments")
        for entries in (contents.entries[:1], contents.entries[1:]):  # the first step compiles
            began = time.perf_counter()
            apply_entries(entries, contents, stepper.run.space, state, store, "ledger")
            seconds = (time.perf_counter() - began) / len(entries)
        same = all(torch.equal(p.detach(), trained[name]) for name, p in model.named_parameters())
    return {
        "dtype": dtype,
        "method": method,
        "bytes_a_step": (sizes[-1] - sizes[0]) / (steps - 1),
        "first_bytes": sizes[0],
        "replayed_steps_a_second": 1 / seconds,
        "bitwise_equal": same,
    }
