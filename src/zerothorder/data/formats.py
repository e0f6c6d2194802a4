"""One file of rows: JSON lines, CSV or Parquet. Every malformed row is named; none is skipped or guessed."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from zerothorder.data.quiet import need, one_sentence
from zerothorder.errors import UsageError

SHOWN = 3  # malformed rows that a message names; it counts the others


class Row(dict[str, Any]):
    """A row as a dict of its columns, which knows where it came from (`where`: file and row number)."""

    def __init__(self, columns: Iterable[tuple[str, Any]], where: str) -> None:
        super().__init__(columns)
        self.where = where


Problem = tuple[int, str]  # row number, what is wrong


def read_file(path: Path) -> list[Row]:
    """All rows of one file; the row number is what an editor or a spreadsheet shows."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path} is not a data file that can be read: give one of {', '.join(READERS)}")
    if not path.is_file():
        raise UsageError(f"{path} does not exist: check the path")
    problems: list[Problem] = []
    try:
        rows = [Row(columns.items(), f"{path} row {number}") for number, columns in reader(path, problems)]
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from error
    refuse(path, problems, len(rows) + len(problems))
    if not rows:
        raise UsageError(f"{path} holds no rows: give a file with at least one")
    return rows


def refuse(source: object, problems: list[Problem], total: int) -> None:
    """One sentence about all malformed rows: how many, and the first few by number."""
    if not problems:
        return
    shown = ", ".join(f"row {number} ({what})" for number, what in problems[:SHOWN])
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    raise UsageError(f"{source}: {len(problems)} of {total} rows cannot be used: {shown}{more}; correct or remove them")


def _text(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path} is not UTF-8: byte {raw[error.start]:#04x} in line {row}; save the file as UTF-8"
        ) from error


def _json_lines(path: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): it also breaks at characters that may stand inside a JSON string.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append((number, f"not JSON: {error.msg} at character {error.colno}"))
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            problems.append((number, "not a JSON object with named columns"))


def _separated(path: Path, problems: list[Problem], delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    limit = csv.field_size_limit(2**31 - 1)  # a text may be longer than the 128 kB that csv allows
    try:
        reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        number = 0
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problems.append((number + 1, f"{error} near line {reader.line_num}"))
                continue
            number += 1
            if not cells:
                continue
            if header is None:
                header = _header(path, cells)
            elif len(cells) == len(header):
                yield number, dict(zip(header, cells, strict=True))
            else:
                problems.append((number, f"{len(cells)} cells for {len(header)} columns"))
    finally:
        csv.field_size_limit(limit)


def _header(path: Path, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    for name in header:
        if not name or header.count(name) > 1:
            problem = f"has two columns named {name!r}" if name else "has a column without a name"
            raise UsageError(f"{path} {problem} in row 1: give every column its own name")
    return header


def _csv(path: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    return _separated(path, problems, ",")


def _tsv(path: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    return _separated(path, problems, "\t")


def _parquet(path: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    parquet = need("pyarrow.parquet", "reading Parquet")
    try:
        rows = parquet.read_table(path).to_pylist()
    except OSError:
        raise
    except Exception as error:
        raise UsageError(f"{path} is not a readable Parquet file ({one_sentence(error)}): write it again") from error
    return ((number, row) for number, row in enumerate(rows, start=1))


READERS: dict[str, Callable[[Path, list[Problem]], Iterator[tuple[int, dict[str, Any]]]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
