"""Small buffers kept between chunks: a fresh megabyte from the system costs more than the arithmetic on it."""

import threading

import torch
from torch import Tensor

_LOCAL = threading.local()


def buffer(name: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised 1-D tensor of `size`; the same memory at the next call with this name in this thread."""
    held: dict[tuple[str, torch.dtype, torch.device], Tensor] = _LOCAL.__dict__.setdefault("held", {})
    key = (name, dtype, device)
    if key not in held or held[key].numel() < size:
        with torch.inference_mode(False):
            held[key] = torch.empty(size, dtype=dtype, device=device)
    return held[key][:size]
