"""Adam's moments on CPU in one pass: an element is read once, and nothing of the chunk's size lies between."""

# pyright: basic
# numba has no types of its own.

import math
from typing import Any

from numba import njit, prange, uint64
from torch import Tensor

from zerothorder.random.cpu import TILE, follow_threads


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def _adam(g: Any, m: Any, v: Any, b1: Any, a1: Any, b2: Any, a2: Any, c1: Any, c2: Any, eps: Any) -> None:
    for t in prange((g.size + TILE - 1) // TILE):
        first = uint64(t * TILE)
        for i in range(min(TILE, g.size - t * TILE)):
            j = first + uint64(i)
            x = g[j]
            one, two = m[j] * b1 + x * a1, v[j] * b2 + (x * x) * a2
            m[j], v[j] = one, two
            g[j] = (one / c1) / (math.sqrt(two / c2) + eps)


def adam(
    g: Tensor, m: Tensor, v: Tensor, beta1: float, beta2: float, unbias1: float, unbias2: float, eps: float
) -> None:
    """m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)g²; g ← (m / unbias1) / (√(v / unbias2) + ε), in place.

    1-D contiguous CPU tensors of one float dtype. Every operation is rounded on its own, as `Adam` has it elsewhere.
    """
    follow_threads()
    arrays = g.numpy(), m.numpy(), v.numpy()
    scalars = (beta1, 1 - beta1, beta2, 1 - beta2, unbias1, unbias2, eps)
    _adam(*arrays, *map(arrays[0].dtype.type, scalars))
