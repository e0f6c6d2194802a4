"""`Swap`: a module's weights are exchanged for a perturbed scratch while it runs. Any model, one module's memory."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch import nn

from zerothorder.execution import Surroundings
from zerothorder.execution.evaluate import WEIGHT, seeded, value_at
from zerothorder.execution.exchange import Exchange, Scratch
from zerothorder.execution.interrupts import Interrupts
from zerothorder.execution.observe import named_modules
from zerothorder.execution.tangents import Tangents, forward_mode
from zerothorder.key import Key
from zerothorder.objectives import Objective
from zerothorder.point import Point, Values
from zerothorder.profile import phase
from zerothorder.space import ParameterSpace, Site


class Swap:
    """Evaluates points one at a time; θ is exchanged, never written.

    A site is exchanged while the module that owns it runs: `owners` (site name → module name) overrides the module
    that registers it, for weights read elsewhere; "" exchanges it for the whole evaluation. `execution.check` finds
    those. Scratch memory is that of the largest module, and of the largest inside another that owns sites too.

    `poison` overwrites a scratch with NaN when its module returns, so that weights used later show.
    """

    def __init__(self, owners: Mapping[str, str] | None = None, *, poison: bool = False) -> None:
        self.owners = dict(owners or {})
        self.poison = poison
        self.scratch: Scratch = {}

    def again(self, owners: Mapping[str, str]) -> "Swap":
        """A fresh one with other owners."""
        return Swap(owners, poison=self.poison)

    @property
    def nbytes(self) -> int:
        """Scratch memory held now."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.scratch.values())

    def evaluate(
        self,
        points: Sequence[Point],
        objective: Objective,
        batches: Mapping[str, Any],
        key: Key,
        around: Surroundings,
    ) -> list[Values]:
        """See `Executor.evaluate`."""
        values: list[Values] = []
        constant = getattr(objective, "constant_without_grad", False)
        with phase("perturbation"):
            plan, whole = owned(around.model, around.space, self.owners)
        if constant and whole:  # a forward at θ is one of the model: as long as that runs is long enough
            plan, whole = [*plan, (around.model, whole)], []
        with Interrupts() as interrupts, around.meter.watching(around.model):
            for point in points:
                slope = point.want == "slope"
                with forward_mode() if slope else nullcontext():
                    kind = Tangents if slope else Exchange
                    exchange = kind(self.scratch, point.terms, around, interrupts, self.poison, constant)
                    try:
                        with phase("perturbation"):
                            if point.terms and point.want == "gradient":
                                # autograd saves the parameter, not its data: backward must see the probe too
                                exchange.install([], list(around.space))
                            elif point.terms:
                                exchange.install(plan, whole)
                        look = seeded(key, around.direction.run_key, around.model)
                        weighing = around.meter.weighing(WEIGHT[point.want], point.want == "gradient")
                        with look, interrupts.heard(), weighing:
                            values.append(value_at(around.model, around.space, point, objective, dict(batches)))
                    finally:
                        exchange.close()
        return values


def owned(
    model: nn.Module, space: ParameterSpace, owners: Mapping[str, str]
) -> tuple[list[tuple[nn.Module, list[Site]]], list[Site]]:
    """Sites by the module they are exchanged with, and those exchanged for the whole evaluation."""
    modules = dict(named_modules(model))
    rest = {id(site.parameter): site for site in space if site.name not in owners}
    found: dict[nn.Module, dict[str, Site]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if (site := rest.get(id(parameter))) is not None:
                found.setdefault(module, {})[site.name] = site
    placed = {name for sites in found.values() for name in sites}
    whole: list[Site] = []
    for site in space:
        owner = owners.get(site.name, "")
        if owner:
            found.setdefault(modules[owner], {})[site.name] = site
        elif site.name not in placed:
            whole.append(site)
    return [(module, list(sites.values())) for module, sites in found.items()], whole
