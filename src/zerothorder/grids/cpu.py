"""bfloat16 with a residual byte, fast on CPU: the same bits as `grids.reference`."""

from typing import Any

import numpy as np
import torch
from numba import njit, prange, uint8, uint16, uint32
from torch import Tensor

from zerothorder.random.cpu import _threads

_BLOCK = 4096


@njit(parallel=True, nogil=True, cache=True)
def _load(out: Any, stored: Any, residual: Any) -> None:
    for t in prange((out.size + _BLOCK - 1) // _BLOCK):
        for i in range(t * _BLOCK, min(out.size, (t + 1) * _BLOCK)):
            out[i] = (uint32(stored[i]) << uint32(16)) + (uint32(residual[i]) << uint32(8))


@njit(parallel=True, nogil=True, cache=True)
def _store(stored: Any, residual: Any, values: Any, random: Any) -> None:
    for t in prange((stored.size + _BLOCK - 1) // _BLOCK):
        for i in range(t * _BLOCK, min(stored.size, (t + 1) * _BLOCK)):
            wide = (values[i] + uint32(random[i])) >> uint32(8)
            top = (wide + uint32(128)) >> uint32(8)
            stored[i] = uint16(top)
            residual[i] = uint8(wide - (top << uint32(8)))


@njit(parallel=True, nogil=True, cache=True)
def _nearest(out: Any, values: Any) -> None:
    for t in prange((out.size + _BLOCK - 1) // _BLOCK):
        for i in range(t * _BLOCK, min(out.size, (t + 1) * _BLOCK)):
            x = values[i]
            out[i] = uint16((x + uint32(0x7FFF) + ((x >> uint32(16)) & uint32(1))) >> uint32(16))


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


def nearest(out: Tensor, values: Tensor) -> None:
    """bfloat16 out = float32 values to the nearest, ties to even; finite values only."""
    _threads()
    _nearest(_u(out, np.uint16), _u(values, np.uint32))
