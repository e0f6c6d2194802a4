"""A suite file: which tasks, which methods, which seeds. Every combination is a cell with settings of its own."""

import dataclasses
import hashlib
import importlib
import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerothorder.bench.contents import content
from zerothorder.bench.shape import check_names, check_shape, check_values
from zerothorder.errors import UsageError, nearest

QUICK = Path(__file__).parent / "quick.toml"
"""The suite of `zo bench --quick`."""
JOINT = "+"
"""Between a method's name and the values of its axes."""
KINDS = {
    "preference": "zerothorder.bench.preference:Preference",
    "score": "zerothorder.bench.score:Score",
}
"""What a cell of a suite does: a frozen dataclass whose fields are its settings, with `run(folder, seed, before)` and
the `page` of its results and the `executor` of its runs. It may have: `axes`, settings of which a list makes a method
of each; `arranged(cells)`, which puts cells before others, and `follows(result, before, where)`, which raises
UsageError for a result that came from other such cells; `check()`, what can be wrong before any runs; `seconds()`, how
long it takes."""


@dataclass(frozen=True)
class Cell:
    """One run of a suite. `settings` are those of its kind, whole. It runs when those of `after` are done, whose
    results it is given; a `stage` is such a cell's name in place of its seed's."""

    kind: str
    task: str
    method: str
    seed: int
    settings: Mapping[str, Any]
    stage: str = ""
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its folder below the suite's output."""
        return f"{self.task}/{self.method}/{self.stage or f'seed-{self.seed}'}"

    @property
    def digest(self) -> str:
        """Of everything that its result depends on, the code left out."""
        told = json.dumps([self.kind, self.seed, self.settings, *filter(None, [self.content])], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def content(self) -> str:
        """Hash of the data, where they are files of one's own."""
        return content(str(self.settings.get("data", "")))

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
        return tuple(dict.fromkeys(cell.task for cell in self.cells if not cell.stage))

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
    """The cells whose task or method is named, and those they wait for; all for no name. A method of an axis is named
    by any part of its name. UsageError for a name that is neither."""
    parts = dict.fromkeys(part for method in suite.methods for part in (method, *method.split(JOINT)))
    known = [*suite.tasks, *parts]
    for name in only:
        if name not in known:
            raise UsageError(f"{suite.path} has no task or method {name!r}{nearest(name, known)}")
    tasks, methods = ([name for name in only if name in own] for own in (suite.tasks, parts))

    def meant(cell: Cell) -> bool:
        own = (cell.method, *cell.method.split(JOINT))
        return (not tasks or cell.task in tasks) and (not methods or any(name in own for name in methods))

    taken = {cell.name for cell in suite.cells if not cell.stage and meant(cell)}
    taken |= {name for cell in suite.cells if cell.name in taken for name in cell.after}
    return dataclasses.replace(suite, cells=tuple(cell for cell in suite.cells if cell.name in taken))


def page_of(suite: Suite) -> Any:
    """The module that writes the suite's page: `write_page` and `summary`."""
    return importlib.import_module(kind_of(suite.kind).page)


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

    A list for one of the kind's axes makes a method of each of its values, NAME+VALUE. UsageError names an unknown
    setting, task or kind, with the nearest name.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read the suite {path}: {error}") from error
    check_shape(path, raw)
    seeds = raw.get("seeds", [0])
    # every method once before any a second time: a suite that is stopped has something to compare
    cells = sorted(_cells(path, raw, seeds), key=lambda cell: seeds.index(cell.seed))
    arranged = getattr(kind_of(raw["kind"]), "arranged", None)
    return Suite(path.stem, raw["kind"], raw.get("about", ""), path, tuple(arranged(cells) if arranged else cells))


def _cells(path: Path, raw: Mapping[str, Any], seeds: list[int]) -> Iterator[Cell]:
    kind = kind_of(raw["kind"])
    fields = {field.name: field for field in dataclasses.fields(kind)}
    check_names(path, raw, fields)
    for task, settings in raw["tasks"].items():
        for method, own in raw["methods"].items():
            if task not in own.get("only", [task]):
                continue
            given = {**raw.get("defaults", {}), **settings, **own}
            given.pop("only", None)
            for name, values in _spread(path, method, given, getattr(kind, "axes", ())):
                check_values(kind, values, f"{task}/{name} of {path}")
                made = kind(**values)
                for seed in seeds:
                    yield Cell(raw["kind"], task, name, seed, dataclasses.asdict(made))


def _folder_name(value: Any) -> str:
    """A value as part of a folder's name: a hub's names and paths have slashes."""
    return str(value).strip("/").replace("/", "-")


def _spread(
    path: Path, method: str, given: Mapping[str, Any], axes: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A method and its settings for each combination of the axes that have a list."""
    several = [axis for axis in axes if isinstance(given.get(axis), list)]
    for axis in several:
        names = [_folder_name(value) for value in given[axis]]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"{axis} of {method} of {path} is {given[axis]!r}; a list has at least one, each once")
    for values in itertools.product(*(given[axis] for axis in several)):
        yield JOINT.join((method, *map(_folder_name, values))), {**given, **dict(zip(several, values, strict=True))}
