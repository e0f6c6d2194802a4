"""What a named task is: where its rows come from, what becomes of them, and the words in which they are asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zerothorder.data.formats import Row
from zerothorder.data.places import Parts, hub_parts, local_parts
from zerothorder.data.splits import held_out
from zerothorder.errors import UsageError

Reading = Callable[[Sequence[Row]], list[Row]]


@dataclass(frozen=True)
class NamedTask:
    """A data set with a prompt, which `--data` knows by name.

    `source` builds or finds the folder with its files; a text names a data set of the hub, whose validation split is
    our test. `read` makes our rows of a split's raw ones. `template` asks, `bare` is the row's texts alone (for runs
    without task alignment). The answers are the `verbalizers`; without them the rows bring `options` or, where
    `generated`, `references`.
    """

    about: str
    source: Callable[[], Path] | str
    template: str
    bare: str
    verbalizers: str | None = None
    generated: bool = False
    read: Reading = list
    licence: str = ""

    def parts(self, place: str = "") -> Parts:
        """Its rows by split; with a `place` those of a file or folder with the columns of its source."""
        if place:
            raw = local_parts(place)
        elif isinstance(self.source, str):
            fix = "check the connection, or have its rows in a folder and give it behind the task's name: NAME:FOLDER"
            raw = hub_parts(self.source, fix=fix)
        else:
            raw = local_parts(str(self.source()))
        if isinstance(self.source, str):
            return _protocol(raw, self.read)
        return {split: lambda rows=rows: self.read(rows()) for split, rows in raw.items()}


TRAIN, DEV, TEST = 1000, 500, 1000
"""Rows of a task of the papers, as in MeZO."""


def _protocol(raw: Parts, read: Reading) -> Parts:
    """Train and dev from public training rows, test from public validation rows: public tests have no labels."""
    parts: Parts = {}
    if "train" in raw:
        parts["train"] = lambda: held_out(read(raw["train"]()), DEV, TRAIN)[0]
        parts["dev"] = lambda: held_out(read(raw["train"]()), DEV, TRAIN)[1]
    if "dev" in raw:
        parts["test"] = lambda: held_out(read(raw["dev"]()), 0, TEST)[0]
    return parts


def each(make: Callable[[Row], dict[str, object]]) -> Reading:
    """A reading that makes one row of one. UsageError names a row without a column that `make` asks for."""

    def read(rows: Sequence[Row]) -> list[Row]:
        found: list[Row] = []
        for row in rows:
            try:
                found.append(Row(make(row).items(), row.where))
            except KeyError as error:
                raise UsageError(f"{row.where} has no column {error} (it has {', '.join(row)}): add it") from error
            except (TypeError, AttributeError, ValueError, IndexError) as error:
                raise UsageError(f"{row.where} is not as its source has it ({error}): compare the columns") from error
        return found

    return read
