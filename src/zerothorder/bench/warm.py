"""What the server of cells imports once, so that a cell of seconds does not take ten to begin."""

import importlib.util

import torch  # noqa: F401

import zerothorder.evaluation
import zerothorder.training  # noqa: F401

for name in ("transformers", "peft"):
    if importlib.util.find_spec(name):
        importlib.import_module(name)
