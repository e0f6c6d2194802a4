"""The contracts carry methods they were not written for: five toy recipes train, replay bitwise, and refuse well."""

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parts.toys import TOYS, Conservative, Hybrid, PerExample, SmallWeights, Squares, Toy, TwoBatches, problem
from zerothorder import catalogue
from zerothorder.errors import LedgerError, UsageError
from zerothorder.execution.copy import Copy
from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.point import Point
from zerothorder.replay import replay
from zerothorder.run import Run
from zerothorder.space import ParameterSpace


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    before = dict(catalogue.CATALOGUE)
    for toy in TOYS:
        catalogue.register(toy)
    yield
    catalogue.CATALOGUE.clear()
    catalogue.CATALOGUE.update(before)


def train(recipe: Toy, folder: Path, steps: int = 60, executor=None, dtype=torch.float32):
    model, main, other = problem(dtype)
    base = copy.deepcopy(model)
    run = Run(
        model, ParameterSpace.of(model), recipe, Squares(), executor or Swap(), steps=steps, path=folder / "ledger.zo"
    )
    entries = [run.step(main, other=other) for _ in range(steps)]
    run.ledger.close()
    return run, model, base, entries


def bits(model: torch.nn.Module) -> list[bytes]:
    return [p.detach().flatten().view(torch.uint8).numpy().tobytes() for p in model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("toy", TOYS, ids=lambda t: t.name)
def test_a_toy_learns_and_replays_bitwise(toy: type[Toy], dtype: torch.dtype, tmp_path: Path) -> None:
    run, model, base, entries = train(toy(), tmp_path, dtype=dtype)
    assert sum(e.notes["loss"] for e in entries[-10:]) < 0.9 * sum(e.notes["loss"] for e in entries[:10])
    assert bits(model) != bits(base)
    _, state, _ = replay(base, tmp_path / "ledger.zo")
    assert bits(base) == bits(model)
    live = dict(run.state.flat())
    assert sorted(live) == sorted(dict(state.flat()))
    assert all(torch.equal(tensor, live[path]) for path, tensor in state.flat())


@pytest.mark.parametrize("toy", TOYS, ids=lambda t: t.name)
def test_executors_agree_to_the_bit(toy: type[Toy], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _, swapped, _, _ = train(toy(), tmp_path / "a", 8, Swap())
    _, copied, _, _ = train(toy(), tmp_path / "b", 8, Copy())
    assert bits(swapped) == bits(copied)
    assert (tmp_path / "a/ledger.zo").read_bytes() == (tmp_path / "b/ledger.zo").read_bytes()


def test_conservative_never_rises_on_a_fixed_batch(tmp_path: Path) -> None:
    run, _, _, entries = train(Conservative(lr=0.3), tmp_path)
    losses = [e.notes["loss"] for e in entries]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(losses))
    assert run.around.meter.examples == 60 * 5 * 32


def test_the_mask_holds_weights_still(tmp_path: Path) -> None:
    run, model, base, _ = train(SmallWeights(), tmp_path)
    named = dict(base.named_parameters())
    for name, parameter in model.named_parameters():
        mask = run.state.tensor("mask", name).bool().view(parameter.shape)
        assert torch.equal(parameter[~mask], named[name][~mask])
        assert (parameter[mask] != named[name][mask]).all()


def test_replay_names_a_missing_mask(tmp_path: Path) -> None:
    _, _, base, _ = train(SmallWeights(), tmp_path, 3)
    (attachment,) = (tmp_path / "attachments").iterdir()
    attachment.unlink()
    with pytest.raises(LedgerError, match=r"'mask' needs the attachment .*\.safetensors"):
        replay(base, tmp_path / "ledger.zo")


def test_rows_are_counted_as_they_are_evaluated(tmp_path: Path) -> None:
    run, _, _, _ = train(PerExample(), tmp_path, 5)
    assert run.around.meter.examples == 5 * (3 * 32 + 2 * 16)


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    model, main, _ = problem()
    run = Run(model, ParameterSpace.of(model), TwoBatches(), Squares(), Swap())
    with pytest.raises(UsageError, match="no batch named 'other'; it was given main"):
        run.step(main)


def test_scalars_only_updates_refuse_a_dense_part(tmp_path: Path) -> None:
    model, main, _ = problem()
    run = Run(model, ParameterSpace.of(model), Hybrid(), Squares(), Swap())
    object.__setattr__(run.update, "accepts_dense", False)
    with pytest.raises(UsageError, match=r"scalars only.*first-order part"):
        run.step(main)


def test_a_gradient_away_from_the_weights_is_that_of_a_copy() -> None:
    """Also by `Swap`: what autograd saved must be the perturbed weights, and nothing of it stays behind."""
    model, main, _ = problem()
    run = Run(model, ParameterSpace.of(model), Hybrid(), Squares(), Swap())
    run.step(main)
    assert all(p.grad is None for p in model.parameters())
    key = Key("z", 0)
    points = [Point(((key, 0.3),), want="gradient"), Point(want="gradient")]
    swapped, here = Swap().evaluate(points, Squares(), {"main": main}, key, run.around)
    copied, _ = Copy().evaluate(points, Squares(), {"main": main}, key, run.around)
    assert swapped.gradient is not None
    assert copied.gradient is not None
    assert here.gradient is not None
    for name, gradient in swapped.gradient.items():
        assert torch.equal(gradient, copied.gradient[name])
        assert not torch.equal(gradient, here.gradient[name])


def test_prepare_draws_from_the_step_and_leaves_the_global_generator_alone() -> None:
    """A `prepare` that samples gives the same ledger whatever the global generator held, and does not move it."""

    class Sampling(Squares):
        def prepare(self, model: torch.nn.Module, batch: Any, key: Key) -> Any:
            x, y = batch
            return x, y + torch.randn(y.shape)

    chains = []
    for state in (1, 2):
        model, main, _ = problem()
        run = Run(model, ParameterSpace.of(model), Conservative(), Sampling(), Swap())
        torch.manual_seed(state)
        before = torch.random.get_rng_state()
        run.step(main)
        run.step(main)
        assert torch.equal(before, torch.random.get_rng_state())
        chains.append(run.ledger.chain)
    assert chains[0] == chains[1]


def test_ask_and_tell_are_the_same_loop() -> None:
    """Somebody else answering the points gives the same ledger as the executor."""
    (live, main, _), (told, _, _) = problem(), problem()
    one = Run(live, ParameterSpace.of(live), Conservative(), Squares(), Swap())
    two = Run(told, ParameterSpace.of(told), Conservative(), Squares(), Swap())
    for _ in range(5):
        one.step(main)
        answer = two.ask()
        while isinstance(answer, list):
            answer = two.tell(Copy().evaluate(answer, Squares(), {"main": main}, Key("prepare", two.index), two.around))
    assert bits(live) == bits(told)
    assert one.ledger.chain == two.ledger.chain
    with pytest.raises(UsageError, match=r"tell\(\) without ask\(\)"):
        two.tell([])
