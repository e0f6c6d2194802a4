"""Updates on CPU: any number of terms, and of steps, applied to a tile while it is in the first-level cache.

The arithmetic is that of the general pass, operation by operation, so a fused step has its bits: terms are summed in
their order, every product and every sum is rounded, and each step rounds to the storage grid with its own stream.
A replay then reads and writes the weights once for many steps.
"""

# pyright: basic
# numba has no types of its own.

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numba import njit, prange, uint32, uint64
from torch import Tensor

from zerothorder.grids.cpu import _bits, _float, _nearest, _read, _u
from zerothorder.grids.outer import _row
from zerothorder.random.cpu import TILE, add_draw, follow_threads, law_of, span, split_all, stream


@dataclass
class Moves:
    """Consecutive steps of one site, w ← round(w - rate·(Σ terms + decay·w)); terms ends[s-1] … ends[s] are step s's.

    A term is a plain draw of `law` with a key and a scalar; or, with `factors` (A, B), the outer product of a column of
    A (m, K), its scalar in it, and a row of B (K, n). `seeds` address the rounding bits.
    """

    law: str = "rademacher"
    keys: list[int] = field(default_factory=list[int])
    scalars: list[float] = field(default_factory=list[float])
    ends: list[int] = field(default_factory=list[int])
    rates: list[float] = field(default_factory=list[float])
    decays: list[float] = field(default_factory=list[float])
    seeds: list[int] = field(default_factory=list[int])
    factors: tuple[Tensor, Tensor] | None = None


# What is looked up per row comes as an argument: an array read inside a loop might be the one that is written there,
# and the compiler would not use vector registers.


@njit
def _add_one(g: Any, at: Any, b: Any, col: Any, take: Any, a: Any) -> None:
    for i in range(take):
        g[at + uint64(i)] += a * b[col + uint64(i)]


@njit
def _add_four(g: Any, at: Any, b: Any, k: int, col: Any, take: Any, a0: Any, a1: Any, a2: Any, a3: Any) -> None:
    b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
    for i in range(take):
        j, c = at + uint64(i), col + uint64(i)
        g[j] = (((g[j] + a0 * b0[c]) + a1 * b1[c]) + a2 * b2[c]) + a3 * b3[c]


@njit
def _add_four_twice(
    g: Any, at: Any, b: Any, k: int, n: Any, a0: Any, a1: Any, a2: Any, a3: Any, c0: Any, c1: Any, c2: Any, c3: Any
) -> None:
    """Two whole rows: what was read of B serves both."""
    b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
    for i in range(n):
        c = uint64(i)
        j = at + c
        x0, x1, x2, x3 = b0[c], b1[c], b2[c], b3[c]
        g[j] = (((g[j] + a0 * x0) + a1 * x1) + a2 * x2) + a3 * x3
        g[j + n] = (((g[j + n] + c0 * x0) + c1 * x1) + c2 * x2) + c3 * x3


@njit
def add_outer(g: Any, skip: Any, count: int, element: Any, a: Any, b: Any, lo: int, hi: int) -> None:
    """g[skip : skip+count] += Σ_k a_k b_kᵀ for k = lo … hi in order; g's first element there is `element` of z.

    Four factors at a time over all rows of the tile: their four rows of B stay in the first-level cache.
    """
    n, k = uint64(b.shape[1]), lo
    while k < hi:
        done = uint64(0)
        four = k + 4 <= hi
        while done < uint64(count):
            row, col, take = _row(element + done, uint64(count) - done, n)
            if four and take == n and done + n + n <= uint64(count):
                _add_four_twice(
                    g, skip + done, b, k, n, a[row, k], a[row, k + 1], a[row, k + 2], a[row, k + 3],
                    a[row + 1, k], a[row + 1, k + 1], a[row + 1, k + 2], a[row + 1, k + 3],
                )  # fmt: skip
                take += n
            elif four:
                _add_four(g, skip + done, b, k, col, take, a[row, k], a[row, k + 1], a[row, k + 2], a[row, k + 3])
            else:
                _add_one(g, skip + done, b[k], col, take, a[row, k])
            done += take
        k += 4 if four else 1


@njit
def _terms(
    g: Any, skip: Any, count: int, t: int, law: int, table: Any, k0: Any, k1: Any, c: Any,
    a: Any, b: Any, lo: int, hi: int,
) -> None:  # fmt: skip
    g[:] = 0
    if b.size:
        add_outer(g, skip, count, uint64(t) * uint64(TILE) + skip, a, b, lo, hi)
    else:
        for d in range(lo, hi):
            add_draw(g, law, table, t, k0[d], k1[d], c[d])


@njit
def _move(w: Any, at: Any, g: Any, skip: Any, count: int, decay: Any, rate: Any) -> None:
    """w ← w - rate·(g + decay·w), every product and sum rounded, as the general pass has it."""
    if decay != 0:
        for i in range(count):
            j, k = at + uint64(i), skip + uint64(i)
            w[j] = w[j] - (g[k] + w[j] * decay) * rate
    else:
        for i in range(count):
            j, k = at + uint64(i), skip + uint64(i)
            w[j] = w[j] - g[k] * rate


