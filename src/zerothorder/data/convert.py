"""GGUF: one quantised file becomes a float model, or an ordinary float32 model folder."""

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zerothorder.data.folders import drop_quantisation, write_folder
from zerothorder.data.quiet import hushed, need, one_sentence
from zerothorder.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What tokenizers get wrong when they are rebuilt: spaces, line ends, bytes beyond ASCII, special tokens.
PROBES = (
    "It was great.",
    "  two spaces,\ta tab\nand a line",
    "naïve café 東京 🙂",
    "<|im_start|>user\nHi<|im_end|>",
)


def read_gguf(file: Path, auto: Any, **options: Any) -> tuple["PreTrainedModel", dict[str, Any]]:
    """The dequantised model of a GGUF file through the auto class `auto`, and the loading report."""
    need("gguf", "reading a GGUF file")
    # Its own progress bar obeys no setting, so what it writes meanwhile goes nowhere.
    with hushed(), contextlib.redirect_stderr(io.StringIO()):
        model, info = auto.from_pretrained(str(file.parent), gguf_file=file.name, output_loading_info=True, **options)
    drop_quantisation(model)
    return model, info


def gguf_to_folder(file: Path, folder: Path) -> None:
    """Convert a causal model, then read it back: every tensor and the tokenizer must be what was loaded."""
    transformers: Any = need("transformers", "converting a model")
    try:
        with torch.random.fork_rng(devices=[]):
            model, _ = read_gguf(file, transformers.AutoModelForCausalLM, dtype=torch.float32)
        with hushed():
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    except (UsageError, MemoryError):
        raise
    except Exception as error:
        raise UsageError(f"{file} cannot be converted ({one_sentence(error)}): use another file") from error
    write_folder(model, tokenizer, folder)
    _verify(model, tokenizer, folder)


def _verify(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    from safetensors import safe_open

    state = model.state_dict()
    # Tied names share one storage, of which the file holds one copy.
    missing = {tensor.data_ptr(): name for name, tensor in state.items()}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as saved:
            for name in saved.keys():  # noqa: SIM118  (not a dict)
                if not torch.equal(saved.get_tensor(name), state[name]):
                    raise UsageError(f"{name} changed on its way to {path.name}: check the disk, run again")
                missing.pop(state[name].data_ptr(), None)
    if missing:
        lost = next(iter(missing.values()))
        raise UsageError(f"{lost} was not written to {folder}: use another version of transformers")
    transformers: Any = need("transformers", "converting a model")
    with hushed():
        again = transformers.AutoTokenizer.from_pretrained(str(folder))
    for text in PROBES:
        if again(text)["input_ids"] != tokenizer(text)["input_ids"]:
            raise UsageError(f"the saved tokenizer reads {text!r} otherwise: use another transformers version")
