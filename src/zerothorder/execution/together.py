"""Does a pass of all points give what points give one by one? Asked at the first step, a kind of layer at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zerothorder.execution import Executor, Surroundings
from zerothorder.execution.scaled import Scaled, scales
from zerothorder.execution.swap import owned
from zerothorder.key import Key
from zerothorder.objectives import Objective
from zerothorder.point import Point
from zerothorder.space import ParameterSpace, Site

if TYPE_CHECKING:
    from zerothorder.execution.batched import Batched

ROWS = 4
PRIMES = (1, 2, 3, 5, 7, 11)
"""Rows of the pass that tells what is a batch: the largest number here that a batch has."""
HARDER = 8.0
"""How much larger a perturbation is that shall confirm a difference."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 0.02}
"""Largest error as a share of the effect, by dtype of the weights; 16-bit activations are rounded otherwise in a
larger batch."""
TOLERANCE_16 = 0.25
ROUNDING = {torch.float64: (1e-9, 1e-6), torch.float32: (1e-4, 1e-2)}
"""Shares of the value that rounding usually explains where nothing is perturbed, and that it explains at most."""
ROUNDING_16 = (0.01, 0.2)


def check_together(
    batched: "Batched",
    objective: Objective,
    batches: Mapping[str, Any],
    point: Point,
    rows: int,
    copies: int,
    key: Key,
    around: Surroundings,
) -> None:
    """Compare on a few rows along two draws, all sites and then those of each kind of module by themselves.

    A kind that differs is added to `batched.singly`; where that does not help, `batched.reason` is set. No pass is
    larger than those of the run: `copies` points of `rows` rows.
    """
    around = replace(around, direction=Scaled(around.direction, scales(around.space)))
    chosen = (point.rows or tuple(range(rows)))[:ROWS]
    kinds = _kinds(around)
    tolerance = max(TOLERANCE.get(site.parameter.dtype, TOLERANCE_16) for site in around.space)
    rounding = max(ROUNDING.get(site.parameter.dtype, ROUNDING_16) for site in around.space)

    def look(
        executor: Executor,
        space: Sequence[Site],
        coefficients: Sequence[tuple[int, float]],
        rows: tuple[int, ...] = chosen,
    ) -> Tensor:
        points = [Point(((Key("check", 0, draw), c),) if c else (), point.on, rows) for draw, c in coefficients]
        bound = replace(around, space=ParameterSpace(space))
        found = executor.evaluate(points, objective, batches, key, bound)
        batched.swap.scratch.clear()  # of the largest module, which a pass of all points does without
        return torch.stack([v.value.double() for v in found])

    def differs(space: Sequence[Site], draws: int, alone: "Batched | None" = None, times: float = 1.0) -> bool:
        coefficients = [(draw, sign * times) for draw in range(draws) for sign in (1.0, -1.0)]
        alone = alone or fresh()
        found, truth = look(alone, space, coefficients), look(batched.swap, space, coefficients)
        if alone.reason is not None:
            batched.reason = alone.reason
            return False
        effect, error = (truth - base).square().mean().sqrt(), (found - truth).square().mean().sqrt()
        if error <= tolerance * effect + 4 * noise:
            return False
        # what rounding makes of a small effect is small beside a large one; a wrong value is not
        return times >= HARDER or differs(space, draws, alone, HARDER)

    def fresh(singly: frozenset[str] = frozenset()) -> "Batched":
        found = batched.again(check=False)
        found.copies, found.singly, found.rowless = copies, found.singly | singly, batched.rowless
        return found

    def unmoved(alone: "Batched") -> Tensor:
        """How far a pass without a perturbation is from the plain values."""
        # a prime number of rows, which lengths and heads seldom share: what is not a batch is not taken for one
        many = chosen[:1] * max(p for p in PRIMES if p <= max(1, rows))
        found = look(alone, sites, [(0, 0.0), (1, 0.0)], many)
        batched.reason = alone.reason
        return (found - base[:, :1]).square().mean().sqrt()

    sites = list(around.space)
    base = look(batched.swap, sites, [(0, 0.0)])
    size = base.square().mean().sqrt()
    # what a larger batch alone does to the rounding of activations; more than that is a kind that carries wrongly
    noise = unmoved(fresh())
    if batched.reason is None and noise > rounding[0] * size:
        noise = unmoved(fresh(frozenset(kinds)))
        if batched.reason is None and noise > rounding[1] * size:
            batched.reason = "rows evaluated together have other values than alone, even without a perturbation"
    for kind, own in kinds.items():
        if batched.reason is None and differs(own, 1):
            batched.singly |= {kind}
            if differs(own, 1):
                batched.reason = f"the rows of points mix in {kind}"
    alone = fresh()
    if batched.reason is None and differs(sites, 2, alone):
        batched.reason = "points evaluated together have other values than alone"
    elif batched.reason is None and alone.shared and differs(sites, 2, alone):  # now its first layers run once
        batched.shared = False


def _kinds(around: Surroundings) -> dict[str, list[Site]]:
    """Sites by the type of the module that registers them."""
    found: dict[str, dict[str, Site]] = {}
    for module, sites in owned(around.model, around.space, {})[0]:
        found.setdefault(type(module).__name__, {}).update({site.name: site for site in sites})
    return {kind: list(sites.values()) for kind, sites in found.items()}
