"""Keyed randomness: `shift` adds c·z to a tensor, `byte_lanes` gives rounding bits; reference and fast path agree."""

import torch
from torch import Tensor

from zerothorder.random import laws, philox
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


def byte_lanes(key: int, start: int, count: int, device: torch.device) -> Tensor:
    """Uniform bytes start … start+count-1 of the key's stream, for stochastic rounding: uint8 (count,)."""
    if device.type == "cpu":
        from zerothorder.random import cpu

        return cpu.byte_lanes(key, start, count)
    return philox.lanes(key, 8, start, count, device).to(torch.uint8)
