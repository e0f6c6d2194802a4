"""Which draw: a key names one direction, a real hash turns (run, key, site) into the generator's 64 bits."""

import hashlib
import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Key:
    """The name of one draw: usually ("z", step, draw); also a pool index, a period, an anchor, a sender's stamp."""

    tag: str
    a: int
    b: int = 0

    def seed(self, run_key: bytes, site: int) -> int:
        """64-bit generator key: BLAKE2b of tag, a, b and site id, keyed by the run. Never a·seed + b."""
        data = struct.pack("<qqQ", self.a, self.b, site) + self.tag.encode()
        return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=run_key).digest(), "little")


def named_seed(seed: int, name: str) -> int:
    """31 bits for another library's generator: of the user's seed, and of what is drawn there."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4, person=b"zerothorder/part").digest()
    return int.from_bytes(digest, "little") >> 1


def run_key(seed: int) -> bytes:
    """16 bytes that name a run, from the user's seed."""
    return hashlib.blake2b(str(seed).encode(), digest_size=16, person=b"zerothorder/run").digest()
