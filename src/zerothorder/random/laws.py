"""The laws of z, as integers first: bits from Philox, then one exact lookup. Plain torch reference.

Over its lanes a law has E[z] = 0 exactly and E[z²] = 1 (Rademacher exactly, Gaussian to 1e-6: its table is
rounded); a value is an integer times a power of two, so it is the same on every device and in every dtype that
holds it.
"""

import functools
import hashlib
import math
import statistics

import torch
from torch import Tensor

from zerothorder.random.philox import lanes

GAUSSIAN_SCALE = 2.0**-12
_GAUSSIAN_SHA256 = "8cbdab857d380e7e60b7b1cb1b278ff6bc248f9d124cd4b89d32f367c155c9da"


@functools.cache
def gaussian_table() -> Tensor:
    """Magnitudes of the half normal at 2^15 mid-quantiles, int16 in units of 2^-12: z = ±table[k]·2^-12.

    Φ⁻¹(½ + (k+½)/2¹⁶), scaled to unit second moment before rounding; the largest is about 4.3. The hash guards the
    bits: a different table would be a different generator.
    """
    normal = statistics.NormalDist()
    values = [normal.inv_cdf(0.5 + (k + 0.5) / 65536) for k in range(32768)]
    scale = math.sqrt(len(values) / math.fsum(v * v for v in values)) / GAUSSIAN_SCALE
    table = torch.tensor([math.floor(v * scale + 0.5) for v in values], dtype=torch.int16)
    digest = hashlib.sha256(table.numpy().astype("<i2").tobytes()).hexdigest()
    if digest != _GAUSSIAN_SHA256:
        raise RuntimeError(f"the Gaussian table of this platform differs (sha256 {digest}): report it, do not train")
    return table


def rademacher(key: int, start: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """z_i = 1 - 2·bit_i, one bit an element. Float32 (count,). Kurtosis 1, the smallest of any law."""
    return (1 - 2 * lanes(key, 1, start, count, device)).float()


def gaussian(key: int, start: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """z_i = ±table[15 bits]·2^-12 from a 16-bit lane, the top bit its sign. Float32 (count,). Kurtosis 2.9992."""
    lane = lanes(key, 16, start, count, device)
    magnitude = gaussian_table().to(device)[lane & 0x7FFF].float() * GAUSSIAN_SCALE
    return torch.where(lane < 0x8000, magnitude, -magnitude)


LAWS = {"rademacher": rademacher, "gaussian": gaussian}
