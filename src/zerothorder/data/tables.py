"""`read_rows`: a source and a split become rows with the columns the rest of the library expects.

A source is a named task, a shipped text set, a file, a folder with train, dev (or validation) and test files, or a
name that `datasets` knows, with its configuration after a colon ("nyu-mll/glue:sst2"). Behind the colon of a named task
stands a file or folder of its rows ("sst2:my/sst2"). A split that is not there is carved
out of the training rows by the hash of their text (see splits.py): a single file gives 80/10/10.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from zerothorder.data.formats import Problem, Row, refuse
from zerothorder.data.places import Parts, hub_parts, is_path, local_parts
from zerothorder.data.sources import SHIPPED, data_folder
from zerothorder.data.splits import SPLITS, carve
from zerothorder.data.tasks import TASKS
from zerothorder.errors import UsageError, nearest


def read_rows(
    source: str | Path,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    required: Collection[str] = (),
) -> list[Row]:
    """The rows of one split.

    `columns` maps our names to the file's ({"text": "sentence"}); the mapped columns are added under our
    names and all others are kept. A row without a value in a `required` column (our name) is refused by
    number.
    """
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r}{nearest(split, SPLITS)}")
    parts = _parts(str(source))
    missing = [name for name in SPLITS if name not in parts]
    if split in parts and (split != "train" or not missing):
        return _mapped(parts[split](), source, columns or {}, required)
    if "train" not in parts:
        raise UsageError(f"{source} has no rows for {split!r} and none for training: it has {', '.join(parts)}")
    rows = carve(_mapped(parts["train"](), source, columns or {}, required), missing)[split]
    if not rows:
        raise UsageError(f"{source} has too few different texts for a {split} split: add rows or a {split} file")
    return rows


def _parts(source: str) -> Parts:
    name, _, place = source.partition(":")
    if name in TASKS:
        return TASKS[name].parts(place)
    if source in SHIPPED:
        return local_parts(str(data_folder(source)))
    return local_parts(source) if is_path(source) else hub_parts(source, known=[*TASKS, *SHIPPED])


def _mapped(rows: list[Row], source: str | Path, columns: Mapping[str, str], required: Collection[str]) -> list[Row]:
    if not rows:
        raise UsageError(f"{source} holds no rows: give a data set with at least one")
    known = list(dict.fromkeys(name for row in rows for name in row))
    for ours, theirs in columns.items():
        if theirs not in known:
            raise UsageError(f"{source} has no column {theirs!r}, which was named for {ours!r}{_hint(theirs, known)}")
    for name in required:
        if name not in columns and name not in known:
            fix = f"say which one it is with --{name}-column" if name in ("text", "label") else "add or rename it"
            raise UsageError(f"{source} has no column {name!r}{_hint(name, known)}; {fix}")
    problems: list[Problem] = []
    for index, row in enumerate(rows):
        row.update({ours: row.get(theirs) for ours, theirs in columns.items()})
        empty = [columns.get(name, name) for name in required if is_missing(row.get(name))]
        if empty:
            number = row.where.rpartition(" ")[2]
            problems.append((int(number) if number.isdigit() else index + 1, f"nothing in column {empty[0]!r}"))
    refuse(source, problems, len(rows))
    return rows


def _hint(name: str, known: Sequence[str]) -> str:
    listed = f" (it has {', '.join(known)})"
    hint = nearest(name, known)
    return listed + hint if "did you mean" in hint else listed


def is_missing(value: object) -> bool:
    """No value: absent, null, not a number, or only white space."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))
