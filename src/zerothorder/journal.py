"""metrics.jsonl: one JSON object a line, for people and plots. The ledger is the truth; this may lose its last line."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zerothorder.errors import UsageError


class Journal:
    """Appends rows; on resume drops what was written at or after the step the run goes on from.

    What a run needs to know of its own past: `evaluations` by (split, step), `last`, the last row of a step that
    counts forwards, and `next_step`, the first step without a row.
    """

    def __init__(self, path: Path, resume_at: int | None = None) -> None:
        self.path = path
        self.evaluations: dict[tuple[str, int], dict[str, Any]] = {}
        self.last: dict[str, Any] | None = None
        self.next_step = 0
        self._file: int | None = None
        try:
            if resume_at is not None and path.exists():
                self._cut(resume_at)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self._size = os.fstat(self._file).st_size
        except OSError as error:
            raise UsageError(self._unwritten(error)) from error

    def _cut(self, resume_at: int) -> None:
        kept = [row for row in read_journal(self.path) if row["kind"] != "end"]
        kept = [row for row in kept if row["step"] < resume_at + (row["kind"] != "step")]
        temporary = self.path.with_suffix(".tmp")
        try:
            temporary.write_text("".join(_line(row) for row in kept))
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)
        for row in kept:
            self._remember(row)

    def _remember(self, row: dict[str, Any]) -> None:
        if row["kind"] == "eval":
            self.evaluations[row["split"], row["step"]] = row
        elif row["kind"] == "step":
            self.next_step = row["step"] + 1
            if row.get("forwards") is not None:
                self.last = row

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row, whole or not at all. UsageError when the disk is full."""
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        data = _line(row).encode()
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise UsageError(self._unwritten(error)) from error
        self._size += len(data)
        self._remember(dict(row))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _unwritten(self, error: OSError) -> str:
        return f"cannot write {self.path}: {error.strerror}; free some space, then resume the run"


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(finite(row)) + "\n"


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with null for NaN and infinities, which JSON does not have."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a journal; a last line cut by a crash is dropped."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and "kind" in row:
            rows.append(row)
    return rows
