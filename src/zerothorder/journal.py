"""metrics.jsonl: one JSON object a line, for people and plots. The ledger is the truth; this may lose its last line."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zerothorder.errors import UsageError


class Journal:
    """Appends rows; on resume drops what was written at or after the step the run goes on from."""

    def __init__(self, path: Path, resume_at: int | None = None) -> None:
        self.path = path
        if resume_at is not None and path.exists():
            kept = [row for row in read_journal(path) if row["step"] < resume_at or row["kind"] == "eval"]
            kept = [row for row in kept if row["kind"] != "end" and row["step"] <= resume_at]
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(_line(row) for row in kept))
            os.replace(temporary, path)
        self._file = open(path, "a")  # noqa: SIM115 - closed by close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row. UsageError when the disk is full."""
        try:
            self._file.write(_line(row))
            self._file.flush()
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror}; free some space, then resume the run") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _line(row: Mapping[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(finite) + "\n"


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a journal; a last line cut by a crash is dropped."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
