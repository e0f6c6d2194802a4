"""The generator's fast path on GPUs: Triton kernels, the same bits as `random.laws` and `random.cpu`.

c·z is rounded, then the sum is rounded. A compiler that may contract would make one fused multiply-add of the two,
rounded once: other bits, and in which kernel is the compiler's choice. So the sign of z goes onto the product's
bits, an integer operation between product and sum that nothing is fused across, and the launch forbids fusion
besides (Triton's default differs between versions, and a backend may not know the option).

A program does one tile of TILE elements, aligned in the whole tensor: a whole number of Philox blocks for every lane
width, and each block is computed once. Arguments that differ at every call are not specialised upon, so a handful of
compiled variants serves a run.
"""

# pyright: basic, reportMissingImports=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# Triton is there on Linux only, and a kernel is not Python to a type checker.

import contextlib
import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from zerothorder.random import philox
from zerothorder.random.laws import GAUSSIAN_SCALE, gaussian_table

TILE = 2048
OPTIONS = {"enable_fp_fusion": False}
BITS = {"rademacher": 1, "gaussian": 16}
INTEGER = {torch.float32: torch.int32, torch.float64: torch.int64}
_M0, _M1 = (tl.constexpr(m) for m in philox.MULTIPLIERS)
_W0, _W1 = (tl.constexpr(w) for w in philox.WEYL)
_ROUNDS = tl.constexpr(philox.ROUNDS)
_SCALE = tl.constexpr(GAUSSIAN_SCALE)


@triton.jit
def _lanes(k0, k1, tile, bits: tl.constexpr, size: tl.constexpr):
    """The `bits`-wide lanes of a tile of `size` elements, u32 of shape (words, lanes a word) in stream order."""
    block = tile * (size * bits // 128) + tl.arange(0, size * bits // 128)
    c0, c1 = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    c2, c3 = tl.zeros_like(c0), tl.zeros_like(c0)
    k0, k1 = k0.to(tl.uint32), k1.to(tl.uint32)
    for _ in tl.static_range(_ROUNDS):
        p0, p1 = c0.to(tl.uint64) * _M0, c2.to(tl.uint64) * _M1
        c0, c2 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0, (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c1, c3 = p1.to(tl.uint32), p0.to(tl.uint32)
        k0, k1 = k0 + _W0, k1 + _W1
    words = tl.interleave(tl.interleave(c0, c2), tl.interleave(c1, c3))
    shifts = (tl.arange(0, 32 // bits) * bits).to(tl.uint32)
    return (words[:, None] >> shifts[None, :]) & ((1 << bits) - 1)


@triton.jit
def _cells(skip, bits: tl.constexpr, size: tl.constexpr):
    """Local element of each lane, int64, in the shape of `_lanes`; element 0 is `skip` into the first tile."""
    per: tl.constexpr = 32 // bits
    cell = tl.arange(0, size // per)[:, None] * per + tl.arange(0, per)[None, :]
    return tl.program_id(0).to(tl.int64) * size - skip + cell


@triton.jit(do_not_specialize=["k0", "k1", "tile", "c"])
def _shift(out, source, table, k0, k1, c, tile, skip, n, bits: tl.constexpr, size: tl.constexpr):
    """`c` is the bits of the coefficient in out's dtype: a float argument would be cut to float32."""
    number = out.dtype.element_ty
    word = tl.uint64 if number == tl.float64 else tl.uint32
    sign_bit = 63 if number == tl.float64 else 31
    lane = _lanes(k0, k1, tile.to(tl.int64) + tl.program_id(0), bits, size)
    product = c.to(word).to(number, bitcast=True)
    if bits == 16:
        product = product * (tl.load(table + (lane & 0x7FFF)).to(number) * _SCALE)
    minus = (lane >> (bits - 1)).to(word) << sign_bit
    product = (product.to(word, bitcast=True) ^ minus).to(number, bitcast=True)
    at = _cells(skip, bits, size)
    inside = (at >= 0) & (at < n)
    tl.store(out + at, tl.load(source + at, inside) + product, inside)


@triton.jit(do_not_specialize=["k0", "k1", "tile"])
def _bytes(out, k0, k1, tile, skip, n, size: tl.constexpr):
    lane = _lanes(k0, k1, tile.to(tl.int64) + tl.program_id(0), 8, size)
    at = _cells(skip, 8, size)
    tl.store(out + at, lane.to(tl.uint8), (at >= 0) & (at < n))


@functools.cache
def _table(device: torch.device) -> Tensor:
    return gaussian_table().to(device)


def _split(key: int) -> tuple[int, int]:
    """The two words of a 64-bit key, signed: Triton types an integer by its size, and these all have the same."""
    low, high = key & philox.MASK, key >> 32
    return low - (low >> 31 << 32), high - (high >> 31 << 32)


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensor's."""
    return contextlib.nullcontext() if device.type == "cpu" else getattr(torch, device.type).device(device)


def shift(out: Tensor, source: Tensor, law: str, key: int, coefficient: float, start: int) -> None:
    """out = source + coefficient·z[start : start+n]; 1-D contiguous tensors of one device and float dtype."""
    (tile, skip), n = divmod(start, TILE), out.numel()
    c = int(torch.tensor(coefficient, dtype=out.dtype, device="cpu").view(INTEGER[out.dtype]))
    table = _table(out.device) if law == "gaussian" else None
    with _on(out.device):
        _shift[(triton.cdiv(skip + n, TILE),)](
            out, source, table, *_split(key), c, tile, skip, n, BITS[law], TILE, **OPTIONS
        )


def byte_lanes(out: Tensor, key: int, start: int) -> None:
    """The 8-bit lanes of `philox.lanes`, into uint8 out."""
    (tile, skip), n = divmod(start, TILE), out.numel()
    with _on(out.device):
        _bytes[(triton.cdiv(skip + n, TILE),)](out, *_split(key), tile, skip, n, TILE, **OPTIONS)
