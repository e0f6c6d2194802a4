"""Batched is the loop over copied models to 1e-10 in float64, on every family of models and under every law.

The norms of many families compute in float32 whatever the model's dtype: a value between two of its numbers is rounded
there to the one or the other by the last bit of float64. For these the bound is 1e-8.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from small_families import MODELS, Mean, around, build
from zerothorder.directions.laws import Dense
from zerothorder.directions.lowrank import LowRank
from zerothorder.execution.batched import Batched
from zerothorder.execution.check import check_sites
from zerothorder.execution.copy import Copy
from zerothorder.key import Key, run_key
from zerothorder.point import Point

KEY = Key("prepare", 3)
DIRECTIONS: dict[str, Any] = {
    "gaussian": Dense(run_key(0), "gaussian"),
    "rank-1": LowRank(run_key(0), 1, "gaussian"),
    "rank-3": LowRank(run_key(0), 3, "rademacher"),
}
# a bias for every pair of positions, and a cache for all rows: no batch to tell points apart by, so Swap takes over
NOT_TOGETHER = {"t5": "Embedding", "mamba": "MambaMixer"}


def pairs(draws: int, eps: float = 0.05) -> list[Point]:
    return [Point(((Key("z", 3, j), s * eps),)) for j in range(draws) for s in (1.0, -1.0)]


def look(executor: Any, bound: Any, batch: Any, points: list[Point]) -> torch.Tensor:
    return torch.stack([v.value for v in executor.evaluate(points, Mean(), {"main": batch}, KEY, bound)])


@pytest.mark.parametrize("law", sorted(DIRECTIONS))
@pytest.mark.parametrize("name", sorted(MODELS))
def test_batched_is_copy(name: str, law: str) -> None:
    dtype, error = (torch.float32, 1e-5) if name == "mixtral" else (torch.float64, 1e-10)  # its experts lack float64
    model, batch = build(name, dtype)
    if any("RMSNorm" in type(module).__name__ for module in model.modules()):
        error = max(error, 1e-8)
    bound = replace(around(model), direction=DIRECTIONS[law])
    owners = check_sites(bound, Mean(), batch, mode="joint").owners
    before = [(p.data_ptr(), p._version, p.detach().clone()) for p in model.parameters()]
    kinds = [type(m) for m in model.modules()]
    for points in (pairs(1), pairs(3)):
        batched = Batched(owners)
        found, truth = look(batched, bound, batch, points), look(Copy(), bound, batch, points)
        assert torch.allclose(found, truth, rtol=0, atol=error)
        assert (batched.reason is None) == (name not in NOT_TOGETHER)
        assert NOT_TOGETHER.get(name, "") in (batched.reason or "")
        assert len({tuple(v) for v in found.tolist()}) == len(points)
    assert [type(m) for m in model.modules()] == kinds
    for p, (at, version, own) in zip(model.parameters(), before, strict=True):
        assert (p.data_ptr(), p._version) == (at, version)
        assert torch.equal(p, own)


def test_all_points_share_one_call_of_the_model() -> None:
    model, batch = build("llama", torch.float64)
    bound = around(model)
    look(Batched(check=False), bound, batch, pairs(3))
    assert bound.meter.calls == 1
    assert bound.meter.examples == 6 * len(batch["input_ids"])
