"""One step of all matrices along one outer product each, in one launch: w ← round(w - rate·(scalar·A B + decay·w)).

A model has hundreds of matrices, most of which fit into a cache: a launch a matrix costs as much as moving it. The
arithmetic is that of the general pass, operation by operation, so a step has its bits.
"""

# pyright: basic
# numba has no types of its own.

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numba import njit, prange, uint32, uint64
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from torch import Tensor

from zerothorder.grids.cpu import _bits, _float, _put, _wide
from zerothorder.random.cpu import TILE, follow_threads, split_all, stream


@dataclass(frozen=True)
class Outer:
    """The step of one whole matrix: its storage (1-D) and residual byte, A (m, 1), B (1, n), and what they meet."""

    stored: Tensor
    residual: Tensor | None
    a: Tensor
    b: Tensor
    scalar: float
    rate: float
    decay: float
    seed: int


def _as_pointer(typing: Any, address: Any) -> Any:
    def pointer(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(address), pointer


_pointer: Any = intrinsic(_as_pointer)
"""An address as the pointer that carray takes: the arrays of a launch differ in number, so they come as numbers."""


@njit
def _row(element: Any, left: Any, n: Any) -> Any:
    """(row, column, number of elements) of what comes next in a matrix of n columns, at most `left` elements."""
    row = element // n
    col = element - row * n
    return row, col, min(n - col, left)


# What is looked up per row comes as an argument: an array read inside a loop might be the one that is written there,
# and the compiler would not use vector registers.


@njit
def _row_exact(w: Any, at: Any, b: Any, col: Any, take: Any, a: Any, decay: Any, rate: Any) -> None:
    zero = w.dtype.type(0)
    for i in range(take):
        j = at + uint64(i)
        g = zero + a * b[col + uint64(i)]
        if decay != 0:
            g += w[j] * decay
        w[j] = w[j] - g * rate


@njit
def _row_bfloat16(
    stored: Any, residual: Any, at: Any, random: Any, skip: Any, b: Any, col: Any, take: Any, a: Any, decay: Any,
    rate: Any,
) -> None:  # fmt: skip
    signed = residual.view(np.int8)
    for i in range(take):
        j = at + uint64(i)
        w = _float(_wide(stored, signed, j))
        g = np.float32(0) + a * b[col + uint64(i)]
        if decay != 0:
            g += w * decay
        _put(stored, residual, j, _bits(w - g * rate), random[skip + uint64(i)])


@njit
def _find(tiles: Any, t: Any) -> Any:
    """The matrix that tile t of the launch belongs to; tiles[s] is the first tile of matrix s."""
    low, high = 0, tiles.size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if tiles[middle] <= t:
            low = middle
        else:
            high = middle
    return low


@njit(parallel=True, nogil=True, cache=True)
def _bfloat16(
    where: Any, tiles: Any, sizes: Any, columns: Any, scalars: Any, rates: Any, decays: Any, k0: Any, k1: Any
) -> None:
    for t in prange(tiles[tiles.size - 1]):
        s = _find(tiles, t)
        tile, size, n = t - tiles[s], sizes[s], uint64(columns[s])
        stored, residual = carray(_pointer(where[s, 0]), size, np.uint16), carray(_pointer(where[s, 1]), size, np.uint8)
        a = carray(_pointer(where[s, 2]), size // columns[s], np.float32)
        b = carray(_pointer(where[s, 3]), columns[s], np.float32)
        random = stream(8, tile, uint32(k0[s]), uint32(k1[s])).view(np.uint8)
        done, first = uint64(0), uint64(tile) * uint64(TILE)
        count = uint64(min(TILE, size - tile * TILE))
        while done < count:
            row, col, take = _row(first + done, count - done, n)
            scaled = a[row] * scalars[s]
            _row_bfloat16(stored, residual, first + done, random, done, b, col, take, scaled, decays[s], rates[s])
            done += take


@njit(parallel=True, nogil=True, cache=True)
def _exact(where: Any, tiles: Any, sizes: Any, columns: Any, scalars: Any, rates: Any, decays: Any) -> None:
    for t in prange(tiles[tiles.size - 1]):
        s = _find(tiles, t)
        tile, size, n = t - tiles[s], sizes[s], uint64(columns[s])
        w = carray(_pointer(where[s, 0]), size, scalars.dtype)
        a = carray(_pointer(where[s, 2]), size // columns[s], scalars.dtype)
        b = carray(_pointer(where[s, 3]), columns[s], scalars.dtype)
        done, first = uint64(0), uint64(tile) * uint64(TILE)
        count = uint64(min(TILE, size - tile * TILE))
        while done < count:
            row, col, take = _row(first + done, count - done, n)
            _row_exact(w, first + done, b, col, take, a[row] * scalars[s], decays[s], rates[s])
            done += take


def move_all(steps: list[Outer]) -> None:
    """The steps of matrices of one dtype: float32 or float64 in place, or bfloat16 with its residual."""
    if not steps:
        return
    follow_threads()
    number = np.float64 if steps[0].stored.dtype == torch.float64 else np.float32
    where = np.array(
        [[t.data_ptr() if t is not None else 0 for t in (s.stored, s.residual, s.a, s.b)] for s in steps], np.uint64
    )
    sizes = np.array([s.stored.numel() for s in steps], np.int64)
    tiles = np.concatenate([np.zeros(1, np.int64), np.cumsum(-(-sizes // TILE))])
    columns = np.array([s.b.numel() for s in steps], np.int64)
    met = [np.array([getattr(s, name) for s in steps], number) for name in ("scalar", "rate", "decay")]
    narrow, exact = cast(Any, _bfloat16), cast(Any, _exact)
    if steps[0].residual is not None:
        narrow(where, tiles, sizes, columns, *met, *split_all([s.seed for s in steps]))
    else:
        exact(where, tiles, sizes, columns, *met)
