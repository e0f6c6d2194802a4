"""SPSA (Spall 1992): the estimate along signs, and that nothing but the law differs from MeZO.

docs/papers.md maps every check to the tests here; test_papers.py holds the map and this file together.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from many_points import TensorRows, bind, explicit, randn
from zerothorder.execution.batched import Batched
from zerothorder.execution.swap import Swap
from zerothorder.key import Key, run_key
from zerothorder.point import Values
from zerothorder.recipes.mezo import MeZO
from zerothorder.recipes.spsa import SPSA
from zerothorder.replay import replay
from zerothorder.run import Run
from zerothorder.space import ParameterSpace
from zerothorder.state import State

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Two(nn.Module):
    """A matrix and a vector."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.matrix, self.vector = (nn.Parameter(randn(*shape, seed=1).to(dtype)) for shape in ((9, 7), (7,)))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.matrix).tanh() * self.vector


class Smooth(TensorRows):
    """Neither linear nor quadratic."""

    def evaluate(self, model: nn.Module, prepared: Tensor) -> Values:
        return Values.of((model(prepared).double() ** 3).sum(1))


def test_the_estimate_of_an_element_is_the_difference_over_its_own_step() -> None:
    """(L(θ + εz) - L(θ - εz)) / 2εz_i, element by element, is what the step goes along: for signs 1/z_i is z_i."""
    model, x, eps, lr = Two(), randn(5, 9), 1e-2, 0.25
    run = Run(model, ParameterSpace.of(model), SPSA(lr=lr, eps=eps), Smooth(), Swap(), seed=4)
    space = run.space
    direction, state = run.direction, State()
    z = {site.name: explicit(direction, site, Key("z", 0), state) for site in space}
    start = {site.name: site.parameter.detach().clone() for site in space}

    def loss(sign: float) -> float:
        with torch.no_grad():
            for site in space:
                site.parameter.copy_(start[site.name] + sign * eps * z[site.name])
            return Smooth().evaluate(model, x).mean()

    difference = loss(1.0) - loss(-1.0)
    with torch.no_grad():
        for site in space:
            site.parameter.copy_(start[site.name])
    run.step(x)
    for site in space:
        estimate = difference / (2 * eps * z[site.name])
        assert torch.allclose(
            site.parameter.detach(), start[site.name] - lr * estimate, rtol=1e-6, atol=1e-6
        )  # ρ is stored in float32


def test_every_element_is_a_sign_and_both_are_drawn_alike() -> None:
    """The mean of 1/z² is 1, where the paper asks that it be finite. 64,000 signs: a standard error is 0.004."""
    site = ParameterSpace.site("w", nn.Parameter(torch.zeros(640, 100)))
    z = explicit(SPSA().direction(run_key(0)), site, Key("z", 0), State())
    assert torch.equal(z.abs(), torch.ones_like(z))
    assert abs(float(z.mean())) < 4 / z.numel() ** 0.5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_but_the_law_differs_from_mezo(dtype: torch.dtype) -> None:
    models = [Two(dtype), Two(dtype)]
    recipes = [SPSA(lr=1e-2, eps=1e-2, draws=2, weight_decay=0.1), MeZO(1e-2, 1e-2, 2, 0.1, law="rademacher")]
    runs = [
        Run(model, ParameterSpace.of(model), recipe, Smooth(), Swap(), seed=3, steps=4)
        for model, recipe in zip(models, recipes, strict=True)
    ]
    for step in range(4):
        one, other = (run.step(randn(5, 9, seed=step, dtype=dtype)) for run in runs)
        assert one == other
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
    assert SPSA() == SPSA(law="rademacher")
    assert {f: v for f, v in vars(SPSA()).items() if v != getattr(MeZO(), f)} == {"law": "rademacher"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_replay_gives_the_same_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    model, base = Two(dtype), Two(dtype)
    recipe = SPSA(lr=1e-2, eps=1e-2, draws=3, weight_decay=0.1)
    path = tmp_path / "ledger.zo"
    run = Run(model, ParameterSpace.of(model), recipe, Smooth(), Batched(), seed=3, steps=5, path=path)
    for step in range(5):
        run.step(randn(5, 9, seed=step, dtype=dtype))
    run.ledger.close()
    replay(base, path)
    for a, b, start in zip(base.parameters(), model.parameters(), Two(dtype).parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, start)


def test_signs_have_the_smallest_second_moment() -> None:
    """‖⟨G,z⟩z‖² is ⟨G,z⟩² n in every draw, n ‖G‖² in the mean; 4,000 draws of 63 elements, standard error 1.4."""
    bound = bind(Two(), SPSA().direction(run_key(5)))
    site = bound.space.by_name["matrix"]
    z = torch.stack([explicit(bound.direction, site, Key("z", t), State()).view(-1) for t in range(4000)])
    g = randn(63, seed=2)
    slope = z @ g / g.norm()
    moments = (slope[:, None] * z).square().sum(1)
    assert torch.allclose(moments, 63 * slope**2, rtol=1e-12)
    error = float(moments.std()) / 4000**0.5
    assert error < 1.5
    assert abs(float(moments.mean()) - 63) < 4 * error
