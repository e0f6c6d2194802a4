"""Storage grids in plain torch: how a stored weight is read, probed and written. The specification.

A 16-bit weight w carries one signed byte r: read as sign-and-magnitude integers, (w << 8) + r is the weight with
eight more mantissa bits, and w is that number rounded to the nearest. Written values are rounded stochastically at
the last of those bits, so steps far below half a bf16 ulp add up instead of vanishing.
"""

import torch
from torch import Tensor

MANTISSA = {torch.bfloat16: 7, torch.float16: 10}
BIAS = {torch.bfloat16: 127, torch.float16: 15}


def load(out: Tensor, stored: Tensor, residual: Tensor | None) -> None:
    """out = the exact value, in out's dtype. Without residual: a cast, exact by construction."""
    if residual is None:
        out.copy_(stored)
        return
    bits = stored.view(torch.int16).to(torch.int32)
    magnitude = ((bits & 0x7FFF) << 8) + residual.to(torch.int32)
    out.copy_(_from_extended(magnitude, stored.dtype))
    out.copy_(torch.where(bits < 0, -out, out))


def store(stored: Tensor, residual: Tensor, values: Tensor, random: Tensor) -> None:
    """Write float32 `values` into weight and residual byte; `random` is one uniform uint8 an element."""
    magnitude = _to_extended(values.abs(), stored.dtype, random.to(torch.int32))
    top = (magnitude + 128) >> 8
    residual.copy_((magnitude - (top << 8)).to(torch.int8))
    sign = torch.where(torch.signbit(values), -0x8000, 0)
    stored.view(torch.int16).copy_((top | sign).to(torch.int16))


def stochastic(stored: Tensor, values: Tensor, random: Tensor) -> None:
    """Write float32 `values` rounded to the weight's own grid by 16 random bits (uint16 in int64): no residual."""
    spare = 23 - MANTISSA[stored.dtype]
    if stored.dtype != torch.bfloat16:
        # through the float grid of the same spacing: exact for normal numbers, nearest for subnormal ones
        bits = values.view(torch.int32) & 0x7FFFFFFF
        rounded = ((bits + (random.to(torch.int32) & ((1 << spare) - 1))) >> spare) << spare
        result = torch.where(values.abs() < 2.0**-14, values.abs(), rounded.view(torch.float32))
        stored.copy_(torch.where(torch.signbit(values), -result, result))
        return
    bits = values.view(torch.int32)
    magnitude = ((bits & 0x7FFFFFFF) + random.to(torch.int32)) >> spare
    stored.view(torch.int16).copy_((magnitude | torch.where(bits < 0, -0x8000, 0)).to(torch.int16))


def _from_extended(magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """Non-negative float32 of an extended magnitude (exponent, MANTISSA+8 bits)."""
    width = MANTISSA[dtype] + 8
    if dtype == torch.bfloat16:  # the extended number is the upper 24 bits of a float32
        return (magnitude << 8).view(torch.float32)
    normal = ((magnitude + ((127 - BIAS[dtype]) << width)) << (23 - width)).view(torch.float32)
    subnormal = magnitude.float() * 2.0 ** (1 - BIAS[dtype] - width)
    return torch.where(magnitude < (1 << width), subnormal, normal)


def _to_extended(values: Tensor, dtype: torch.dtype, random: Tensor) -> Tensor:
    """Extended magnitude of non-negative float32 `values`, rounded up with the probability of the remainder."""
    width = MANTISSA[dtype] + 8
    drop = 23 - width
    bits = values.view(torch.int32)
    if dtype == torch.bfloat16:
        return (bits + random) >> drop
    limit = torch.finfo(dtype).max
    values = values.clamp(max=limit)
    bits = values.view(torch.int32)
    normal = ((bits + (random >> (8 - drop))) >> drop) - ((127 - BIAS[dtype]) << width)
    scaled = values * 2.0 ** (BIAS[dtype] - 1 + width)
    floor = scaled.floor()
    subnormal = (floor + (((scaled - floor) * 256 + random).floor() >= 256).float()).to(torch.int32)
    return torch.where(values < 2.0 ** (1 - BIAS[dtype]), subnormal, normal)
