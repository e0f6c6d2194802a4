"""Applying one entry of many terms ÷ as often applying an entry of one, over the whole model."""

from typing import Any

from benchmarks import floors
from benchmarks.common import Settings, against, interleaved, load, summary
from benchmarks.steps import LR, recipe

from zerothorder.key import Key, run_key
from zerothorder.ledger.entry import Entry, Rates
from zerothorder.space import ParameterSpace
from zerothorder.state import State

TERMS, SINGLE = 256, 8
"""Terms of the large entry; entries of one term that are timed together, one being too short."""


def measure(settings: Settings, dtype: str, method: str) -> dict[str, Any]:
    """Both in turns, with the recipe's own direction and update."""
    model = load(settings, dtype)
    space, state, method_ = ParameterSpace.of(model), State(), recipe(method)
    direction, update = method_.direction(run_key(0)), method_.update()
    rates = {group: Rates(LR) for group in ("decay", "plain")}
    many = Entry(0, tuple((Key("z", 0, j), (-1.0) ** j) for j in range(TERMS)), {}, rates)
    single = [Entry(step, ((Key("z", step, 0), (-1.0) ** step),), {}, rates) for step in range(1, SINGLE + 1)]

    def one_by_one() -> None:
        for entry in single:
            update.apply(entry, space, direction, state)

    law = "gaussian" if method == "mezo" else "rademacher"
    seconds = interleaved(
        {
            "one_entry": lambda: update.apply(many, space, direction, state),
            "one_term": one_by_one,
            "draw": floors.drawing(law),
            "multiply": floors.multiplying(),
        },
        settings,
    )
    seconds["one_term"] = [second / SINGLE for second in seconds["one_term"]]
    found = summary(seconds)
    medians = found["median_seconds"]
    arithmetic = medians["multiply"] / floors.MULTIPLIED if method == "low-rank" else medians["draw"] / floors.DRAWN
    return {
        "dtype": dtype,
        "method": method,
        "terms": TERMS,
        "weights": space.numel,
        # a term cannot be added faster than it is drawn in cache; with factors than its products are summed
        "floor": space.numel * arithmetic / medians["one_term"],
        "ratio": {"one_entry": against(seconds, "one_entry", "one_term", 1 / TERMS).median},
        **found,
    }
