"""Where a run's weights were: a few moments of it, one tensor at a time."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn

from zerothorder.errors import UsageError
from zerothorder.ledger.attachments import Attachments
from zerothorder.ledger.header import check_base
from zerothorder.ledger.reader import Contents, read
from zerothorder.replay import apply_entries, beside, load_attached, space_of
from zerothorder.space import ParameterSpace, Site, stored_name
from zerothorder.state import RESIDUAL, State, residual_of

_FILES = ("adapter_model.safetensors", "model.safetensors")


class Track(Protocol):
    """A run as T+1 places of its weights. `names` are those of its tensors, `moments` the steps of the places."""

    name: str
    moments: Sequence[int]

    @property
    def names(self) -> Sequence[str]: ...

    def places(self, name: str) -> Iterator[Tensor]:
        """The tensor at each moment, 1-D."""
        ...


@dataclass
class Checkpoints:
    """A trainer's checkpoints, in the order of their steps: `checkpoint-N` folders of one output folder, or a list."""

    name: str
    folders: Sequence[Path]
    moments: Sequence[int]
    _names: list[str] = field(default_factory=list[str])

    @classmethod
    def of(cls, folder: Path, start: Path | None = None) -> "Checkpoints":
        """The checkpoints in a folder, after `start` (the weights before the first step). UsageError for fewer than two
        places."""
        numbered = [
            (int(m[1]), path) for path in folder.iterdir() if (m := re.fullmatch(r"checkpoint-(\d+)", path.name))
        ]
        found = ([(0, start)] if start is not None else []) + sorted(numbered)
        if len(found) < 2:
            raise UsageError(
                f"{folder} holds {len(found)} places of a path: an update is the difference of two; save checkpoints "
                "(save_steps), or name the weights before the first step"
            )
        return cls(folder.name, [path for _, path in found], [step for step, _ in found])

    @classmethod
    def of_rounds(cls, folder: Path) -> list["Checkpoints"]:
        """Reward model and policy of a run of rounds (`zo rounds`): their adapters at the start and after each round
        that is done. UsageError where none is. The reward model comes first, as it does in a round: its next update is
        the one that follows from what the policy has become."""
        found: list[Checkpoints] = []
        for name in ("reward", "policy"):
            done = [folder / f"{name}-{number}" for number in range(len(list(folder.glob(f"{name}-*"))))]
            done = [stage for stage in done if (stage / "stage.json").exists()]
            if done:
                found.append(cls(name, [done[0] / "start", *done], range(len(done) + 1)))
        if not found:
            raise UsageError(f"{folder} holds no round that is done; there is no movement to look at")
        return found

    @property
    def names(self) -> Sequence[str]:
        if not self._names:
            with safe_open(_weights(self.folders[-1]), "pt") as file:
                self._names = sorted(file.keys())
        return self._names

    def places(self, name: str) -> Iterator[Tensor]:
        for folder in self.folders:
            with safe_open(_weights(folder), "pt") as file:
                if name not in file.keys():  # noqa: SIM118 - not a mapping
                    raise UsageError(
                        f"{folder} lacks {name!r}, which {self.folders[-1]} has; give checkpoints of one run"
                    )
                yield (
                    file.get_tensor(name).reshape(-1).clone()
                )  # its own memory: a file that is mapped counts as a whole


@dataclass
class Replayed:
    """A ledger's run, replayed one tensor at a time: memory of a tensor, time of one replay in all.

    bf16 weights are read with their residual byte, which holds most of a small update.
    """

    name: str
    model: nn.Module
    path: Path
    moments: Sequence[int]
    _contents: Contents | None = None
    _space: ParameterSpace | None = None

    @classmethod
    def of(cls, name: str, model: nn.Module, path: Path, pieces: int = 20) -> "Replayed":
        """The run cut into about as many equal pieces. LedgerError for another base; UsageError for an empty run."""
        contents = read(path)
        steps = len(contents.entries)
        if not steps:
            raise UsageError(f"{path} holds no step yet; there is no movement to look at")
        count = min(pieces, steps)
        found = cls(name, model, path, [round(steps * i / count) for i in range(count + 1)], contents)
        space, state = space_of(model, contents), State()
        load_attached(contents, found._store, model, space, state, str(path))
        check_base(contents.header, model, space, str(path))
        found._space = space
        return found

    @property
    def _store(self) -> Attachments:
        return Attachments(self.path.parent / "attachments")

    @property
    def names(self) -> Sequence[str]:
        return [site.name for site in self._space or ()]

    def places(self, name: str) -> Iterator[Tensor]:
        if self._contents is None or self._space is None:
            raise UsageError("a replayed path is made by Replayed.of")
        own = self._space.by_name[name]
        before = own.parameter.detach().clone()
        state = State()
        try:
            for step, tensor_name, digest in self._contents.attachments:
                if step == 0:
                    found = self._store.get(digest, f"{self.path}: {tensor_name!r}")
                    state.tensors[tensor_name] = beside(found, self._space)
            yield _read(own, state)
            for start, end in zip(self.moments[:-1], self.moments[1:], strict=True):
                part = _until(self._contents, end)
                apply_entries(part.entries[start:], part, ParameterSpace([own]), state, self._store, str(self.path))
                yield _read(own, state)
        finally:
            with torch.no_grad():
                own.parameter.copy_(before)


def _until(contents: Contents, end: int) -> Contents:
    attachments = tuple(a for a in contents.attachments if a[0] <= end)
    return dataclasses.replace(contents, entries=contents.entries[:end], attachments=attachments)


def _read(site: Site, state: State) -> Tensor:
    flat = site.read()
    if site.grid.exact:
        return flat.clone()
    out = torch.empty(site.numel, dtype=site.grid.compute)
    site.grid.load(out, flat, residual_of(site, state) if state.tensors.get(RESIDUAL) else None)
    return out


def _weights(folder: Path) -> str:
    found = next((folder / name for name in _FILES if (folder / name).exists()), None)
    if found is None:
        raise UsageError(f"{folder} holds none of {', '.join(_FILES)}; give a checkpoint saved as safetensors")
    return str(found)


def canonical(names: Sequence[str]) -> dict[str, str]:
    """Canonical name → the track's own, so that a policy and a reward model over one base find each other."""
    return {stored_name(name): name for name in names}


__all__ = ["Checkpoints", "Replayed", "Track", "canonical"]
