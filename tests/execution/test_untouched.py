"""Looking never moves: every weight bit, version, address, hook and generator as before, however evaluation ends."""

import os
import signal
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from untouched import pressing, untouched
from zerothorder.directions.laws import Dense
from zerothorder.execution import Surroundings
from zerothorder.execution.copy import Copy
from zerothorder.execution.interrupts import Interrupts
from zerothorder.execution.swap import Swap
from zerothorder.key import Key, run_key
from zerothorder.point import Point, Values
from zerothorder.space import ParameterSpace
from zerothorder.state import State

KEY = Key("prepare", 0)
POINTS = [Point(((Key("z", 0), c),)) for c in (0.1, -0.1)] + [Point()]
EXECUTORS = {
    "swap": Swap,
    "moved": lambda: Swap({"inner.first.bias": "inner", "inner.second.weight": "inner", "scale": ""}),
    "poison": lambda: Swap(poison=True),
    "copy": Copy,
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(6))
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.act: Any = torch.tanh

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x * self.gain)))


class Net(nn.Module):
    """Raw parameters at the root and inside, a tied pair, a transposed weight, a frozen one, dropout."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.scale = nn.Parameter(torch.rand(6))
            self.inner, self.drop, self.head = Inner(), nn.Dropout(0.25), nn.Linear(6, 6, bias=False)
            self.inner.second.weight = nn.Parameter(torch.randn(6, 6).t())
            self.head.weight = self.inner.first.weight
            self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.inner(self.frozen(x) * self.scale)))


class Square:
    def prepare(self, model: nn.Module, batch: Tensor, key: Key) -> Tensor:
        return batch

    def evaluate(self, model: nn.Module, prepared: Tensor) -> Values:
        return Values.of(model(prepared).float().square().mean(1))

    def gradient(self, model: nn.Module, prepared: Tensor) -> Values:
        value = model(prepared).square().mean(1)
        named = dict(model.named_parameters())
        names = [name for name, p in named.items() if p.requires_grad]
        found = torch.autograd.grad(value.mean(), [named[name] for name in names])
        return Values(value.detach(), torch.ones_like(value), dict(zip(names, found, strict=True)))


def bind(net: nn.Module) -> Surroundings:
    return Surroundings(net, ParameterSpace.of(net), Dense(run_key(0)), State())


def batch(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).to(dtype)


def evaluate(executor: Any, net: nn.Module, objective: Any = None, points: Any = POINTS) -> list[Values]:
    data = batch(next(net.parameters()).dtype)
    return executor.evaluate(points, objective or Square(), {"main": data}, KEY, bind(net))


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXECUTORS)
def test_an_evaluation_changes_nothing_and_equals_copy(name: str, dtype: torch.dtype, train: bool) -> None:
    net = Net(dtype).train(train)
    with untouched(net):
        found = evaluate(EXECUTORS[name](), net)
    for value, expected in zip(found, evaluate(Copy(), net), strict=True):
        assert torch.equal(value.value, expected.value)
    assert len({tuple(v.value.tolist()) for v in found}) == 3


class Fake(RuntimeError):
    """Stands for any error of a user's code."""


ERRORS = [Fake, torch.OutOfMemoryError, KeyboardInterrupt]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("where", ["objective", "submodule", "head"])
@pytest.mark.parametrize("name", EXECUTORS)
def test_an_error_changes_nothing(name: str, where: str, dtype: torch.dtype, error: type[BaseException]) -> None:
    net = Net(dtype)
    executor = EXECUTORS[name]()

    def fail(*args: Any) -> Any:
        raise error("planted")

    objective = Square()
    own = net.inner.act, net.head.forward
    if where == "objective":
        after = objective.evaluate

        def evaluate_then_fail(model: nn.Module, prepared: Tensor) -> Values:
            after(model, prepared)
            return fail()

        objective.evaluate = evaluate_then_fail  # type: ignore[method-assign]
    elif where == "submodule":
        net.inner.act = fail
    else:
        net.head.forward = fail  # type: ignore[method-assign]
    with untouched(net), pytest.raises(error, match="planted"):
        evaluate(executor, net, objective)
    net.inner.act, net.head.forward = own
    for value, expected in zip(evaluate(executor, net), evaluate(Copy(), net), strict=True):
        assert torch.equal(value.value, expected.value)


