"""Small runs that the tests of ledger and replay share; as a script, the other process that replays them.

python small_runs.py THREADS FOLDER...    the sha256 of every folder's replayed weights, one JSON object
"""

import functools
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zerothorder.execution.swap import Swap
from zerothorder.key import Key
from zerothorder.ledger.header import fingerprint
from zerothorder.ledger.reader import read
from zerothorder.ledger.snapshot import load_snapshot, save_snapshot
from zerothorder.ledger.writer import Ledger
from zerothorder.point import Values
from zerothorder.recipes.mezo import MeZO
from zerothorder.replay import apply_entries, load_attached, replay
from zerothorder.run import Run
from zerothorder.space import ParameterSpace
from zerothorder.state import State

VOCABULARY, WIDTH, CLASSES = 420, 24, 5


class Net(nn.Module):
    """Everything that makes replay hard, in 11 thousand weights: tied, frozen, transposed, dropout, norms, biases."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(VOCABULARY, WIDTH)  # more than two blocks of every parallel kernel
            self.inner = nn.Linear(WIDTH, WIDTH)
            self.frozen = nn.Linear(WIDTH, WIDTH)
            self.norm = nn.LayerNorm(WIDTH)
            self.dropout = nn.Dropout(0.2)
            self.turned = nn.Linear(WIDTH, WIDTH, bias=False)
            self.turned.weight = nn.Parameter(torch.randn(WIDTH, WIDTH).t() * 0.2)  # not contiguous
            self.head = nn.Linear(WIDTH, CLASSES)
            self.back = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.back.weight = self.embed.weight
        self.frozen.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).mean(1)
        x = self.dropout(self.norm(self.frozen(self.inner(x).tanh())))
        return self.head(self.turned(x)).float() + self.back(x).float()[:, :CLASSES]


@dataclass(frozen=True)
class Batch:
    """Token ids (rows, 6) and labels; `poisoned` makes every loss NaN."""

    ids: Tensor
    labels: Tensor
    poisoned: bool = False


def batch_at(step: int, poisoned: tuple[int, ...] = ()) -> Batch:
    """The batch of a step, a function of the step alone."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, VOCABULARY, (4, 6), generator=generator)
    return Batch(ids, ids[:, 0] % CLASSES, step in poisoned)


class CrossEntropy:
    """-log p(label) of every row."""

    def prepare(self, model: nn.Module, batch: Batch, key: Key) -> Batch:
        return batch

    def evaluate(self, model: nn.Module, prepared: Batch) -> Values:
        loss = nn.functional.cross_entropy(model(prepared.ids), prepared.labels, reduction="none")
        return Values.of(loss * float("nan") if prepared.poisoned else loss)


@dataclass(frozen=True)
class Case:
    """One small run: a dtype, MeZO's settings, and what happens to it."""

    dtype: torch.dtype = torch.float32
    precision: str = "residual"
    training: bool = False
    poisoned: tuple[int, ...] = ()
    steps: int = 6
    settings: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self) -> MeZO:
        return MeZO(**{"lr": 2e-3, "eps": 1e-2, **self.settings})

    def base(self) -> Net:
        return Net().to(self.dtype).train(self.training)

    def space(self, model: nn.Module) -> ParameterSpace:
        return ParameterSpace.of(model, precision=self.precision)  # type: ignore[arg-type]

    def start(self, folder: Path | None = None, model: nn.Module | None = None) -> Run:
        """A new run, its ledger in the folder (in memory without one)."""
        model = model or self.base()
        path = None if folder is None else folder / "ledger.zo"
        return Run(model, self.space(model), self.recipe(), CrossEntropy(), Swap(), seed=7, steps=self.steps, path=path)

    def resume(self, folder: Path) -> Run:
        """The folder's run at the step after its last whole entry: snapshot if there is one, then replay."""
        path = folder / "ledger.zo"
        if not path.exists():
            return self.start(folder)
        model, contents, state = self.base(), read(path), State()
        space = self.space(model)
        ledger = Ledger.resume(path)
        load_attached(contents, ledger.attachments, model, space, state, str(path))
        done = load_snapshot(folder / "snapshots", contents.chains, space, state)
        apply_entries(contents.entries[done:], contents, space, state, ledger.attachments, str(path))
        return Run(
            model, space, self.recipe(), CrossEntropy(), Swap(), steps=self.steps, ledger=ledger, state=state
        )  # fmt: skip

    def go(self, run: Run, until: int | None = None, snapshots: Path | None = None, every: int = 0) -> Run:
        """Step on; with `every`, a snapshot each so many steps, as training does it."""
        while run.index < (self.steps if until is None else until):
            run.step(batch_at(run.index, self.poisoned))
            if snapshots is not None and run.index % every == 0:
                run.ledger.sync()
                save_snapshot(snapshots, run.index, run.ledger.chain, run.space, run.state)
        return run

    def finish(self, run: Run) -> str:
        """Write the end record; returns the weights' sha256."""
        run.ledger.end(fingerprint(run.model))
        run.ledger.close()
        return weights_hash(run.model)


def weights_hash(model: nn.Module) -> str:
    """sha256 of the bytes of all parameters and buffers, frozen ones too, by name: the library is not asked."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_base(model: nn.Module, folder: Path) -> None:
    """base.safetensors and case.json: with ledger.zo all that replay gets."""
    save_file(
        {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}, folder / "base.safetensors"
    )


def load_base(folder: Path) -> Net:
    """The saved base in a model that was initialised otherwise."""
    tensors = load_file(folder / "base.safetensors")
    model = Net(seed=99).to(tensors["head.bias"].dtype)
    model.load_state_dict(tensors)
    return model


def use_forkable_kernels(monkeypatch: Any) -> None:
    """Another keyed generator in numpy, cheap for small tensors: numba's OpenMP pool does not survive a fork.

    A slice of a draw is still the slice of the whole draw; nothing else about z matters to those who use this.
    """
    from zerothorder.grids import Grid
    from zerothorder.random import cpu
    from zerothorder.updates import moments
    from zerothorder.updates.transforms import Adam

    def adam(g: Tensor, m: Tensor, v: Tensor, beta1: float, beta2: float, one: float, two: float, eps: float) -> None:
        Adam(beta1, beta2, eps).elsewhere(g, m, v, one, two)

    @functools.lru_cache(maxsize=10_000)
    def lanes(key: int, count: int) -> Tensor:
        drawn = np.random.Generator(np.random.Philox(key=key)).integers(0, 256, count, np.uint8)
        return torch.from_numpy(drawn)

    def shift(out: Tensor, source: Tensor, law: str, key: int, coefficient: float, start: int) -> None:
        z = lanes(key, start + out.numel())[start:].to(out.dtype) / 64 - 2
        torch.add(source, z.mul_(torch.tensor(coefficient, dtype=out.dtype)), out=out)

    def byte_lanes(out: Tensor, key: int, start: int) -> None:
        out.copy_(lanes(key, start + out.numel())[start:])

    monkeypatch.setattr(moments, "adam", adam)
    monkeypatch.setattr(cpu, "shift", shift)
    monkeypatch.setattr(cpu, "byte_lanes", byte_lanes)
    monkeypatch.delattr(cpu, "drop")  # what is dropped follows from the bytes
    monkeypatch.setattr(Grid, "fused", property(lambda self: False))


def main(threads: str, *folders: str) -> None:
    torch.set_num_threads(int(threads))
    found: dict[str, str] = {}
    for folder in map(Path, folders):
        model = load_base(folder)
        replay(model, folder / "ledger.zo")
        found[folder.name] = weights_hash(model)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
