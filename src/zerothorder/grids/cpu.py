"""Passes over bfloat16 weights with a residual byte, fast on CPU: the same bits as `grids.reference`.

`load` and `store` are the two ends of a general pass, `descend` the end of a step. `probe_draw` and `step_draw` are
whole passes for the common case, one dense draw: a tile is read, moved and rounded while it is in the first-level
cache, so a pass costs one reading and one writing of the weights.
"""

# pyright: basic
# numba has no types of its own.

from typing import Any

import numpy as np
import torch
from numba import int32, njit, prange, types, uint8, uint16, uint32, uint64
from numba.extending import intrinsic
from torch import Tensor

from zerothorder.random.cpu import SHIFTS, TILE, add_draw, follow_threads, law_of, span, split, stream

_NO_RESIDUAL = np.empty(0, np.int8)


def _reinterpret(given: Any, wanted: Any) -> Any:
    """A register read as another type of its width: a view of an array would go through memory."""

    def cast(typing: Any, value: Any) -> Any:
        return wanted(given), lambda context, builder, signature, args: builder.bitcast(
            args[0], context.get_value_type(wanted)
        )

    return intrinsic(cast)


_bits, _float = _reinterpret(types.float32, types.uint32), _reinterpret(types.uint32, types.float32)


@njit
def _wide(stored: Any, residual: Any, i: Any) -> Any:
    # a negative byte subtracts 1 << 8 from the magnitude: as unsigned arithmetic modulo 2^32, the sign bit is untouched
    return uint32((uint32(stored[i]) << uint32(16)) + (uint32(int32(residual[i])) << uint32(8)))


@njit
def _read(bits: Any, skip: Any, stored: Any, residual: Any, at: Any, count: int) -> None:
    if residual.size:
        for i in range(count):
            bits[skip + uint64(i)] = _wide(stored, residual, at + uint64(i))
    else:
        for i in range(count):
            bits[skip + uint64(i)] = uint32(stored[at + uint64(i)]) << uint32(16)


@njit
def _put(stored: Any, residual: Any, i: Any, bits: Any, random: Any) -> None:
    """Stochastic rounding to the top 24 bits, then those to a weight and its residual byte."""
    rounded = uint32(uint32(bits + uint32(random)) >> uint32(8))
    stored[i] = uint16(uint32(rounded + uint32(128)) >> uint32(8))
    # the low byte of (wide - (top << 8)) is the low byte of wide, read as signed
    residual[i] = uint8(rounded & uint32(255))


@njit
def _nearest(u: Any) -> Any:
    """Upper half of float32 bits, rounded to the nearest; 0xFFFF is what torch's vectorised cast makes of NaN."""
    nearest = uint32(u + uint32(0x7FFF) + (uint32(u >> uint32(16)) & uint32(1))) >> uint32(16)
    return uint16(nearest) if (u & uint32(0x7FFFFFFF)) <= uint32(0x7F800000) else uint16(0xFFFF)


