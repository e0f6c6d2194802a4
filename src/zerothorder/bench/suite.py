"""A suite file: which tasks, which methods, which seeds. Every combination is a cell with settings of its own."""

import dataclasses
import hashlib
import importlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerothorder.errors import UsageError, nearest

KINDS = {"preference": "zerothorder.bench.preference:Preference"}
"""What a cell of a suite does: a frozen dataclass whose fields are its settings, with `run(folder, seed, say)`."""


@dataclass(frozen=True)
class Cell:
    """One run of a suite. `settings` are those of its kind, whole."""

    kind: str
    task: str
    method: str
    seed: int
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its folder below the suite's output."""
        return f"{self.task}/{self.method}/seed-{self.seed}"

    @property
    def digest(self) -> str:
        """Of everything that its result depends on, the code left out."""
        told = json.dumps([self.kind, self.seed, self.settings], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def made(self) -> Any:
        """The kind with these settings."""
        return kind_of(self.kind)(**self.settings)


@dataclass(frozen=True)
class Suite:
    """A suite file, read."""

    name: str
    kind: str
    about: str
    path: Path
    cells: tuple[Cell, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.task for cell in self.cells))

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.method for cell in self.cells))

    def cell(self, name: str) -> Cell:
        """UsageError for a name that is none's."""
        found = {cell.name: cell for cell in self.cells}
        if name not in found:
            raise UsageError(f"{self.path} has no cell {name!r}{nearest(name, found)}")
        return found[name]


def chosen(suite: Suite, only: Sequence[str]) -> Suite:
    """The cells whose task or method is named; all for no name. UsageError for one that is neither."""
    known = [*suite.tasks, *suite.methods]
    for name in only:
        if name not in known:
            raise UsageError(f"{suite.path} has no task or method {name!r}{nearest(name, known)}")
    tasks, methods = ([name for name in only if name in own] for own in (suite.tasks, suite.methods))
    cells = [c for c in suite.cells if (not tasks or c.task in tasks) and (not methods or c.method in methods)]
    return dataclasses.replace(suite, cells=tuple(cells))


def kind_of(name: str) -> Any:
    """UsageError with the nearest name for an unknown kind."""
    if name not in KINDS:
        raise UsageError(f"there is no kind of suite {name!r}{nearest(name, KINDS)}")
    module, _, own = KINDS[name].partition(":")
    return getattr(importlib.import_module(module), own)


def read_suite(path: Path) -> Suite:
    """The suite of a TOML file:

        kind = "preference"        # what a cell does
        about = "…"
        seeds = [0, 1, 2]
        [defaults]                 # settings of every cell
        [tasks.NAME]               # of a task, before
        [methods.NAME]             # those of a method; `only = ["TASK"]` keeps it to some tasks

    UsageError names an unknown setting, task or kind, with the nearest name.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read the suite {path}: {error}") from error
    for name in raw:
        if name not in (known := ("kind", "about", "seeds", "defaults", "tasks", "methods")):
            raise UsageError(f"{path} has a field {name!r} that suites do not have{nearest(name, known)}")
    for name in ("kind", "tasks", "methods"):
        if not raw.get(name):
            raise UsageError(f"{path} has no {name}; a suite needs kind, [tasks.NAME] and [methods.NAME]")
    seeds = raw.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise UsageError(f"seeds of {path} is {seeds!r}; it is a list of whole numbers")
    # every method once before any a second time: a suite that is stopped has something to compare
    cells = sorted(_cells(path, raw, seeds), key=lambda cell: seeds.index(cell.seed))
    return Suite(path.stem, raw["kind"], raw.get("about", ""), path, tuple(cells))


def _cells(path: Path, raw: Mapping[str, Any], seeds: list[int]) -> Iterator[Cell]:
    kind = kind_of(raw["kind"])
    fields = {field.name: field for field in dataclasses.fields(kind)}
    parts = {"defaults": raw.get("defaults", {})}
    parts |= {f"tasks.{name}": own for name, own in raw["tasks"].items()}
    parts |= {f"methods.{name}": own for name, own in raw["methods"].items()}
    for where, part in parts.items():
        for name in part:
            if name not in fields and not (name == "only" and where.startswith("methods.")):
                raise UsageError(f"[{where}] of {path} has a field {name!r} that is none{nearest(name, fields)}")
    for method, own in raw["methods"].items():
        for task in own.get("only", ()):
            if task not in raw["tasks"]:
                raise UsageError(f"methods.{method} of {path} is for a task {task!r}{nearest(task, raw['tasks'])}")
    for task, settings in raw["tasks"].items():
        for method, own in raw["methods"].items():
            if task not in own.get("only", [task]):
                continue
            given = {**raw.get("defaults", {}), **settings, **own}
            given.pop("only", None)
            try:
                made = kind(**given)
            except TypeError as error:
                raise UsageError(f"{task}/{method} of {path} lacks a setting: {error}") from error
            for seed in seeds:
                yield Cell(raw["kind"], task, method, seed, dataclasses.asdict(made))
