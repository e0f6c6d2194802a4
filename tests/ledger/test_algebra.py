"""What a ledger of (key, scalar) pairs allows beyond replay: taking a step back, and a pool of directions."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zerothorder.directions.laws import Dense
from zerothorder.execution.copy import Copy
from zerothorder.key import Key, run_key
from zerothorder.ledger.entry import Entry, Rates
from zerothorder.point import Values
from zerothorder.recipes.mezo import MeZO
from zerothorder.run import Run
from zerothorder.space import ParameterSpace
from zerothorder.state import State
from zerothorder.updates import Update
from zerothorder.updates.transforms import WeightDecay

KEY = run_key(0)


def entry(step: int, terms: list[tuple[Key, float]], lr: float = 0.5, decay: float = 0.0, **more: Any) -> Entry:
    rates = {"decay": Rates(lr, decay), "plain": Rates(lr)}
    return Entry(step, tuple(terms), {}, rates, **more)


def moved(start: Tensor, entries: list[Entry], update: Update) -> Tensor:
    model = nn.Module()
    model.w = nn.Parameter(start.clone())
    space, state, direction = ParameterSpace.of(model), State(), Dense(KEY, "gaussian")
    for e in entries:
        update.apply(e, space, direction, state)
    return model.w.detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_taken_back_is_within_an_ulp(dtype: torch.dtype) -> None:
    """θ - d + d: the first rounding is at most half an ulp of the larger of θ and θ - d, the second as much."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(50, 60, generator=generator, dtype=torch.float64).to(dtype)
    there = entry(0, [(Key("z", 0, 0), 0.3), (Key("z", 0, 1), -0.7)])
    back = dataclasses.replace(there, terms=tuple((key, -scalar) for key, scalar in there.terms))
    away, home = moved(start, [there], Update()), moved(start, [there, back], Update())
    largest = torch.maximum(start.abs(), away.abs())
    ulp = torch.nextafter(largest, torch.full_like(largest, torch.inf)) - largest
    assert not torch.equal(away, start)
    assert bool(((home - start).abs() <= ulp).all())


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_pool_of_directions_replays_in_any_order_without_decay_and_only_then(decay: float) -> None:
    """FedKSeed: w0 - lr·Σ_k acc_k·z_k equals the sequence of steps; with weight decay it does not, as published."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(20, 30, generator=generator, dtype=torch.float64)
    scalars = torch.randn(40, generator=generator, dtype=torch.float64).tolist()
    pool = [Key("pool", k) for k in range(6)]
    steps = [(pool[(7 * t * t + t) % 6], s) for t, s in enumerate(scalars)]
    update = Update((WeightDecay(),))
    sequential = moved(start, [entry(t, [step], 0.01, decay) for t, step in enumerate(steps)], update)
    sums = {key: sum(s for k, s in steps if k == key) for key in pool}
    at_once = moved(start, [entry(0, list(sums.items()), 0.01, decay)], update)
    off = float((sequential - at_once).abs().max())
    # 40 steps of at most 2^-52 of a few units each, against a decay of 4 % that was applied once
    assert off < 1e-13 if decay == 0.0 else off > 1e-2


def test_absolute_scalars_hold_the_rate_already() -> None:
    start = torch.ones(8, 8, dtype=torch.float64)
    relative = moved(start, [entry(0, [(Key("z", 0), 0.25)], lr=0.5)], Update())
    absolute = moved(start, [entry(0, [(Key("z", 0), 0.125)], lr=9.0, absolute=True)], Update())
    assert torch.equal(relative, absolute)


class Bowl(nn.Module):
    """½‖w‖² in 50 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(50, dtype=torch.float64))


class Height:
    def prepare(self, model: nn.Module, batch: None, key: Key) -> None:
        return batch

    def evaluate(self, model: Bowl, prepared: None) -> Values:
        return Values.of(model.w.square().sum() / 2)


def test_both_laws_descend_alike() -> None:
    """The mean log-loss after 60 steps differs between the laws by less than 4 standard errors, 8 seeds each.

    Per step E‖w‖² falls by 1 - 2·lr + lr²·(d + 2) with normals and 1 - 2·lr + lr²·d with signs: 1 % apart at the end.
    """
    ends: dict[str, list[float]] = {"gaussian": [], "rademacher": []}
    for law, found in ends.items():
        for seed in range(8):
            model = Bowl()
            recipe = MeZO(lr=0.01, eps=1e-3, law=law)  # type: ignore[arg-type]
            run = Run(model, ParameterSpace.of(model), recipe, Height(), Copy(), seed=seed)
            for _ in range(60):
                run.step(None)
            found.append(math.log(float(model.w.detach().square().sum()) / 50))
    gaussian, rademacher = (torch.tensor(ends[law], dtype=torch.float64) for law in ("gaussian", "rademacher"))
    error = float(((gaussian.var() + rademacher.var()) / 8).sqrt())
    assert abs(float(gaussian.mean() - rademacher.mean())) < 4 * error
    for found in (gaussian, rademacher):  # and as the formula says, up to Jensen's gap of half the variance
        assert float(found.mean()) == pytest.approx(60 * math.log(1 - 0.02 + 0.0051) - float(found.var()) / 2, abs=0.2)
