"""One perturbation pass ÷ one `add_` pass over all weights of the model."""

from typing import Any

import torch
from benchmarks import floors
from benchmarks.common import Settings, interleaved, load, ratios, summary

from zerothorder.directions import Direction
from zerothorder.directions.laws import Dense
from zerothorder.directions.lowrank import LowRank
from zerothorder.execution.probe import write_probe
from zerothorder.key import Key
from zerothorder.ledger.entry import Entry, Rates
from zerothorder.space import ParameterSpace
from zerothorder.state import State
from zerothorder.updates import Update, WeightDecay

DIRECTIONS: dict[str, Direction] = {
    "rademacher": Dense(bytes(16), "rademacher"),
    "gaussian": Dense(bytes(16), "gaussian"),
    "low_rank": LowRank(bytes(16), 1, "rademacher"),
}


def measure(settings: Settings, dtype: str) -> dict[str, Any]:
    """`add_`: p.add_(0), the cheapest pass that reads and writes every weight. A perturbation writes into scratch.

    `draw_*`: the same number of elements drawn and added in cache, the arithmetic of a pass without its memory.
    """
    model = load(settings, dtype)
    space, state = ParameterSpace.of(model), State()
    scratch = torch.empty(max(site.numel for site in space), dtype=getattr(torch, dtype))
    key, update, rates = Key("z", 0, 0), Update((WeightDecay(),)), {g: Rates(1e-9) for g in ("decay", "plain")}

    def perturb(direction: Direction) -> None:
        for site in space:
            write_probe(scratch[: site.numel], site, ((key, 1e-3),), direction, state)

    def step(direction: Direction) -> None:
        update.apply(Entry(0, ((key, 1.0),), {}, rates), space, direction, state)

    @torch.no_grad()
    def add() -> None:
        for site in space:
            site.parameter.add_(0.0)

    @torch.no_grad()
    def randn() -> None:
        for site in space:
            scratch[: site.numel].copy_(site.read())
            scratch[: site.numel].add_(torch.randn(site.numel, dtype=scratch.dtype), alpha=1e-3)

    step(DIRECTIONS["rademacher"])  # so that a 16-bit weight has its residual byte, as from the second step on
    seconds = interleaved(
        {
            "add_": add,
            **{f"perturb_{name}": lambda d=direction: perturb(d) for name, direction in DIRECTIONS.items()},
            **{f"update_{name}": lambda d=direction: step(d) for name, direction in DIRECTIONS.items()},
            "randn_and_add": randn,
            **{f"draw_{law}": floors.drawing(law) for law in ("rademacher", "gaussian")},
        },
        settings,
    )
    for law in ("rademacher", "gaussian"):
        seconds[f"draw_{law}"] = [second * space.numel / floors.DRAWN for second in seconds[f"draw_{law}"]]
    found = summary(seconds)
    medians = found["median_seconds"]
    return {
        "dtype": dtype,
        "weights": space.numel,
        "ns_a_weight": {name: second / space.numel * 1e9 for name, second in medians.items()},
        "ratio": ratios(seconds, "add_"),
        **found,
    }
