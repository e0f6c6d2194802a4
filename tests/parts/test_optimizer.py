"""`ZerothOrder` in somebody else's loop: same bits as the spine, schedulers, refusals, resume."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import zerothorder as zo
from tests.parts.toys import Squares, problem
from zerothorder.execution.swap import Swap
from zerothorder.replay import replay
from zerothorder.run import Run
from zerothorder.space import ParameterSpace


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_a_batch_and_a_closure_take_the_same_steps_as_the_run() -> None:
    (a, batch, _), (b, _, _), (c, _, _) = problem(), problem(), problem()
    by_batch = zo.ZerothOrder(a, "mezo", lr=1e-2, objective=Squares(), seed=3)
    by_closure = zo.ZerothOrder(b, "mezo", lr=1e-2, seed=3)
    run = Run(c, ParameterSpace.of(c), zo.catalogue.build("mezo", lr=1e-2), Squares(), Swap(), seed=3)
    for _ in range(10):
        by_batch.step(batch)
        by_closure.step(lambda: ((b(batch[0]) - batch[1]) ** 2).mean(1))
        run.step(batch)
    assert all(map(torch.equal, weights(a), weights(c)))
    assert all(map(torch.equal, weights(b), weights(c)))


def test_it_is_a_torch_optimizer_for_schedulers_and_loops() -> None:
    model, (x, y), _ = problem()
    opt = zo.ZerothOrder(model, "mezo", lr=1e-2, weight_decay=0.1)
    assert isinstance(opt, torch.optim.Optimizer)
    assert [(g["name"], g["weight_decay"] > 0) for g in opt.param_groups] == [("decay", True), ("plain", False)]
    schedule = torch.optim.lr_scheduler.StepLR(opt, 2, 0.5)
    seen = []
    for _ in range(6):
        opt.zero_grad()
        opt.step(lambda: ((model(x) - y) ** 2).mean())
        schedule.step()
        seen.append(opt.last.rates["decay"].lr)
    assert seen == pytest.approx([1e-2, 1e-2, 5e-3, 5e-3, 2.5e-3, 2.5e-3])
    assert opt.last.rates["decay"].decay == pytest.approx(0.1)
    assert all(p.grad is None for p in model.parameters())


def test_the_recipes_own_schedule_holds_where_nobody_sets_rates() -> None:
    model, (x, y), _ = problem()
    opt = zo.ZerothOrder(model, "mezo", lr=1e-2, schedule="linear", steps=4)
    lrs = []
    for _ in range(4):
        opt.step(lambda: ((model(x) - y) ** 2).mean())
        lrs.append(opt.last.rates["plain"].lr)
    assert lrs == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])


@pytest.mark.parametrize("call", ["backward", "grad"])
def test_a_closure_that_differentiates_is_refused_and_nothing_moves(call: str) -> None:
    model, (x, y), _ = problem()
    opt = zo.ZerothOrder(model, "mezo")
    before = weights(model)

    def closure() -> torch.Tensor:
        loss = ((model(x) - y) ** 2).mean()
        if call == "backward":
            loss.backward()
        else:
            torch.autograd.grad(loss, list(model.parameters()))
        return loss

    with pytest.raises(zo.UsageError, match=r"the closure calls backward\(\).*return the loss"):
        opt.step(closure)
    assert all(map(torch.equal, before, weights(model)))
    assert opt.run.index == 0
    loss = ((model(x) - y) ** 2).mean()
    loss.backward()  # torch itself is as it was


@pytest.mark.parametrize(
    ("make", "step", "sentence"),
    [
        ({"recipe": "mezzo"}, None, "unknown recipe 'mezzo'; did you mean 'mezo'"),
        ({"esp": 1e-3}, None, "no setting 'esp'; did you mean 'eps'"),
        ({"eps": 0.0}, None, "eps is 0; it must be a finite number above 0"),
        ({}, "batch", r"step\(batch\) needs an objective"),
        ({"objective": Squares()}, lambda: 1.0, "takes a batch"),
        ({}, lambda: "high", "returned a str"),
    ],
)
def test_mistakes_get_a_sentence(make: dict, step: object, sentence: str) -> None:
    model, _, _ = problem()

    def use() -> None:
        zo.ZerothOrder(model, **make).step(step)

    with pytest.raises(zo.UsageError, match=sentence):
        use()


def test_what_a_torch_user_may_try_first_gets_a_sentence() -> None:
    model, _, _ = problem()
    with pytest.raises(zo.UsageError, match="got its parameters: pass the model itself"):
        zo.ZerothOrder(model.parameters(), "mezo")  # type: ignore[arg-type]
    with pytest.raises(zo.UsageError, match="got a str: pass the model itself"):
        zo.ZerothOrder("model")  # type: ignore[arg-type]
    with pytest.raises(zo.UsageError, match=r"needs a closure that returns the loss: step\(lambda: loss\)"):
        zo.ZerothOrder(model).step()
    with pytest.raises(zo.UsageError, match=r"needs a batch: step\(batch\)"):
        zo.ZerothOrder(model, objective=Squares()).step()


def test_a_ledger_is_gone_on_with_only_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "loop.zo"
    model, (x, y), _ = problem()
    base = copy.deepcopy(model)
    opt = zo.ZerothOrder(model, lr=1e-2, ledger=path)
    opt.step(lambda: ((model(x) - y) ** 2).mean())
    opt.run.ledger.close()
    written = path.read_bytes()
    for ledger, resume, model_now, sentence in (
        (path, False, base, "exists; go on with its run by resume=True, or give another path"),
        (path, True, model, r"belongs to another base.*, or give another path to begin a run"),
        (tmp_path / "none.zo", True, base, "there is no ledger .*none.zo to resume; leave resume out"),
        (None, True, base, "resume=True needs ledger=PATH"),
    ):
        with pytest.raises(zo.UsageError, match=sentence):
            zo.ZerothOrder(model_now, lr=1e-2, ledger=ledger, resume=resume)
    assert path.read_bytes() == written
    assert zo.ZerothOrder(base, lr=1e-2, ledger=path, resume=True).run.index == 1
    assert all(map(torch.equal, weights(base), weights(model)))


def test_a_nan_costs_one_step() -> None:
    model, (x, y), _ = problem()
    opt = zo.ZerothOrder(model, "mezo", lr=1e-2)
    before = weights(model)
    opt.step(lambda: torch.tensor(float("nan")))
    assert opt.last.skipped
    assert all(map(torch.equal, before, weights(model)))
    opt.step(lambda: ((model(x) - y) ** 2).mean())
    assert not opt.last.skipped
    assert not all(map(torch.equal, before, weights(model)))


@pytest.mark.parametrize("snapshot", [False, True])
def test_made_anew_over_the_base_it_goes_on_to_the_same_bits(snapshot: bool, tmp_path: Path) -> None:
    model, (x, y), _ = problem(torch.bfloat16)
    straight, halves = copy.deepcopy(model), copy.deepcopy(model)

    def steps(model: nn.Module, path: Path, count: int) -> zo.ZerothOrder:
        opt = zo.ZerothOrder(model, "mezo", lr=1e-2, optimizer="momentum", ledger=path)
        for _ in range(count):
            opt.step(lambda: ((model(x) - y).float() ** 2).mean())
        return opt

    steps(straight, tmp_path / "straight.zo", 8)
    first = steps(halves, tmp_path / "run.zo", 5)
    saved = first.state_dict()
    if snapshot:
        first.snapshot(tmp_path / "snapshots")
    first.run.ledger.close()
    again = copy.deepcopy(model)
    opt = zo.ZerothOrder(again, "mezo", lr=1e-2, optimizer="momentum", ledger=tmp_path / "run.zo", resume=True)
    opt.load_state_dict(saved)
    assert opt.run.index == 5
    for _ in range(3):
        opt.step(lambda: ((again(x) - y).float() ** 2).mean())
    assert all(map(torch.equal, weights(again), weights(straight)))
    opt.run.ledger.close()
    rebuilt = copy.deepcopy(model)
    replay(rebuilt, tmp_path / "run.zo")
    assert all(map(torch.equal, weights(rebuilt), weights(straight)))
    with pytest.raises(zo.UsageError, match="this state is of step 5, the ledger of step 8"):
        opt.load_state_dict(saved)


def test_importing_loads_torch_and_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, zerothorder as zo; zo.ZerothOrder; zo.minimize; "
        "heavy = {'transformers', 'datasets', 'peft', 'numba', 'matplotlib', 'pandas', 'rich', 'tyro'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_exists() -> None:
    for name in zo.__all__:
        assert getattr(zo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        zo.nothing  # noqa: B018
