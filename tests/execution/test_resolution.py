"""The share of lost perturbations: what arithmetic says it is, and a function that moves nothing."""

import math

import torch
from torch import nn

from zerothorder.directions.laws import Dense
from zerothorder.directions.maps import Multiply
from zerothorder.execution.probe import write_probe
from zerothorder.execution.resolution import lost_share
from zerothorder.key import Key, run_key
from zerothorder.space import ParameterSpace
from zerothorder.state import State

KEY = Key("z", 0)


def space_of(*tensors: torch.Tensor) -> ParameterSpace:
    module = nn.ParameterList([nn.Parameter(tensor) for tensor in tensors])
    return ParameterSpace.of(module)


def share(space: ParameterSpace, eps: float, law: str = "rademacher", state: State | None = None) -> float:
    return lost_share(space, Dense(run_key(0), law), state or State(), ((KEY, eps),))


def test_around_one_bfloat16_feels_half_a_step_and_no_less():
    space = space_of(torch.full((50, 40), 1.5, dtype=torch.bfloat16))
    ulp = 2.0**-7
    assert share(space, 0.49 * ulp) == 1.0
    assert share(space, 0.51 * ulp) == 0.0


def test_a_gaussian_share_is_the_law_s():
    """round(θ + εz) = θ where |εz| < ulp/2, with probability erf(ulp / (2√2 ε)); 8192 draws, 4 standard errors."""
    space = space_of(torch.full((1 << 13,), 1.5, dtype=torch.bfloat16))
    for ratio in (0.5, 1.0, 3.0):
        expected = math.erf(1 / (2 * math.sqrt(2) * ratio))
        error = math.sqrt(expected * (1 - expected) / 2048)
        assert abs(share(space, ratio * 2.0**-7, "gaussian") - expected) < 4 * error


def test_sites_weigh_as_many_as_they_have():
    large, small = torch.full((3000,), 64.0), torch.full((1000,), 1e-3)
    space = space_of(large.bfloat16(), small.bfloat16())
    assert share(space, 1e-3) == 0.75


def test_it_is_the_share_of_the_probe_itself():
    torch.manual_seed(0)
    space = space_of(torch.randn(1500).bfloat16(), torch.randn(40, 50).half())
    direction, terms = Dense(run_key(3)), ((KEY, 1e-3),)
    same = 0
    for site in space:
        out = torch.empty_like(site.parameter)
        write_probe(out, site, terms, direction, State())
        same += int((out == site.parameter).sum())
    assert lost_share(space, direction, State(), terms) == same / 3500


def test_masked_weights_do_not_count_and_zeros_are_never_lost():
    space = space_of(torch.full((64,), 1e6), torch.zeros(64))
    names = [site.name for site in space]
    state = State()
    state.tensors["mask"] = {names[0]: torch.zeros(64), names[1]: torch.ones(64)}
    masked = Dense(run_key(0), "rademacher", (Multiply("mask"),))
    assert lost_share(space, masked, state, ((KEY, 1e-3),)) == 0.0
    assert share(space, 1e-3) == 0.5
    state.tensors["mask"] = {name: (torch.arange(64) < 10).float() for name in names}
    assert lost_share(space, masked, state, ((KEY, 1.0),)) == 0.0
    assert lost_share(space, masked, state, ((KEY, 1e-3),)) == 0.5
    state.tensors["mask"] = {name: torch.zeros(64) for name in names}
    assert lost_share(space, masked, state, ((KEY, 1e-3),)) == 0.0


def test_nothing_moves():
    tensors = [torch.randn(300).bfloat16(), torch.randn(20, 30).t()]
    space = space_of(*tensors)
    before = [(site.parameter.detach().clone(), site.parameter._version) for site in space]
    state, generator = State(), torch.get_rng_state()
    share(space, 1e-3, state=state)
    assert all(
        torch.equal(site.parameter, held) and site.parameter._version == version
        for site, (held, version) in zip(space, before, strict=True)
    )
    assert not state.tensors
    assert torch.equal(generator, torch.get_rng_state())
