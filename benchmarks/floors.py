"""What no implementation can be faster than on this machine: moving bytes, drawing a law, multiplying and adding."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from benchmarks.common import Settings

from zerothorder import random
from zerothorder.space import CHUNK, ParameterSpace, Site

DRAWN = 64 * CHUNK
"""Elements drawn by one call of `drawing`."""
SIDE, TERMS = 1024, 256
MULTIPLIED = SIDE * SIDE * TERMS
"""Multiply-adds of one call of `multiplying`."""


def copying(settings: Settings) -> tuple[Callable[[], object], int]:
    """Copy a tensor of 256 MB, far beyond any cache; and the bytes that a copy reads and writes."""
    # ones: the pages of a fresh tensor of zeros are one and the same until they are written
    source = torch.ones((1 if settings.small else 256) * 1_000_000 // 4)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * source.numel() * source.element_size()


def drawing(law: str) -> Callable[[], object]:
    """w + c·z over a megabyte that stays in cache, as often as makes `DRAWN` elements."""
    held = torch.zeros(CHUNK)

    def draw() -> None:
        for at in range(0, DRAWN, CHUNK):
            random.shift(held, held, law, 1, 1e-3, at)

    return draw


def multiplying() -> Callable[[], object]:
    """A (SIDE, TERMS) times B (TERMS, SIDE) in float32, as the matrix library does it: `MULTIPLIED` multiply-adds."""
    a, b, out = torch.ones(SIDE, TERMS), torch.ones(TERMS, SIDE), torch.empty(SIDE, SIDE)
    return lambda: torch.mm(a, b, out=out)


def bytes_of_step(model: Any, space: ParameterSpace, loss: str) -> dict[str, int]:
    """Bytes that one step has to move beyond its forwards.

    "update": every searched weight is read and written (a bf16 weight with its residual byte). "dense": that, and for
    the probes the weights are read once and written to scratch at two points. Weights of which a few rows are read
    are left out of the probes: the embedding table, and the output layer where two of its logits are wanted.
    """
    few = {id(model.get_input_embeddings().weight)}
    head = {id(model.get_output_embeddings().weight)}
    few = few | head if loss == "choice" else few - head
    update = sum(2 * _stored(site) for site in space)
    probes = sum(_probed(site) for site in space if id(site.parameter) not in few)
    return {"update": update, "dense": update + probes}


def _stored(site: Site) -> int:
    return site.numel * (site.parameter.element_size() + site.grid.has_residual)


def _probed(site: Site) -> int:
    return _stored(site) + 2 * site.numel * site.parameter.element_size()


def bandwidth(seconds: Iterable[float], moved: int) -> float:
    """Bytes a second, by the median copy."""
    ordered = sorted(seconds)
    return moved / ordered[len(ordered) // 2]
