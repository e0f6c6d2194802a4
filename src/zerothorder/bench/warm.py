"""What the server of cells imports once, so that a cell of seconds does not take ten to begin."""

import importlib.util
import signal

import torch  # noqa: F401

import zerothorder.evaluation
import zerothorder.training  # noqa: F401
from zerothorder.data.quiet import hushed

# Ctrl-C is for the suite and its cells, which ask for it again; this server ends when the suite does
signal.signal(signal.SIGINT, signal.SIG_IGN)
if importlib.util.find_spec("transformers"):
    with hushed():  # imports it, and silences what peft says of the libraries beside it
        if importlib.util.find_spec("peft"):
            importlib.import_module("peft")
