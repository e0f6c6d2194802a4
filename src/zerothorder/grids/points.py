"""Perturbed weights at several points along one z, on CPU: a tile is read once and z drawn once for all of them.

out_p = round(w + c_p·z), with the bits of a pass for each point alone.
"""

# pyright: basic
# numba has no types of its own.

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numba import njit, prange, types, uint64
from numba.extending import overload
from torch import Tensor

from zerothorder.grids.cpu import _bits, _nearest, _read, _u
from zerothorder.random.cpu import TILE, add_draw, follow_threads, law_of, span, split


def _fetch(w: Any, skip: Any, stored: Any, residual: Any, at: Any, count: Any) -> None:
    """w[skip …] = the exact weights, by what they are stored as."""


def _give(out: Any, i: Any, value: Any) -> None:
    """out[i] = value, rounded to what it is stored as."""


@overload(_fetch)
def _fetch_as(w: Any, skip: Any, stored: Any, residual: Any, at: Any, count: Any) -> Any:
    def narrow(w: Any, skip: Any, stored: Any, residual: Any, at: Any, count: Any) -> None:
        _read(w.view(np.uint32), skip, stored, residual, at, count)

    def exact(w: Any, skip: Any, stored: Any, residual: Any, at: Any, count: Any) -> None:
        for i in range(count):
            w[skip + uint64(i)] = stored[at + uint64(i)]

    return narrow if stored.dtype == types.uint16 else exact


@overload(_give, inline="always")
def _give_as(out: Any, i: Any, value: Any) -> Any:
    def narrow(out: Any, i: Any, value: Any) -> None:
        out[i] = _nearest(_bits(value))

    def exact(out: Any, i: Any, value: Any) -> None:
        out[i] = value

    return narrow if out.dtype == types.uint16 else exact


@njit
def _part(
    out: Any, stride: Any, to: Any, stored: Any, residual: Any, at: Any, t: int, skip: Any, count: int,
    law: int, table: Any, k0: Any, k1: Any, c: Any,
) -> None:  # fmt: skip
    """Elements skip … skip+count of tile t, stored from `at` on: out[p·stride + to …] for every point p."""
    z, w = np.zeros(TILE, c.dtype), np.empty(TILE, c.dtype)
    add_draw(z, law, table, t, k0, k1, c.dtype.type(1))
    _fetch(w, skip, stored, residual, at, count)
    for p in range(c.size):
        place, scale = to + uint64(p) * stride, c[p]
        for i in range(count):
            j = skip + uint64(i)
            _give(out, place + uint64(i), w[j] + scale * z[j])


@njit(parallel=True, nogil=True, cache=True)
def _range(
    out: Any, stride: Any, stored: Any, residual: Any, law: int, table: Any, k0: Any, k1: Any, c: Any, start: int
) -> None:
    for t in prange(start // TILE, (start + stored.size + TILE - 1) // TILE):
        skip, at, count = span(t, start, stored.size)
        _part(out, stride, at, stored, residual, at, t, skip, count, law, table, k0, k1, c)


@njit(parallel=True, nogil=True, cache=True)
def _rows(
    out: Any, stride: Any, stored: Any, residual: Any, law: int, table: Any, k0: Any, k1: Any, c: Any,
    rows: Any, n: int,
) -> None:  # fmt: skip
    for r in prange(rows.size):
        done = 0
        while done < n:
            at = rows[r] * n + done
            t = at // TILE
            skip = at - t * TILE
            count = min(TILE - skip, n - done)
            _part(
                out, stride, uint64(r * n + done), stored, residual, uint64(at), t, uint64(skip), count,
                law, table, k0, k1, c,
            )  # fmt: skip
            done += count


@njit(parallel=True, nogil=True, cache=True)
def _along(out: Any, stride: Any, stored: Any, residual: Any, z: Any, c: Any) -> None:
    for t in prange((z.size + TILE - 1) // TILE):
        at, count = uint64(t * TILE), min(TILE, z.size - t * TILE)
        w = np.empty(TILE, c.dtype)
        _fetch(w, uint64(0), stored, residual, at, count)
        for p in range(c.size):
            place, scale = at + uint64(p) * stride, c[p]
            for i in range(count):
                j = uint64(i)
                _give(out, place + j, w[j] + scale * z[at + j])


def _arrays(out: Tensor, stored: Tensor, residual: Tensor | None) -> tuple[Any, ...]:
    flat = out.as_strided((out.stride(0) * (out.shape[0] - 1) + out[0].numel(),), (1,))
    rest = np.empty(0, np.int8) if residual is None else _u(residual, np.int8)
    narrow = out.dtype == torch.bfloat16
    pair = (_u(flat, np.uint16), _u(stored, np.uint16)) if narrow else (flat.numpy(), stored.numpy())
    return pair[0], np.uint64(out.stride(0)), pair[1], rest


def _numbers(coefficients: Sequence[float], stored: Tensor) -> np.ndarray:
    return np.array(coefficients, np.float64 if stored.dtype == torch.float64 else np.float32)


def _arguments(
    out: Tensor, stored: Tensor, residual: Tensor | None, draw: tuple[str, int], coefficients: Sequence[float]
) -> tuple[Any, ...]:
    follow_threads()
    dtype = torch.float32 if out.dtype == torch.bfloat16 else out.dtype
    terms = *law_of(draw[0], dtype), *split(draw[1]), _numbers(coefficients, stored)
    return *_arrays(out, stored, residual), *terms


def probe_along(out: Tensor, stored: Tensor, residual: Tensor | None, z: Tensor, coefficients: Sequence[float]) -> None:
    """out (P, n), rows contiguous, from stored (n,) along a z (n,) that is given."""
    follow_threads()
    given, kernel = _arrays(out, stored, residual), cast(Any, _along)
    kernel(*given, z.numpy(), _numbers(coefficients, stored))


def probe_range(
    out: Tensor, stored: Tensor, residual: Tensor | None, draw: tuple[str, int], coefficients: Sequence[float],
    start: int,
) -> None:  # fmt: skip
    """out (P, n), rows contiguous, from stored (n,): elements start … start+n of the site."""
    given, kernel = _arguments(out, stored, residual, draw, coefficients), cast(Any, _range)
    kernel(*given, start)


def probe_rows(
    out: Tensor, stored: Tensor, residual: Tensor | None, draw: tuple[str, int], coefficients: Sequence[float],
    rows: Tensor,
) -> None:  # fmt: skip
    """out (P, len(rows), n) from stored, a whole site as 1-D: `rows` of its first dimension, int64."""
    given, kernel = _arguments(out, stored, residual, draw, coefficients), cast(Any, _rows)
    kernel(*given, rows.numpy(), out.shape[2])
