"""The generator's fast path on CPU: numba loops, the same bits as `random.laws`.

Rounding is part of the contract: c·z is rounded, then the sum is rounded; numba without fastmath neither contracts
into FMA nor reorders, so thread count and instruction set never show in the result.
"""

import functools
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange, uint32, uint64

from zerothorder.random.laws import GAUSSIAN_SCALE, gaussian_table
from zerothorder.random.philox import MULTIPLIERS, WEYL

_M0, _M1 = (np.uint64(m) for m in MULTIPLIERS)
_W0, _W1 = (np.uint32(w) for w in WEYL)
# Blocks computed together: enough for the compiler to fill vector registers, small enough to stay in L1.
_TILE = 64


@njit(inline="always")
def _tile(words: Any, first: Any, k0: Any, k1: Any) -> None:
    """words (4, _TILE) u32: column b holds block first+b."""
    for b in range(_TILE):
        index = uint64(first) + uint64(b)
        c0, c1 = uint32(index), uint32(index >> uint64(32))
        c2, c3 = uint32(0), uint32(0)
        q0, q1 = k0, k1
        for _ in range(10):
            p0, p1 = _M0 * uint64(c0), _M1 * uint64(c2)
            c0, c2 = uint32(p1 >> uint64(32)) ^ c1 ^ q0, uint32(p0 >> uint64(32)) ^ c3 ^ q1
            c1, c3 = uint32(p1), uint32(p0)
            q0, q1 = uint32(q0 + _W0), uint32(q1 + _W1)
        words[0, b], words[1, b], words[2, b], words[3, b] = c0, c1, c2, c3


@njit(parallel=True, nogil=True, cache=True)
def _rademacher(out: Any, source: Any, k0: Any, k1: Any, plus: Any, minus: Any, start: int) -> None:
    per = _TILE * 128
    first, stop = start // per, (start + out.size + per - 1) // per
    for t in prange(first, stop):
        words = np.empty((4, _TILE), np.uint32)
        _tile(words, t * _TILE, k0, k1)
        for b in range(_TILE):
            for w in range(4):
                x = words[w, b]
                at = t * per + b * 128 + w * 32 - start
                if at >= 0 and at + 32 <= out.size:
                    o, s = out[at : at + 32], source[at : at + 32]
                    for j in range(32):
                        o[j] = s[j] + (plus if (x >> uint32(j)) & uint32(1) == uint32(0) else minus)
                else:
                    for j in range(max(0, -at), min(32, out.size - at)):
                        bit = (x >> uint32(j)) & uint32(1)
                        out[at + j] = source[at + j] + (plus if bit == uint32(0) else minus)


@njit(parallel=True, nogil=True, cache=True)
def _gaussian(out: Any, source: Any, table: Any, k0: Any, k1: Any, coefficient: Any, start: int) -> None:
    per = _TILE * 8
    first, stop = start // per, (start + out.size + per - 1) // per
    for t in prange(first, stop):
        words = np.empty((4, _TILE), np.uint32)
        _tile(words, t * _TILE, k0, k1)
        base = t * per - start
        if base >= 0 and base + per <= out.size:
            for b in range(_TILE):
                for w in range(4):
                    x = words[w, b]
                    at = base + b * 8 + w * 2
                    out[at] = source[at] + coefficient * table[x & uint32(0xFFFF)]
                    out[at + 1] = source[at + 1] + coefficient * table[x >> uint32(16)]
        else:
            for i in range(max(0, -base), min(per, out.size - base)):
                x = words[(i // 2) % 4, i // 8]
                lane = (x >> uint32(16)) if i % 2 else x & uint32(0xFFFF)
                out[base + i] = source[base + i] + coefficient * table[lane]


@njit(parallel=True, nogil=True, cache=True)
def _bytes(out: Any, k0: Any, k1: Any, start: int) -> None:
    per = _TILE * 16
    first, stop = start // per, (start + out.size + per - 1) // per
    for t in prange(first, stop):
        words = np.empty((4, _TILE), np.uint32)
        _tile(words, t * _TILE, k0, k1)
        base = t * per - start
        for b in range(_TILE):
            for w in range(4):
                x = words[w, b]
                for j in range(4):
                    at = base + b * 16 + w * 4 + j
                    if at >= 0 and at < out.size:
                        out[at] = (x >> uint32(8 * j)) & uint32(0xFF)


@functools.cache
def _signed_table(dtype: torch.dtype) -> np.ndarray:
    half = gaussian_table().to(dtype) * GAUSSIAN_SCALE
    return torch.cat((half, -half)).numpy()


def _threads() -> None:
    # numba has its own pool: it follows torch's setting so that one number rules the process
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))


def _split(key: int) -> tuple[np.uint32, np.uint32]:
    return np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32)


def shift(
    out: torch.Tensor, source: torch.Tensor, law: str, key: int, coefficient: float, start: int
) -> None:
    """out = source + coefficient·z[start : start+n]; 1-D contiguous CPU tensors of one float dtype, may be the same."""
    _threads()
    target, base = out.numpy(), source.numpy()
    scalar = target.dtype.type(coefficient)
    if law == "rademacher":
        _rademacher(target, base, *_split(key), scalar, -scalar, start)
    else:
        _gaussian(target, base, _signed_table(out.dtype), *_split(key), scalar, start)


def byte_lanes(out: torch.Tensor, key: int, start: int) -> None:
    """The 8-bit lanes of `philox.lanes`, into uint8 out."""
    _threads()
    _bytes(out.numpy(), *_split(key), start)
