"""Ctrl-C waits while weights are being exchanged: an interrupted exchange would be saved as if it were the model."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """SIGINT is kept for the end of the block, except inside `heard()`, where it goes to its usual handler.

    `held()` closes a part of a heard stretch again (the hooks that exchange weights). Once one was delivered, further
    ones wait for the end of the block. In another thread than the main one Python delivers none: nothing is done.
    """

    def __init__(self) -> None:
        self._hear = False
        self._pending = False
        self._before: Any = None

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._before is not None:
            self._hear = False
            signal.signal(signal.SIGINT, self._before)
            if self._pending:
                self._deliver(None)

    @contextmanager
    def heard(self) -> Generator[None]:
        """Ctrl-C arrives inside."""
        self._hear = True
        try:
            self._late()
            yield
        finally:
            self._hear = False

    @contextmanager
    def held(self) -> Generator[None]:
        """Ctrl-C inside arrives at the end."""
        before, self._hear = self._hear, False
        try:
            yield
        finally:
            self._hear = before
            self._late()

    def _late(self) -> None:
        if self._hear and self._pending:
            self._deliver(None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._hear:
            self._deliver(frame)
        else:
            self._pending = True

    def _deliver(self, frame: FrameType | None) -> None:
        self._pending = self._hear = False
        if callable(self._before):
            self._before(signal.SIGINT, frame)
