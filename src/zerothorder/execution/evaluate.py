"""One point at the model as it stands: what every executor does once the weights are in place."""

import random as python_random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zerothorder.errors import UsageError
from zerothorder.execution.tangents import unpacked
from zerothorder.key import Key
from zerothorder.objectives import Objective
from zerothorder.point import Point, Values
from zerothorder.space import ParameterSpace, Site

WEIGHT = {"value": 1, "slope": 2, "gradient": 3}
"""Forwards that a point counts for."""
_EVALUATION = 0  # a site id no name hashes to in practice: the draw belongs to the whole evaluation


@contextmanager
def seeded(key: Key, run_key: bytes, model: nn.Module) -> Generator[None]:
    """Global generators seeded from the key inside, left as found outside: dropout is the same at every point."""
    seed = Key("eval", key.a, key.b).seed(run_key, _EVALUATION)
    python, legacy = python_random.getstate(), np.random.get_state()
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices):  # type: ignore[reportUnknownMemberType]
        # torch.manual_seed would record a stack trace at every call: a millisecond a point
        torch.default_generator.manual_seed(seed >> 1)
        for index in devices:
            torch.cuda.default_generators[index].manual_seed(seed >> 1)
        python_random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        try:
            yield
        finally:
            python_random.setstate(python)
            np.random.set_state(legacy)


def value_at(
    model: nn.Module, space: ParameterSpace, point: Point, objective: Objective, batches: dict[str, Any]
) -> Values:
    """Evaluate the objective for one point whose weights are already in place."""
    if point.on not in batches:
        raise UsageError(f"the step has no batch named {point.on!r}; it was given {', '.join(batches)}")
    prepared = batches[point.on]
    if point.rows is not None:
        select = getattr(objective, "select", None)
        if select is None:
            raise UsageError(f"{type(objective).__name__} cannot be evaluated on some rows; it has no select()")
        prepared = select(prepared, point.rows)
    if point.want == "gradient":
        with torch.inference_mode(False), torch.enable_grad():
            return _gradient(model, space, point, objective, prepared)
    if getattr(objective, "constant_without_grad", False):
        with torch.inference_mode(False), torch.enable_grad(), _asking_for_none(model):
            return _plain(objective.evaluate(model, prepared), point)
    if point.want == "slope":
        with torch.inference_mode(False), torch.no_grad():
            return _plain(objective.evaluate(model, prepared), point)
    with torch.inference_mode():
        return objective.evaluate(model, prepared)


def _plain(found: Values, point: Point) -> Values:
    """Values without a graph, and of dual numbers their slope."""
    if point.want == "slope":
        value, slope = unpacked(found.value)
        return replace(found, value=value, slope=slope)
    return replace(found, value=found.value.detach())


def _gradient(model: nn.Module, space: ParameterSpace, point: Point, objective: Objective, prepared: Any) -> Values:
    """The objective's own gradient where it has one, else that of its weighted mean by autograd; of the point's sites,
    so that the graph begins where the first of them is used."""
    sites = list(space) if point.sites is None else [space.by_name[name] for name in point.sites]
    own = getattr(objective, "gradient", None)
    if own is not None:
        found: Values = own(model, prepared)
        parts = found.gradient or {}
        return replace(found, gradient={site.name: parts[site.name] for site in sites})
    with _asking_for_none(model, [site.parameter for site in sites]):
        return _differentiated(sites, objective, model, prepared)


def _differentiated(sites: Sequence[Site], objective: Objective, model: nn.Module, prepared: Any) -> Values:
    found = objective.evaluate(model, prepared)
    if not found.value.requires_grad:
        raise UsageError(
            f"{type(objective).__name__} gives numbers without a gradient, which this recipe needs; use a zeroth-order "
            "recipe"
        )
    mean = (found.value * found.weight).sum() / found.weight.sum()
    # None for a site that the value does not depend on, which torch's own types leave out
    parts: Any = torch.autograd.grad(mean, [site.parameter for site in sites], allow_unused=True)
    gradient = {
        site.name: torch.zeros_like(site.parameter) if part is None else part
        for site, part in zip(sites, parts, strict=True)
    }
    return Values(found.value.detach(), found.weight, gradient, found.detail)


@contextmanager
def _asking_for_none(model: nn.Module, but: Sequence[Tensor] = ()) -> Generator[None]:
    """No parameter asks for a gradient inside, `but` those. Without any, and where something else asks (activations,
    for checkpointing), nothing is kept for a backward pass."""
    keep = {id(parameter) for parameter in but}
    asking = [p for p in model.parameters() if p.requires_grad and id(p) not in keep]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        if but:
            yield
            return
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, _nothing):
            yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def _nothing(packed: None) -> torch.Tensor:
    raise RuntimeError("a backward pass through an evaluation, which keeps nothing for it")
