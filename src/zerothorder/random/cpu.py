"""The generator's fast path on CPU: numba loops, the same bits as `random.laws`.

Rounding is part of the contract: c·z is rounded, then the sum is rounded; numba without fastmath neither contracts
into FMA nor reorders, so thread count and instruction set never show in the result.

Everything works on tiles of TILE elements aligned in the whole tensor: a tile is a whole number of Philox blocks
for every lane width, and its buffers stay in the first-level cache. Index arithmetic is unsigned inside the loops:
a signed index could be negative, and the check for that keeps the compiler from using vector registers.
"""

# pyright: basic
# numba has no types of its own.

import functools
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange, uint32, uint64

from zerothorder.random.laws import GAUSSIAN_SCALE, gaussian_table
from zerothorder.random.philox import MULTIPLIERS, WEYL

TILE = 4096
_M0, _M1 = (np.uint64(m) for m in MULTIPLIERS)
_W0, _W1 = (np.uint32(w) for w in WEYL)
SHIFTS = np.arange(32).astype(np.uint32)


@njit
def _blocks(planes: Any, first: Any, k0: Any, k1: Any) -> None:
    """planes (4, n) u32: column b holds the four words of Philox block first+b."""
    for b in range(planes.shape[1]):
        index = uint64(first) + uint64(b)
        c0, c1 = uint32(index), uint32(index >> uint64(32))
        c2, c3 = uint32(0), uint32(0)
        q0, q1 = k0, k1
        for _ in range(10):
            p0, p1 = _M0 * uint64(c0), _M1 * uint64(c2)
            c0, c2 = uint32(p1 >> uint64(32)) ^ c1 ^ q0, uint32(p0 >> uint64(32)) ^ c3 ^ q1
            c1, c3 = uint32(p1), uint32(p0)
            q0, q1 = uint32(q0 + _W0), uint32(q1 + _W1)
        planes[0, b], planes[1, b], planes[2, b], planes[3, b] = c0, c1, c2, c3


@njit
def stream(bits: int, tile: int, k0: Any, k1: Any) -> Any:
    """The words that the `bits`-wide lanes of a tile consume, u32 in the order of the stream."""
    count = TILE * bits // 128
    planes = np.empty((4, count), np.uint32)
    _blocks(planes, tile * count, k0, k1)
    words = np.empty(4 * count, np.uint32)
    for b in range(count):
        at = uint64(4 * b)
        words[at], words[at + uint64(1)] = planes[0, b], planes[1, b]
        words[at + uint64(2)], words[at + uint64(3)] = planes[2, b], planes[3, b]
    return words


@njit
def add_draw(x: Any, bits: int, table: Any, tile: int, k0: Any, k1: Any, c: Any) -> None:
    """x (TILE,) += c·z of a tile, each product and each sum rounded; `bits` names the law.

    Adding is faster than storing c·z: a bare choice between two values becomes a branch.
    """
    words = stream(bits, tile, k0, k1)
    if bits == 1:
        minus = -c
        for b in range(words.size):
            word = words[b]
            for j in range(32):
                i = uint64(32 * b + j)
                x[i] += c if (word >> SHIFTS[j]) & uint32(1) == uint32(0) else minus
    else:
        for b in range(words.size):
            word, at = words[b], uint64(2 * b)
            x[at] += c * table[uint64(word & uint32(0xFFFF))]
            x[at + uint64(1)] += c * table[uint64(word >> uint32(16))]


@njit
def put_draw(out: Any, source: Any, bits: int, table: Any, tile: int, k0: Any, k1: Any, c: Any) -> None:
    """out (TILE,) = source + c·z of a tile, in one go over both: memory is read and written while it is computed.

    Not for out = source, which `add_draw` does: arrays that may overlap are not vectorised (four times slower).
    """
    words = stream(bits, tile, k0, k1)
    if bits == 1:
        minus = -c
        for b in range(words.size):
            word = words[b]
            for j in range(32):
                i = uint64(32 * b + j)
                out[i] = source[i] + (c if (word >> SHIFTS[j]) & uint32(1) == uint32(0) else minus)
    else:
        for b in range(words.size):
            word, at = words[b], uint64(2 * b)
            out[at] = source[at] + c * table[uint64(word & uint32(0xFFFF))]
            out[at + uint64(1)] = source[at + uint64(1)] + c * table[uint64(word >> uint32(16))]


@njit
def span(tile: int, start: int, size: int) -> Any:
    """(first element within the tile, first local element, count) of a tile's part in elements start … start+size."""
    skip = max(0, start - tile * TILE)
    local = tile * TILE + skip - start
    return uint64(skip), uint64(local), min(TILE - skip, size - local)