@njit(parallel=True, nogil=True, cache=True)
def _exact(
    w: Any, law: int, table: Any, k0: Any, k1: Any, c: Any, a: Any, b: Any, ends: Any,
    rates: Any, decays: Any, start: int,
) -> None:  # fmt: skip
    for t in prange(start // TILE, (start + w.size + TILE - 1) // TILE):
        g = np.empty(TILE, w.dtype)
        skip, at, count = span(t, start, w.size)
        lo = 0
        for s in range(ends.size):
            _terms(g, skip, count, t, law, table, k0, k1, c, a, b, lo, ends[s])
            _move(w, at, g, skip, count, decays[s], rates[s])
            lo = ends[s]


@njit(parallel=True, nogil=True, cache=True)
def _bfloat16(
    stored: Any, residual: Any, law: int, table: Any, k0: Any, k1: Any, c: Any, a: Any, b: Any, ends: Any,
    rates: Any, decays: Any, r0: Any, r1: Any, start: int,
) -> None:  # fmt: skip
    for t in prange(start // TILE, (start + stored.size + TILE - 1) // TILE):
        g, wide = np.empty(TILE, np.float32), np.empty(TILE, np.uint32)
        skip, at, count = span(t, start, stored.size)
        _read(wide, uint64(0), stored, residual.view(np.int8), at, count)
        lo = 0
        for s in range(ends.size):
            _terms(g, skip, count, t, law, table, k0, k1, c, a, b, lo, ends[s])
            random, rate, decay = stream(8, t, r0[s], r1[s]).view(np.uint8), rates[s], decays[s]
            for i in range(count):
                j, k = uint64(i), skip + uint64(i)
                w = _float(wide[j])
                moved = _bits(w - (g[k] + w * decay) * rate) if decay != 0 else _bits(w - g[k] * rate)
                wide[j] = uint32(uint32(moved + uint32(random[k])) >> uint32(8)) << uint32(8)
            lo = ends[s]
        for i in range(count):
            rounded = uint32(wide[uint64(i)] >> uint32(8))
            stored[at + uint64(i)] = uint32(rounded + uint32(128)) >> uint32(8)
            residual[at + uint64(i)] = rounded & uint32(255)


@njit(parallel=True, nogil=True, cache=True)
def _probe_exact(out: Any, stored: Any, a: Any, b: Any, start: int) -> None:
    for t in prange(start // TILE, (start + out.size + TILE - 1) // TILE):
        skip, at, count = span(t, start, out.size)
        for i in range(count):
            out[at + uint64(i)] = stored[at + uint64(i)]
        element = uint64(t) * uint64(TILE) + skip
        add_outer(out[at : at + uint64(count)], uint64(0), count, element, a, b, 0, b.shape[0])


@njit(parallel=True, nogil=True, cache=True)
def _probe_bfloat16(out: Any, stored: Any, residual: Any, a: Any, b: Any, start: int) -> None:
    for t in prange(start // TILE, (start + out.size + TILE - 1) // TILE):
        skip, at, count = span(t, start, out.size)
        bits = np.empty(TILE, np.uint32)
        _read(bits, skip, stored, residual, at, count)
        element = uint64(t) * uint64(TILE) + skip
        add_outer(bits.view(np.float32), skip, count, element, a, b, 0, b.shape[0])
        for i in range(count):
            out[at + uint64(i)] = _nearest(bits[skip + uint64(i)])


def _factors(moves: Moves, number: Any) -> tuple[np.ndarray, np.ndarray]:
    if moves.factors is None:
        return np.empty((0, 0), number), np.empty((0, 0), number)
    return moves.factors[0].numpy(), moves.factors[1].numpy()


def move(stored: Tensor, residual: Tensor | None, moves: Moves, start: int) -> None:
    """The steps on elements start … start+n of the site: float32 or float64 in place, or bfloat16 with its residual."""
    follow_threads()
    dtype = stored.dtype if residual is None else torch.float32
    number = np.float64 if dtype == torch.float64 else np.float32
    rates = np.array(moves.ends, np.int64), np.array(moves.rates, number), np.array(moves.decays, number)
    several = cast(Any, _bfloat16)
    pair: Any = () if residual is None else (_u(stored, np.uint16), _u(residual, np.uint8))
    terms = *law_of(moves.law, dtype), *split_all(moves.keys), np.array(moves.scalars, number)
    if residual is None:
        _exact(stored.numpy(), *terms, *_factors(moves, number), *rates, start)
    else:
        several(*pair, *terms, *_factors(moves, number), *rates, *split_all(moves.seeds), start)


def probe(out: Tensor, stored: Tensor, residual: Tensor | None, factors: tuple[Tensor, Tensor], start: int) -> None:
    """out = stored (with its residual) + Σ_k A_k B_k, summed in order and rounded once to out's grid."""
    follow_threads()
    a, b = factors[0].numpy(), factors[1].numpy()
    if stored.dtype != torch.bfloat16:
        _probe_exact(out.numpy(), stored.numpy(), a, b, start)
    else:
        rest = np.empty(0, np.int8) if residual is None else _u(residual, np.int8)
        _probe_bfloat16(_u(out, np.uint16), _u(stored, np.uint16), rest, a, b, start)
