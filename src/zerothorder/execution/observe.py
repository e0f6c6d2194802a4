"""What one evaluation shows, bit by bit: the values, and a digest of what the model gave back on the way."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zerothorder.point import Values


@dataclass
class Observation:
    """Equal if and only if (but for collisions of 64-bit digests) values, weights and outputs are equal bit by bit.

    Outputs are told apart from values because a metric moves in steps: accuracy may stay where logits move.
    """

    values: tuple[int, ...] = ()
    outputs: list[int] = field(default_factory=list[int])

    def take(self, values: Values) -> None:
        """Add the objective's answer."""
        self.values = (digest(values.value), digest(values.weight))


def digest(tensor: Tensor) -> int:
    """64 bits of a tensor's shape and bits: a sum over its elements, mixed with their place; not cryptographic."""
    flat = tensor.detach().reshape(-1)
    if flat.dtype in (torch.complex64, torch.complex128):
        flat = torch.view_as_real(flat).reshape(-1)
    if flat.dtype in _BITS:
        flat = flat.view(_BITS[flat.dtype])
    total = hash(tuple(tensor.shape))
    for at in range(0, flat.numel(), _CHUNK):
        bits = flat[at : at + _CHUNK].long()
        place = torch.arange(at, at + bits.numel(), device=bits.device)
        # wrapping in 64 bits, so exact whatever the order of the sum; folded first, or the sign bits of an even
        # number of float64 would cancel
        mixed = (bits ^ (bits >> 29)) * (place * -7046029254386353131 | 1)
        total += int((mixed ^ (mixed >> 32)).sum())
    return total & 0xFFFFFFFFFFFFFFFF


_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
_CHUNK = 1 << 18


def tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in a module's output; caches and other objects are passed over."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():  # type: ignore[reportUnknownVariableType]
            yield from tensors(part)
    elif isinstance(output, tuple | list):
        for part in output:  # type: ignore[reportUnknownVariableType]
            yield from tensors(part)


@contextmanager
def observing(model: nn.Module) -> Generator[Observation]:
    """Digests every output of `model` inside the block, in order."""
    seen = Observation()

    def look(module: nn.Module, args: Any, output: Any) -> None:
        seen.outputs.extend(map(digest, tensors(output)))

    handle = model.register_forward_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every module under every name it has, the model itself as ""."""
    return list(model.named_modules(remove_duplicate=False))  # type: ignore[reportUnknownMemberType]


@contextmanager
def calls(model: nn.Module) -> Generator[set[str]]:
    """Names of the submodules that are called inside the block, under every name they have."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in named_modules(model):
        names.setdefault(module, []).append(name)
    called: set[str] = set()

    def note(module: nn.Module, args: Any) -> None:
        called.update(names[module])

    handles = [module.register_forward_pre_hook(note) for module in names]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()
