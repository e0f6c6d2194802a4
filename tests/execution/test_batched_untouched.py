"""A pass of all points moves nothing: at ε = 0 it is the plain forward, and weights and classes are as before it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from many_points import DIRECTIONS, Rows, bind, key, look, pairs, randn, truth
from small_families import MODELS, Mean, build
from untouched import pressing, untouched
from zerothorder.execution.batched import Batched
from zerothorder.execution.check import check_sites
from zerothorder.point import Point

NOT_TOGETHER = ("mamba", "t5")


class RMSNorm(nn.Module):
    """As transformers' own; its weight shows other data while it runs for all points."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(16))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


RMSNorm.__module__ = "transformers.models.of.this.test"


class Gain(nn.Module):
    """Unknown: runs once a point."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.within = nn.Parameter(torch.rand(16)), nn.Linear(16, 16)
        self.act: Any = torch.tanh

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.within(x * self.gain))


class Net(nn.Module):
    """Layers that carry all points, one whose parameter shows other data, one that runs point by point, a tied pair."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.frozen, self.norm, self.gain = nn.Linear(16, 16).requires_grad_(False), RMSNorm(), Gain()
            self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
            self.last.weight = self.first.weight
        self.to(dtype).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gain(self.norm(self.first(self.frozen(x)))))


def batch(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {"x": randn(2, 3, 16, dtype=dtype)}


@pytest.mark.parametrize("law", ["gaussian", "rank-1"])
@pytest.mark.parametrize("name", sorted(set(MODELS) - {*NOT_TOGETHER}))
def test_at_eps_zero_all_copies_are_the_plain_forward(name: str, law: str) -> None:
    dtype, error = (torch.float32, 1e-5) if name == "mixtral" else (torch.float64, 1e-13)  # its experts lack float64
    model, rows = build(name, dtype)
    bound = bind(model, DIRECTIONS[law])
    owners = check_sites(bound, Mean(), rows, mode="joint").owners
    with torch.inference_mode():
        plain = Mean().evaluate(model, rows).value
    executor = Batched(owners, check=False)
    points = [Point(), *pairs(2, 0.0), Point(((key(5), 0.0), (key(6), 0.0)))]
    found = look(executor, bound, rows, points, Mean())
    assert executor.reason is None
    assert torch.allclose(found, plain.expand(len(points), -1), rtol=0, atol=error)
    assert not torch.allclose(look(executor, bound, rows, pairs(1), Mean()), plain, rtol=0, atol=1e3 * error)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("law", DIRECTIONS)
def test_a_pass_changes_nothing(law: str, dtype: torch.dtype) -> None:
    net = Net(dtype)
    bound, executor = bind(net, DIRECTIONS[law]), Batched(check=False)
    with untouched(net):
        found = look(executor, bound, batch(dtype), pairs(3))
    assert executor.reason is None
    assert executor.one_by_one == {"Gain"}
    assert len({tuple(values) for values in found.tolist()}) == 6
    if dtype == torch.float64:
        assert torch.allclose(found, truth(bound, batch(), pairs(3)), rtol=0, atol=1e-12)


def test_the_check_before_the_first_pass_changes_nothing() -> None:
    net = Net()
    with untouched(net):
        look(Batched(), bind(net), batch(), pairs(3))


class Fake(RuntimeError):
    """Stands for any error of a user's code."""


@pytest.mark.parametrize("error", [Fake, torch.OutOfMemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["objective", "point by point", "shown", "between"])
def test_an_error_changes_nothing(where: str, error: type[BaseException]) -> None:
    """In the objective, in a module that runs alone, while a weight shows other data, between the carried layers."""
    net, objective = Net(), Rows()
    bound, executor = bind(net), Batched(check=False)
    expected = look(executor, bound, batch(), pairs(1))

    def fail(*args: Any) -> Any:
        raise error("planted")

    places = {"objective": (objective, "values"), "point by point": (net.gain, "act"), "shown": (torch, "rsqrt")}
    place, name = places.get(where, (net.frozen, "forward"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, fail)
        with untouched(net), pytest.raises(error, match="planted"):
            look(executor, bound, batch(), pairs(1), objective)
    assert executor.reason is None
    assert torch.equal(look(executor, bound, batch(), pairs(1)), expected)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_error_while_weights_are_made_changes_nothing(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory in the carried layers' own weights."""
    from zerothorder.execution import copies

    net, calls = Net(), 0

    def failing(own: Any) -> Any:
        def fail(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise torch.OutOfMemoryError("planted")
            return own(*args)

        return fail

    for name in ("write_probes", "small_probes"):
        monkeypatch.setattr(copies, name, failing(getattr(copies, name)))
    with untouched(net), pytest.raises(torch.OutOfMemoryError):
        look(Batched(check=False), bind(net), batch(), pairs(1))


def test_ctrl_c_at_any_line_changes_nothing() -> None:
    """Every line of a pass, those that exchange classes, show weights and put them back included."""
    net, points = Net(), pairs(1)
    bound, rows = bind(net), batch()
    look(Batched(check=False), bound, rows, points)
    with pressing(-1) as lines:
        look(Batched(check=False), bound, rows, points)
    total, heard = lines[0], 0
    assert total > 400
    for at in range(1, total + 1):
        with untouched(net):
            try:
                with pressing(at):
                    look(Batched(check=False), bound, rows, points)
            except KeyboardInterrupt:
                heard += 1
    assert heard == total  # none is swallowed
