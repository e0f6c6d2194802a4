"""One block of the weights a key: what a block-wise search draws from."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zerothorder.directions import View, z_of
from zerothorder.directions.laws import Dense
from zerothorder.errors import UsageError, nearest
from zerothorder.key import Key
from zerothorder.space import Site
from zerothorder.state import State

BLOCK = "block"
"""The State vector that says where a site belongs: (its block, how many there are)."""
Level = Literal["layer", "attention-mlp", "linear"]
LEVELS = ("layer", "attention-mlp", "linear")
_LAYER = re.compile(r"^(.*?\.)?\d+(?=\.)")


@dataclass(frozen=True)
class Blocks:
    """z of `dense` on the sites of block key.b mod count, 0 on all others; a key of another tag moves every site.

    Which block a site is of stands in the State as `BLOCK`. A site that a key does not move is not visited for it:
    `moves` says so to whoever evaluates or updates. E[z zᵀ] = I on the block.
    """

    dense: Dense
    tag: str = "z"

    @property
    def run_key(self) -> bytes:
        """As of the draws."""
        return self.dense.run_key

    def moves(self, site: Site, term: Key | str, state: State) -> bool:
        """Whether z of this site is anything but 0."""
        if isinstance(term, str) or term.tag != self.tag:
            return True
        where = state.tensor(BLOCK, site.name)
        return term.b % int(where[1]) == int(where[0])

    def draw(self, site: Site, term: Key | str) -> tuple[str, int] | None:
        """Of a site that the term moves, see `Dense.draw`."""
        return self.dense.draw(site, term)

    def shift(
        self, out: Tensor, source: Tensor, site: Site, term: Key | str, coefficient: float, start: int, state: State,
        view: View = "probe",
    ) -> None:  # fmt: skip
        """See `Direction.shift`."""
        if self.moves(site, term, state):
            self.dense.shift(out, source, site, term, coefficient, start, state, view)
        elif out is not source:
            out.copy_(source)

    def square(self, site: Site, term: Key | str, state: State) -> float:
        """Of a site that the term moves, see `Direction`."""
        return self.dense.square(site, term, state)

    @property
    def z(self) -> Callable[..., object] | None:
        """Of a site that the term moves, see `Dense.z`."""
        return z_of(self.dense)


def blocks_of(names: Sequence[str], level: str) -> list[int]:
    """The block of each site, numbered in the order of `names`.

    "layer": a layer of a stack (the names up to their first number), and each module outside of the stacks by itself.
    "attention-mlp": the attention of a layer apart from the rest of it. "linear": every module by itself, its bias
    with it. UsageError for an unknown level.
    """
    if level not in LEVELS:
        raise UsageError(f"unknown level {level!r}{nearest(level, LEVELS)}")
    numbers: dict[str, int] = {}
    return [numbers.setdefault(_label(name, level), len(numbers)) for name in names]


def _label(name: str, level: str) -> str:
    module = name.rpartition(".")[0]
    layer = _LAYER.match(name)
    if level == "linear" or layer is None:
        return module
    if level == "layer":
        return layer[0]
    return f"{layer[0]} {'attention' if 'attn' in name or 'attention' in name else 'mlp'}"


def block_vectors(names: Sequence[str], level: str) -> dict[str, Tensor]:
    """What is attached as `BLOCK`, by site name."""
    numbers = blocks_of(names, level)
    count = max(numbers) + 1
    return {name: torch.tensor([own, count], dtype=torch.float32) for name, own in zip(names, numbers, strict=True)}


def block_count(state: State) -> int:
    """How many blocks the State tells of. UsageError where it tells of none."""
    found = next(iter(state.tensors.get(BLOCK, {}).values()), None)
    if found is None:
        raise UsageError("the state holds no blocks; a block-wise recipe attaches them before its first step")
    return int(found[1])


def sites_of(state: State, first: int) -> tuple[str, ...]:
    """Names of the sites in block `first` and those after it."""
    return tuple(name for name, where in state.tensors.get(BLOCK, {}).items() if int(where[0]) >= first)
