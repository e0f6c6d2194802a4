"""Where a model comes from: its configuration, and the size and dtype of its weights on disk, without reading them."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from zerothorder.data.models import _auto_class, _place, _unreadable  # pyright: ignore[reportPrivateUsage]
from zerothorder.data.quiet import hushed, need, one_sentence
from zerothorder.errors import UsageError

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_TOKENIZER = 2 << 20  # of a model that is not here yet


@dataclass(frozen=True)
class Source:
    """`auto` builds the model of `config`. `bytes` and `dtypes` of the weight files, nothing for what is not local;
    `quantised` for a GGUF file; `tokenizer` is the size of its file."""

    name: str
    config: Any
    auto: Any
    bytes: int = 0
    dtypes: frozenset[torch.dtype] = frozenset()
    quantised: bool = False
    tokenizer: int = 0
    files: dict[str, Path] = field(default_factory=dict[str, Path])
    """Names of the stored tensors and the file each is in."""

    def sample(self, name: str, elements: int = 1 << 16) -> Tensor | None:
        """The first elements of a stored tensor, read from its file; None where it is not there."""
        path = self.files.get(name)
        if path is None:
            return None
        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            part = file.get_slice(name)
            shape = part.get_shape()
            rows = max(1, elements // max(1, torch.Size(shape[1:]).numel()))
            return part[:rows].reshape(-1)[:elements]


def find(name: str, head: int | None, trust_remote_code: bool) -> Source:
    """Resolve a name as `load_model` does; a packaged GGUF model is converted at its first use."""
    place, gguf = _place(name)
    transformers: Any = need("transformers", "planning for a model")
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if gguf is not None:
        options["gguf_file"] = gguf.name
    try:
        with hushed():
            config = transformers.AutoConfig.from_pretrained(place, **options)
    except Exception as error:
        raise UsageError(_unreadable(name, Path(place), error)) from error
    if head is not None:
        config.num_labels = head
    auto = _auto_class(transformers, config, head, name)
    if gguf is not None:
        # dequantised to float32 before anything is cast
        return Source(name, config, auto, gguf.stat().st_size, quantised=True)
    files: dict[str, Path] = {}
    dtypes: set[torch.dtype] = set()
    size = 0
    for path in sorted(Path(place).glob("*.safetensors")) if Path(place).is_dir() else ():
        size += path.stat().st_size
        for tensor, about in _header(path).items():
            files[tensor] = path
            if about["dtype"] in _DTYPES:
                dtypes.add(_DTYPES[about["dtype"]])
    vocabulary = Path(place) / "tokenizer.json"
    known = vocabulary.stat().st_size if vocabulary.is_file() else _TOKENIZER
    return Source(name, config, auto, size, frozenset(dtypes), tokenizer=known, files=files)


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except (OSError, ValueError, struct.error, MemoryError) as error:
        raise UsageError(f"{path} is not a whole safetensors file ({one_sentence(error)}): fetch it again") from error
    return {name: about for name, about in header.items() if name != "__metadata__"}
