"""A killed run goes on to the same bits: killed at any moment, at every call to the system, or with a full disk."""

import contextlib
import os
import random
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import small_runs
from crashes import boundaries, dying, in_child
from small_runs import Case, Net, batch_at, use_forkable_kernels, weights_hash
from zerothorder.errors import UsageError
from zerothorder.ledger.reader import read
from zerothorder.ledger.snapshot import load_snapshot, save_snapshot
from zerothorder.run import Run
from zerothorder.state import State

CASE = Case(
    torch.float16, poisoned=(1,), steps=4, settings={"optimizer": "adam", "schedule": "linear", "law": "rademacher"}
)
EVERY = 2


class Tiny(Net):
    """Small enough for hundreds of runs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(10, 24)
        self.back = torch.nn.Linear(24, 10, bias=False)
        self.back.weight = self.embed.weight


def make_small(patch: pytest.MonkeyPatch) -> None:
    use_forkable_kernels(patch)
    patch.setattr(small_runs, "Net", Tiny)
    patch.setattr(small_runs, "VOCABULARY", 10)


@pytest.fixture(autouse=True)
def small_and_forkable(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


def train(folder: Path, case: Case = CASE) -> str:
    """Start or resume the run of a folder and take it to its end, with a mask attached at the start."""
    run = case.resume(folder)
    attach_once(run)
    return case.finish(case.go(run, None, folder / "snapshots", EVERY))


def attach_once(run: Run) -> None:
    if "extra" not in run.ledger.attached:
        run.attach("extra", {"head.bias": torch.ones(5)})


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """The weights' hash and the ledger of the run that nothing disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        folder = tmp_path_factory.mktemp("straight")
        return train(folder), (folder / "ledger.zo").read_bytes()


# ------------------------------------------------------------------------------- every boundary, and mid-write


@pytest.mark.parametrize(
    "partial", [pytest.param(False, id="before"), pytest.param(True, id="amid", marks=pytest.mark.slow)]
)
def test_killed_at_every_boundary(tmp_path: Path, straight: tuple[str, bytes], partial: bool) -> None:
    (tmp_path / "count").mkdir()
    names = boundaries(lambda: train(tmp_path / "count"))
    assert {"write", "fsync", "replace", "open"} <= set(names)
    for at in range(len(names)):
        folder = tmp_path / f"at-{at}"
        folder.mkdir()

        def work(at: int = at, folder: Path = folder) -> None:
            with dying(at, partial):
                train(folder)

        assert in_child(work) == -signal.SIGKILL
        if (folder / "ledger.zo").exists():
            assert read(folder / "ledger.zo").entries is not None  # no kill leaves a file that cannot be read
        assert train(folder) == straight[0], (at, names[at])
        assert (folder / "ledger.zo").read_bytes() == straight[1], (at, names[at])


def test_killed_again_while_resuming(tmp_path: Path, straight: tuple[str, bytes]) -> None:
    """A torn ledger whose resume is killed at each of its own boundaries, and once more."""
    begin = len(straight[1]) - 150  # amid the steps

    def torn(folder: Path) -> Path:
        (folder / "attachments").mkdir(parents=True)
        (folder / "ledger.zo").write_bytes(straight[1][: begin + 3])
        run = Case.start(CASE)
        for digest, data in attached_bytes(run).items():
            (folder / "attachments" / f"{digest}.safetensors").write_bytes(data)
        return folder

    names = boundaries(lambda: train(torn(tmp_path / "count")))
    assert "ftruncate" in names
    for at in range(min(len(names), 12)):
        folder = torn(tmp_path / f"at-{at}")

        def work(at: int = at, folder: Path = folder) -> None:
            with dying(at, True):
                train(folder)

        assert in_child(work) == -signal.SIGKILL
        assert in_child(work) in (-signal.SIGKILL, 0)
        assert train(folder) == straight[0], (at, names[at])
        assert (folder / "ledger.zo").read_bytes()[: len(straight[1])] == straight[1]


def attached_bytes(run: Run) -> dict[str, bytes]:
    attach_once(run)
    return dict(run.ledger.attachments._memory)


# --------------------------------------------------------------------------------------------- any moment


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    """The kill comes from outside, whatever the run is doing; three steps on, the weights are the straight run's."""
    case = Case(torch.float16, steps=400, poisoned=(2, 5), settings={"optimizer": "momentum", "law": "rademacher"})
    rng = random.Random(0)
    moments = [rng.randrange(1, 16) for _ in range(20)]
    run, straight = case.start(), []
    attach_once(run)
    while run.index <= max(moments) + 24:
        straight.append(weights_hash(run.model))
        run.step(batch_at(run.index, case.poisoned))
    for number, steps in enumerate(moments):
        folder = tmp_path / str(number)
        folder.mkdir()
        pid = os.fork()
        if not pid:
            with contextlib.suppress(BaseException):
                run = case.start(folder)
                attach_once(run)
                case.go(run, None, folder / "snapshots", 3)
            os._exit(9)
        path, wanted, deadline = folder / "ledger.zo", run.ledger.header.encode(), time.monotonic() + 60
        # the file's size says how far the run is: an entry takes about 32 bytes
        while not path.exists() or path.stat().st_size < len(wanted) + 32 * steps:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        time.sleep(rng.random() * 0.004)
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        run = case.resume(folder)
        assert run.index >= steps - 4
        reached = run.index
        while run.index < reached + 3:
            if run.index < len(straight):
                assert weights_hash(run.model) == straight[run.index], (number, run.index)
            run.step(batch_at(run.index, case.poisoned))
        run.ledger.close()
        assert reached < len(straight), "the machine was slower to kill than to train: raise the margin"