@pytest.mark.parametrize("name", EXECUTORS)
def test_an_error_in_the_exchange_itself_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory while the third scratch is written."""
    from zerothorder.execution import copy, exchange

    net, calls = Net(), 0
    module = copy if name == "copy" else exchange
    own = module.write_probe

    def failing(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise torch.OutOfMemoryError("planted")
        own(*args)

    monkeypatch.setattr(module, "write_probe", failing)
    with untouched(net), pytest.raises(torch.OutOfMemoryError):
        evaluate(EXECUTORS[name](), net)


def test_a_caught_error_inside_leaves_the_outer_module_perturbed() -> None:
    """A forward that falls back after a submodule failed goes on with its own perturbed weights."""

    class Falling(Net):
        def forward(self, x: Tensor) -> Tensor:
            with suppress(RuntimeError):
                self.inner(x[:, :3])
            return super().forward(x) * self.scale

    net = Falling()
    with untouched(net):
        found = evaluate(Swap(), net)
    for value, expected in zip(found, evaluate(Copy(), net), strict=True):
        assert torch.equal(value.value, expected.value)


def test_a_pre_hook_that_stops_a_module_does_not_free_the_outer_one() -> None:
    class Falling(Net):
        def forward(self, x: Tensor) -> Tensor:
            with suppress(Fake):
                self.inner(x)
            return super().forward(x) * self.scale

    net, calls = Falling(), 0

    def stop(module: nn.Module, args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise Fake

    class Stopping(Square):
        def evaluate(self, model: nn.Module, prepared: Tensor) -> Values:
            handle = net.inner.register_forward_pre_hook(stop, prepend=True)  # before the executor's own
            try:
                return super().evaluate(model, prepared)
            finally:
                handle.remove()

    with untouched(net):
        found = evaluate(Swap(), net, Stopping())
    for value, expected in zip(found, evaluate(Copy(), net, Stopping()), strict=True):
        assert torch.equal(value.value, expected.value)


@pytest.mark.parametrize("name", ["moved", "copy"])
def test_ctrl_c_at_any_line_changes_nothing(name: str) -> None:
    """Every single line of an evaluation, the exchange and its undoing included: interrupted or not, θ is as it was."""
    net = Net()
    evaluate(EXECUTORS[name](), net)
    with pressing(-1) as lines:
        evaluate(EXECUTORS[name](), net, points=POINTS[:1])
    total, heard = lines[0], 0
    assert total > 80
    for at in range(1, total + 1):
        with untouched(net):
            try:
                with pressing(at):
                    evaluate(EXECUTORS[name](), net, points=POINTS[:1])
            except KeyboardInterrupt:
                heard += 1
    assert heard == total  # none is swallowed


def test_a_held_interrupt_arrives_after_the_block_and_once() -> None:
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        seen.append("held")
        with interrupts.held():
            os.kill(os.getpid(), signal.SIGINT)
        seen.append("still held")
    assert seen == ["held", "still held"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_heard_interrupt_arrives_at_once_and_a_second_one_waits() -> None:
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:  # noqa: PT012
        try:
            with interrupts.heard():
                os.kill(os.getpid(), signal.SIGINT)
                seen.append("not reached")
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("put back")
    assert seen == ["put back"]


def test_dropout_has_one_mask_at_every_point_of_a_step_and_another_at_the_next() -> None:
    class Mask(Square):
        def __init__(self) -> None:
            self.masks: list[Tensor] = []

        def evaluate(self, model: nn.Module, prepared: Tensor) -> Values:
            handle = model.drop.register_forward_hook(lambda m, args, out: self.masks.append(out == 0))
            value = super().evaluate(model, prepared)
            handle.remove()
            return value

    net = Net().train()
    for executor in (Swap(), Copy()):
        objective, bound = Mask(), bind(net)
        for step in (0, 1, 0):
            executor.evaluate(POINTS, objective, {"main": batch()}, Key("prepare", step), bound)
        first, second, again = objective.masks[:3], objective.masks[3:6], objective.masks[6:]
        assert all(torch.equal(mask, first[0]) for mask in (*first, *again))
        assert all(torch.equal(mask, second[0]) for mask in second)
        assert not torch.equal(first[0], second[0])
        assert 0 < first[0].float().mean() < 1


@pytest.mark.parametrize("name", EXECUTORS)
def test_values_are_those_of_a_model_moved_by_hand_in_float64(name: str) -> None:
    """f(θ + Σ c·z), z from the law itself, is what the executor says: an identity, to the last bits."""
    net = Net(torch.float64).eval()
    points = [Point(((Key("z", 0), 0.1), (Key("z", 0, 1), -0.3)))]

    class Double(Square):
        def evaluate(self, model: nn.Module, prepared: Tensor) -> Values:
            return Values.of(model(prepared).square().mean(1))

    (found,) = evaluate(EXECUTORS[name](), net, Double(), points)
    bound = bind(net)
    from zerothorder.random.laws import gaussian

    with torch.no_grad():
        for site in bound.space:
            for term, c in points[0].terms:
                z = gaussian(term.seed(run_key(0), site.id), 0, site.numel).double().view(site.parameter.shape)
                site.parameter.add_(z, alpha=c)
    expected = net(batch(torch.float64)).square().mean(1)
    assert found.value.dtype == torch.float64
    torch.testing.assert_close(found.value, expected.detach(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", EXECUTORS)
def test_a_gradient_at_a_point_is_the_gradient_of_the_moved_model(name: str) -> None:
    """Backward runs after the modules have returned; it must still see the perturbed weights."""
    net = Net(torch.float64).eval()
    point = Point(((Key("z", 0), 0.3),), want="gradient")
    with untouched(net):
        (found,) = evaluate(EXECUTORS[name](), net, points=[point])
    bound = bind(net)
    for site in bound.space:
        flat = site.read().clone()
        bound.direction.shift(flat, flat, site, Key("z", 0), 0.3, 0, bound.state)
        site.write(flat)
    expected = Square().gradient(net, batch(torch.float64))
    assert found.gradient is not None
    assert expected.gradient is not None
    assert found.gradient.keys() == expected.gradient.keys()
    for site, gradient in expected.gradient.items():
        torch.testing.assert_close(found.gradient[site], gradient, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.value, expected.value, rtol=1e-14, atol=0)


def test_training_by_autograd_still_works_after_an_evaluation() -> None:
    net = Net()
    evaluate(Swap(), net)
    net(batch()).sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_the_residual_byte_is_part_of_where_a_point_is() -> None:
    """A bf16 point is θ with its residual plus c·z, rounded once; without the residual another value comes out."""
    net = Net(torch.bfloat16)
    bound = bind(net)
    plain = Swap().evaluate(POINTS, Square(), {"main": batch(torch.bfloat16)}, KEY, bound)
    for site in bound.space:
        bound.state.tensors.setdefault("residual", {})[site.name] = torch.full((site.numel,), 100, dtype=torch.int8)
    moved = Swap().evaluate(POINTS, Square(), {"main": batch(torch.bfloat16)}, KEY, bound)
    copied = Copy().evaluate(POINTS, Square(), {"main": batch(torch.bfloat16)}, KEY, bound)
    for a, b in zip(moved, copied, strict=True):
        assert torch.equal(a.value, b.value)
    assert not torch.equal(moved[0].value, plain[0].value)
    assert torch.equal(moved[2].value, plain[2].value)
