"""Philox4x32-10, the counter-based generator every direction comes from: the specification in plain torch.

A block of four 32-bit words is a pure function of a 64-bit key and a 64-bit block number, so a slice of a draw is
the slice of the whole draw whatever the device, thread count, layout or order of visiting. Slow and obviously
right; `random.cpu` gives the same bits fast.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Random123).
"""

import torch
from torch import Tensor

VERSION = 1
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF


def philox4x32(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Ten rounds of Philox4x32 on `counter` (…, 4), int64 holding u32 values; returns the same shape.

    One round maps (c0, c1, c2, c3) to (hi(M1·c2) ^ c1 ^ k0, lo(M1·c2), hi(M0·c0) ^ c3 ^ k1, lo(M0·c0)).
    """
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key
    for _ in range(ROUNDS):
        # int64 products wrap as two's complement; masked after the shift they are the unsigned halves
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & MASK) ^ c1 ^ k0, p1 & MASK, ((p0 >> 32) & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return torch.stack((c0, c1, c2, c3), -1)


def words(key: int, first: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Words of blocks first … first+count-1 of the 64-bit `key`: int64 of shape (4·count,), values in u32."""
    index = torch.arange(first, first + count, dtype=torch.int64, device=device)
    zero = torch.zeros_like(index)
    counter = torch.stack((index & MASK, (index >> 32) & MASK, zero, zero), -1)
    return philox4x32(counter, (key & MASK, key >> 32)).reshape(-1)


def lanes(key: int, bits: int, start: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Unsigned `bits`-wide lanes start … start+count-1 of the key's stream (low bits of a word first), int64.

    `bits` divides 32. Lane i lies in block i·bits // 128: this is how every law below consumes the stream.
    """
    per_word, per_block = 32 // bits, 128 // bits
    first, last = start // per_block, (start + count + per_block - 1) // per_block
    shifts = torch.arange(per_word, dtype=torch.int64, device=device) * bits
    stream = (words(key, first, last - first, device)[:, None] >> shifts) & ((1 << bits) - 1)
    return stream.reshape(-1)[start - first * per_block :][:count]
