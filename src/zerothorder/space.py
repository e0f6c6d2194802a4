"""Which tensors are searched: an ordered table of sites with stable names, views into the model's own storage."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from zerothorder.errors import UsageError
from zerothorder.grids import Grid, Precision

CHUNK = 1 << 18
"""Elements handled at a time: 1 MiB of float32, small enough to stay in cache between the stages of a pass."""

_WRAPPERS = ("module.", "_orig_mod.", "base_model.model.", "base_model.")
_NO_DECAY = ("bias", "norm", "ln_")


def canonical_name(name: str) -> str:
    """A parameter's name without what wrappers put before it (DataParallel, torch.compile, PEFT)."""
    name = name.replace("._orig_mod.", ".")
    while prefix := next((w for w in _WRAPPERS if name.startswith(w)), None):
        name = name.removeprefix(prefix)
    return name


def stored_name(name: str) -> str:
    """A parameter's name as files have it: PEFT leaves out the adapter's own, "default", when it saves."""
    return canonical_name(name).replace(".default.", ".")


@dataclass(frozen=True)
class Site:
    """One searched tensor. z is addressed by (id, index into the whole tensor), so a shard draws its slice.

    `segments` maps local storage to the whole tensor: (local start, global start, length) runs; a tensor held whole
    has one. `group` names the rates it follows ("decay" or "plain"). `aliases` are other names of a tied tensor.
    """

    name: str
    parameter: Tensor
    grid: Grid
    group: str
    shape: tuple[int, ...]
    segments: tuple[tuple[int, int, int], ...]
    aliases: tuple[str, ...] = ()
    id: int = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.blake2b(self.name.encode(), digest_size=8, person=b"zerothorder/site").digest()
        object.__setattr__(self, "id", int.from_bytes(digest, "little"))

    @property
    def numel(self) -> int:
        return self.parameter.numel()

    def read(self) -> Tensor:
        """The stored weights as 1-D: a view where the layout allows, else a copy that `write` puts back."""
        return self.parameter.detach().reshape(-1)

    def write(self, flat: Tensor) -> None:
        """Put back what `read` gave, after changes."""
        if flat.data_ptr() != self.parameter.data_ptr() or not self.parameter.is_contiguous():
            with torch.no_grad():
                self.parameter.copy_(flat.view(self.parameter.shape))

    def runs(self, part: slice = slice(None)) -> Iterator[tuple[slice, int]]:
        """(local slice, global start) of each segment, whole or what of it is in `part` of the storage."""
        first, last, _ = part.indices(self.numel)
        for local, whole, length in self.segments:
            begin, end = max(first, local), min(last, local + length)
            if begin < end or not length:
                yield slice(begin, end), whole + begin - local

    def chunks(self, part: slice = slice(None)) -> Iterator[tuple[slice, int]]:
        """(local slice, global start) of consecutive chunks of at most CHUNK elements."""
        for run, whole in self.runs(part):
            for at in range(run.start, run.stop, CHUNK):
                yield slice(at, min(at + CHUNK, run.stop)), whole + at - run.start


class ParameterSpace:
    """The searched tensors of a model, in canonical order, each once however many names it is tied under."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self.sites = tuple(sites)
        self.by_name = {site.name: site for site in self.sites}
        if not self.sites:
            raise UsageError("no parameter is trainable; set requires_grad on those to be searched")
        if len(self.by_name) != len(self.sites):
            names = [site.name for site in self.sites]
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"two parameters share the name {twice!r} once wrappers are removed; rename one")

    @classmethod
    def of(
        cls,
        model: nn.Module,
        where: Callable[[str], bool] = lambda name: True,
        precision: Precision = "residual",
    ) -> "ParameterSpace":
        """Every parameter with requires_grad whose canonical name passes `where`.

        Weight decay leaves out biases and normalisation weights, as MeZO does (its rule, "layernorm" and "bias").
        """
        owners: dict[int, list[str]] = {}
        found: dict[int, Tensor] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if parameter.requires_grad and where(canonical_name(name)):
                owners.setdefault(id(parameter), []).append(canonical_name(name))
                found[id(parameter)] = parameter
        return cls(cls.site(names[0], found[key], precision, aliases=tuple(names[1:])) for key, names in owners.items())

    @staticmethod
    def site(name: str, tensor: Tensor, precision: Precision = "residual", aliases: tuple[str, ...] = ()) -> Site:
        """The site of one whole tensor."""
        low = name.lower()
        group = "plain" if tensor.ndim < 2 or any(word in low for word in _NO_DECAY) else "decay"
        grid = Grid.of(tensor.dtype, precision)
        return Site(name, tensor, grid, group, tuple(tensor.shape), ((0, 0, tensor.numel()),), aliases)

    @property
    def numel(self) -> int:
        return sum(site.numel for site in self.sites)

    @property
    def nbytes(self) -> int:
        return sum(site.numel * site.parameter.element_size() for site in self.sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)


def shard_segments(
    shape: tuple[int, ...], offset: tuple[int, ...], local: tuple[int, ...]
) -> tuple[tuple[int, int, int], ...]:
    """Segments of the box `offset … offset+local` of a whole tensor of `shape`, stored contiguously."""
    inner = len(shape)
    while inner > 0 and local[inner - 1 :] == shape[inner - 1 :]:
        inner -= 1  # trailing dimensions that are whole belong to one run
    if inner == 0:
        length = torch.Size(shape).numel()
        return ((0, 0, length),)
    run = torch.Size(local[inner - 1 :]).numel()
    strides = [torch.Size(shape[d + 1 :]).numel() for d in range(len(shape))]
    outer = [range(offset[d], offset[d] + local[d]) for d in range(inner - 1)]
    starts = [sum(offset[d] * strides[d] for d in range(inner - 1, len(shape)))]
    for d in reversed(range(inner - 1)):
        starts = [i * strides[d] + s for i in outer[d] for s in starts]
    return tuple((n * run, start, run) for n, start in enumerate(starts))
