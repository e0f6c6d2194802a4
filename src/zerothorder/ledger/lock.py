"""One process at a time: a claim on a file or folder, which the system forgets when the process ends, in any way."""

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from zerothorder.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows, where nothing is claimed
    fcntl = None

_held: dict[tuple[int, int], int] = {}


def claim(path: Path) -> None:
    """UsageError where another process has claimed what lies at `path`. Claims of this process are one: a run that was
    abandoned in a notebook is resumed there. A file system that knows no locks refuses nobody."""
    own = _identity(path)
    if fcntl is None or own in _held:
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise UsageError(
                f"another process is writing to {path}; wait until it is done, or stop it first"
            ) from error
        return
    _held[own] = handle


def release(path: Path) -> None:
    """Give up this process's claim, if it has one."""
    if path.exists():
        _give_up(_identity(path))


@contextmanager
def claimed(path: Path) -> Generator[None]:
    """Claim what lies at `path`, if anything does, and give it up at the end, also where it is removed meanwhile."""
    if not path.exists():
        yield
        return
    own = _identity(path)
    claim(path)
    try:
        yield
    finally:
        _give_up(own)


def _give_up(own: tuple[int, int]) -> None:
    handle = _held.pop(own, None)
    if handle is not None:
        os.close(handle)


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
