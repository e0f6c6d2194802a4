"""Truth is replay: base and ledger give the trained weights, bit for bit, elsewhere and however the work is cut."""

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import small_runs
from small_runs import Case, CrossEntropy, Net, batch_at, load_base, save_base, weights_hash
from zerothorder import space as space_module
from zerothorder import updates as updates_module
from zerothorder.execution import probe as probe_module
from zerothorder.execution.swap import Swap
from zerothorder.ledger.attachments import Attachments
from zerothorder.ledger.entry import Rates
from zerothorder.ledger.reader import read
from zerothorder.replay import apply_entries, recipe_of, replay
from zerothorder.run import Run
from zerothorder.space import ParameterSpace, Site, shard_segments
from zerothorder.state import State

CASES = {
    "float64": Case(torch.float64),
    "float32": Case(),
    "float32-rademacher": Case(settings={"law": "rademacher"}),
    "float16-residual": Case(torch.float16),
    "float16-stochastic": Case(torch.float16, "stochastic"),
    "float16-nearest": Case(torch.float16, "nearest"),
    "bfloat16-residual": Case(torch.bfloat16),
    "bfloat16-stochastic": Case(torch.bfloat16, "stochastic"),
    "bfloat16-nearest": Case(torch.bfloat16, "nearest"),
    "dropout": Case(training=True),
    "skipped": Case(poisoned=(0, 3)),
    "skipped-adam": Case(torch.bfloat16, poisoned=(1, 2), settings={"optimizer": "adam"}),
    "linear": Case(settings={"schedule": "linear", "warmup": 2}),
    "cosine": Case(settings={"schedule": "cosine"}),
    "decay": Case(settings={"weight_decay": 0.1}),
    "momentum": Case(settings={"optimizer": "momentum", "weight_decay": 0.1}),
    "adam": Case(settings={"optimizer": "adam", "schedule": "linear"}),
    "adam-float16": Case(torch.float16, settings={"optimizer": "adam"}),
    "draws": Case(torch.bfloat16, settings={"draws": 3, "optimizer": "momentum"}),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Every case trained here: its folder and the sha256 of the live run's weights."""
    found: dict[str, tuple[Path, str]] = {}
    for name, case in CASES.items():
        folder = tmp_path_factory.mktemp("run") / name
        folder.mkdir()
        model = case.base()
        save_base(model, folder)
        found[name] = folder, case.finish(case.go(case.start(folder, model)))
    return found


@pytest.fixture(scope="module", params=[1, 2])
def elsewhere(
    request: pytest.FixtureRequest,
    trained: dict[str, tuple[Path, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """The same hashes by another process, with 1 and 2 threads, from folders of base and ledger alone."""
    threads, folders = str(request.param), []
    for name, (folder, _) in trained.items():
        alone = tmp_path_factory.mktemp("alone") / name
        alone.mkdir()
        for part in ("base.safetensors", "ledger.zo"):
            shutil.copy(folder / part, alone / part)
        folders.append(str(alone))
    done = subprocess.run(
        [sys.executable, small_runs.__file__, threads, *folders],
        env={**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_another_process_replays_the_bits(
    name: str, trained: dict[str, tuple[Path, str]], elsewhere: dict[str, str]
) -> None:
    assert elsewhere[name] == trained[name][1]


@pytest.mark.parametrize("name", CASES)
def test_the_run_moved_and_kept_what_is_frozen(name: str, trained: dict[str, tuple[Path, str]]) -> None:
    folder, _ = trained[name]
    base, model = load_base(folder), load_base(folder)
    replay(model, folder / "ledger.zo")
    assert torch.equal(base.frozen.weight, model.frozen.weight)
    assert model.back.weight is model.embed.weight
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, base.get_parameter(n))}
    # nearest rounding may lose all of a small tensor's steps: that is what it is kept to show
    assert moved == {n for n, p in model.named_parameters() if p.requires_grad} or "nearest" in name


def test_end_record_is_the_hash_of_the_replayed_model(trained: dict[str, tuple[Path, str]]) -> None:
    folder, _ = trained["adam"]
    model = load_base(folder)
    _, _, contents = replay(model, folder / "ledger.zo")
    assert contents.final == small_runs.fingerprint(model)


def test_a_skipped_step_moves_nothing(trained: dict[str, tuple[Path, str]]) -> None:
    folder, _ = trained["skipped-adam"]
    hashes = []
    for until in range(5):
        model = load_base(folder)
        _, state, contents = replay(model, folder / "ledger.zo", until=until)
        hashes.append((weights_hash(model), state.scalars.get("adam_beta1")))
        assert len(contents.entries) == until
    assert hashes[1] == hashes[2] == hashes[3] != hashes[4]
    assert [e.skipped for e in read(folder / "ledger.zo").entries] == [False, True, True, False, False, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_until_is_the_live_run_at_that_step(tmp_path: Path, dtype: torch.dtype) -> None:
    case = Case(dtype, settings={"optimizer": "momentum", "schedule": "cosine"})
    model = case.base()
    save_base(model, tmp_path)
    run, live = case.start(tmp_path, model), []
    for step in range(case.steps):
        live.append(weights_hash(model))
        case.go(run, step + 1)
    for until, expected in enumerate(live):
        again = load_base(tmp_path)
        replay(again, tmp_path / "ledger.zo", until=until)
        assert weights_hash(again) == expected


class Shuffled(Net):
    """The same network whose parameters are registered in another order."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("head", "turned", "norm", "embed"):
            module = getattr(self, name)
            delattr(self, name)
            setattr(self, name, module)


@pytest.mark.parametrize("name", ["bfloat16-residual", "momentum"])
def test_order_of_parameters_is_no_part_of_a_run(name: str, trained: dict[str, tuple[Path, str]]) -> None:
    folder, expected = trained[name]
    case = CASES[name]
    model = Shuffled().to(case.dtype)
    model.load_state_dict(load_base(folder).state_dict())
    assert [n for n, _ in model.named_parameters()] != [n for n, _ in case.base().named_parameters()]
    replay(model, folder / "ledger.zo")
    assert weights_hash(model) == expected


def test_a_live_run_does_not_see_the_order_either() -> None:
    def trained_hash(names: list[str]) -> str:
        torch.manual_seed(0)
        layers = {name: nn.Linear(6, 6) for name in ("a", "b", "c")}
        model = nn.ModuleDict({name: layers[name] for name in names})

        class Loss:
            def prepare(self, model: nn.Module, batch: object, key: object) -> object:
                return batch

            def evaluate(self, model: nn.ModuleDict, prepared: torch.Tensor) -> object:
                return small_runs.Values.of(model["c"](model["b"](model["a"](prepared)).tanh()).square().mean(1))

        run = Run(model, ParameterSpace.of(model), Case().recipe(), Loss(), Swap(), seed=3)
        for _ in range(3):
            run.step(torch.ones(2, 6))
        return weights_hash(model)

    assert trained_hash(["a", "b", "c"]) == trained_hash(["c", "a", "b"])


@pytest.mark.parametrize("chunk", [97, 1000])
@pytest.mark.parametrize("name", ["float16-residual", "bfloat16-stochastic", "adam"])
def test_chunking_is_no_part_of_a_run(
    name: str, chunk: int, trained: dict[str, tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (space_module, updates_module, probe_module):
        monkeypatch.setattr(module, "CHUNK", chunk)
    folder, _ = trained[name]
    model = load_base(folder)
    replay(model, folder / "ledger.zo", until=2)
    monkeypatch.undo()
    whole = load_base(folder)
    replay(whole, folder / "ledger.zo", until=2)
    assert weights_hash(model) == weights_hash(whole) != weights_hash(load_base(folder))


def test_a_live_run_does_not_see_the_chunking(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(torch.float16, steps=2)
    whole = weights_hash(case.go(case.start()).model)
    for module in (space_module, updates_module, probe_module):
        monkeypatch.setattr(module, "CHUNK", 101)
    assert weights_hash(case.go(case.start()).model) == whole


BOXES = {  # the slice of each tensor that a rank holds, as (offset, size) of its first and last dimension
    "first-half": lambda shape: ((0,) * len(shape), (shape[0] // 2, *shape[1:])),
    "second-half": lambda shape: ((shape[0] // 2, *(0,) * (len(shape) - 1)), (shape[0] - shape[0] // 2, *shape[1:])),
    "columns": lambda shape: ((*(0,) * (len(shape) - 1), 1), (*shape[:-1], shape[-1] // 2)),
    "inner-box": lambda shape: ((1,) * len(shape), tuple(s - 2 for s in shape)),
}


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("name", ["float32-rademacher", "bfloat16-residual", "bfloat16-stochastic", "adam", "decay"])
def test_a_shard_replays_its_slice(name: str, box: str, trained: dict[str, tuple[Path, str]]) -> None:
    folder, _ = trained[name]
    base, whole = load_base(folder), load_base(folder)
    full, _, contents = replay(whole, folder / "ledger.zo", until=2)
    sites, cuts = [], {}
    for site in full:
        shape = site.shape
        offset, local = BOXES[box](shape)
        cut = tuple(slice(o, o + n) for o, n in zip(offset, local, strict=True))
        held = base.get_parameter(site.name).detach()[cut].clone(memory_format=torch.contiguous_format)
        sites.append(Site(site.name, held, site.grid, site.group, shape, shard_segments(shape, offset, local)))
        cuts[site.name] = cut
    shard = ParameterSpace(sites)
    apply_entries(contents.entries, contents, shard, State(), Attachments(folder), "shard")
    for site in shard:
        assert torch.equal(site.parameter, whole.get_parameter(site.name).detach()[cuts[site.name]]), site.name


def test_segments_of_a_box_of_three_dimensions() -> None:
    whole = torch.arange(4 * 5 * 6).view(4, 5, 6)
    for offset, local in [
        ((1, 2, 3), (2, 2, 2)),
        ((0, 1, 0), (4, 3, 6)),
        ((2, 0, 0), (1, 5, 6)),
        ((0, 0, 0), (4, 5, 6)),
    ]:
        box = whole[tuple(slice(o, o + n) for o, n in zip(offset, local, strict=True))].reshape(-1)
        found = torch.full_like(box, -1)
        for at, start, length in shard_segments((4, 5, 6), offset, local):
            found[at : at + length] = torch.arange(start, start + length)
        assert torch.equal(found, box)


def test_estimators_see_the_written_past(tmp_path: Path) -> None:
    case = Case(poisoned=(2,), settings={"schedule": "linear", "draws": 2})
    seen: list[tuple[object, ...]] = []
    run = case.start(tmp_path)
    inner = run.estimator

    def watching(step):  # type: ignore[no-untyped-def]
        seen.append((step.index, tuple(step.past), step.rates))
        return inner(step)

    run.estimator = watching
    case.go(run)
    entries = read(tmp_path / "ledger.zo").entries
    assert len(entries) == case.steps
    for index, past, rates in seen:
        # through repr: a NaN equals itself there
        assert repr(past) == repr(entries[:index])
        assert rates == entries[index].rates


def test_rates_given_by_hand_are_seen_as_they_are_written(tmp_path: Path) -> None:
    case = Case()
    run = case.start(tmp_path)
    seen = []
    inner = run.estimator
    run.estimator = lambda step: (seen.append(step.rates), inner(step))[1]
    sizes = []
    for _ in range(3):
        run.step(batch_at(run.index), rates={"decay": Rates(1e-3, 0.1), "plain": Rates(1e-3)})
        sizes.append(run.ledger.size)
    run.ledger.close()
    assert seen == [entry.rates for entry in read(tmp_path / "ledger.zo").entries]
    assert seen[0]["decay"].lr == float(torch.tensor(1e-3)) != 1e-3
    # an unchanged rate costs nothing
    assert sizes[2] - sizes[1] == 32


def test_bytes_a_step_do_not_know_the_model() -> None:
    def sizes(width: int, draws: int, schedule: str) -> list[int]:
        model = nn.Linear(width, width)

        class Loss:
            def prepare(self, model: nn.Module, batch: object, key: object) -> object:
                return batch

            def evaluate(self, model: nn.Module, prepared: torch.Tensor) -> object:
                return small_runs.Values.of(model(prepared).square().mean(1))

        recipe = Case(settings={"draws": draws, "schedule": schedule}).recipe()
        run = Run(model, ParameterSpace.of(model), recipe, Loss(), Swap(), steps=4)
        found = [run.ledger.size]
        for _ in range(4):
            run.step(torch.ones(1, width))
            found.append(run.ledger.size)
        return [b - a for a, b in itertools.pairwise(found)]

    for draws in (1, 3):
        columns = 1 + draws
        constant = sizes(4, draws, "constant")
        assert constant[1:] == [4 * columns + 24] * 3
        assert constant[0] == 4 * columns + 24 + 16  # both groups' rates, once
        assert sizes(300, draws, "constant") == constant
        assert sizes(4, draws, "linear")[1:] == [4 * columns + 24 + 4] * 3  # the new rate


def test_a_state_rebuilt_by_replay_is_the_live_state(tmp_path: Path) -> None:
    case = Case(torch.bfloat16, settings={"optimizer": "adam"})
    model = case.base()
    save_base(model, tmp_path)
    run = case.go(case.start(tmp_path, model))
    _, state, _ = replay(load_base(tmp_path), tmp_path / "ledger.zo")
    live = dict(run.state.flat())
    assert {path.split("/")[0] for path in live} == {"residual", "adam_m", "adam_v"}
    assert state.scalars == run.state.scalars
    assert all(torch.equal(tensor, live[path]) for path, tensor in state.flat())
    assert len(live) == len(list(state.flat()))


def test_attachments_belong_to_the_state_from_their_step_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask renewed in mid-run: replay must use the old one before and the new one after."""
    from zerothorder.directions.laws import Dense
    from zerothorder.directions.maps import Multiply

    recipe = type(Case().recipe())
    monkeypatch.setattr(recipe, "direction", lambda self, key: Dense(key, self.law, (Multiply("mask"),)))
    case = Case()
    model = case.base()
    save_base(model, tmp_path)
    run = case.start(tmp_path, model)

    def mask(share: float) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        return {site.name: (torch.rand(site.shape, generator=generator) < share).float() for site in run.space}

    run.attach("mask", mask(0.2))
    case.go(run, 3)
    run.attach("mask", mask(0.9))
    case.go(run, 5)
    again = load_base(tmp_path)
    replay(again, tmp_path / "ledger.zo")
    assert weights_hash(again) == weights_hash(model)
    resumed = case.resume(tmp_path)
    assert weights_hash(resumed.model) == weights_hash(model)
    assert weights_hash(case.go(resumed).model) == weights_hash(case.go(run).model)


def test_an_attachment_does_not_move_with_the_weights(tmp_path: Path) -> None:
    """The published defect: an anchor that aliases the live weights is always equal to them."""
    case = Case()
    model = case.base()
    run = case.start(tmp_path, model)
    before = {site.name: site.parameter.detach().clone() for site in run.space}
    run.attach("anchor", {site.name: site.parameter.detach() for site in run.space})
    case.go(run)
    for name, tensor in run.state.tensors["anchor"].items():
        assert torch.equal(tensor, before[name])
        assert not torch.equal(tensor, model.get_parameter(name))


def test_a_dense_part_is_replayed_and_sliced(tmp_path: Path) -> None:
    """Hybrids: a first-order part is a content-hashed file, applied whole or by shard to the same bits."""
    from zerothorder.updates import Update

    case = Case(steps=3)
    model = case.base()
    save_base(model, tmp_path)
    run = case.start(tmp_path, model)
    run.update = Update(run.update.transforms, accepts_dense=True)
    inner = run.estimator

    def hybrid(step):  # type: ignore[no-untyped-def]
        estimate = yield from inner(step)
        parts = {"head.weight": torch.full((5, 24), 0.5) * torch.arange(24), "turned.weight": torch.eye(24)}
        return dataclasses.replace(estimate, dense=parts)

    run.estimator = hybrid
    case.go(run)
    run.ledger.close()
    contents = read(tmp_path / "ledger.zo")
    assert all(entry.dense_hash for entry in contents.entries)
    store = Attachments(tmp_path / "attachments")
    again = load_base(tmp_path)
    space = case.space(again)
    direction = recipe_of(contents).direction(bytes.fromhex(contents.header.run_key))
    shard_at, shard_size = (1, 3), (3, 20)
    site = space.by_name["head.weight"]
    held = site.parameter.detach()[1:4, 3:23].clone()
    shard = Site(site.name, held, site.grid, site.group, site.shape, shard_segments((5, 24), shard_at, shard_size))
    state, shard_state = State(), State()
    for entry in contents.entries:
        entry = dataclasses.replace(entry, dense=store.get(entry.dense_hash, "test"))
        run.update.apply(entry, space, direction, state)
        run.update.apply(entry, ParameterSpace([shard]), direction, shard_state)
    assert weights_hash(again) == weights_hash(model)
    assert torch.equal(held, again.head.weight.detach()[1:4, 3:23])


def test_objective_is_pure() -> None:
    """The helper itself: one batch, one model, one value."""
    model, batch = Net().eval(), batch_at(3)
    first, second = (CrossEntropy().evaluate(model, batch).value for _ in range(2))
    assert torch.equal(first, second)
