"""What a user did wrong, in one sentence that says where and what to do; the command line exits with 2."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A mistake in what the user gave: the message names the place and the fix."""


class LedgerError(UsageError):
    """A ledger that is damaged, of another base, or of a newer format."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest known name, else the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(names)}"
