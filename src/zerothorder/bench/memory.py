"""Memory of a cell: what its process held at most, less what it held before it loaded the model."""

import resource

import torch
from torch import nn

from zerothorder.optimizer import ZerothOrder


def resident() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_before(dtype: torch.dtype) -> int:
    """The same, once the library's kernels are compiled, which are no part of what a method takes: a step of a small
    layer in the model's dtype compiles those that draw directions and apply them."""
    with torch.random.fork_rng(devices=[]):
        layer, rows = nn.Linear(64, 64, dtype=dtype), torch.ones(2, 64, dtype=dtype)
        ZerothOrder(layer, "zo-sgd").step(lambda: layer(rows).float().square().mean())
    return resident()
