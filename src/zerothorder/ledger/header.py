"""The ledger's header: which base, which tensors, which recipe, which generator, which run."""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from zerothorder.errors import LedgerError
from zerothorder.space import ParameterSpace

MAGIC = b"ZOLEDGER"
FORMAT = 1
_LEAD = struct.Struct("<8sII")


@dataclass(frozen=True)
class Header:
    """Everything replay needs besides base and entries. `run_key` is hex; `settings` are the recipe's fields.

    `data` (order and source of the batches) and `origin` (names, versions, for people) are absent from private runs.
    """

    base: str
    sites: Sequence[Sequence[Any]]
    recipe: str
    settings: Mapping[str, Any]
    run_key: str
    generator: int
    precision: str
    columns: Sequence[str]
    groups: Sequence[str]
    tags: Sequence[str] = ("z",)
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    origin: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def encode(self) -> bytes:
        """Magic, format, length, canonical JSON, SHA-256 of all before it."""
        body = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), default=list).encode()
        lead = _LEAD.pack(MAGIC, FORMAT, len(body))
        return lead + body + hashlib.sha256(lead + body).digest()

    @classmethod
    def decode(cls, data: bytes, where: str) -> tuple["Header", int]:
        """The header at the start of `data` and its length in bytes. LedgerError names what is wrong."""
        if len(data) < _LEAD.size or data[: len(MAGIC)] != MAGIC:
            raise LedgerError(f"{where} is not a ledger: it does not begin with {MAGIC.decode()}")
        _, version, length = _LEAD.unpack_from(data)
        if version > FORMAT and not cls._is_damaged_version(data, length):
            raise LedgerError(
                f"{where} has ledger format {version}, this zerothorder reads up to {FORMAT}; upgrade zerothorder"
            )
        end = _LEAD.size + length
        if len(data) < end + 32:
            raise LedgerError(f"the header of {where} is cut off or its length is damaged; no run can be read from it")
        if hashlib.sha256(data[:end]).digest() != data[end : end + 32]:
            raise LedgerError(f"the header of {where} is damaged: its checksum does not hold")
        return cls(**json.loads(data[_LEAD.size : end])), end + 32

    @staticmethod
    def _is_damaged_version(data: bytes, length: int) -> bool:
        """Whether the checksum holds with this version's number in place: then the number itself is damaged."""
        end = _LEAD.size + length
        mended = _LEAD.pack(MAGIC, FORMAT, length) + data[_LEAD.size : end]
        return hashlib.sha256(mended).digest() == data[end : end + 32]


def site_table(space: ParameterSpace) -> list[list[Any]]:
    """[name, shape, dtype, group] of every site, in order."""
    return [[s.name, list(s.shape), str(s.parameter.dtype).removeprefix("torch."), s.group] for s in space]


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of every parameter and persistent buffer: name, dtype, shape, bytes; a tied tensor once."""
    digest = hashlib.sha256()
    seen: set[tuple[int, torch.Size]] = set()
    named = ((name, t) for name, t in sorted(model.state_dict(keep_vars=True).items()) if isinstance(t, torch.Tensor))
    for name, tensor in (part for own in named for part in _stored(*own)):
        if tensor.numel() and (tensor.data_ptr(), tensor.shape) in seen:
            continue
        seen.add((tensor.data_ptr(), tensor.shape))
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _stored(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that hold a tensor's bytes: itself, or of a quantised one (a subclass) codes, scales and the like."""
    flatten: Any = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield name, tensor
        return
    for inner in flatten()[0]:
        yield from _stored(f"{name}.{inner}", getattr(tensor, inner))


def check_base(header: Header, model: nn.Module, space: ParameterSpace, where: str) -> None:
    """LedgerError that names the first difference between the ledger's site table or base hash and this model."""
    have = {row[0]: row for row in site_table(space)}
    for row in header.sites:
        name, shape, dtype = row[0], list(row[1]), row[2]
        if name not in have:
            raise LedgerError(f"{where} moves a parameter {name!r} that this base does not have; give its own base")
        if have[name][1] != shape or have[name][2] != dtype:
            raise LedgerError(
                f"{where} was made with {name!r} of shape {shape} in {dtype}, this base has "
                f"{have[name][1]} in {have[name][2]}; give its own base"
            )
    extra = sorted(set(have) - {row[0] for row in header.sites})
    if extra:
        raise LedgerError(f"this base trains a parameter {extra[0]!r} that {where} does not know; give its own base")
    found = fingerprint(model)
    if found != header.base:
        raise LedgerError(
            f"{where} belongs to another base: weights hash {header.base[:12]}…, this base {found[:12]}…; "
            "give the model the run started from"
        )
