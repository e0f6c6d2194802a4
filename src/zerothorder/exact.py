"""Arithmetic whose bits do not depend on threads, instruction sets or libraries."""

import numpy as np
import torch
from torch import Tensor


def ordered_sum(values: Tensor) -> float:
    """Σ values in float64: the upper half is added to the lower, elementwise, until one number is left.

    torch.sum orders its additions by the number of threads and the width of registers; elementwise sums have no order.
    """
    left = values.reshape(-1).double()
    while (count := left.numel()) > 1:
        half = (count + 1) // 2
        lower = left[:half].clone()
        lower[: count - half] += left[half:]
        left = lower
    return float(left) if left.numel() else 0.0


def ordered_dot(a: Tensor, b: Tensor) -> float:
    """Σ a·b in float64, each product rounded once."""
    return ordered_sum(torch.mul(a.reshape(-1).double(), b.reshape(-1).double()))


def sqrt_(values: Tensor) -> Tensor:
    """√ in place, rounded correctly, as IEEE 754 has it.

    On CPU torch hands contiguous tensors to MKL's vector functions, whose last bit depends on the processor.
    """
    if values.device.type == "cpu":
        seen = values.detach().numpy()  # the same memory
        np.sqrt(seen, out=seen)
        return values
    return values.sqrt_()
