"""Reading a ledger: every byte is checked; a torn tail, damage and a missing end are told apart."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

from zerothorder.errors import LedgerError
from zerothorder.ledger.entry import ATTACHMENT, CHAIN, END, PREFIX, STEP, Codec, Entry, link, prefix_is_sound
from zerothorder.ledger.header import Header


@dataclass(frozen=True)
class Contents:
    """A ledger as read. `sound` is the length in bytes of what is whole; `torn` the bytes of a cut last entry.

    `attachments` are (step, name, hash) in order: each belongs to the State from that step on; `attached` is the last
    hash under each name. `chain` is the checksum after the last whole entry. `final` is the weights' hash of the end
    record, None where the run has none: a valid shorter run.
    """

    header: Header
    entries: tuple[Entry, ...]
    attachments: tuple[tuple[int, str, str], ...]
    codec: Codec
    sound: int
    torn: int
    chain: bytes
    chains: tuple[bytes, ...]
    final: str | None

    @property
    def attached(self) -> dict[str, str]:
        return {name: digest for _, name, digest in self.attachments}


def read(path: Path | str, until: int | None = None) -> Contents:
    """Read and check a ledger file, `until` steps of it at most. LedgerError names the step of the first damage."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"cannot read the ledger {path}: {error.strerror}") from error
    if data[:2] == b"\x1f\x8b":  # a copy that is kept small
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise LedgerError(f"{path} is damaged: {error}; take it again from where it came") from error
    return parse(data, str(path), until)


def parse(data: bytes, where: str, until: int | None = None) -> Contents:
    """`read` for bytes in memory."""
    header, at = Header.decode(data, where)
    chain = data[at - CHAIN : at]
    codec = Codec(header.columns, header.groups, header.tags)
    entries: list[Entry] = []
    chains: list[bytes] = []
    attachments: list[tuple[int, str, str]] = []
    final: str | None = None
    torn = 0
    while at < len(data) and (until is None or len(entries) < until):
        prefix = data[at : at + PREFIX.size]
        if len(prefix) < PREFIX.size:
            torn = len(data) - at
            break
        if not prefix_is_sound(prefix, chain):
            raise LedgerError(f"{where} is damaged at step {len(entries)} (byte {at}): an entry's prefix does not hold")
        kind, flags, _, length, step, _ = PREFIX.unpack(prefix)
        end = at + PREFIX.size + length + CHAIN
        if end > len(data):
            torn = len(data) - at
            break
        payload = data[at + PREFIX.size : end - CHAIN]
        if link(prefix, payload, chain) != data[end - CHAIN : end]:
            raise LedgerError(f"{where} is damaged at step {step} (byte {at}): the checksum of its entry does not hold")
        chain, at = data[end - CHAIN : end], end
        if kind == STEP:
            entries.append(codec.decode(flags, step, payload))
            chains.append(chain)
            final = None
        elif kind == ATTACHMENT:
            attachments.append((step, payload[32:].decode(), payload[:32].hex()))
        elif kind == END:
            final = payload.hex()
        else:
            raise LedgerError(f"{where} holds an entry of unknown kind {kind} at step {step}; upgrade zerothorder")
    return Contents(header, tuple(entries), tuple(attachments), codec, at, torn, chain, tuple(chains), final)
