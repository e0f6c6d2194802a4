"""The hash of tensors is that of the file that would hold them, whether or not one is written."""

import hashlib
import tracemalloc

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch.utils._python_dispatch import TorchDispatchMode

from zerothorder.ledger.attachments import Attachments, digest

TYPES = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
)
shapes = st.lists(st.integers(0, 5), max_size=3)
named = st.dictionaries(
    st.text(max_size=8).filter(lambda s: s != "__metadata__"), st.tuples(shapes, st.sampled_from(TYPES)), max_size=6
)


@given(named)
def test_hash_without_the_file_is_the_files(wanted: dict[str, tuple[list[int], torch.dtype]]) -> None:
    torch.manual_seed(len(wanted))
    tensors = {name: (8 * torch.randn(shape)).to(kind) for name, (shape, kind) in wanted.items()}
    assert digest(tensors) == hashlib.sha256(save(tensors)).hexdigest() == Attachments(None).put(tensors)


def test_memory_of_other_layouts_is_read_in_order() -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    views = {"columns": whole.t(), "every other": whole[:, ::2], "a parameter": torch.nn.Parameter(whole)}
    assert (
        digest(views) == hashlib.sha256(save({name: t.detach().contiguous() for name, t in views.items()})).hexdigest()
    )


class Places(TorchDispatchMode):
    """Where the results of torch lie, by their size."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[torch.Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.found += [found] if isinstance(found, torch.Tensor) else []
        return found

    def of(self, least: int) -> set[int]:
        return {tensor.data_ptr() for tensor in self.found if tensor.numel() >= least}


def test_nothing_of_their_size_is_held() -> None:
    """Ten megabytes of gradient are hashed in a few kilobytes of Python, and no tensor of torch's is new."""
    gradient = {"weight": torch.zeros(10 * 2**18)}
    places = Places()
    with places:
        digest(gradient)
    assert places.of(gradient["weight"].numel()) == {gradient["weight"].data_ptr()}
    tracemalloc.start()
    try:
        digest(gradient)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**16
