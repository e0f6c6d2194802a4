"""Where long work says how far it is."""

from collections.abc import Mapping
from typing import Any, Protocol


class Reporter(Protocol):
    """Takes what a run has to say: a terminal, a log, nobody."""

    def note(self, text: str) -> None:
        """A sentence the user should read."""
        ...

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of metrics.jsonl, as it is written."""
        ...

    def progress(self, what: str, done: int, total: int) -> None:
        """How far a named piece of work is; it ends with done = total. 0 of 1 is work of unknown length."""
        ...


class Silent:
    """Says nothing."""

    def note(self, text: str) -> None: ...

    def row(self, row: Mapping[str, Any]) -> None: ...

    def progress(self, what: str, done: int, total: int) -> None: ...
