"""What is in the files that a cell's settings name: a result depends on it as it does on the settings."""

import functools
import hashlib
from pathlib import Path

from zerothorder.places import PACKAGED, absolute


def content(data: str) -> str:
    """Hash of the rows' file, or of the names and files of their folder, at DATA or TASK:DATA; empty for data that are
    not files of one's own: shipped ones, and a hub's."""
    name = absolute(data)
    task, _, behind = name.partition(":")
    place = Path(behind if task in PACKAGED else name)
    if not place.is_absolute():
        return ""
    files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
    found = hashlib.sha256()
    for path in files:
        about = path.stat()
        found.update(f"{path.relative_to(place).as_posix()} {_hash(path, about.st_size, about.st_mtime_ns)}\n".encode())
    return found.hexdigest()[:16]


@functools.cache
def _hash(path: Path, _size: int, _changed: int) -> str:
    """Of a file's bytes, once a process for as long as it is not written to."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
