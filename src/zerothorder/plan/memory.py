"""Peak memory by part, in bytes above the process after its imports."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from zerothorder.plan.source import Source
from zerothorder.plan.trace import Trace
from zerothorder.recipe import Recipe
from zerothorder.space import CHUNK, ParameterSpace

RUNTIME = 88 << 20
"""Tokenizer, compiled kernels, and libraries that are first touched while a model runs. Measured: 81 to 95 MiB."""
_LOADING, _TOKENIZER = 16 << 20, 14.5
"""While a model is loaded: a constant, and times the size of tokenizer.json. Measured: 26 to 70 MiB."""


@dataclass(frozen=True)
class Memory:
    """`parts` are alive together while the run steps; `loading` is the peak while the weights are read and cast."""

    parts: Mapping[str, int]
    loading: int

    @property
    def steps(self) -> int:
        return sum(self.parts.values())

    def with_check(self, module: int, share: float) -> "Memory":
        """The same where `Batched` compares itself with `Swap` before residual bytes exist: `module` bytes of weights
        exchanged, over a `share` of the rows."""
        few = int(self.parts["activations"] * min(1.0, share))
        more = module + few - self.parts["activations"] - self.parts["residual"] - self.parts["scratch"]
        return Memory(dict(self.parts) | {"check": max(0, more)}, self.loading)

    @property
    def peak(self) -> int:
        return max(self.steps, self.loading)


def predict_memory(
    model: nn.Module, space: ParameterSpace, recipe: Recipe, scratch: int, source: Source, work: Trace
) -> Memory:
    """Parts of a run's peak.

    weights: all of the model. residual: a byte for each searched 16-bit weight. state: what the update's transforms
    keep, one element of the compute dtype a weight. scratch: what the executor needs (`plan.scratch`). buffers: chunks
    of the general update. activations: the most that is alive at once in a
    forward, and freed blocks the allocator keeps.
    """
    weights = _unique(model)
    kept = [name for transform in recipe.update().transforms for name in transform.memory]
    compute = max(site.grid.compute.itemsize for site in space)
    chunk = min(CHUNK, max(site.numel for site in space)) * compute
    parts = {
        "weights": weights,
        "residual": sum(site.numel for site in space if site.grid.has_residual),
        "state": sum(site.numel * site.grid.compute.itemsize for site in space) * len(kept),
        "scratch": scratch,
        "buffers": chunk * (2 + 3 * bool(kept)),
        "activations": work.peak + _kept_by_allocator(work),
        "runtime": RUNTIME,
    }
    return Memory(parts, _LOADING + int(_TOKENIZER * source.tokenizer) + weights + _cast(source, model))


def _kept_by_allocator(work: Trace) -> int:
    """Freed blocks that the C library has not given back: glibc trims beyond twice the largest block of its heap.

    Whether a block above its threshold (logits) lies in the heap too is chance; half of one is counted.
    """
    return 2 * work.reused + (work.largest - work.reused) // 2


def _unique(model: nn.Module) -> int:
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _cast(source: Source, model: nn.Module) -> int:
    """The stored weights stay mapped until all are cast; of the same dtype they become the weights themselves."""
    own = {p.dtype for p in model.parameters()}
    if source.quantised:  # dequantised to float32 before it is cast
        return source.bytes + 4 * sum(p.numel() for p in model.parameters())
    return 0 if not source.dtypes or source.dtypes == own else source.bytes


__all__ = ["Memory", "predict_memory"]