@njit(parallel=True, nogil=True, cache=True)
def _shift(out: Any, source: Any, same: bool, bits: int, table: Any, k0: Any, k1: Any, c: Any, start: int) -> None:
    for t in prange(start // TILE, (start + out.size + TILE - 1) // TILE):
        skip, at, count = span(t, start, out.size)
        if count == TILE and same:
            add_draw(out[at : at + uint64(TILE)], bits, table, t, k0, k1, c)
        elif count == TILE:
            end = at + uint64(TILE)
            put_draw(out[at:end], source[at:end], bits, table, t, k0, k1, c)
        else:
            x = np.empty(TILE, out.dtype)
            for i in range(count):
                x[skip + uint64(i)] = source[at + uint64(i)]
            add_draw(x, bits, table, t, k0, k1, c)
            for i in range(count):
                out[at + uint64(i)] = x[skip + uint64(i)]


@njit(parallel=True, nogil=True, cache=True)
def _drop(out: Any, k0: Any, k1: Any, below: Any, start: int) -> None:
    zero = out.dtype.type(0)
    for t in prange(start // TILE, (start + out.size + TILE - 1) // TILE):
        words = stream(16, t, k0, k1)
        skip, at, count = span(t, start, out.size)
        if count == TILE:
            x = out[at : at + uint64(TILE)]
            for b in range(words.size):
                word, i = words[b], uint64(2 * b)
                x[i] = zero if (word & uint32(0xFFFF)) < below else x[i]
                x[i + uint64(1)] = zero if (word >> uint32(16)) < below else x[i + uint64(1)]
        else:
            lanes = words.view(np.uint16)  # little-endian: the low half of a word first
            for i in range(count):
                if lanes[skip + uint64(i)] < below:
                    out[at + uint64(i)] = zero


def drop(out: torch.Tensor, key: int, below: int, start: int) -> None:
    """See `random.drop`."""
    follow_threads()
    _drop(out.numpy(), *split(key), np.uint32(below), start)


@njit(parallel=True, nogil=True, cache=True)
def _bytes(out: Any, k0: Any, k1: Any, start: int) -> None:
    for t in prange(start // TILE, (start + out.size + TILE - 1) // TILE):
        lanes = stream(8, t, k0, k1).view(np.uint8)  # little-endian: the low byte of a word first
        skip, at, count = span(t, start, out.size)
        for i in range(count):
            out[at + uint64(i)] = lanes[skip + uint64(i)]


@functools.cache
def law_of(name: str, dtype: torch.dtype) -> tuple[int, np.ndarray]:
    """Width of the lane that one element of the law consumes, and the values by lane where a table gives them."""
    if name == "rademacher":
        return 1, torch.empty(0, dtype=dtype).numpy()
    half = gaussian_table().to(dtype) * GAUSSIAN_SCALE
    return 16, torch.cat((half, -half)).numpy()


def follow_threads() -> None:
    """numba has its own pool: it follows torch's setting so that one number rules the process."""
    threads = torch.get_num_threads()
    pool: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
    numba.set_num_threads(min(threads, pool))
    if torch.get_num_threads() != threads:  # numba's first launch sets the number of the OpenMP runtime they share
        torch.set_num_threads(threads)


def split(key: int) -> tuple[np.uint32, np.uint32]:
    """The two words of a 64-bit key."""
    return np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32)


def split_all(keys: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """`split` of many keys: their low words and their high words."""
    pairs = np.array(keys, np.uint64)
    return (pairs & np.uint64(0xFFFFFFFF)).astype(np.uint32), (pairs >> np.uint64(32)).astype(np.uint32)


def shift(out: torch.Tensor, source: torch.Tensor, law: str, key: int, coefficient: float, start: int) -> None:
    """out = source + coefficient·z[start : start+n]; 1-D contiguous CPU tensors of one float dtype, may be the same."""
    follow_threads()
    target = out.numpy()
    c = target.dtype.type(coefficient)
    _shift(target, source.numpy(), out.data_ptr() == source.data_ptr(), *law_of(law, out.dtype), *split(key), c, start)


@njit(parallel=True, nogil=True, cache=True)
def _pieces(out: Any, bits: int, table: Any, k0: Any, k1: Any, starts: Any, ends: Any) -> None:
    one = out.dtype.type(1)
    for p in prange(ends.size):
        begin = ends[p - 1] if p else 0
        start, size = starts[p], ends[p] - begin
        x = np.empty(TILE, out.dtype)
        for t in range(start // TILE, (start + size + TILE - 1) // TILE):
            skip, at, count = span(t, start, size)
            x[:] = 0
            add_draw(x, bits, table, t, k0[p], k1[p], one)
            for i in range(count):
                out[uint64(begin) + at + uint64(i)] = x[skip + uint64(i)]


def pieces(out: torch.Tensor, law: str, keys: Sequence[int], starts: Sequence[int], ends: Sequence[int]) -> None:
    """See `random.pieces`."""
    follow_threads()
    _pieces(
        out.numpy(), *law_of(law, out.dtype), *split_all(keys), np.array(starts, np.int64), np.array(ends, np.int64)
    )


def byte_lanes(out: torch.Tensor, key: int, start: int) -> None:
    """The 8-bit lanes of `philox.lanes`, into uint8 out."""
    follow_threads()
    _bytes(out.numpy(), *split(key), start)
