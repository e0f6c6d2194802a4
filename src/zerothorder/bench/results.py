"""What a cell left: its result file, checked against the suite that asks for it."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zerothorder.bench.suite import Cell, Suite
from zerothorder.environment import environment
from zerothorder.errors import UsageError
from zerothorder.ledger.attachments import write_durably

RESULT = "result.json"


def read_result(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The cell's result; None where there is none. UsageError for one of other settings: they are never mixed."""
    path = folder / cell.name / RESULT
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); remove it to run the cell again") from error
    if found["digest"] != cell.digest:
        then = found["settings"]
        changed = [f"{n} {then.get(n)!r}, not {value!r}" for n, value in cell.settings.items() if then.get(n) != value]
        raise UsageError(
            f"{path} is of other settings ({', '.join(changed) or 'another version of the suite'}); give another "
            "output folder, or remove this file to run the cell again"
        )
    return found


def write_result(folder: Path, cell: Cell, found: Mapping[str, Any]) -> None:
    """The result with what it depends on: settings, commit, environment."""
    whole = {
        "name": cell.name, "digest": cell.digest, "settings": dict(cell.settings), "seed": cell.seed,
        "commit": commit(), "environment": environment("swap", "cpu"), **found,
    }  # fmt: skip
    write_durably(folder / cell.name / RESULT, (json.dumps(whole, indent=1) + "\n").encode())


def results(suite: Suite, folder: Path) -> dict[str, dict[str, Any]]:
    """Cell name → its result, of those that are done."""
    found = {cell.name: read_result(folder, cell) for cell in suite.cells}
    return {name: result for name, result in found.items() if result is not None}


def commit() -> str:
    """Of the working tree the library is in, with a plus where it has changes; empty outside of one."""

    def git(*words: str) -> str | None:
        asked = ["git", "-C", str(Path(__file__).parent), *words]
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
        return found.stdout.strip() if found.returncode == 0 else None

    try:
        head, changed = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "--", ".")
    except OSError:
        return ""
    return "" if head is None else head + ("+" if changed else "")
