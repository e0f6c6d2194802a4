"""Adapter folders (peft): a small set of weights that belongs to a base model."""

import json
from pathlib import Path
from typing import Any

import torch

from zerothorder.data.quiet import hushed, need, one_sentence
from zerothorder.errors import UsageError

ADAPTER_CONFIG = "adapter_config.json"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a whole model."""
    return (folder / ADAPTER_CONFIG).is_file()


def base_of(folder: Path) -> str:
    """The model that an adapter folder belongs to. UsageError where it does not say."""
    try:
        name = json.loads((folder / ADAPTER_CONFIG).read_text()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"cannot read {folder / ADAPTER_CONFIG} ({error}); is this an adapter?") from error
    if not name:
        raise UsageError(f"{folder / ADAPTER_CONFIG} names no base model; write it as base_model_name_or_path")
    return str(name)


def load_adapter(model: Any, folder: Path) -> Any:
    """The model with the trained adapter of a folder on it; LoRA may be trained further, a prefix only read.

    UsageError where adapter and base do not fit.
    """
    peft = need("peft", "reading an adapter")
    try:
        with torch.random.fork_rng(devices=[]), hushed():
            config = peft.PeftConfig.from_pretrained(str(folder))
            trainable = not config.is_prompt_learning
            adapted = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UsageError(f"the adapter {folder} does not fit its base ({one_sentence(error)})") from error
    return adapted.train(model.training)


def write_adapter(model: Any, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors, the same bytes in every process."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    path = folder / ADAPTER_CONFIG
    config: dict[str, Any] = json.loads(path.read_text())
    # peft writes its sets in the order of this process's string hashes
    settled = {
        k: sorted(v) if isinstance(v, list) and all(isinstance(x, str) for x in v) else v for k, v in config.items()
    }
    path.write_text(json.dumps(settled, indent=2, sort_keys=True) + "\n")
