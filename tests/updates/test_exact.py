"""Bits that depend on no processor: a run with Adam replays elsewhere."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from zerothorder.exact import sqrt_
from zerothorder.space import ParameterSpace
from zerothorder.state import State
from zerothorder.updates import Where, moments
from zerothorder.updates.transforms import Adam

COUNT = 40_000
DTYPES = [torch.float32, torch.float64]


def draws(dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(COUNT, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_roots_are_rounded_correctly(dtype: torch.dtype) -> None:
    values = draws(dtype, 0).square()
    # C's sqrt of a double is correct, and rounding it once more to float32 still is: 53 ≥ 2·24 + 2
    expected = torch.tensor([math.sqrt(value) for value in values.tolist()], dtype=torch.float64).to(dtype)
    assert torch.equal(sqrt_(values), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_adam_rounds_every_operation_as_ieee_754_has_it(dtype: torch.dtype) -> None:
    weight = torch.zeros(COUNT, dtype=dtype)
    site = next(iter(ParameterSpace.of(nn.ParameterDict({"weight": nn.Parameter(weight)}))))
    adam, state, where = Adam(), State(), Where(site, slice(0, COUNT), 0.0)
    kind = weight.numpy().dtype.type
    m, v = np.zeros(COUNT, kind), np.zeros(COUNT, kind)
    for step in range(1, 4):
        g = draws(dtype, step)
        given = g.numpy().copy()
        adam.begin(state)
        adam(g, weight, where, state)
        m = m * kind(0.9) + given * kind(1 - 0.9)
        v = v * kind(0.999) + given * given * kind(1 - 0.999)
        one, two = (1 - math.prod([beta] * step) for beta in (0.9, 0.999))
        expected = m / kind(one) / (np.sqrt(v / kind(two)) + kind(1e-8))
        assert np.array_equal(g.numpy(), expected)


@pytest.mark.parametrize("count", [1, 4095, 4096, COUNT])
@pytest.mark.parametrize("dtype", DTYPES)
def test_adam_elsewhere_has_the_bits_of_the_pass_on_cpu(dtype: torch.dtype, count: int) -> None:
    adam, unbias = Adam(0.8, 0.95, 1e-6), (1 - 0.8**3, 1 - 0.95**3)
    given = draws(dtype, 0)[:count], draws(dtype, 1)[:count], draws(dtype, 2)[:count].square()
    fast, plain = [t.clone() for t in given], [t.clone() for t in given]
    moments.adam(fast[0], fast[1], fast[2], adam.beta1, adam.beta2, *unbias, adam.eps)
    adam.elsewhere(plain[0], plain[1], plain[2], *unbias)
    assert all(map(torch.equal, fast, plain))


def test_moments_of_a_gradient_of_zeros_are_numbers() -> None:
    """0 / (√0 + ε): a weight that no draw moves stays where it is."""
    g, m, v = (torch.zeros(5000) for _ in range(3))
    moments.adam(g, m, v, 0.9, 0.999, 0.1, 0.001, 1e-8)
    assert not any(t.any() for t in (g, m, v))
