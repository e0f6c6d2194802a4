"""Content-hashed files beside a ledger: masks, first-order parts, adapter starts. Safetensors, named by SHA-256."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from zerothorder.errors import LedgerError, UsageError


class Attachments:
    """A folder of attachments, or memory where the ledger has no file."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[str, bytes] = {}

    def put(self, tensors: Mapping[str, Tensor]) -> str:
        """Write tensors durably under their hash, before any entry names them; returns the hash.

        UsageError when the disk is full.
        """
        data = _bytes(tensors)
        found = hashlib.sha256(data).hexdigest()
        if self.folder is None:
            self._memory[found] = data
            return found
        path = self.folder / f"{found}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                write_durably(path, data)
        except OSError as error:
            raise UsageError(
                f"cannot write the attachment {path}: {error.strerror}; free some space, then resume the run"
            ) from error
        return found

    def has(self, wanted: str) -> bool:
        """Whether the tensors of a hash are here; they may be damaged."""
        return wanted in self._memory if self.folder is None else (self.folder / f"{wanted}.safetensors").exists()

    def get(self, wanted: str, what: str) -> dict[str, Tensor]:
        """The tensors of a hash. LedgerError names a missing or damaged file."""
        if self.folder is None and wanted in self._memory:
            return load(self._memory[wanted])
        path = (self.folder or Path()) / f"{wanted}.safetensors"
        if self.folder is None or not path.exists():
            raise LedgerError(f"{what} needs the attachment {path.name}, which is not in {path.parent}; copy it there")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != wanted:
            raise LedgerError(f"the attachment {path} of {what} is damaged: its content does not match its name")
        return {name: torch.empty_like(t).copy_(t) for name, t in load(data).items()}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The hash that tensors are kept under, without keeping or copying them: gradients are as large as the model."""
    found = hashlib.sha256()
    for piece in _pieces(tensors):
        found.update(piece)
    return found.hexdigest()


def _bytes(tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _pieces(tensors: Mapping[str, Tensor]) -> Iterator[memoryview | bytes]:
    """What `_bytes` joins: the header, then each tensor's own memory."""
    # a file of empty tensors has the order and the names of types that this release of safetensors writes
    empty = save({name: torch.empty(0, dtype=tensor.dtype) for name, tensor in tensors.items()})
    table = json.loads(empty[8 : 8 + int.from_bytes(empty[:8], "little")])
    end = 0
    for name, row in table.items():
        start, end = end, end + tensors[name].nbytes
        row |= {"shape": list(tensors[name].shape), "data_offsets": [start, end]}
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for name in table:
        yield tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def write_durably(path: Path, data: bytes) -> None:
    """Write beside, sync, rename, sync the folder: after a crash the file is whole or absent."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name in the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