# ---------------------------------------------------------------------------------------------- full disk


def test_a_full_disk_stops_in_a_sentence_and_the_run_goes_on(tmp_path: Path, straight: tuple[str, bytes]) -> None:
    """No file may grow beyond the limit, at any byte of two entries and at many more; SIGXFSZ ignored as by Python."""
    limits = [*range(0, len(straight[1]), 173), *range(len(straight[1]) - 130, len(straight[1]) - 60, 7)]
    for number, limit in enumerate(limits):
        folder = tmp_path / str(number)
        folder.mkdir()

        def work(limit: int = limit, folder: Path = folder) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            train(folder)

        assert in_child(work) == 2, limit
        path = folder / "ledger.zo"
        if path.exists():
            contents = read(path)
            assert contents.torn == 0
            assert straight[1].startswith(path.read_bytes())
        assert not list(folder.rglob("*.tmp"))
        assert train(folder) == straight[0], limit
        assert path.read_bytes() == straight[1]


def test_a_snapshot_that_finds_no_room_leaves_the_ledger_whole(tmp_path: Path, straight: tuple[str, bytes]) -> None:
    limit = len(straight[1]) + 1000  # the ledger fits, a snapshot does not

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(UsageError, match=r"cannot write the snapshot .*File too large; free some space"):
            train(tmp_path)
        raise UsageError("as the command line would end")

    assert in_child(work) == 2
    assert len(read(tmp_path / "ledger.zo").entries) == EVERY
    assert list((tmp_path / "snapshots").iterdir()) == []
    assert train(tmp_path) == straight[0]


# ---------------------------------------------------------------------------------------------- snapshots


def halfway(folder: Path, steps: int = 3) -> Run:
    run = CASE.start(folder)
    attach_once(run)
    CASE.go(run, steps, folder / "snapshots", EVERY)
    run.ledger.close()
    return run


def fresh() -> tuple[Any, Any, State]:
    model = CASE.base()
    return model, CASE.space(model), State()


def test_a_snapshot_is_the_run_at_its_step(tmp_path: Path) -> None:
    run = halfway(tmp_path, 2)
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["step-00000002.safetensors"]
    model, space, state = fresh()
    assert load_snapshot(tmp_path / "snapshots", read(tmp_path / "ledger.zo").chains, space, state) == 2
    assert weights_hash(model) == weights_hash(run.model)
    assert state.scalars == run.state.scalars
    assert {p: t.tolist() for p, t in state.flat()} == {p: t.tolist() for p, t in run.state.flat()}


def test_a_snapshot_does_not_alias_the_live_weights(tmp_path: Path) -> None:
    run = halfway(tmp_path)
    model, space, state = fresh()
    load_snapshot(tmp_path / "snapshots", read(tmp_path / "ledger.zo").chains, space, state)
    before, kept = weights_hash(model), {path: tensor.clone() for path, tensor in state.flat()}
    with torch.no_grad():
        for site in run.space:
            site.parameter.zero_()
    for _, tensor in run.state.flat():
        tensor.zero_()
    assert weights_hash(model) == before
    assert all(torch.equal(tensor, kept[path]) for path, tensor in state.flat())


@pytest.mark.parametrize("where", [40, -20, -2000, "cut", "empty"])
def test_a_damaged_snapshot_is_passed_over(tmp_path: Path, straight: tuple[str, bytes], where: Any) -> None:
    """Snapshots are never the truth: one flipped bit of a weight and the entries rebuild everything."""
    halfway(tmp_path)
    path = tmp_path / "snapshots" / "step-00000002.safetensors"
    data = bytearray(path.read_bytes())
    if where == "cut":
        data = data[:-100]
    elif where == "empty":
        data = bytearray()
    else:
        data[where] ^= 1
    path.write_bytes(data)
    _, space, state = fresh()
    assert load_snapshot(tmp_path / "snapshots", read(tmp_path / "ledger.zo").chains, space, state) == 0
    assert train(tmp_path) == straight[0]


def test_a_snapshot_of_another_run_is_passed_over(tmp_path: Path) -> None:
    halfway(tmp_path)
    other = CASE.start()
    other.step(batch_at(50))  # another loss, another chain
    CASE.go(other, 4)
    _, space, state = fresh()
    assert load_snapshot(tmp_path / "snapshots", tuple([other.ledger.chain] * 4), space, state) == 0
    assert state.tensors == {}
    # nor one that is ahead of a ledger whose tail a power failure took
    assert load_snapshot(tmp_path / "snapshots", read(tmp_path / "ledger.zo", 1).chains, space, state) == 0


def test_old_snapshots_and_leftovers_go(tmp_path: Path) -> None:
    run = CASE.start(tmp_path)
    CASE.go(run, 1)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / ".step-00000000.safetensors.tmp").write_bytes(b"half")
    for step in (1, 2, 3):
        save_snapshot(tmp_path / "snapshots", step, run.ledger.chain, run.space, run.state, keep=2)
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == [
        "step-00000002.safetensors",
        "step-00000003.safetensors",
    ]
    run.ledger.close()
