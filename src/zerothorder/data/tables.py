"""`read_rows`: a source and a split become rows with the columns the rest of the library expects.

A source is a packaged data set, a file, a folder with train, dev (or validation) and test files, or a name
that `datasets` knows, with its configuration after a colon ("glue:sst2"). A split that is not there is carved
out of the training rows by the hash of their text (see splits.py): a single file gives 80/10/10.
"""

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from zerothorder.data.formats import READERS, Problem, Row, read_file, refuse
from zerothorder.data.quiet import need, one_sentence
from zerothorder.data.sources import DATA, SHIPPED, data_folder
from zerothorder.data.splits import SPLITS, carve
from zerothorder.errors import UsageError, nearest

ALIASES = {"train": ("train", "training"), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
Parts = dict[str, Callable[[], list[Row]]]


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
    if source in DATA or source in SHIPPED:
        return _files_in(data_folder(source))
    path = Path(source).expanduser()
    if path.is_dir():
        return _files_in(path)
    if path.suffix.lower() in READERS or path.exists():
        return {"train": lambda: read_file(path)}
    if path.is_absolute() or source.startswith((".", "~")) or source.count(os.sep) > 1:
        raise UsageError(f"{source} does not exist: give a data file, a folder with a train file, or a data set name")
    return _hub_parts(source)


def _files_in(folder: Path) -> Parts:
    parts: Parts = {}
    for split, names in ALIASES.items():
        found = [
            path for path in sorted(folder.iterdir()) if path.stem.lower() in names and path.suffix.lower() in READERS
        ]
        if len(found) > 1:
            listed = ", ".join(path.name for path in found)
            raise UsageError(f"{folder} has {len(found)} files for {split} ({listed}): keep one")
        if found:
            # Bound now: a closure over `found` would see the last split's.
            parts[split] = lambda path=found[0]: read_file(path)
    if not parts:
        raise UsageError(f"{folder} holds no data: put train.jsonl (or .csv, .tsv, .parquet) in it")
    return parts


def _hub_parts(source: str) -> Parts:
    name, _, configuration = source.partition(":")
    datasets = need("datasets", f"the data set {source!r}")
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(name, configuration or None)
    except Exception as error:
        raise UsageError(
            f"cannot load the data set {source!r}, which is no file or folder ({one_sentence(error)}): "
            f"check the name and the connection{'' if '/' in source else nearest(source, [*DATA, *SHIPPED])}"
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()
    parts: Parts = {}
    for split, aliases in ALIASES.items():
        for alias in aliases:
            if alias in found and split not in parts:
                parts[split] = lambda rows=found[alias], alias=alias: [
                    Row(row.items(), f"{source}[{alias}] row {number}") for number, row in enumerate(rows, start=1)
                ]
    if not parts:
        raise UsageError(f"the data set {source!r} has no train, dev or test split: it has {', '.join(found)}")
    return parts


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
