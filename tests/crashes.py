"""Killing a run where it hurts: at the n-th call that changes the disk, in a fork of the test's process."""

import builtins
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zerothorder.errors import UsageError
from zerothorder.ledger import attachments as attachments_module
from zerothorder.ledger import writer as writer_module


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a fork of this process; its exit status: 0 done, negative a signal, 2 UsageError."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        work()
    except UsageError:
        os._exit(2)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(3)
    os._exit(0)


@contextlib.contextmanager
def dying(at: int, partial: bool) -> Iterator[list[str]]:
    """SIGKILL at the at-th of the calls that change the disk, before it or (`partial`) amid it; lists the calls.

    at < 0 kills nothing: the list is the number of boundaries.
    """
    calls: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) - 1 == at:
                if partial and name == "write":
                    real(args[0], args[1][: max(1, len(args[1]) // 2)])
                elif partial:
                    with contextlib.suppress(OSError):
                        real(*args, **kwargs)  # done, but its caller never hears of it
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    class File:
        """A file of `open` whose writes are counted; unbuffered, so that half a write is on disk."""

        def __init__(self, path: Path, mode: str) -> None:
            self.file = builtins.open(path, mode, buffering=0)  # noqa: SIM115

        def __enter__(self) -> "File":
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            counted("write", lambda handle, piece: self.file.write(piece))(None, data)

        def flush(self) -> None:
            self.file.flush()

        def fileno(self) -> int:
            return self.file.fileno()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attachments_module, "open", counted("open", File), raising=False)
        for name in ("write", "fsync", "replace", "ftruncate", "unlink", "open", "mkdir"):
            patch.setattr(os, name, counted(name, getattr(os, name)))
        patch.setattr(writer_module, "_SYNC_SECONDS", -1.0)  # a sync after every entry: one more boundary
        yield calls


def boundaries(work: Callable[[], Any]) -> list[str]:
    with dying(-1, False) as calls:
        work()
    return calls
