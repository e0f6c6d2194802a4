"""What a command that fails says, and its exit code: 2 for what the user can mend, 1 for a defect, 130 for Ctrl-C."""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import metadata

from zerothorder.errors import UsageError

MENDABLE, DEFECT, INTERRUPTED = 2, 1, 130
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)


def guarded(command: Callable[[], int], debug: bool) -> int:
    """Run a command and turn whatever ends it into one sentence on stderr and an exit code."""
    try:
        return command()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of our output has seen enough; nothing may be written to it when Python exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort: a sentence instead of a traceback
        if debug:
            traceback.print_exc()
        code, sentence = explain(error)
        print(f"zo: {sentence}", file=sys.stderr)
        return code


def explain(error: Exception) -> tuple[int, str]:
    """(exit code, sentence) of an exception."""
    if isinstance(error, UsageError):
        return MENDABLE, str(error)
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        where = f" {error.filename}" if error.filename else ""
        return MENDABLE, f"cannot use{where}: {error.strerror}; free some space or choose another place"
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return MENDABLE, (
            "there is not enough memory for this; try --micro-batch 1 (with an objective of TRL's "
            "--per_device_train_batch_size 1), --dtype bfloat16 or a shorter --max-length"
        )
    text = " ".join(str(error).split())[:300]
    return DEFECT, (
        f"this is a defect in zerothorder ({type(error).__name__}{': ' if text else ''}{text}); "
        f"please report it {_where()} with what --debug (or ZO_DEBUG=1) prints"
    )


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def _where() -> str:
    """Where the installed package says that issues go."""
    for entry in metadata("zerothorder").get_all("Project-URL") or ():
        name, _, address = str(entry).partition(", ")
        if name.lower() in ("issues", "bug tracker", "tracker"):
            return f"at {address}"
    return "in zerothorder's issue tracker"
