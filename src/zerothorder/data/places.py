"""From a place to its rows by split: a data file, a folder of them, or a name that `datasets` knows."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from zerothorder.data.formats import READERS, Row, read_file
from zerothorder.data.quiet import need, one_sentence
from zerothorder.errors import UsageError, nearest

ALIASES = {"train": ("train", "training"), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
Parts = dict[str, Callable[[], list[Row]]]
"""Split → what reads its rows; a split that is not there is missing."""


def is_path(source: str) -> bool:
    """Whether a source is meant as a file or folder: it is there, or it is spelt as a path or a data file."""
    path = Path(source).expanduser()
    spelt = path.is_absolute() or source.startswith((".", "~")) or source.count(os.sep) > 1
    return spelt or path.suffix.lower() in READERS or path.exists()


def local_parts(source: str) -> Parts:
    """The splits of a folder; all rows of a file as training rows."""
    path = Path(source).expanduser()
    if path.is_dir():
        return _files_in(path)
    if path.suffix.lower() in READERS or path.exists():
        return {"train": lambda: read_file(path)}
    raise UsageError(f"{source} does not exist: give a data file, a folder with a train file, or a data set name")


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


def hub_parts(source: str, known: Iterable[str] = (), fix: str = "check the name and the connection") -> Parts:
    """The splits of "NAME" or "NAME:CONFIGURATION" on the hub, or in the cache of `datasets`.

    UsageError where it cannot be had, with the nearest of the `known` names and what to do.
    """
    name, _, configuration = source.partition(":")
    datasets = need("datasets", f"the data set {source!r}")
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(name, configuration or None)
    except Exception as error:
        raise UsageError(
            f"cannot load the data set {source!r}, which is no file or folder ({one_sentence(error)}): "
            f"{fix}{nearest(source, known) if known and '/' not in source else ''}"
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
