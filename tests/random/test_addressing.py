"""z is addressed by name and index: never by order, layout, thread or neighbour."""

import math
import os
import random as python_random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zerothorder.directions.laws import Dense
from zerothorder.execution.probe import write_probe
from zerothorder.execution.swap import Swap
from zerothorder.key import Key, run_key
from zerothorder.ledger.entry import Entry, Rates
from zerothorder.point import Values
from zerothorder.random import laws
from zerothorder.recipes.mezo import MeZO
from zerothorder.run import Run
from zerothorder.space import CHUNK, ParameterSpace, Site, shard_segments
from zerothorder.state import State

RUN = run_key(7)
TERMS = ((Key("z", 0), 0.5), (Key("z", 0, 1), -0.25))
LAWS = pytest.mark.parametrize("law", ["gaussian", "rademacher"])


def probe(site: Site, law: str = "gaussian") -> torch.Tensor:
    out = torch.empty(site.parameter.shape, dtype=site.parameter.dtype)
    write_probe(out, site, TERMS, Dense(RUN, law), State())
    return out


def entry(step: int = 0) -> Entry:
    rates = {"decay": Rates(0.5, 0.125), "plain": Rates(0.25)}
    return Entry(step, ((Key("z", step), 0.75), (Key("z", step, 1), -1.5)), {"loss": 1.0}, rates)


def move(space: ParameterSpace, law: str = "gaussian", steps: int = 3) -> State:
    state, recipe = State(), MeZO(law=law)  # type: ignore[arg-type]
    for step in range(steps):
        recipe.update().apply(entry(step), space, recipe.direction(RUN), state)
    return state


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    offset = tuple(draw(st.integers(0, n - 1)) for n in shape)
    local = tuple(draw(st.integers(1, n - o)) for n, o in zip(shape, offset, strict=True))
    return shape, offset, local


