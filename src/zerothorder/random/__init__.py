"""Keyed randomness: `shift` adds c·z to a tensor, `byte_lanes` gives rounding bits; reference and fast path agree."""

import torch
from torch import Tensor

from zerothorder.random import philox
from zerothorder.random.laws import LAWS
from zerothorder.random.philox import VERSION

__all__ = ["LAWS", "VERSION", "byte_lanes", "shift"]


def shift(out: Tensor, source: Tensor, law: str, key: int, coefficient: float, start: int = 0) -> None:
    """out = source + coefficient·z[start : start+n], each product and each sum rounded once in out's dtype.

    `out` and `source` are 1-D, contiguous, float32 or float64, and may be the same tensor.
    """
    if out.device.type == "cpu":
        from zerothorder.random import cpu

        cpu.shift(out, source, law, key, coefficient, start)
    else:
        z = LAWS[law](key, start, out.numel(), out.device).to(out.dtype)
        torch.add(source, z.mul_(torch.tensor(coefficient, dtype=out.dtype)), out=out)


def byte_lanes(out: Tensor, key: int, start: int = 0) -> None:
    """Uniform bytes start … start+n-1 of the key's stream, for stochastic rounding, into uint8 out (n,)."""
    if out.device.type == "cpu":
        from zerothorder.random import cpu

        cpu.byte_lanes(out, key, start)
    else:
        out.copy_(philox.lanes(key, 8, start, out.numel(), out.device))
