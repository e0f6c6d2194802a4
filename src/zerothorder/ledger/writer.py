"""Appending to a ledger. The entry that was written is the entry that is applied."""

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from zerothorder.errors import LedgerError, UsageError
from zerothorder.ledger.attachments import Attachments, digest, write_durably
from zerothorder.ledger.entry import ATTACHMENT, CHAIN, END, STEP, Codec, Entry, frame
from zerothorder.ledger.header import Header
from zerothorder.ledger.lock import claim, release
from zerothorder.ledger.reader import Contents, read

_SYNC_SECONDS = 1.0
"""A power failure loses at most this much; a killed process loses nothing that was appended."""


class Ledger:
    """A ledger being written, in a file or (path None) in memory alone."""

    def __init__(self, header: Header, path: Path | None = None) -> None:
        """A new ledger. UsageError if the file exists already."""
        self.header, self.path = header, path
        self.codec = Codec(header.columns, header.groups, header.tags)
        self.attachments = Attachments(None if path is None else path.parent / "attachments")
        self.past: list[Entry] = []
        self.attached: dict[str, str] = {}
        self.final: str | None = None
        self._synced = time.monotonic()
        data = header.encode()
        self.chain = data[-CHAIN:]
        self.size = len(data)
        self._file: int | None = None
        if path is None:
            return
        if path.exists():
            raise UsageError(f"{path} exists already; choose another output folder or resume the run")
        try:
            # whole or absent: a file with half a header could neither be resumed nor read
            write_durably(path, data)
            claim(path)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise UsageError(
                f"cannot write the ledger {path}: {error.strerror}; choose another output folder or free some space"
            ) from error

    @classmethod
    def resume(cls, path: Path) -> "Ledger":
        """Open a ledger to go on: a torn last entry is cut off; damage anywhere else is a LedgerError. UsageError while
        another process writes it."""
        if path.exists():
            claim(path)
        contents = read(path)
        ledger = cls.__new__(cls)
        ledger.header, ledger.path, ledger.codec = contents.header, path, contents.codec
        ledger.attachments = Attachments(path.parent / "attachments")
        ledger.past, ledger.attached = list(contents.entries), dict(contents.attached)
        ledger.final = contents.final
        ledger.chain, ledger.size, ledger._synced = contents.chain, contents.sound, time.monotonic()
        try:
            ledger._file = os.open(path, os.O_WRONLY | os.O_APPEND)
            if contents.torn:
                os.ftruncate(ledger._file, contents.sound)
                os.fsync(ledger._file)
        except OSError as error:
            raise ledger._unwritable(error) from error
        return ledger

    def append(self, entry: Entry, dense: Mapping[str, Tensor] | None = None, *, keep: bool = True) -> Entry:
        """Write a step and return it as written: this, not what was computed, is what must be applied. Of a first-order
        part that is not to `keep` only the hash is written."""
        if entry.step != len(self.past):
            raise LedgerError(f"step {entry.step} cannot follow {len(self.past)} written steps")
        if dense is not None:
            entry = dataclasses.replace(entry, dense_hash=self.attachments.put(dense) if keep else digest(dense))
        before = dict(self.codec.rates)
        try:
            flags, payload = self.codec.encode(entry)
            self._write(STEP, flags, entry.step, payload)
        except BaseException:
            self.codec.rates = before
            raise
        self.codec.rates = before
        written = dataclasses.replace(self.codec.decode(flags, entry.step, payload), dense=dense)
        self.past.append(dataclasses.replace(written, dense=None))
        self.final = None
        return written

    def attach(self, name: str, tensors: Mapping[str, Tensor]) -> str:
        """Write tensors beside the ledger and their hash into it."""
        found = self.attachments.put(tensors)
        self._write(ATTACHMENT, 0, len(self.past), bytes.fromhex(found) + name.encode())
        self.attached[name] = found
        return found

    def end(self, weights: str) -> None:
        """The end record: the hash of the final weights. A run that ended so already is left as it is."""
        if self.final != weights:
            self._write(END, 0, len(self.past), bytes.fromhex(weights))
            self.final = weights
        self.sync()

    def sync(self) -> None:
        """Everything appended is on disk when this returns. UsageError when the disk is full."""
        if self._file is not None:
            try:
                os.fsync(self._file)
            except OSError as error:
                raise self._unwritable(error) from error
        self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and close the file; nothing can be appended to it after."""
        if self._file is not None:
            try:
                self.sync()
            finally:
                os.close(self._file)
                self._file = None
                if self.path is not None:
                    release(self.path)

    def _write(self, kind: int, flags: int, step: int, payload: bytes) -> None:
        data = frame(kind, flags, step, payload, self.chain)
        self._append(data)
        self.chain = data[-CHAIN:]

    def _append(self, data: bytes) -> None:
        if self._file is not None:
            try:
                written = 0
                while written < len(data):
                    written += os.write(self._file, data[written:])
                if time.monotonic() - self._synced > _SYNC_SECONDS:
                    self.sync()
            except BaseException as error:
                # an entry that is not known to be whole is taken back: the file stays a valid shorter run
                os.ftruncate(self._file, self.size)
                if isinstance(error, OSError):
                    raise self._unwritable(error) from error
                raise
        self.size += len(data)

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError(
            f"cannot write the ledger {self.path}: {error.strerror}; free some space, then resume the run"
        )


def cut(path: Path, steps: int) -> bytes | None:
    """Leave the first `steps` steps in the file; its bytes before, or None where nothing was cut. LedgerError where it
    has fewer, UsageError while another process writes it."""
    if path.exists():
        claim(path)
    contents = read(path, steps)
    if len(contents.entries) < steps:
        raise LedgerError(f"{path} has {len(contents.entries)} steps, not the {steps} to go on from")
    data = path.read_bytes()
    if len(data) == contents.sound:
        return None
    write_durably(path, data[: contents.sound])
    return data


__all__ = ["Contents", "Ledger", "cut"]
