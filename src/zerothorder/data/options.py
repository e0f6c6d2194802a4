"""Answers of a row's own: a column `options` with a list of texts, and a `label` that says which is right."""

from collections.abc import Mapping, Sequence
from typing import Any

from zerothorder.data.tables import is_missing
from zerothorder.errors import UsageError

Rows = Sequence[Mapping[str, Any]]


def has_options(rows: Rows) -> bool:
    """Whether the rows bring answers of their own."""
    return any("options" in row for row in rows)


def options_of(row: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], int]:
    """(the row's options as texts, the index of the right one). UsageError names the row and what is wrong with it.

    `label` is the index, counted from 0, or the text of the right option; a text is never read as a number.
    """
    found = row.get("options")
    if found is None:
        raise UsageError(f"{where} has no options (it has {', '.join(row)}): give every row a list of them")
    if not isinstance(found, list | tuple):
        raise UsageError(
            f"{where} has a {type(found).__name__} in column 'options': give a list of texts (JSONL, Parquet)"
        )
    for option in found:
        if not isinstance(option, str) or not option.strip():
            raise UsageError(f"{where} has the option {option!r}: options are texts, and none is empty")
    options = tuple(option.strip() for option in found)
    if len(options) < 2:
        raise UsageError(f"{where} has {len(options)} of at least 2 options: nothing is to be chosen")
    twice = next((option for option in options if options.count(option) > 1), None)
    if twice is not None:
        raise UsageError(f"{where} has the option {twice!r} twice: keep one")
    return options, _right(row.get("label"), options, where)


def _right(label: Any, options: tuple[str, ...], where: str) -> int:
    if is_missing(label):
        raise UsageError(f"{where} has nothing in column 'label': give the index or the text of the right option")
    if isinstance(label, str):
        if label.strip() in options:
            return options.index(label.strip())
    elif not isinstance(label, bool) and isinstance(label, int | float) and label in range(len(options)):
        return int(label)
    raise UsageError(
        f"{where} has the label {label!r}, which is none of its {len(options)} options: give an index from 0 to "
        f"{len(options) - 1}, or one of the texts"
    )
