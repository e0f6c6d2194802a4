"""Snapshots bound replay time: weights and State at a step, tied to the ledger by its chain. Never the truth."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from zerothorder.errors import UsageError
from zerothorder.ledger.attachments import write_durably
from zerothorder.space import ParameterSpace
from zerothorder.state import State


def save_snapshot(folder: Path, step: int, chain: bytes, space: ParameterSpace, state: State, keep: int = 1) -> Path:
    """Write step-N.safetensors durably, then remove all but the newest `keep`. UsageError when the disk is full."""
    tensors = {f"weights/{site.name}": site.parameter.detach().contiguous() for site in space}
    tensors |= {f"state/{path}": tensor.contiguous() for path, tensor in state.flat()}
    scalars = json.dumps(state.scalars)
    meta = {"step": str(step), "chain": chain.hex(), "scalars": scalars, "content": _content(tensors, scalars)}
    path = folder / f"step-{step:08d}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(path, save(tensors, metadata=meta))
    except OSError as error:
        raise UsageError(f"cannot write the snapshot {path}: {error.strerror}; free some space, then resume") from error
    # the second pattern is what a run killed while it wrote has left
    for old in [*sorted(folder.glob("step-*.safetensors"))[:-keep], *folder.glob(".step-*.tmp")]:
        old.unlink(missing_ok=True)
    return path


def load_snapshot(folder: Path, chains: tuple[bytes, ...], space: ParameterSpace, state: State) -> int:
    """Load the newest snapshot that this ledger leads to; returns its step, 0 where none fits.

    A snapshot of another ledger or a damaged file is passed over: the entries can always rebuild it.
    """
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            opened: Any = safe_open(path, "pt")
            with opened as file:
                meta: dict[str, str] = file.metadata()
                step = int(meta["step"])
                if not 0 < step <= len(chains) or chains[step - 1].hex() != meta["chain"]:
                    continue
                held: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if _content(held, meta["scalars"]) != meta["content"]:
                continue
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            continue
        except Exception as error:  # safetensors raises its own type for a damaged file
            if type(error).__module__.startswith("safetensors"):
                continue
            raise
        with torch.no_grad():
            for site in space:
                site.parameter.copy_(held[f"weights/{site.name}"])
        parts = {name.removeprefix("state/"): t for name, t in held.items() if name.startswith("state/")}
        state.load(parts, json.loads(meta["scalars"]))
        return step
    return 0


def _content(tensors: Mapping[str, Tensor], scalars: str) -> str:
    """SHA-256 of everything a snapshot would put into a run: safetensors itself checks no data."""
    digest = hashlib.sha256(scalars.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
