"""Keyed randomness: `shift` adds c·z to a tensor, `drop` zeroes a random share of one, `byte_lanes` gives rounding
bits; reference and fast paths agree."""

import functools
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from zerothorder.random import philox
from zerothorder.random.laws import LAWS
from zerothorder.random.philox import VERSION

__all__ = ["LAWS", "VERSION", "byte_lanes", "drop", "fast_path", "pieces", "shift"]


@functools.cache
def fast_path(device: torch.device) -> ModuleType | None:
    """The module with this device's kernels, imported at its first tensor; None where plain torch serves.

    Triton comes with torch's GPU builds; where it is missing, the reference gives the same bits slowly.
    """
    if device.type == "cpu":
        from zerothorder.random import cpu

        return cpu
    if device.type in ("cuda", "xpu"):
        try:
            from zerothorder.random import triton
        except ImportError:
            return None
        return triton
    return None


def shift(out: Tensor, source: Tensor, law: str, key: int, coefficient: float, start: int = 0) -> None:
    """out = source + coefficient·z[start : start+n], each product and each sum rounded once in out's dtype.

    `out` and `source` are 1-D, contiguous, float32 or float64, and may be the same tensor.
    """
    fast = fast_path(out.device)
    if fast is not None:
        fast.shift(out, source, law, key, coefficient, start)
    else:
        z = LAWS[law](key, start, out.numel(), out.device).to(out.dtype)
        torch.add(source, z.mul_(torch.tensor(coefficient, dtype=out.dtype)), out=out)


def pieces(out: Tensor, law: str, keys: Sequence[int], starts: Sequence[int], ends: Sequence[int]) -> None:
    """out[ends[i-1] : ends[i]] = z of keys[i] from its element starts[i] on: many small draws in one go."""
    fast = getattr(fast_path(out.device), "pieces", None)
    if fast is not None:
        fast(out, law, keys, starts, ends)
        return
    out.zero_()
    for key, start, begin, end in zip(keys, starts, (0, *ends), ends, strict=False):
        shift(out[begin:end], out[begin:end], law, key, 1.0, start)


def drop(out: Tensor, key: int, below: int, start: int = 0) -> None:
    """out_i = 0 where the 16-bit lane start+i of the key's stream is less than `below` (0 … 2¹⁶), in place.

    `out` is as in `shift`.
    """
    fast = getattr(fast_path(out.device), "drop", None)
    if fast is not None:
        fast(out, key, below, start)
        return
    raw = torch.empty(2 * out.numel(), dtype=torch.uint8, device=out.device)
    byte_lanes(raw, key, 2 * start)
    low, high = raw.view(-1, 2).to(torch.int32).unbind(1)
    out.masked_fill_(low + 256 * high < below, 0.0)


def byte_lanes(out: Tensor, key: int, start: int = 0) -> None:
    """Uniform bytes start … start+n-1 of the key's stream, for stochastic rounding, into uint8 out (n,)."""
    fast = fast_path(out.device)
    if fast is not None:
        fast.byte_lanes(out, key, start)
    else:
        out.copy_(philox.lanes(key, 8, start, out.numel(), out.device))
