"""One golden row a recipe: from a seed to the loss and the weights after a few steps, exact on every machine.

The toy model's value is Python arithmetic in a fixed order, and updates are fixed-order kernels: so a row that
changes means that recorded ledgers of this recipe would no longer replay. A new recipe gets its row by running
`python tests/recipes/test_golden.py NAME`, which prints it.
"""

import dataclasses
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from zerothorder.catalogue import CATALOGUE
from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.point import Values
from zerothorder.recipes.zopro import guide
from zerothorder.run import Run
from zerothorder.space import ParameterSpace

GOLDEN = Path(__file__).parents[1] / "golden" / "recipes.json"


class Toy(nn.Module):
    """A table and a bias, far from where they belong."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter((torch.arange(96).view(8, 12) - 40) / 64)
        self.bias = nn.Parameter(torch.arange(8) / 16)

    def forward(self) -> list[list[float]]:
        # of dual numbers, while a slope is asked for: tangents in the order of what is returned
        table, bias = (forward_ad.unpack_dual(p).tangent for p in (self.table, self.bias))
        self.tangents = [] if table is None else torch.cat((bias[:, None], table), 1).flatten().tolist()
        return [[b, *row] for b, row in zip(self.bias.tolist(), self.table.tolist(), strict=True)]


class Distance:
    """Σ (w - ¼)², exactly rounded; one number, so that nothing is left for torch to sum."""

    def prepare(self, model: nn.Module, batch: Any, key: Key) -> Any:
        return batch

    def evaluate(self, model: nn.Module, prepared: Any) -> Values:
        value = math.fsum((w - 0.25) ** 2 for row in model() for w in row)
        if not model.tangents:
            return Values.of(value)
        pairs = zip([w for row in model() for w in row], model.tangents, strict=True)
        parts = [
            torch.tensor([n], dtype=torch.float64) for n in (value, math.fsum(2 * (w - 0.25) * t for w, t in pairs))
        ]
        return Values(forward_ad.make_dual(*parts), torch.ones(1))

    def gradient(self, model: nn.Module, prepared: Any) -> Values:
        """2 (w - ¼), rounded once."""
        found = self.evaluate(model, prepared)
        return Values(found.value, found.weight, {n: 2 * (p.detach() - 0.25) for n, p in model.named_parameters()})


def run_of(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row's results, computed."""
    model = Toy().to(getattr(torch, row["dtype"]))
    recipe = CATALOGUE[name].recipe(**row["settings"])
    steps = row["steps"]
    run = Run(model, ParameterSpace.of(model), recipe, Distance(), Swap(), seed=row["seed"], steps=steps)
    if "mu" in recipe.tags:
        # towards the minimum, and off a vector of equal elements: exact in binary, both
        shapes = {name: p.detach() for name, p in model.named_parameters()}
        guide(run, {n: 0.25 - p for n, p in shapes.items()}, {n: torch.ones_like(p) for n, p in shapes.items()})
    losses = [run.step(None).notes["loss"] for _ in range(steps)]
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return {"loss": losses[-1].hex(), "weights": digest.hexdigest()}


RATES = {"zo-sgd-sign": 0.01, "zo-adam": 0.05, "sparse-gradient": 2e-3, "zspo": 0.02}
STEPS = {"zo-sgd-sign": 100, "zo-adam": 40}


def fresh(name: str) -> dict[str, Any]:
    """A new row: the recipe's own settings, at a rate that moves the toy."""
    kind = CATALOGUE[name].recipe
    settings = {
        f.name: {"lr": RATES.get(name, 1e-3), "eps": 1e-2}[f.name]
        for f in dataclasses.fields(kind)
        if f.name in ("lr", "eps")
    }  # type: ignore[arg-type]
    row = {"seed": 0, "steps": STEPS.get(name, 20), "dtype": "float32", "settings": settings}
    return row | run_of(name, row)


def rows() -> dict[str, list[dict[str, Any]]]:
    return json.loads(GOLDEN.read_text())


def test_every_recipe_of_the_catalogue_has_a_row_and_every_row_a_recipe() -> None:
    # what other tests register belongs to them
    shipped = {name for name, row in CATALOGUE.items() if row.recipe.__module__.startswith("zerothorder.recipes.")}
    found = {name for name, kept in rows().items() if kept}
    assert found == shipped, f"run `python {Path(__file__).name} NAME` for {shipped ^ found} and keep its row"


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, kept in rows().items() for row in kept])
def test_the_row_is_still_what_comes_out(name: str, row: dict[str, Any]) -> None:
    kept = {key: row[key] for key in ("loss", "weights")}
    assert run_of(name, row) == kept


def test_a_row_s_run_lowers_the_loss() -> None:
    start = Distance().evaluate(Toy(), None).mean()
    for kept in rows().values():
        assert float.fromhex(kept[0]["loss"]) < 0.95 * start


if __name__ == "__main__":
    print(json.dumps({name: [fresh(name)] for name in sys.argv[1:]}, indent=2))