@LAWS
@given(box=boxes(), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
@settings(max_examples=60, deadline=None)
def test_a_shard_draws_its_part_of_the_whole(law: str, box: tuple, dtype: torch.dtype) -> None:
    shape, offset, local = box
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    cut = tuple(slice(o, o + n) for o, n in zip(offset, local, strict=True))
    site = ParameterSpace.site("w", whole)
    shard = Site("w", whole[cut].clone(), site.grid, site.group, shape, shard_segments(shape, offset, local))
    assert torch.equal(probe(shard, law), probe(site, law)[cut])
    move(ParameterSpace([shard]), law)
    expected = whole.clone()
    move(ParameterSpace([ParameterSpace.site("w", expected)]), law)
    assert torch.equal(shard.parameter, expected[cut])


@given(box=boxes())
@settings(max_examples=100, deadline=None)
def test_segments_are_the_indices_of_the_box(box: tuple) -> None:
    shape, offset, local = box
    index = torch.arange(math.prod(shape)).view(shape)
    cut = tuple(slice(o, o + n) for o, n in zip(offset, local, strict=True))
    found = torch.full((math.prod(local),), -1)
    for at, start, length in shard_segments(shape, offset, local):
        assert (found[at : at + length] == -1).all()
        found[at : at + length] = torch.arange(start, start + length)
    assert torch.equal(found, index[cut].reshape(-1))


@LAWS
@given(shape=st.lists(st.integers(1, 9), min_size=2, max_size=4), data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_transposed_view_draws_as_its_contiguous_twin(law: str, shape: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    view = torch.randn(shape, generator=torch.Generator().manual_seed(0)).permute(*order)
    plain = view.contiguous().clone()
    sites = [ParameterSpace.site("w", tensor) for tensor in (view, plain)]
    assert torch.equal(probe(sites[0], law), probe(sites[1], law))
    for site in sites:
        move(ParameterSpace([site]), law)
    assert torch.equal(view, plain)


@LAWS
def test_chunks_do_not_show(law: str) -> None:
    """A tensor of more than one chunk draws what the law gives in one piece."""
    count = CHUNK + 4099
    site = ParameterSpace.site("w", torch.zeros(count))
    seed = TERMS[0][0].seed(RUN, site.id)
    out = torch.empty(count)
    write_probe(out, site, TERMS[:1], Dense(RUN, law), State())
    assert torch.equal(out, 0.5 * laws.LAWS[law](seed, 0, count))


class Net(nn.Module):
    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        for name in names:
            layer = nn.Linear(5, 7)
            generator = torch.Generator().manual_seed(len(name))
            for parameter in layer.parameters():
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
            self.add_module(name, layer)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_any_order_of_parameters_gives_the_same_bits(optimizer: str) -> None:
    names = ("first", "second0", "third00")
    result: list[dict[str, torch.Tensor]] = []
    for order in (names, names[::-1], (names[1], names[0], names[2])):
        net, recipe, state = Net(order), MeZO(optimizer=optimizer, weight_decay=0.125), State()  # type: ignore[arg-type]
        for step in range(3):
            recipe.update().apply(entry(step), ParameterSpace.of(net), recipe.direction(RUN), state)
        result.append(dict(net.state_dict()))
    for other in result[1:]:
        assert all(torch.equal(other[name], tensor) for name, tensor in result[0].items())


def test_freezing_or_renaming_another_layer_changes_nothing() -> None:
    whole, frozen, renamed = Net(("keep", "other")), Net(("keep", "other")), Net(("newname", "keep"))
    frozen.other.requires_grad_(False)
    for net in (whole, frozen, renamed):
        move(ParameterSpace.of(net))
    start = Net(("keep",)).keep.weight
    assert not torch.equal(whole.keep.weight, start)
    for net in (frozen, renamed):
        assert torch.equal(net.keep.weight, whole.keep.weight)
        assert torch.equal(net.keep.bias, whole.keep.bias)
    assert not torch.equal(renamed.newname.weight - Net(("newname",)).newname.weight, whole.keep.weight - start)


def test_wrappers_do_not_rename() -> None:
    plain, wrapped = Net(("keep",)), nn.Module()
    wrapped.module = Net(("keep",))
    move(ParameterSpace.of(plain))
    move(ParameterSpace.of(wrapped))
    assert torch.equal(plain.keep.weight, wrapped.module.keep.weight)


THREADS = """
import hashlib, numba, torch
from zerothorder import random
from zerothorder.grids import Grid
for threads in (1, 2):
    torch.set_num_threads(threads)
    digest = hashlib.sha256()
    source = torch.linspace(-3, 3, 9001)
    for law in ("gaussian", "rademacher"):
        for dtype in (torch.float32, torch.float64):
            out = torch.empty(9001, dtype=dtype)
            random.shift(out, source.to(dtype), law, 2**63 + 5, 1e-3, 77)
            digest.update(out.numpy().tobytes())
    grid, residual = Grid.of(torch.bfloat16), torch.zeros(9001, dtype=torch.int8)
    stored = source.bfloat16()
    grid.store(stored, residual, source * 1.001, 9, 5)
    grid.load(source, stored, residual)
    digest.update(stored.view(torch.int16).numpy().tobytes() + residual.numpy().tobytes() + source.numpy().tobytes())
    print(torch.get_num_threads(), numba.get_num_threads(), digest.hexdigest())
"""


def test_one_and_two_threads_give_the_same_bits() -> None:
    """In a process that may use two; torch's setting rules numba's pool too."""
    environment = os.environ | {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    one, two = (line.split() for line in done.stdout.splitlines())
    assert one[:2] == ["1", "1"]
    assert two[:2] == ["2", "2"]
    assert one[2] == two[2]


class Noisy:
    """An objective that draws from every global generator, in `prepare` and in `evaluate`."""

    def __init__(self) -> None:
        self.drawn: list[tuple[float, float, float]] = []

    def prepare(self, model: nn.Module, batch: torch.Tensor, key: Key) -> torch.Tensor:
        return batch

    def evaluate(self, model: nn.Module, prepared: torch.Tensor) -> Values:
        self.drawn.append((float(torch.rand(())), float(np.random.rand()), python_random.random()))  # noqa: NPY002
        return Values.of(nn.functional.dropout(model(prepared), 0.5).square().mean(1))


def test_a_step_leaves_the_global_generators_untouched() -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    python_random.seed(1)
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    objective = Noisy()
    run = Run(net, ParameterSpace.of(net), MeZO(lr=1e-2, draws=3), objective, Swap())
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), python_random.getstate()  # noqa: NPY002
    batch = torch.ones(3, 4)
    run.step(batch)
    run.step(batch)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert python_random.getstate() == states[2]
    first, second = objective.drawn[:6], objective.drawn[6:]
    assert len(set(first)) == 1  # every point of a step sees the same draw
    assert len(set(second)) == 1
    assert not set(first[0]) & set(second[0])  # and every step another
