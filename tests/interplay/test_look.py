"""Paths of ledgers and checkpoints: read one tensor at a time, equal to the weights laid out whole."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import small_runs
from zerothorder.errors import UsageError
from zerothorder.interplay.look import WHOLE, look
from zerothorder.interplay.paths import Checkpoints, Replayed
from zerothorder.replay import replay


def trained(folder: Path, **settings: Any) -> tuple[Any, Path]:
    """A base and the ledger of twelve steps on it."""
    folder.mkdir()
    case = small_runs.Case(steps=12, **settings)
    run = case.start(folder)
    for step in range(12):
        run.step(small_runs.batch_at(step))
    run.ledger.close()
    return case.base(), folder / "ledger.zo"


def whole(base: Any, ledger: Path, until: int) -> np.ndarray:
    model = copy.deepcopy(base)
    space, _, _ = replay(model, ledger, until)
    return torch.cat([site.read().double() for site in space]).numpy()


@pytest.mark.parametrize("settings", [{}, {"optimizer": "momentum"}])
def test_a_ledger_s_path_is_that_of_its_replayed_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    base, ledger = trained(tmp_path / "a", settings=settings)
    track = Replayed.of("a", base, ledger, pieces=4)
    assert list(track.moments) == [0, 3, 6, 9, 12]
    before = [p.detach().clone() for p in base.parameters()]
    path = look([track]).paths["a"]
    assert all(torch.equal(a, b) for a, b in zip(before, base.parameters(), strict=True))
    places = np.stack([whole(base, ledger, until) for until in track.moments])
    updates = places[1:] - places[:-1]
    assert path.updates[WHOLE] == pytest.approx(updates @ updates.T, rel=1e-4, abs=1e-9)
    assert path.counts[WHOLE] == places.shape[1]
    assert len(path.successive()) == 3
    drawn, shares = path.drawn()
    assert drawn.shape == (5, 3)
    assert 0 < shares.sum() <= 1 + 1e-9


def test_small_updates_of_bf16_weights_are_seen_through_the_residual_byte(tmp_path: Path) -> None:
    base, ledger = trained(tmp_path / "a", dtype=torch.bfloat16, settings={"lr": 1e-6})
    path = look([Replayed.of("a", base, ledger, pieces=4)]).paths["a"]
    assert (path.lengths() > 0).all()


def test_checkpoints_are_read_in_the_order_of_their_steps(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {"w": torch.randn(3, 4, generator=generator), "b": torch.randn(4, generator=generator)}
    places = []
    for step in (0, 5, 10, 100):
        folder = tmp_path / "out" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        own = {
            f"base_model.model.{n}": t + step * torch.randn(t.shape, generator=generator) for n, t in tensors.items()
        }
        save_file(own, folder / "adapter_model.safetensors")
        places.append(torch.cat([own[n].reshape(-1) for n in sorted(own)]).double().numpy())
    track = Checkpoints.of(tmp_path / "out")
    assert list(track.moments) == [0, 5, 10, 100]
    found = look([track]).paths["out"]
    updates = np.diff(np.stack(places), axis=0)
    assert found.updates[WHOLE] == pytest.approx(updates @ updates.T, rel=1e-4)
    assert set(found.updates) == {WHOLE, "w", "b"}


def test_two_runs_are_compared_over_the_tensors_they_share(tmp_path: Path) -> None:
    base, one = trained(tmp_path / "a")
    _, other = trained(tmp_path / "b", settings={"lr": 1e-3})
    tracks = [Replayed.of("policy", base, one, 4), Replayed.of("reward", base, other, 4)]
    found = look(tracks)
    pair = found.pair("policy", "reward")
    # the same seed and data at half the rate: the same directions, almost the same scalars
    assert pair.together.mean() > 0.9
    assert pair.disparity < 0.2
    drawn, _ = found.together()
    assert {name: len(places) for name, places in drawn.items()} == {"policy": 5, "reward": 5}
    assert drawn["policy"][0] == pytest.approx(drawn["reward"][0])


def test_a_ledger_and_the_checkpoints_of_gradient_descent_lie_side_by_side(tmp_path: Path) -> None:
    """A zeroth-order run that is replayed beside a first-order one that is read: the numbers of both laid out whole."""
    base, ledger = trained(tmp_path / "zo")
    one = Replayed.of("zo", base, ledger, pieces=4)
    model = copy.deepcopy(base).eval()
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    laid: list[np.ndarray] = []
    for step in range(5):
        if step:
            optimizer.zero_grad()
            model(torch.arange(40).view(10, 4)).logsumexp(-1).sum().backward()
            optimizer.step()
        own = dict(model.named_parameters())
        folder = tmp_path / "sgd" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file({name: p.detach().contiguous() for name, p in own.items()}, folder / "model.safetensors")
        laid.append(torch.cat([own[name].detach().double().reshape(-1) for name in one.names]).numpy())
    found = look([one, Checkpoints.of(tmp_path / "sgd")])
    assert set(one.names) < {name for name, _ in model.named_parameters()}, "the frozen ones are no part of it"
    places = np.stack([whole(base, ledger, until) for until in one.moments]), np.stack(laid)
    ours, theirs = (own[1:] - own[:-1] for own in places)
    pair = found.pair("zo", "sgd")
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    assert pair.together == pytest.approx((ours * theirs).sum(1) / lengths, abs=1e-6)
    assert found.paths["sgd"].lengths() == pytest.approx(np.linalg.norm(theirs, axis=1), rel=1e-5)
    assert found.paths["zo"].lengths() == pytest.approx(np.linalg.norm(ours, axis=1), rel=1e-5)
    # neither knows of the other, and a straight descent turns less than draws do
    assert np.abs(pair.together).max() < 6 * found.paths["zo"].chance()
    assert found.paths["sgd"].successive().min() > 0.5 > np.abs(found.paths["zo"].successive()).max()


def test_what_cannot_be_compared_says_why(tmp_path: Path) -> None:
    base, ledger = trained(tmp_path / "a")
    track = Replayed.of("a", base, ledger)
    with pytest.raises(UsageError, match="name them apart"):
        look([track, track])
    for step in (1, 2):
        folder = tmp_path / "out" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file({"other": torch.ones(2)}, folder / "model.safetensors")
    with pytest.raises(UsageError, match="share no tensor"):
        look([track, Checkpoints.of(tmp_path / "out")])
    (tmp_path / "one" / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(UsageError, match="1 places"):
        Checkpoints.of(tmp_path / "one")
