"""Model folders as they are written: ordinary ones, complete or not there."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from zerothorder.data.adapters import ADAPTER_CONFIG, write_adapter
from zerothorder.data.cache import settle
from zerothorder.data.quiet import hushed, one_sentence
from zerothorder.data.soft_prompt import virtual_tokens, write_prompt
from zerothorder.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    folder: str | Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a folder that `from_pretrained` reads, in one move: it appears complete, or not at all.

    A folder that holds anything is refused; `overwrite` allows to replace one that holds a model. An
    adapter's folder is for peft's `from_pretrained`.
    """
    target = Path(folder).expanduser().absolute()
    try:
        occupied = target.exists() and (not target.is_dir() or any(target.iterdir()))
        holds_model = any((target / name).is_file() for name in ("config.json", ADAPTER_CONFIG))
        if occupied and not (overwrite and holds_model):
            raise UsageError(f"{folder} exists already and is not empty: name another folder or remove it")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
            new = Path(scratch) / "new"
            write_folder(model, tokenizer, new)
            settle(new)
            if occupied:
                target.replace(Path(scratch) / "old")
            new.replace(target)
    except OSError as error:
        raise UsageError(_unwritten(folder, error.strerror or str(error))) from error
    except Exception as error:
        # safetensors has an error of its own for a full disk.
        if type(error).__name__ != "SafetensorError":
            raise
        raise UsageError(_unwritten(folder, one_sentence(error))) from error
    return target


def _unwritten(folder: str | Path, reason: str) -> str:
    return f"cannot write the model to {folder} ({reason}): free some space or name another folder"


def write_folder(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Weights (safetensors), configuration and tokenizer; of a model with an adapter, the adapter alone."""
    drop_quantisation(model)
    # How a tokenizer was found (offline or not) is no part of it, and would differ from machine to machine.
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    with hushed():
        if hasattr(model, "peft_config"):
            write_adapter(model, folder)
        elif virtual_tokens(model):
            write_prompt(model, folder)
        else:
            model.save_pretrained(folder)
        tokenizer.save_pretrained(str(folder))


def drop_quantisation(model: "PreTrainedModel") -> None:
    """Forget a quantiser whose weights are plain floats by now; packed weights are refused.

    transformers reads a GGUF file into floats but goes on calling the model quantised, and will not save it.
    """
    if getattr(model, "hf_quantizer", None) is None:
        return
    packed = [name for name, tensor in model.named_parameters() if not tensor.is_floating_point()]
    if packed:
        raise UsageError(f"{packed[0]} holds packed weights, which are not saved: load the model dequantised")
    vars(model.config).pop("quantization_config", None)
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        vars(model).pop(name, None)