@njit(parallel=True, nogil=True, cache=True)
def _load(out: Any, stored: Any, residual: Any) -> None:
    for t in prange((out.size + TILE - 1) // TILE):
        at = uint64(t * TILE)
        _read(out, at, stored, residual, at, min(TILE, out.size - t * TILE))


@njit(parallel=True, nogil=True, cache=True)
def _store(stored: Any, residual: Any, values: Any, random: Any) -> None:
    for t in prange((stored.size + TILE - 1) // TILE):
        at, count = uint64(t * TILE), min(TILE, stored.size - t * TILE)
        for i in range(count):
            _put(stored, residual, at + uint64(i), values[at + uint64(i)], random[at + uint64(i)])


@njit
def _probe_signs(out: Any, stored: Any, residual: Any, at: Any, words: Any, c: Any) -> None:
    """A whole tile of signs in one go, nothing kept between: the pass then runs at the speed of memory."""
    magnitude = _bits(c)
    for b in range(words.size):
        word, first = words[b], at + uint64(32 * b)
        for j in range(32):
            i = first + uint64(j)
            sign = uint32(uint32(uint32(word >> SHIFTS[j]) & uint32(1)) << uint32(31))
            out[i] = _nearest(_bits(_float(_wide(stored, residual, i)) + _float(uint32(magnitude ^ sign))))


@njit(parallel=True, nogil=True, cache=True)
def _probe_draw(
    out: Any, stored: Any, residual: Any, law: int, table: Any, k0: Any, k1: Any, c: Any, start: int
) -> None:
    for t in prange(start // TILE, (start + out.size + TILE - 1) // TILE):
        skip, at, count = span(t, start, out.size)
        if law == 1 and count == TILE and residual.size:
            _probe_signs(out, stored, residual, at, stream(1, t, k0, k1), c)
        else:
            bits = np.empty(TILE, np.uint32)
            _read(bits, skip, stored, residual, at, count)
            add_draw(bits.view(np.float32), law, table, t, k0, k1, c)
            for i in range(count):
                out[at + uint64(i)] = _nearest(bits[skip + uint64(i)])


@njit(parallel=True, nogil=True, cache=True)
def _step_bfloat16(
    stored: Any, residual: Any, law: int, table: Any, k0: Any, k1: Any, c: Any, decay: Any, rate: Any,
    r0: Any, r1: Any, start: int,
) -> None:  # fmt: skip
    for t in prange(start // TILE, (start + stored.size + TILE - 1) // TILE):
        g = np.zeros(TILE, np.float32)
        skip, at, count = span(t, start, stored.size)
        add_draw(g, law, table, t, k0, k1, c)
        signed, random = residual.view(np.int8), stream(8, t, r0, r1).view(np.uint8)
        if decay != 0:
            for i in range(count):
                j, k = at + uint64(i), skip + uint64(i)
                w = _float(_wide(stored, signed, j))
                _put(stored, residual, j, _bits(w - (g[k] + w * decay) * rate), random[k])
        else:
            for i in range(count):
                j, k = at + uint64(i), skip + uint64(i)
                _put(stored, residual, j, _bits(_float(_wide(stored, signed, j)) - g[k] * rate), random[k])


@njit(parallel=True, nogil=True, cache=True)
def _descend(stored: Any, residual: Any, g: Any, rate: Any, r0: Any, r1: Any, start: int) -> None:
    for t in prange(start // TILE, (start + stored.size + TILE - 1) // TILE):
        skip, at, count = span(t, start, stored.size)
        signed, random = residual.view(np.int8), stream(8, t, r0, r1).view(np.uint8)
        for i in range(count):
            j, k = at + uint64(i), skip + uint64(i)
            _put(stored, residual, j, _bits(_float(_wide(stored, signed, j)) - g[j] * rate), random[k])


def _u(tensor: Tensor, dtype: type) -> np.ndarray:
    bits = {np.uint16: torch.int16, np.uint32: torch.int32, np.int8: torch.int8, np.uint8: torch.uint8}[dtype]
    return (tensor if tensor.dtype == bits else tensor.view(bits)).numpy().view(dtype)


def load(out: Tensor, stored: Tensor, residual: Tensor) -> None:
    """float32 out = bfloat16 stored with its int8 residual."""
    follow_threads()
    _load(_u(out, np.uint32), _u(stored, np.uint16), _u(residual, np.int8))


def store(stored: Tensor, residual: Tensor, values: Tensor, random: Tensor) -> None:
    """Stochastic rounding of float32 values to bfloat16 and residual byte."""
    follow_threads()
    _store(_u(stored, np.uint16), _u(residual, np.uint8), _u(values, np.uint32), random.numpy())


def descend(stored: Tensor, residual: Tensor, g: Tensor, rate: float, seed: int, start: int) -> None:
    """stored ← round(w - rate·g) with its residual, the rounding bits those of `seed` from element `start` on."""
    follow_threads()
    _descend(_u(stored, np.uint16), _u(residual, np.uint8), g.numpy(), np.float32(rate), *split(seed), start)


def probe_draw(
    out: Tensor, stored: Tensor, residual: Tensor | None, law: str, key: int, coefficient: float, start: int
) -> None:
    """bfloat16 out = stored (with its residual) + coefficient·z[start : start+n], rounded once to the nearest."""
    follow_threads()
    rest = _NO_RESIDUAL if residual is None else _u(residual, np.int8)
    read = _u(stored, np.uint16), rest
    draws = *law_of(law, torch.float32), *split(key), np.float32(coefficient)
    _probe_draw(_u(out, np.uint16), *read, *draws, start)


def step_draw(
    stored: Tensor, residual: Tensor, law: str, key: int, scalar: float,
    rate: float, decay: float, seed: int, start: int,
) -> None:  # fmt: skip
    """stored ← round(w - rate·(scalar·z + decay·w)) with its residual: nothing but z is kept between."""
    follow_threads()
    draws = *law_of(law, torch.float32), *split(key), np.float32(scalar)
    pair = _u(stored, np.uint16), _u(residual, np.uint8)
    _step_bfloat16(*pair, *draws, np.float32(decay), np.float32(rate), *split(seed), start)
