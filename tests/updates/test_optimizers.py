"""SGD, momentum and Adam against torch.optim on the same dense gradient; decay, schedules, n-SPSA."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zerothorder import catalogue
from zerothorder.errors import UsageError
from zerothorder.estimate import Step
from zerothorder.estimators.finite_difference import central
from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.ledger.entry import Entry, Rates, float32
from zerothorder.point import Values
from zerothorder.recipes.mezo import MeZO
from zerothorder.run import Run
from zerothorder.space import ParameterSpace
from zerothorder.state import State
from zerothorder.updates.schedules import scheduled

Optimizers = dict[str, Callable[[list[Any]], torch.optim.Optimizer]]
LR, BETA = float32(3e-2), 0.9
OURS: Optimizers = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=LR),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=LR, momentum=BETA),
    "adam": lambda groups: torch.optim.Adam(groups, lr=LR, betas=(BETA, 0.999), eps=1e-8),
}


class Loss:
    """A smooth function of a small network's weights, in float64."""

    def prepare(self, model: nn.Module, batch: Any, key: Key) -> Any:
        return batch

    def evaluate(self, model: nn.Module, prepared: Tensor) -> Values:
        return Values.of(model(prepared).square().mean(1))


def network() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).double()


def batch_at(step: int) -> Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


@pytest.mark.parametrize("decay", [0.0, float32(0.3)])
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("optimizer", OURS)
def test_ten_steps_are_torch_s_on_the_same_gradient(optimizer: Any, draws: int, decay: float) -> None:
    model, theirs = network(), network()
    recipe = MeZO(lr=LR, eps=1e-3, draws=draws, weight_decay=decay, optimizer=optimizer, beta1=BETA)
    run = Run(model, ParameterSpace.of(model), recipe, Loss(), Swap(), seed=2)
    own = dict(theirs.named_parameters())
    groups = [
        {"params": [own[s.name] for s in run.space if s.group == "decay"], "weight_decay": decay},
        {"params": [own[s.name] for s in run.space if s.group == "plain"], "weight_decay": 0.0},
    ]
    assert {s.name for s in run.space if s.group == "decay"} == {"0.weight", "3.weight"}
    reference = OURS[optimizer](groups)
    for step in range(10):
        entry = run.step(batch_at(step))
        assert len(entry.terms) == draws
        for site in run.space:
            gradient = torch.zeros(site.numel, dtype=torch.float64)
            for key, scalar in entry.terms:
                run.direction.shift(gradient, gradient, site, key, scalar, 0, State())
            own[site.name].grad = gradient.view(site.shape)
        reference.step()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter, own[name], rtol=1e-12, atol=1e-12)
    assert not torch.equal(model[0].weight, network()[0].weight)  # type: ignore[index]


def test_an_optimizer_keeps_what_it_says_and_sgd_nothing() -> None:
    weights = sum(p.numel() for p in network().parameters())
    for optimizer, floats in (("sgd", 0), ("momentum", 1), ("adam", 2)):
        model = network()
        run = Run(model, ParameterSpace.of(model), MeZO(optimizer=optimizer), Loss(), Swap())  # type: ignore[arg-type]
        run.step(batch_at(0))
        assert run.state.nbytes == floats * weights * 8
        assert sum(len(t.memory) for t in run.update.transforms) == floats


def test_an_unknown_optimizer_is_named() -> None:
    with pytest.raises(UsageError, match=r"unknown optimizer 'adm'.*adam"):
        MeZO(optimizer="adm").update()  # type: ignore[arg-type]


# Weight decay


def test_weight_decay_leaves_out_biases_and_norms() -> None:
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    space = ParameterSpace.of(model)
    recipe = MeZO(lr=0.1, weight_decay=0.5)
    rates = recipe.rates(0, 10)
    assert {group: rate.decay for group, rate in rates.items()} == {"decay": 0.5, "plain": 0.0}
    entry = Entry(0, ((Key("z", 0), 0.0),), {}, rates)
    recipe.update().apply(entry, space, recipe.direction(bytes(16)), State())
    for name, parameter in model.named_parameters():
        shrunk = name in ("0.weight", "3.weight")
        expected = before[name] - rates["decay"].lr * (0.5 * before[name]) if shrunk else before[name]
        assert torch.equal(parameter, expected), name


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "decay"),
        ("transformer.h.0.attn.c_attn.weight", "decay"),
        ("model.embed_tokens.weight", "decay"),
        ("model.layers.0.self_attn.q_proj.lora_A.default.weight", "decay"),
        ("model.layers.0.self_attn.q_proj.bias", "plain"),
        ("model.layers.0.input_layernorm.weight", "plain"),
        ("encoder.layer.0.output.LayerNorm.weight", "plain"),
        ("encoder.block.0.layer.0.layer_norm.weight", "plain"),
        ("transformer.h.0.ln_1.weight", "plain"),
        ("model.norm.weight", "plain"),
    ],
)
def test_the_group_of_a_parameter_by_its_name(name: str, group: str) -> None:
    assert ParameterSpace.site(name, torch.zeros(4, 4)).group == group


