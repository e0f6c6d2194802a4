"""Time of a step on this machine: the operations of a forward and the passes over the weights, each measured once.

Every distinct operation of the traced forward is run on random tensors of its shapes and dtype and multiplied by how
often it occurs; a pass over the weights is measured on a few million synthetic ones. A few seconds, and no memory
of the model's size.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zerothorder.execution import Surroundings
from zerothorder.execution.probe import write_probe
from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.ledger.entry import Entry
from zerothorder.objectives.wrap import Closure
from zerothorder.plan.prepared import Moved, prepared
from zerothorder.plan.trace import Operation, Shaped, Trace, arguments
from zerothorder.point import Point
from zerothorder.recipe import Recipe
from zerothorder.space import ParameterSpace

_SAMPLE, _TENSORS = 1 << 21, 24
"""Size and number of the synthetic tensors that a pass is measured on: together more than a cache holds."""
_COLD, _SMALL = 1 << 26, 1 << 16
"""Bytes of arguments that take turns, and the size below which they do not have to."""
_LARGEST = 1 << 28
"""Bytes of a tensor beyond which an operation is measured on a part and scaled."""
_SHORT = 1024
"""Rows of a synthetic matrix."""
_LAYERS = 24
"""Layers of the tiny network that the cost of an exchange is measured on."""
_VIEW = 1.5e-6
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
        """evaluations × forward + perturbed evaluations × perturbation + update."""
        return self.evaluations * self.forward + self.perturbed * self.perturbation + self.update


@dataclass(frozen=True)
class Exchanged:
    """What one evaluation perturbs: weights and tensors; a tied one counts in each module that runs with it."""

    weights: int
    tensors: int

    @classmethod
    def of(cls, model: nn.Module, space: ParameterSpace, recipe: Recipe, executor: str) -> "Exchanged":
        """`Swap` and `Batched` visit modules, `Copy` tensors; weights whose z has factors are not written."""
        matrix: Any = getattr(recipe.direction(bytes(16)), "matrix", lambda site: None)
        searched = {id(site.parameter): site.numel for site in space}
        if executor == "copy":
            return cls(space.numel, len(space))
        if executor == "batched":
            searched = {id(site.parameter): 0 if matrix(site) else site.numel for site in space}
        met = [searched[id(p)] for m in model.modules() for p in m.parameters(recurse=False) if id(p) in searched]
        return cls(sum(met), len(met))


def calibrate(
    work: Trace,
    space: ParameterSpace,
    exchanged: Exchanged,
    recipe: Recipe,
    points: Sequence[Point],
    pieces: float,
    moved: Moved,
) -> Clock:
    """Measure. `pieces` is how many times the traced forward runs for one point (micro-batches)."""
    forward, gflops = _forward(work)
    probe_ns, update_ns = _passes(space, recipe, points, moved)
    exchange, update = _overheads(recipe, points, moved)
    return Clock(
        evaluations=len(points),
        perturbed=sum(bool(point.terms) for point in points),
        forward=forward * pieces,
        perturbation=moved.share * pieces * (exchanged.weights * probe_ns * 1e-9 + exchanged.tensors * exchange),
        update=space.numel * update_ns * 1e-9 + len(space) * update,
        perturbation_ns=probe_ns,
        update_ns=update_ns,
        gflops=gflops,
    )


def _forward(work: Trace) -> tuple[float, float]:
    """Seconds of the traced operations, and GFLOP/s of its matrix products."""
    total = products = flops = 0.0
    with torch.inference_mode():
        for operation, count in work.operations.items():
            seconds = _VIEW if str(operation.function).startswith(_FREE) else _operation(operation)
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
    # in turns over so many bytes that they come from memory, as in a model, and not from the cache
    copies = max(1, min(16, _COLD // max(size, 1))) if size > _SMALL else 1
    try:
        calls = [arguments(operation, _random) for _ in range(copies)]
        operation.function(*calls[0][0], **calls[0][1])
        return _mean([lambda c=c: operation.function(*c[0], **c[1]) for c in calls])
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


def _mean(calls: Sequence[Callable[[], object]], least: int = 6, span: float = 0.03) -> float:
    """Mean over at least so many calls and so many seconds: what slows a machine now and then slows a run too."""
    began, count = time.perf_counter(), 0
    while count < least or time.perf_counter() - began < span:
        calls[count % len(calls)]()
        count += 1
    return (time.perf_counter() - began) / count


def _passes(space: ParameterSpace, recipe: Recipe, points: Sequence[Point], moved: Moved) -> tuple[float, float]:
    """ns an element of writing a perturbed copy and of an update, on synthetic weights of the searched dtype."""
    sites = list(space)
    like = max(sites, key=lambda site: site.numel)
    size = min(_SAMPLE, max(space.numel, 1))
    count = max(1, min(_TENSORS, space.numel // size))
    # a matrix of the usual kind, so that directions with factors have them
    weights = torch.rand(size).to(like.parameter.dtype).view(_SHORT if size % _SHORT == 0 else 1, -1)
    copies = [nn.Parameter(weights.clone(), False) for _ in range(count)]
    synthetic = [ParameterSpace.site(f"plan.{i}", copy, like.grid.precision) for i, copy in enumerate(copies)]
    drawn = ParameterSpace(synthetic)
    direction, update, state = recipe.direction(bytes(16)), recipe.update(), prepared(recipe, drawn)
    terms = next((point.terms for point in points if point.terms), ())
    entry = Entry(0, tuple((key, 1.0) for key in moved.keys), {}, recipe.rates(0, 1))
    update.apply(entry, drawn, direction, state)  # compiles, and makes the State
    out = torch.empty_like(weights)
    probe = _mean([lambda site=site: write_probe(out, site, terms, direction, state) for site in drawn], 2 * count)
    stepped = _mean([lambda: update.apply(entry, drawn, direction, state)])
    return probe / size * 1e9, stepped / (size * count) * 1e9


def _overheads(recipe: Recipe, points: Sequence[Point], moved: Moved) -> tuple[float, float]:
    """Seconds that one tensor costs whatever its size: exchanged for an evaluation, and updated."""
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(_LAYERS))).requires_grad_(True)
    space, direction = ParameterSpace.of(model), recipe.direction(bytes(16))
    state = prepared(recipe, space)
    point = next((point for point in points if point.terms), Point())
    around, swap, key = Surroundings(model, space, direction, state), Swap(), Key("plan", 0)
    objective, batch = Closure(), lambda: model(torch.ones(1, 2)).sum()

    def evaluate(at: Point) -> None:
        swap.evaluate([at], objective, {"main": batch}, key, around)

    entry = Entry(0, tuple((key, 0.0) for key in moved.keys), {}, recipe.rates(0, 1))
    update = recipe.update()
    update.apply(entry, space, direction, state)
    evaluate(point)
    exchange = _mean([lambda: evaluate(point)]) - _mean([lambda: evaluate(Point())])
    return max(exchange, 0.0) / _LAYERS, _mean([lambda: update.apply(entry, space, direction, state)]) / _LAYERS
