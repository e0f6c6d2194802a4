"""What a cell left: its result file, checked against the suite that asks for it."""

import functools
import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zerothorder.bench.suite import Cell, Suite, kind_of
from zerothorder.environment import environment
from zerothorder.errors import UsageError
from zerothorder.ledger.attachments import write_durably

RESULT = "result.json"
_PACKAGE = Path(__file__).parents[1]


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
        if found.get("content", "") != cell.content:
            changed.append(f"the files of {cell.settings['data']} hold something else")
        raise UsageError(
            f"{path} is of other settings ({', '.join(changed) or 'another version of the suite'}); give another "
            "output folder, or remove this file to run the cell again"
        )
    return found


def write_result(folder: Path, cell: Cell, found: Mapping[str, Any], made_by: Mapping[str, str] | None = None) -> None:
    """The result with what it depends on: settings, code (`identity`, unless it was asked for before), environment."""
    whole = {
        "name": cell.name, "digest": cell.digest, "settings": dict(cell.settings), "seed": cell.seed,
        "content": cell.content,
        **(made_by or identity()),
        "environment": environment(kind_of(cell.kind).executor, "cpu"), **found,
    }  # fmt: skip
    write_durably(folder / cell.name / RESULT, (json.dumps(whole, indent=1) + "\n").encode())


def results(suite: Suite, folder: Path) -> dict[str, dict[str, Any]]:
    """Cell name → its result, of those that are done."""
    read = {cell.name: read_result(folder, cell) for cell in suite.cells}
    found = {name: result for name, result in read.items() if result is not None}
    for cell in suite.cells:
        if cell.after and cell.name in found and all(name in found for name in cell.after):
            kind_of(cell.kind).follows(found[cell.name], [found[name] for name in cell.after], folder / cell.name)
    return found


def identity() -> dict[str, str]:
    """Of the code that runs: `commit`, and `code`, the hash of the package's source, which tells changes that were not
    committed from each other and does not change with the documents."""
    return {"commit": commit(), "code": code()}


def same_code(result: Mapping[str, Any], now: Mapping[str, str]) -> bool:
    """Whether the result was made by this code; by the commit alone where the result is older than `code`."""
    return result["code"] == now["code"] if "code" in result else result["commit"] == now["commit"]


@functools.cache
def code() -> str:
    """Hash of every module of the package, once a process."""
    found = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        found.update(f"{path.relative_to(_PACKAGE).as_posix()} {path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()[:12]


def commit() -> str:
    """Of the working tree the library is in, with a plus where it has changes; empty outside of one."""

    def git(*words: str) -> str | None:
        asked = ["git", "-C", str(_PACKAGE), *words]
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
        return found.stdout.strip() if found.returncode == 0 else None

    try:
        head, changed = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "--", ".")
    except OSError:
        return ""
    return "" if head is None else head + ("+" if changed else "")
