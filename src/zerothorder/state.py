"""What a direction or an update needs beyond base and ledger: a function of both, never of anything else."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from zerothorder.errors import UsageError, nearest
from zerothorder.space import Site

RESIDUAL = "residual"
"""Name of the byte that low-precision weights carry."""


class State:
    """Named tensors by site name, and named float64 scalars. Written only by updates and attachments.

    Every tensor in it is priced by `nbytes` (and so by `zo plan`) and saved in snapshots.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, dict[str, Tensor]] = {}
        self.scalars: dict[str, float] = {}

    def tensor(self, name: str, site: str, create: Callable[[], Tensor] | None = None) -> Tensor:
        """The tensor `name` of a site, made by `create` at first use. UsageError if neither exists."""
        found = self.tensors.get(name, {}).get(site)
        if found is None:
            if create is None:
                known: dict[str, object] = dict(self.tensors.get(name, self.tensors))
                raise UsageError(f"the state holds no {name!r} for {site!r}{nearest(name, known) if known else ''}")
            found = self.tensors.setdefault(name, {})[site] = create()
        return found

    def has(self, name: str, site: str) -> bool:
        return site in self.tensors.get(name, {})

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for _, t in self.flat())

    def flat(self) -> Iterator[tuple[str, Tensor]]:
        """("name/site", tensor) in sorted order: the layout of snapshots."""
        for name in sorted(self.tensors):
            for site in sorted(self.tensors[name]):
                yield f"{name}/{site}", self.tensors[name][site]

    def load(self, flat: dict[str, Tensor], scalars: dict[str, float]) -> None:
        """Replace everything by what a snapshot holds."""
        self.tensors = {}
        for path, tensor in flat.items():
            name, _, site = path.partition("/")
            self.tensors.setdefault(name, {})[site] = torch.empty_like(tensor).copy_(tensor)
        self.scalars = dict(scalars)


def residual_of(site: Site, state: State) -> Tensor | None:
    """The site's residual byte; None until the first step wrote one (it is zero then) or where the grid has none."""
    if not site.grid.has_residual or not state.has(RESIDUAL, site.name):
        return None
    return state.tensor(RESIDUAL, site.name)
