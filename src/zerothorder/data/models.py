"""`load_model`: from a name to a model in eval mode and its tokenizer.

Safetensors (or GGUF) only, and no code from a model folder unless asked. Global generators stay as they are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zerothorder.data.adapters import base_of, is_adapter, load_adapter
from zerothorder.data.classes import unnamed
from zerothorder.data.convert import read_gguf
from zerothorder.data.heads import complete
from zerothorder.data.quiet import hushed, need, one_sentence
from zerothorder.data.sources import MODELS, model_folder
from zerothorder.errors import UsageError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OBJECTIVES = ("classification", "lm", "metric")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, its tokenizer, and where both came from (a folder or a hub id)."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    source: str


def load_model(
    name: str | Path,
    dtype: str | torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    objective: str = "classification",
    *,
    head: int | None = None,
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
) -> Loaded:
    """The model of a packaged name, a local folder or .gguf file, or a hub id.

    Causal or encoder-decoder, as its configuration says; `head` asks for a classifier of so many classes, 1 for a
    score (a reward model).
    An adapter (peft) is put on the base model that its folder names.
    A packaged name wins over a folder of the same name: write ./name for the folder.
    """
    name = str(name)
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise UsageError(f"there is no dtype {dtype!r}{nearest(dtype, DTYPES)}")
    if objective not in OBJECTIVES:
        raise UsageError(f"there is no objective {objective!r}{nearest(objective, OBJECTIVES)}")
    if head is not None and (objective != "classification" or head < 1):
        raise UsageError(f"a head of {head} classes cannot be had for {objective}: it is for classification, 1 or more")
    if name not in MODELS and is_adapter(folder := Path(name).expanduser()):
        base = load_model(
            base_of(folder),
            dtype,
            device,
            objective,
            head=head,
            trust_remote_code=trust_remote_code,
            attn_implementation=attn_implementation,
        )
        return Loaded(load_adapter(base.model, folder).eval(), base.tokenizer, str(folder))
    place, gguf = _place(name)
    transformers: Any = need("transformers", "loading a model")
    shared: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    read = shared if gguf is None else shared | {"gguf_file": gguf.name}
    load = shared | {"dtype": DTYPES[dtype] if isinstance(dtype, str) else dtype}
    load |= {} if head is None else {"num_labels": head}
    load |= {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    model: Any
    try:
        # Even a model that is read from a file may draw initial weights first.
        with hushed(), torch.random.fork_rng(devices=[]):
            config = transformers.AutoConfig.from_pretrained(place, **read)
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, **read)
            auto = _auto_class(transformers, config, head, name)
            if gguf is not None:
                model, info = read_gguf(gguf, auto, **load)
            else:
                model, info = auto.from_pretrained(place, use_safetensors=True, output_loading_info=True, **load)
    except (UsageError, MemoryError):
        raise
    except Exception as error:
        raise UsageError(_unreadable(name, Path(place), error)) from error
    missing = sorted(info["missing_keys"])
    complete(name, model, missing, head is not None)
    if head is not None and any(not key.startswith(f"{model.base_model_prefix}.") for key in missing):
        unnamed(model)
    _set_padding(model, tokenizer, config, head)
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"cannot use device {str(device)!r} ({one_sentence(error)}): try cpu") from error
    return Loaded(model.eval(), tokenizer, place)


def _place(name: str) -> tuple[str, Path | None]:
    """Folder or hub id, and the GGUF file if that is what holds the weights."""
    if name in MODELS:
        return str(model_folder(name)), None
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return str(path.parent), path
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        if (path / "config.json").is_file() or not found:
            return str(path), None
        if len(found) > 1:
            listed = ", ".join(file.name for file in found)
            raise UsageError(f"{name} holds {len(found)} GGUF files ({listed}): name one of them")
        return str(path), found[0]
    if path.exists():
        raise UsageError(f"{name} is not a model: give a model folder or a .gguf file")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UsageError(f"the model folder {name} does not exist: check the path")
    return name, None


def _auto_class(transformers: Any, config: Any, head: int | None, name: str) -> Any:
    if head is not None:
        return transformers.AutoModelForSequenceClassification
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    # loaded as a causal model it would look at what it shall predict
    if type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        raise UsageError(
            f"{name} is an encoder, which writes no words: put a classifier on it (--head, in a suite head = true)"
        )
    return transformers.AutoModelForCausalLM


def _unreadable(name: str, place: Path, error: Exception) -> str:
    reason = one_sentence(error)
    if not place.is_dir():
        hint = nearest(name, MODELS) if "/" not in name else ""
        fix = f"check the name and the connection{hint}"
        return f"cannot load the model {name!r}, which is no folder ({reason}): {fix}"
    if not (place / "config.json").is_file() and not any(place.glob("*.gguf")):
        return f"{name} is not a model folder: it has no config.json"
    if any(place.glob("*.bin")) and not any(place.glob("*.safetensors")):
        return f"{name} holds its weights as a pickle, which is not read: save them with safetensors first"
    return f"the model {name} cannot be loaded ({reason}): check the folder and the settings"


def _set_padding(model: Any, tokenizer: Any, config: Any, head: int | None) -> None:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    # An encoder reads its class from the first position, so its padding has to come last.
    decoder = head is None or "CausalLM" in "".join(config.architectures or ())
    tokenizer.padding_side = "left" if decoder and not config.is_encoder_decoder else "right"
    # a decoder's classifier reads the last token that is not this one
    if head is not None or model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
