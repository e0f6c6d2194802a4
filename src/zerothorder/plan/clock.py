"""Time of a step on this machine: the operations of a forward and the passes over the weights, each measured once.

Every distinct operation of the traced forward is run on random tensors of its shapes and dtype and multiplied by how
often it occurs; a pass over the weights is measured on a few million synthetic ones. A few seconds, and no memory
of the model's size.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zerothorder.estimate import Step
from zerothorder.execution.probe import write_probe
from zerothorder.ledger.entry import Entry
from zerothorder.plan.trace import Operation, Shaped, Trace, arguments
from zerothorder.point import Point
from zerothorder.recipe import Recipe
from zerothorder.space import ParameterSpace
from zerothorder.state import State

_SAMPLE = 1 << 21
"""Synthetic weights that a pass is measured on."""
_COLD = 1 << 26
"""Bytes of weights in turn, so that a matrix is read from memory as in a model and not from the cache."""
_LARGEST = 1 << 28
"""Bytes of a tensor beyond which an operation is measured on a part and scaled."""
_MODULE = 12e-6
"""Seconds a module's hooks and call cost in Python, where its weights are exchanged."""
_FREE = ("prim.", "aten.view", "aten._unsafe_view", "aten.t.", "aten.transpose", "aten.unsqueeze", "aten.expand")


@dataclass(frozen=True)
class Clock:
    """Seconds: of one evaluation's forward, of a perturbation and an update pass, and ns an element of both."""

    evaluations: int
    perturbed: int
    forward: float
    perturbation: float
    update: float
    perturbation_ns: float
    update_ns: float
    gflops: float

    @property
    def step(self) -> float:
        """points × forward + perturbed points × perturbation + update."""
        return self.evaluations * self.forward + self.perturbed * self.perturbation + self.update


def calibrate(work: Trace, space: ParameterSpace, recipe: Recipe, points: Sequence[Point], pieces: float) -> Clock:
    """Measure. `pieces` is how many times the traced forward runs for one point (micro-batches)."""
    forward, gflops = _forward(work)
    probe_ns, update_ns = _passes(space, recipe, points)
    modules = len(space) * _MODULE
    return Clock(
        evaluations=len(points),
        perturbed=sum(bool(point.terms) for point in points),
        forward=forward * pieces,
        perturbation=pieces * (space.numel * probe_ns * 1e-9 + modules),
        update=space.numel * update_ns * 1e-9 + modules,
        perturbation_ns=probe_ns,
        update_ns=update_ns,
        gflops=gflops,
    )


def _forward(work: Trace) -> tuple[float, float]:
    """Seconds of the traced operations, and GFLOP/s of its matrix products."""
    total = products = flops = 0.0
    with torch.inference_mode():
        for operation, count in work.operations.items():
            if str(operation.function).startswith(_FREE):
                total += count * 1.5e-6
                continue
            seconds = _operation(operation)
            total += count * seconds
            if (work_of := _flops(operation)) > 0:
                products += count * seconds
                flops += count * work_of
    return total, flops / products / 1e9 if products else 0.0


def _flops(operation: Operation) -> int:
    """2·m·k·n of a matrix product, 0 for anything else."""
    name = str(operation.function).split(".")[1]
    shapes = [leaf.shape for leaf in operation.leaves if isinstance(leaf, Shaped)]
    if name not in ("mm", "addmm", "bmm") or len(shapes) < 2:
        return 0
    return 2 * torch.Size(shapes[-2]).numel() * shapes[-1][-1]


def _operation(operation: Operation) -> float:
    size = max((_bytes(leaf) for leaf in operation.leaves if isinstance(leaf, Shaped)), default=0)
    if size > _LARGEST:
        return size / 1e10  # nothing a forward of ours does to so large a tensor is more than a copy or two
    copies = max(1, min(8, _COLD // max(size, 1))) if _flops(operation) else 1
    try:
        calls = [arguments(operation, _random) for _ in range(copies)]
        operation.function(*calls[0][0], **calls[0][1])
        return _median([lambda c=c: operation.function(*c[0], **c[1]) for c in calls])
    except (RuntimeError, IndexError, TypeError, NotImplementedError):
        return 2e-6  # needs values that random tensors do not have: index arithmetic, of no size


def _bytes(shaped: Shaped) -> int:
    return torch.Size(shaped.shape).numel() * shaped.dtype.itemsize


def _random(shaped: Shaped) -> Tensor:
    extent = 1 + sum((n - 1) * step for n, step in zip(shaped.shape, shaped.stride, strict=True) if n)
    if shaped.dtype.is_floating_point:
        storage = torch.rand(extent, dtype=torch.float32).sub_(0.5).to(shaped.dtype)
    else:
        storage = torch.zeros(extent, dtype=shaped.dtype)
    return storage.as_strided(shaped.shape, shaped.stride)


def _median(calls: Sequence[Callable[[], object]], least: int = 5, budget: float = 0.15) -> float:
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < least or (time.perf_counter() - began < 0.01):
        start = time.perf_counter()
        calls[len(times) % len(calls)]()
        times.append(time.perf_counter() - start)
        if time.perf_counter() - began > budget and len(times) > 2:
            break
    return sorted(times)[len(times) // 2]


def _passes(space: ParameterSpace, recipe: Recipe, points: Sequence[Point]) -> tuple[float, float]:
    """ns an element of writing a perturbed copy and of an update, on synthetic weights of the searched dtype."""
    sites = list(space)
    like = max(sites, key=lambda site: site.numel)
    size = min(_SAMPLE, max(space.numel, 1))
    precision = like.grid.precision
    weights = torch.rand(size).to(like.parameter.dtype)
    site = ParameterSpace.site("plan.weight", torch.nn.Parameter(weights.view(1, -1), False), precision)
    one = ParameterSpace([site])
    direction, update, state = recipe.direction(bytes(16)), recipe.update(), State()
    step = Step(0, recipe.rates(0, 1), (), State())
    terms = next((point.terms for point in points if point.terms), ())
    keys = dict.fromkeys(key for point in points for key, _ in point.terms if not isinstance(key, str))
    entry = Entry(0, tuple((key, 1.0) for key in keys), {}, step.rates)
    update.apply(entry, one, direction, state)  # compiles, and makes the State
    out = torch.empty_like(site.parameter)
    write_probe(out, site, terms, direction, state)
    probe = _median([lambda: write_probe(out, site, terms, direction, state)], 7)
    moved = _median([lambda: update.apply(entry, one, direction, state)], 7)
    return probe / size * 1e9, moved / size * 1e9
