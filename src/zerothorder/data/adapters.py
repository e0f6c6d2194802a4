"""Adapter folders (peft): a small set of weights that belongs to a base model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zerothorder.data.classes import CLASSES, classes_of, name_classes, saved_classes
from zerothorder.data.prefix_cache import by_either_name
from zerothorder.data.quiet import hushed, need, one_sentence
from zerothorder.data.soft_prompt import load_prompt
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
    """The model with the trained adapter of a folder on it; LoRA may be trained further, a prefix or prompt only read.

    UsageError where adapter and base do not fit.
    """
    peft = need("peft", "reading an adapter")
    try:
        with torch.random.fork_rng(devices=[]), hushed():
            config = peft.PeftConfig.from_pretrained(str(folder))
            if config.peft_type == "PROMPT_TUNING" and config.task_type != "SEQ_CLS":
                return load_prompt(model, folder, config.num_virtual_tokens).train(model.training)
            trainable = not config.is_prompt_learning
            adapted = by_either_name(peft.PeftModel.from_pretrained(model, str(folder), is_trainable=trainable))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UsageError(f"the adapter {folder} does not fit its base ({one_sentence(error)})") from error
    if (classes := saved_classes(folder)) is not None:
        name_classes(adapted, classes)
    return adapted.train(model.training)


def adapter_settings(model: Any, adapter: str) -> dict[str, Any]:
    """The settings of one of a model's adapters as plain values, sets in order: what its folder's file would hold."""
    config = model.peft_config[adapter]

    def plain(value: Any) -> Any:
        return sorted(value) if isinstance(value, set) else str(value)

    return json.loads(json.dumps(config.to_dict() | {"base_model_name_or_path": None}, default=plain))


def with_adapter(model: Any, settings: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> Any:
    """The model with an untrained adapter of these settings, and frozen ones of `others`, settings by name. UsageError
    where they do not fit."""
    peft = need("peft", "a run that trained an adapter")
    try:
        with torch.random.fork_rng(devices=[]), hushed():
            found = by_either_name(peft.get_peft_model(model, peft.get_peft_config(dict(settings))))
            for name, own in others.items():
                found.add_adapter(name, peft.get_peft_config(dict(own)))
            return found
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"the run's adapter cannot be put on this base ({one_sentence(error)})") from error


def write_adapter(model: Any, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors, the same bytes in every process; of a classifier also its
    classes, which peft's file has no place for."""
    model.save_pretrained(folder, selected_adapters=[model.active_adapter])
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    path = folder / ADAPTER_CONFIG
    config: dict[str, Any] = json.loads(path.read_text())
    # peft writes its sets in the order of this process's string hashes
    settled = {
        k: sorted(v) if isinstance(v, list) and all(isinstance(x, str) for x in v) else v for k, v in config.items()
    }
    path.write_text(json.dumps(settled, indent=2, sort_keys=True) + "\n")
    if classes := classes_of(model):
        (folder / CLASSES).write_text(json.dumps(classes) + "\n")