# Schedules


@pytest.mark.parametrize(
    ("kind", "warmup", "expected"),
    [
        ("constant", 0, {0: 1.0, 50: 1.0, 100: 1.0}),
        ("linear", 0, {0: 1.0, 50: 0.5, 75: 0.25, 100: 0.0, 120: 0.0}),
        ("cosine", 0, {0: 1.0, 25: 0.5 + math.sqrt(0.125), 50: 0.5, 100: 0.0}),
        ("constant", 10, {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0}),
        ("linear", 20, {0: 0.05, 19: 1.0, 20: 1.0, 60: 0.5, 100: 0.0}),
        ("cosine", 20, {20: 1.0, 60: 0.5, 100: 0.0}),
    ],
)
def test_schedules_at_known_steps_of_100(kind: str, warmup: int, expected: dict[int, float]) -> None:
    for step, factor in expected.items():
        assert scheduled(3.0, kind, step, 100, warmup) == pytest.approx(3.0 * factor, abs=1e-12)


def test_the_rate_that_is_written_is_the_rate_that_is_applied() -> None:
    model = network()
    run = Run(model, ParameterSpace.of(model), MeZO(lr=1e-2, schedule="linear"), Loss(), Swap(), steps=4)
    for step in range(4):
        before = model[3].bias.detach().clone()  # type: ignore[index]
        entry = run.step(batch_at(step))
        lr = float32(1e-2 * (1 - step / 4))
        assert {rate.lr for rate in entry.rates.values()} == {lr}
        z = torch.zeros(3, dtype=torch.float64)
        run.direction.shift(z, z, run.space.by_name["3.bias"], Key("z", step), 1.0, 0, State())
        torch.testing.assert_close(model[3].bias.detach(), before - lr * entry.terms[0][1] * z, rtol=1e-12, atol=1e-14)  # type: ignore[index]


def test_an_unknown_schedule_is_named() -> None:
    with pytest.raises(UsageError, match=r"unknown schedule 'cosin'.*cosine"):
        scheduled(1.0, "cosin", 0, 10)


# n-SPSA


@pytest.mark.parametrize("draws", [1, 4])
def test_n_spsa_is_the_mean_of_its_draws_from_two_evaluations_each(draws: int) -> None:
    slopes = [0.5 * j - 1 for j in range(draws)]  # the function's slope along z_j
    step = central(1e-2, draws)(Step(3, {"plain": Rates(1.0)}, (), State()))
    points = next(step)
    assert [p.terms for p in points] == [((Key("z", 3, j), s),) for j in range(draws) for s in (1e-2, -1e-2)]
    with pytest.raises(StopIteration) as stop:
        step.send([Values.of([2 + slopes[p.terms[0][0].b] * p.terms[0][1]] * 2) for p in points])  # type: ignore[union-attr]
    estimate = stop.value.value
    assert [key for key, _ in estimate.terms] == [Key("z", 3, j) for j in range(draws)]
    assert [s for _, s in estimate.terms] == pytest.approx([slope / draws for slope in slopes])
    assert estimate.notes["loss"] == pytest.approx(2.0)


def test_a_step_of_four_draws_is_the_mean_of_the_single_steps() -> None:
    """At one θ: Σ_j lr/4·ρ_j z_j, with ρ_j what a run with that draw alone would measure."""
    model = network()
    run = Run(model, ParameterSpace.of(model), MeZO(lr=1e-2, eps=1e-3, draws=4), Loss(), Swap(), seed=2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    entry = run.step(batch_at(0))
    assert run.around.meter.examples == 8 * 5
    moves = {name: (p.detach() - before[name]).reshape(-1) for name, p in model.named_parameters()}
    for site in run.space:
        expected = torch.zeros(site.numel, dtype=torch.float64)
        for key, scalar in entry.terms:
            z = torch.zeros_like(expected)
            run.direction.shift(z, z, site, key, 1.0, 0, State())
            expected -= entry.rates["plain"].lr * scalar * z
        torch.testing.assert_close(moves[site.name], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("settings", "match"), [({"eps": 0.0}, "eps is 0"), ({"draws": 0}, "draws is 0")])
def test_settings_that_make_no_estimate_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        catalogue.build("mezo", **settings).estimator()
