"""SGD and AdamW: torch's own steps, in the spine's parts. What they are for is to be compared with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from parts.toys import Squares, problem
from zerothorder import catalogue
from zerothorder.errors import LedgerError, UsageError
from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.ledger.attachments import Attachments
from zerothorder.ledger.reader import read
from zerothorder.objectives.wrap import MicroBatches
from zerothorder.plan.config import PlanConfig
from zerothorder.plan.make import make_plan
from zerothorder.point import Point, Values
from zerothorder.replay import replay
from zerothorder.run import Run
from zerothorder.space import ParameterSpace


class Plain:
    """Squared error that leaves the gradient to autograd."""

    def __init__(self) -> None:
        self.squares = Squares()

    def prepare(self, model: nn.Module, batch: Any, key: Key) -> Any:
        return batch

    def evaluate(self, model: nn.Module, prepared: Any) -> Values:
        return self.squares.evaluate(model, prepared)


def run_of(model: nn.Module, name: str, path: Path | None = None, **settings: Any) -> Run:
    recipe = catalogue.build(name, **settings)
    return Run(model, ParameterSpace.of(model), recipe, Plain(), Swap(), path=path, steps=8)


OTHERS = {
    "sgd": (
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
        lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    ),
    "adamw": (
        {"lr": 0.01, "weight_decay": 0.1, "schedule": "constant"},
        lambda groups: torch.optim.AdamW(groups, lr=0.01),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_its_steps_are_torch_s(name: str) -> None:
    settings, other = OTHERS[name]
    model, (x, y), _ = problem(torch.float64)
    twin, _, _ = problem(torch.float64)
    run = run_of(model, name, **settings)
    named = dict(twin.named_parameters())
    plain = [p for n, p in named.items() if n.endswith("bias")]
    decay = [p for n, p in named.items() if not n.endswith("bias")]
    optimizer = other([{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}])
    for _ in range(8):
        entry = run.step((x, y))
        optimizer.zero_grad()
        loss = ((twin(x) - y) ** 2).mean()
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in named.values()]).norm()  # type: ignore[union-attr]
        assert entry.notes["loss"] == pytest.approx(loss.item(), rel=1e-6)
        assert entry.notes["gradient_norm"] == pytest.approx(norm.item(), rel=1e-6)
        optimizer.step()
    # the ledger's rates are float32, torch's are float64
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-8)
        assert ours.grad is None


def test_a_gradient_by_autograd_is_the_objective_s_own_and_leaves_nothing_behind() -> None:
    model, main, _ = problem()
    run = run_of(model, "sgd")
    point = [Point(((Key("z", 0), 0.3),), want="gradient")]
    (own,) = Swap().evaluate(point, Squares(), {"main": main}, Key("z", 0), run.around)
    (found,) = Swap().evaluate(point, Plain(), {"main": main}, Key("z", 0), run.around)
    assert own.gradient is not None
    assert found.gradient is not None
    for name, gradient in own.gradient.items():
        assert torch.allclose(found.gradient[name], gradient, rtol=1e-6, atol=1e-7)
    assert not found.value.requires_grad
    # a backward pass costs two forwards: 32 rows, twice over
    assert run.around.meter.examples == 2 * 3 * 32
    assert all(p.grad is None for p in model.parameters())


def test_a_batch_in_pieces_has_the_gradient_of_the_whole() -> None:
    class Rows(Plain):
        def evaluate(self, model: nn.Module, prepared: Any) -> Values:
            x, y = (torch.stack(part) for part in zip(*prepared, strict=True))
            return super().evaluate(model, (x, y))

    model, (x, y), _ = problem()
    batch, run = list(zip(x, y, strict=True)), run_of(model, "sgd")
    pieces = MicroBatches(Rows(), 5)
    asked, key = [Point(want="gradient")], Key("z", 0)
    (whole,) = Swap().evaluate(asked, Rows(), {"main": batch}, key, run.around)
    (found,) = Swap().evaluate(asked, pieces, {"main": pieces.prepare(model, batch, key)}, key, run.around)
    assert whole.gradient is not None
    assert found.gradient is not None
    for name, gradient in whole.gradient.items():
        assert torch.allclose(found.gradient[name], gradient, rtol=1e-5, atol=1e-7)


def test_the_ledger_has_a_gradient_s_hash_and_replay_says_what_is_missing(tmp_path: Path) -> None:
    model, main, _ = problem()
    run = run_of(model, "adamw", tmp_path / "ledger.zo")
    run.step(main)
    run.ledger.close()
    (entry,) = read(tmp_path / "ledger.zo").entries
    assert entry.dense_hash is not None
    assert not (tmp_path / "attachments").exists()
    fresh, _, _ = problem()
    with pytest.raises(LedgerError, match="keeps no gradients, train again with the data"):
        replay(fresh, tmp_path / "ledger.zo")
    with pytest.raises(LedgerError, match="needs the attachment"):
        Attachments(None).get(entry.dense_hash, "a run in memory")


def test_an_objective_of_bare_numbers_has_no_gradient() -> None:
    class Metric(Plain):
        def evaluate(self, model: nn.Module, prepared: Any) -> Values:
            return Values.of(1.0)

    model, main, _ = problem()
    run = run_of(model, "sgd")
    run.objective = Metric()
    with pytest.raises(UsageError, match="Metric gives numbers without a gradient"):
        run.step(main)


def test_a_plan_of_it_is_refused() -> None:
    with pytest.raises(UsageError, match="adamw differentiates, which takes memory that a plan does not price"):
        make_plan(PlanConfig(recipe="adamw"))


class Fixed(Plain):
    """A loss of 1 and a gradient that is given."""

    def __init__(self, gradient: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.given = gradient

    def gradient(self, model: nn.Module, prepared: Any) -> Values:
        return Values(torch.ones(1), torch.ones(1), self.given)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_with_one_element_that_is_no_number_moves_nothing(bad: float) -> None:
    model, (x, y), _ = problem(torch.float64)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradient = {name: torch.ones_like(p) for name, p in before.items()}
    recipe, fixed = catalogue.build("sgd", lr=0.1), Fixed(gradient)
    run = Run(model, ParameterSpace.of(model), recipe, fixed, Swap(), steps=8)
    last = next(reversed(gradient.values())).view(-1)
    last[-1] = bad
    assert run.step((x, y)).skipped
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    last[-1] = 1.0
    entry = run.step((x, y))
    assert not entry.skipped
    assert entry.notes["gradient_norm"] == pytest.approx(sum(p.numel() for p in before.values()) ** 0.5, rel=1e-6)
    assert not any(torch.equal(p, before[name]) for name, p in model.named_parameters())
