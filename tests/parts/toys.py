"""Five toy recipes that between them use every contract of the spine, and a small problem to try them on."""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from zerothorder.directions.laws import Dense
from zerothorder.directions.maps import Multiply
from zerothorder.estimate import Estimate, Estimator, Step
from zerothorder.estimators.finite_difference import central
from zerothorder.key import Key
from zerothorder.ledger.entry import Rates, float32
from zerothorder.point import Point, Values
from zerothorder.updates import Update


class Squares:
    """Squared error of a small network, per example; also cuts by row and differentiates."""

    def prepare(self, model: nn.Module, batch: Any, key: Key) -> Any:
        return batch

    def select(self, prepared: Any, rows: Sequence[int]) -> Any:
        return tuple(t[list(rows)] for t in prepared)

    def evaluate(self, model: nn.Module, prepared: Any) -> Values:
        x, y = prepared
        return Values.of(((model(x) - y) ** 2).mean(1))

    def gradient(self, model: nn.Module, prepared: Any) -> Values:
        x, y = prepared
        losses = ((model(x) - y) ** 2).mean(1)
        named = dict(model.named_parameters())
        grads = torch.autograd.grad(losses.mean(), list(named.values()))
        values = Values.of(losses)
        return Values(values.value, values.weight, dict(zip(named, grads, strict=True)))


@dataclass(frozen=True)
class Toy:
    """What the toys share: plain SGD over a dense Gaussian direction."""

    paper: ClassVar[str] = "a toy"
    columns: ClassVar[tuple[str, ...]] = ("loss",)
    tags: ClassVar[tuple[str, ...]] = ("z",)
    lr: float = 0.02
    eps: float = 1e-3

    def direction(self, run_key: bytes) -> Dense:
        return Dense(run_key)

    def estimator(self) -> Estimator:
        return central(self.eps)

    def update(self) -> Update:
        return Update()

    def rates(self, step: int, steps: int) -> Mapping[str, Rates]:
        lr = Rates(float32(self.lr))
        return {"decay": lr, "plain": lr}


@dataclass(frozen=True)
class Conservative(Toy):
    """Looks where the step would lead, and takes the best of there, the opposite, and staying: a second round."""

    name: ClassVar[str] = "toy-conservative"

    def estimator(self) -> Estimator:
        def estimate(step: Step) -> Generator[list[Point], list[Values], Estimate]:
            key = step.key()
            values = yield [Point(), Point(((key, self.eps),)), Point(((key, -self.eps),))]
            here, plus, minus = (v.mean() for v in values)
            move = step.lr * (plus - minus) / (2 * self.eps)
            values = yield [Point(((key, -move),)), Point(((key, move),))]
            there, back = (v.mean() for v in values)
            best = min((here, 0.0), (there, move), (back, -move))
            return Estimate(((key, best[1]),), {"loss": here}, absolute=True)

        return estimate


@dataclass(frozen=True)
class SmallWeights(Toy):
    """Moves only the smaller half of each matrix: a mask computed from the base, kept in State as an attachment."""

    name: ClassVar[str] = "toy-mask"
    share: float = 0.5

    def setup(self, run: Any) -> None:
        masks: dict[str, torch.Tensor] = {}
        for site in run.space:
            size = site.parameter.detach().abs().float().flatten()
            masks[site.name] = (size <= size.quantile(self.share)).float()
        run.attach("mask", masks)

    def direction(self, run_key: bytes) -> Dense:
        return Dense(run_key, maps=(Multiply("mask"),))


@dataclass(frozen=True)
class PerExample(Toy):
    """Clips each example's slope and gives the worst half of the examples a second draw on their own rows."""

    name: ClassVar[str] = "toy-rows"
    clip: float = 5.0

    def estimator(self) -> Estimator:
        def slope(plus: Values, minus: Values) -> torch.Tensor:
            return ((plus.value - minus.value) / (2 * self.eps)).clamp(-self.clip, self.clip)

        def estimate(step: Step) -> Generator[list[Point], list[Values], Estimate]:
            first, second = step.key(0), step.key(1)
            base, plus, minus = yield [Point(), *(Point(((first, s * self.eps),)) for s in (1.0, -1.0))]
            count = len(base.value)
            worst = tuple(sorted(base.value.argsort(descending=True)[: count // 2].tolist()))
            again = yield [Point(((second, s * self.eps),), rows=worst) for s in (1.0, -1.0)]
            terms = (
                (first, float(slope(plus, minus).sum() / count)),
                (second, float(slope(*again).sum() / count)),
            )
            return Estimate(terms, {"loss": base.mean()})

        return estimate


@dataclass(frozen=True)
class TwoBatches(Toy):
    """One direction seen on two batches, their slopes averaged."""

    name: ClassVar[str] = "toy-routed"

    def estimator(self) -> Estimator:
        def estimate(step: Step) -> Generator[list[Point], list[Values], Estimate]:
            key = step.key()
            points = [Point(((key, s * self.eps),), on=on) for on in ("main", "other") for s in (1.0, -1.0)]
            values = yield points
            a, b, c, d = (v.mean() for v in values)
            return Estimate(((key, (a - b + c - d) / (4 * self.eps)),), {"loss": (a + b) / 2})

        return estimate


@dataclass(frozen=True)
class Hybrid(Toy):
    """Half a zeroth-order estimate, half a first-order one: scalars and a dense part in one entry."""

    name: ClassVar[str] = "toy-hybrid"

    def estimator(self) -> Estimator:
        def estimate(step: Step) -> Generator[list[Point], list[Values], Estimate]:
            key = step.key()
            plus, minus, exact = yield [
                Point(((key, self.eps),)),
                Point(((key, -self.eps),)),
                Point(want="gradient"),
            ]
            assert exact.gradient is not None
            slope = (plus.mean() - minus.mean()) / (2 * self.eps)
            dense = {name: 0.5 * g for name, g in exact.gradient.items()}
            return Estimate(((key, 0.5 * slope),), {"loss": exact.mean()}, dense=dense)

        return estimate

    def update(self) -> Update:
        return Update(accepts_dense=True)


TOYS = (Conservative, SmallWeights, PerExample, TwoBatches, Hybrid)


def problem(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Any, Any]:
    """A network of 83 weights and two batches of a smooth function."""
    generator = torch.Generator().manual_seed(7)
    model = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(parameter.shape[-1]))
    x = torch.randn(64, 3, generator=generator)
    y = torch.stack((x[:, 0] * x[:, 1], torch.sin(x[:, 2])), 1)
    model, x, y = model.to(dtype), x.to(dtype), y.to(dtype)
    return model, (x[:32], y[:32]), (x[32:], y[32:])
