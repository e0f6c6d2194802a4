"""One ledger entry, and its bytes.

Layout, little-endian: prefix (16 bytes: kind u8, flags u8, zero u16, payload length u32, step u32, CRC-32 of the
prefix and the chain before it), payload, chain (8 bytes: BLAKE2b of the chain before it, prefix and payload).

Payload of a step, in this order: rates if they changed (flag LR: one float32; flag RATES: float32 lr and decay of
every group), the hash of a dense part (flag DENSE, 32 bytes), the declared columns (float32), the terms. A term is
a float32 scalar; its key is ("z", step, position) unless the flag KEYS is set, then tag index u16, a i64, b i64
stand before every scalar. So a step with one draw and a loss column takes 32 bytes.
"""

import hashlib
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from zerothorder.errors import LedgerError
from zerothorder.key import Key

STEP, END, ATTACHMENT = 1, 2, 3
SKIPPED, ABSOLUTE, LR, RATES, KEYS, DENSE = 1, 2, 4, 8, 16, 32
PREFIX = struct.Struct("<BBHIII")
CHAIN = 8


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rate and weight decay of one group of sites at one step."""

    lr: float
    decay: float = 0.0


@dataclass(frozen=True)
class Entry:
    """A step as it is applied: every scalar is exactly a float32."""

    step: int
    terms: tuple[tuple[Key, float], ...]
    notes: Mapping[str, float]
    rates: Mapping[str, Rates]
    skipped: bool = False
    absolute: bool = False
    dense_hash: str | None = None
    dense: Mapping[str, Tensor] | None = field(default=None, compare=False)

    @property
    def projected_gradient(self) -> float:
        """That of the first draw: as the recipe notes it, where a direction is a sum and its terms hold ρ times each
        weight, else the first term's scalar. NaN without terms."""
        return self.notes.get("projected_gradient", self.terms[0][1] if self.terms else math.nan)


def float32(value: float) -> float:
    """The float32 nearest to value, as a float; too large a magnitude becomes infinite."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


@dataclass
class Codec:
    """Turns entries into bytes and back; knows the header's columns, groups and tags, and the rates in force."""

    columns: Sequence[str]
    groups: Sequence[str]
    tags: Sequence[str]
    rates: dict[str, Rates] = field(default_factory=dict[str, Rates])

    def encode(self, entry: Entry) -> tuple[int, bytes]:
        """(flags, payload); remembers the rates."""
        flags = SKIPPED * entry.skipped | ABSOLUTE * entry.absolute
        body = b""
        new = {group: entry.rates[group] for group in self.groups}
        if new != self.rates:
            lrs = {rate.lr for rate in new.values()}
            same_decay = self.rates and all(new[g].decay == self.rates[g].decay for g in self.groups)
            if len(lrs) == 1 and same_decay:
                flags |= LR
                body += struct.pack("<f", lrs.pop())
            else:
                flags |= RATES
                body += b"".join(struct.pack("<ff", new[g].lr, new[g].decay) for g in self.groups)
            self.rates = new
        if entry.dense_hash is not None:
            flags |= DENSE
            body += bytes.fromhex(entry.dense_hash)
        body += b"".join(struct.pack("<f", entry.notes.get(name, math.nan)) for name in self.columns)
        if any(key != Key("z", entry.step, j) for j, (key, _) in enumerate(entry.terms)):
            flags |= KEYS
            for key, scalar in entry.terms:
                body += struct.pack("<Hqqf", self._tag(key.tag), key.a, key.b, scalar)
        else:
            body += b"".join(struct.pack("<f", scalar) for _, scalar in entry.terms)
        return flags, body

    def decode(self, flags: int, step: int, payload: bytes) -> Entry:
        """The entry of a payload; follows the rates."""
        at = 0

        def take(layout: str) -> tuple[float, ...]:
            nonlocal at
            values = struct.unpack_from("<" + layout, payload, at)
            at += struct.calcsize("<" + layout)
            return values

        if flags & LR:
            (lr,) = take("f")
            self.rates = {g: Rates(lr, self.rates[g].decay) for g in self.groups}
        if flags & RATES:
            self.rates = {g: Rates(*take("ff")) for g in self.groups}
        dense_hash = None
        if flags & DENSE:
            dense_hash, at = payload[at : at + 32].hex(), at + 32
        notes = dict(zip(self.columns, take(f"{len(self.columns)}f"), strict=True))
        terms: list[tuple[Key, float]] = []
        while at < len(payload):
            if flags & KEYS:
                tag, a, b, scalar = take("Hqqf")
                terms.append((Key(self.tags[int(tag)], int(a), int(b)), scalar))
            else:
                (scalar,) = take("f")
                terms.append((Key("z", step, len(terms)), scalar))
        skipped, absolute = bool(flags & SKIPPED), bool(flags & ABSOLUTE)
        return Entry(step, tuple(terms), notes, dict(self.rates), skipped, absolute, dense_hash)

    def _tag(self, tag: str) -> int:
        if tag not in self.tags:
            raise LedgerError(
                f"the key tag {tag!r} is not in the ledger's header; the recipe must declare it in `tags`"
            )
        return self.tags.index(tag)


def frame(kind: int, flags: int, step: int, payload: bytes, chain: bytes) -> bytes:
    """The bytes of one entry, given the chain before it; the last 8 are the new chain."""
    fields = PREFIX.pack(kind, flags, 0, len(payload), step, 0)[:-4]
    prefix = fields + struct.pack("<I", zlib.crc32(fields + chain))
    return prefix + payload + link(prefix, payload, chain)


def prefix_is_sound(prefix: bytes, chain: bytes) -> bool:
    """Whether the prefix's own check holds, so that its length may be believed."""
    return zlib.crc32(prefix[:-4] + chain) == int.from_bytes(prefix[-4:], "little")


def link(prefix: bytes, payload: bytes, chain: bytes) -> bytes:
    """The chain after an entry."""
    return hashlib.blake2b(chain + prefix + payload, digest_size=CHAIN).digest()
