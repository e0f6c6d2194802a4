"""Other people's libraries: imported when needed, silent while they work, in one sentence when they fail."""

import importlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from zerothorder.errors import UsageError


def need(module: str, purpose: str) -> ModuleType:
    """Import an optional package, or say what it is for and how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise UsageError(
            f"{purpose} needs the package {missing!r}, which is not here: pip install {missing}"
        ) from error


_TALKATIVE = ("torchao", "torch.utils._pytree")
"""Loggers that warn of kernels for other machines when transformers imports what is installed beside it."""


@contextmanager
def hushed() -> Iterator[None]:
    """No loading bars and no advice from transformers inside; its settings are put back afterwards."""
    library = need("transformers", "loading a model").utils.logging
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity(logging.CRITICAL)
    library.disable_progress_bar()
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    try:
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()


def one_sentence(error: BaseException) -> str:
    """The first sentence of a foreign error, on one line and without its full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[a-z)'\"])\.\s", text, maxsplit=1)[0].rstrip(".")[:300]
