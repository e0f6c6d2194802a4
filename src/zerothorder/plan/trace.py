"""A forward pass that is never computed: the same code on tensors without data, which tells memory and operations.

The model is built from its configuration alone. Every operation is seen with its shapes, so nothing here knows an
architecture: what a model allocates between two modules, and which matrix products it runs, is what is counted.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from zerothorder.data.quiet import hushed, one_sentence
from zerothorder.errors import UsageError

_MAPPED = 32 << 20
"""Blocks above this come from the system and go back to it at once (glibc's largest mmap threshold)."""


@dataclass(frozen=True)
class Shaped:
    """A tensor argument without its data."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Operation:
    """One call as torch dispatched it: the function, its arguments with `Shaped` for tensors, and their structure."""

    function: Any
    leaves: tuple[Any, ...]
    structure: Any


@dataclass
class Trace:
    """What one evaluation does: `peak` bytes of tensors alive at once, weights left out; operations and how often.

    `largest` is the largest tensor, `reused` the largest that the C allocator surely keeps when it is freed.
    """

    peak: int = 0
    largest: int = 0
    reused: int = 0
    operations: Counter[Operation] = field(default_factory=Counter[Operation])


@contextmanager
def without_data() -> Iterator[None]:
    """Tensors made inside have shapes and no storage, and generators stay as they are.

    Modules stay where and as they are made: `to` would swap parameters that the mode itself refers to. (Adapters are
    made in float32 and end in it.) A copy of a tensor has its shape alone: torch's own would copy the mode with it, and
    its memory would be freed twice.
    """
    to, own = nn.Module.to, FakeTensor.__deepcopy__
    nn.Module.to = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    FakeTensor.__deepcopy__ = _copy  # type: ignore[method-assign]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.random.fork_rng(devices=[]), torch.no_grad():
            yield
    finally:
        nn.Module.to = to  # type: ignore[method-assign]
        FakeTensor.__deepcopy__ = own  # type: ignore[method-assign]


def _copy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    made = torch.empty_like(tensor)
    memo[id(tensor)] = nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
    return memo[id(tensor)]


with_data = unset_fake_temporarily
"""Inside `without_data`: tensors made inside hold numbers."""


def build(auto: Any, config: Any, dtype: torch.dtype, name: str, **options: Any) -> nn.Module:
    """The model of a configuration, inside `without_data`. UsageError where transformers cannot build it."""
    try:
        with hushed():
            return auto.from_config(config, dtype=dtype, **options).eval()
    except Exception as error:
        raise UsageError(
            f"the model {name} cannot be planned ({one_sentence(error)}): check its config.json"
        ) from error


def trace(model: nn.Module, forward: Callable[[], Any]) -> Trace:
    """Run `forward` inside `without_data` and record it."""
    record = _Recorder({_storage(t) for t in (*model.parameters(), *model.buffers())})
    with record:
        forward()
    return record.trace


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _Recorder(TorchDispatchMode):
    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights, self.trace = weights, Trace()
        self._uses: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return True  # transformers below 5 ask whether a mask is all ones; a plan's rows have no padding
        found = function(*args, **kwargs)
        leaves, structure = tree_flatten((args, kwargs))
        shaped = tuple(_shaped(leaf) for leaf in leaves)
        with suppress(TypeError):  # an argument without a hash: too rare to matter for the time
            self.trace.operations[Operation(function, shaped, structure)] += 1
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._hold(tensor)
        return found

    def _hold(self, tensor: Tensor) -> None:
        """A storage lives as long as any tensor over it: views keep it, in-place results share it."""
        storage = tensor.untyped_storage()
        at = storage._cdata
        if at in self.weights:
            return
        self._uses[at] += 1
        self._sizes.setdefault(at, storage.nbytes())
        self.trace.largest = max(self.trace.largest, storage.nbytes())
        if storage.nbytes() <= _MAPPED:
            self.trace.reused = max(self.trace.reused, storage.nbytes())
        self.trace.peak = max(self.trace.peak, sum(self._sizes.values()))
        finalize(tensor, self._drop, at)

    def _drop(self, at: int) -> None:
        self._uses[at] -= 1
        if not self._uses[at]:
            del self._uses[at], self._sizes[at]


def _shaped(leaf: Any) -> Any:
    return Shaped(tuple(leaf.shape), tuple(leaf.stride()), leaf.dtype) if isinstance(leaf, Tensor) else leaf


def arguments(operation: Operation, make: Callable[[Shaped], Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments for a real call, with tensors from `make`."""
    real = [make(leaf) if isinstance(leaf, Shaped) else leaf for leaf in operation.leaves]
    return tree_unflatten(real, operation.structure)
