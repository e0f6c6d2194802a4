"""bfloat16 with a residual byte, fast on CPU: the same bits as `grids.reference`."""

from typing import Any

import numpy as np
import torch
from numba import int32, njit, prange, uint8, uint16, uint32
from torch import Tensor

from zerothorder.random.cpu import _threads

_BLOCK = 4096


@njit(parallel=True, nogil=True, cache=True)
def _load(out: Any, stored: Any, residual: Any) -> None:
    for t in prange((out.size + _BLOCK - 1) // _BLOCK):
        a, b = t * _BLOCK, min(out.size, (t + 1) * _BLOCK)
        o, w, r = out[a:b], stored[a:b], residual[a:b]
        for i in range(o.size):
            o[i] = (uint32(w[i]) << uint32(16)) + (uint32(int32(r[i])) << uint32(8))


@njit(parallel=True, nogil=True, cache=True)
def _store(stored: Any, residual: Any, values: Any, random: Any) -> None:
    for t in prange((stored.size + _BLOCK - 1) // _BLOCK):
        a, b = t * _BLOCK, min(stored.size, (t + 1) * _BLOCK)
        w, r, v, u = stored[a:b], residual[a:b], values[a:b], random[a:b]
        for i in range(w.size):
            wide = (v[i] + uint32(u[i])) >> uint32(8)
            w[i] = uint16((wide + uint32(128)) >> uint32(8))
            # the low byte of (wide - (top << 8)) is the low byte of wide, read as signed
            r[i] = uint8(wide & uint32(255))


def _u(tensor: Tensor, dtype: type) -> np.ndarray:
    bits = {np.uint16: torch.int16, np.uint32: torch.int32, np.int8: torch.int8, np.uint8: torch.uint8}[dtype]
    return (tensor if tensor.dtype == bits else tensor.view(bits)).numpy().view(dtype)


def load(out: Tensor, stored: Tensor, residual: Tensor) -> None:
    """float32 out = bfloat16 stored with its int8 residual."""
    _threads()
    # a negative byte subtracts 1 << 8 from the magnitude: as unsigned arithmetic modulo 2^32, the sign bit is untouched
    _load(_u(out, np.uint32), _u(stored, np.uint16), _u(residual, np.int8))


def store(stored: Tensor, residual: Tensor, values: Tensor, random: Tensor) -> None:
    """Stochastic rounding of float32 values to bfloat16 and residual byte."""
    _threads()
    _store(_u(stored, np.uint16), _u(residual, np.int8).view(np.uint8), _u(values, np.uint32), random.numpy())
