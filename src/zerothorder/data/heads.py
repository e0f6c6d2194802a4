"""Weights that a checkpoint does not hold: refused, or filled in a classification head that was asked for."""

import hashlib
from typing import TYPE_CHECKING

import torch

from zerothorder.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SPREAD = 0.02  # standard deviation of a new head: the initializer_range of BERT and Llama


def complete(name: str, model: "PreTrainedModel", missing: list[str], head: bool) -> None:
    """Fill the `missing` weights of a new head; anything else that is missing would be silent noise."""
    body = f"{model.base_model_prefix}."
    # Poolers belong to the body by name, but many checkpoints never had one.
    lost = [key for key in missing if not head or (key.startswith(body) and "pooler" not in key)]
    if lost:
        why = "the folder is damaged" if head else "take a model that has them, or put a classifier on it (--head)"
        raise UsageError(f"{name} holds no weights for {lost[0]} ({len(lost)} missing): {why}")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key in missing:
            # Biases and norms are constants already.
            if key in parameters and parameters[key].ndim > 1:
                parameters[key].copy_(hashed_uniform(key, parameters[key].shape))


def hashed_uniform(name: str, shape: torch.Size) -> torch.Tensor:
    """Uniform values of standard deviation `SPREAD` from the hash of a name.

    Integers and one rounding, so the bits are the same on every machine, and no generator is touched.
    """
    raw = hashlib.shake_256(name.encode()).digest(2 * shape.numel())
    steps = torch.frombuffer(bytearray(raw), dtype=torch.int16).to(torch.float32)
    return ((steps + 0.5) * (3**0.5 * SPREAD / 2**15)).view(shape)
