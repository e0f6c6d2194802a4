"""One perturbation pass ÷ one `add_` pass over all weights of the model."""

from typing import Any

import torch
from benchmarks.common import Settings, interleaved, load, summary

from zerothorder.directions.laws import Dense
from zerothorder.execution.probe import write_probe
from zerothorder.key import Key
from zerothorder.ledger.entry import Entry, Rates
from zerothorder.space import ParameterSpace
from zerothorder.state import State
from zerothorder.updates import Update, WeightDecay


def measure(settings: Settings, dtype: str) -> dict[str, Any]:
    """`add_`: p.add_(0), the cheapest pass that reads and writes every weight. A perturbation writes into scratch."""
    model = load(settings, dtype)
    space, state = ParameterSpace.of(model), State()
    scratch = torch.empty(max(site.numel for site in space), dtype=getattr(torch, dtype))
    key, update, rates = Key("z", 0, 0), Update((WeightDecay(),)), {g: Rates(1e-9) for g in ("decay", "plain")}

    def perturb(law: str) -> None:
        direction = Dense(b"benchmark", law)
        for site in space:
            write_probe(scratch[: site.numel], site, ((key, 1e-3),), direction, state)

    def step(law: str) -> None:
        update.apply(Entry(0, ((key, 1.0),), {}, rates), space, Dense(b"benchmark", law), state)

    @torch.no_grad()
    def add() -> None:
        for site in space:
            site.parameter.add_(0.0)

    @torch.no_grad()
    def randn() -> None:
        for site in space:
            scratch[: site.numel].copy_(site.read())
            scratch[: site.numel].add_(torch.randn(site.numel, dtype=scratch.dtype), alpha=1e-3)

    step("rademacher")  # so that a 16-bit weight has its residual byte, as from the second step on
    seconds = interleaved(
        {
            "add_": add,
            "perturb_rademacher": lambda: perturb("rademacher"),
            "perturb_gaussian": lambda: perturb("gaussian"),
            "update_rademacher": lambda: step("rademacher"),
            "update_gaussian": lambda: step("gaussian"),
            "randn_and_add": randn,
        },
        settings.repeats,
    )
    found = summary(seconds)
    medians = found["median_seconds"]
    return {
        "dtype": dtype,
        "weights": space.numel,
        "ns_a_weight": {name: second / space.numel * 1e9 for name, second in medians.items()},
        "ratio": {name: second / medians["add_"] for name, second in medians.items()},
        **found,
    }
