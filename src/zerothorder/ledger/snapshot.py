"""Snapshots bound replay time: weights and State at a step, tied to the ledger by its chain. Never the truth."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from zerothorder.errors import UsageError
from zerothorder.ledger.attachments import write_durably
from zerothorder.space import ParameterSpace
from zerothorder.state import State


def save_snapshot(
    folder: Path, step: int, chain: bytes, space: ParameterSpace, state: State, keep: int = 1
) -> Path:
    """Write step-N.safetensors durably, then remove all but the newest `keep`. UsageError when the disk is full."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"weights/{site.name}": site.parameter.detach().contiguous() for site in space}
    tensors |= {f"state/{path}": tensor.contiguous() for path, tensor in state.flat()}
    meta = {"step": str(step), "chain": chain.hex(), "scalars": json.dumps(state.scalars)}
    path = folder / f"step-{step:08d}.safetensors"
    try:
        write_durably(path, save(tensors, metadata=meta))
    except OSError as error:
        raise UsageError(
            f"cannot write the snapshot {path}: {error.strerror}; free some space, then resume"
        ) from error
    for old in sorted(folder.glob("step-*.safetensors"))[:-keep]:
        old.unlink(missing_ok=True)
    return path


def load_snapshot(folder: Path, chains: tuple[bytes, ...], space: ParameterSpace, state: State) -> int:
    """Load the newest snapshot that this ledger leads to; returns its step, 0 where none fits.

    A snapshot of another ledger or a damaged file is passed over: the entries can always rebuild it.
    """
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            with safe_open(path, "pt") as file:
                meta = file.metadata()
                step = int(meta["step"])
                if not 0 < step <= len(chains) or chains[step - 1].hex() != meta["chain"]:
                    continue
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
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
