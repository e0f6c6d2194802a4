"""One direction object serves looking and moving: the z an evaluation saw is the z the step goes along."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zerothorder import space as space_module
from zerothorder import updates as updates_module
from zerothorder.directions.laws import Dense
from zerothorder.directions.maps import Multiply
from zerothorder.execution import probe as probe_module
from zerothorder.execution.copy import Copy
from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.movement import Movement
from zerothorder.point import Values
from zerothorder.recipes.mezo import MeZO
from zerothorder.run import Run
from zerothorder.space import ParameterSpace


class Layers(nn.Module):
    """Two layers of one shape, so that one key for both would show, and a bias."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.first = nn.Linear(20, 30, bias=False)
        self.second = nn.Linear(20, 30)
        self.to(dtype)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)

    def weights(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1).double() for p in self.parameters()])


class Seen:
    """A loss, and the weights at which it was asked for."""

    def __init__(self, slope: Tensor | None = None) -> None:
        self.at: list[Tensor] = []
        self.slope = slope

    def prepare(self, model: nn.Module, batch: Tensor, key: Key) -> Tensor:
        return batch

    def evaluate(self, model: Layers, prepared: Tensor) -> Values:
        seen: list[Tensor] = []
        handles = [
            module.register_forward_hook(
                lambda m, args, out: seen.extend(p.detach().reshape(-1).double().clone() for p in m.parameters()),
                prepend=True,
            )
            for module in (model.first, model.second)
        ]
        out = model(prepared)
        for handle in handles:
            handle.remove()
        self.at.append(torch.cat(seen))
        return Values.of(self.at[-1] @ self.slope if self.slope is not None else out.double().square().mean(1))


@pytest.mark.parametrize("law", ["gaussian", "rademacher"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])  # the fused pass and the chain of transforms
@pytest.mark.parametrize("executor", [Swap, Copy])
def test_a_step_goes_along_what_was_probed(law: Any, optimizer: Any, executor: Any) -> None:
    model, eps, x = Layers(), 0.5, torch.ones(2, 20, dtype=torch.float64)
    recipe = MeZO(lr=0.25, eps=eps, law=law, optimizer=optimizer)
    run, before = Run(model, ParameterSpace.of(model), recipe, Seen(), executor()), model.weights()
    entry = run.step(x)
    plus, minus = run.objective.at  # type: ignore[attr-defined]
    z = (plus - minus) / (2 * eps)
    moved = (before - model.weights()) / (0.25 * entry.terms[0][1])
    torch.testing.assert_close(moved, z, rtol=1e-11, atol=1e-11)
    # and every layer has its own: two layers of one shape agree nowhere but by chance
    first, second = z[:600], z[600:1200]
    assert float((first * second).mean().abs()) < 4 / 600**0.5


@pytest.mark.parametrize("draws", [1, 4])
def test_on_a_linear_loss_the_scalars_are_the_slopes_along_z_over_the_number_of_draws(draws: int) -> None:
    """a·(θ + εz) - a·(θ - εz) = 2ε a·z, so each of n scalars is a·z_j / n: no factor may be lost."""
    model = Layers()
    slope = torch.randn(1230, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective, eps = Seen(slope), 0.125
    run = Run(model, ParameterSpace.of(model), MeZO(lr=0.0, eps=eps, draws=draws), objective, Copy())
    entry = run.step(torch.ones(1, 20, dtype=torch.float64))
    for j, (_, scalar) in enumerate(entry.terms):
        z = (objective.at[2 * j] - objective.at[2 * j + 1]) / (2 * eps)
        assert scalar == pytest.approx(float(slope @ z) / draws, rel=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.parametrize("chunk", [97, 1 << 18])
def test_exactly_the_masked_share_is_looked_at_and_moved(
    chunk: int, optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (space_module, updates_module, probe_module):
        monkeypatch.setattr(module, "CHUNK", chunk)
    monkeypatch.setattr(MeZO, "direction", lambda self, key: Dense(key, self.law, (Multiply("mask"),)))
    model = Layers()
    recipe = MeZO(lr=0.1, eps=0.5, law="rademacher", optimizer=optimizer)
    run = Run(model, ParameterSpace.of(model), recipe, Seen(), Swap())
    generator, share = torch.Generator().manual_seed(2), 0.2
    masks = {site.name: (torch.rand(site.shape, generator=generator) < share).double() for site in run.space}
    run.attach("mask", masks)
    before, mask = model.weights(), torch.cat([masks[site.name].reshape(-1) for site in run.space]).bool()
    for _ in range(2):
        run.step(torch.ones(2, 20, dtype=torch.float64))
    for seen in run.objective.at[:2]:  # type: ignore[attr-defined]
        assert torch.equal(seen != before, mask)
    assert torch.equal(model.weights() != before, mask)
    assert 0.1 < float(mask.double().mean()) < 0.3


def test_movement_is_measured_from_the_base_and_not_from_the_live_weights() -> None:
    model = Layers()
    space = ParameterSpace.of(model)
    movement = Movement(space, "")
    assert movement.measure() == {"moved": 0.0, "changed": 0.0}
    with torch.no_grad():
        model.first.weight.mul_(1.5)
    found = movement.measure()
    assert found["changed"] == pytest.approx(600 / 1230)
    assert found["moved"] == pytest.approx((600 * 0.25 / 1230) ** 0.5)
