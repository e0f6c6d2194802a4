"""A soft prompt: virtual tokens before every text, whose embeddings are a table of their own.

PEFT puts them before the padding too, so that on the left, where decoders are padded, a row's values depend on the rows
beside it. Here they are tokens, of ids that the vocabulary does not have: they stand after the padding, like any token.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zerothorder.data.quiet import hushed, need, one_sentence
from zerothorder.errors import UsageError

WEIGHTS = "adapter_model.safetensors"
_KEY = "prompt_embeddings"


class Prompted(nn.Module):
    """An embedding `table` of n rows and a float32 one for the ids from n on, which is cast to what the first gives.

    The output layer stays tied to the table alone: virtual tokens are read, never written.
    """

    def __init__(self, table: nn.Embedding, rows: Tensor) -> None:
        super().__init__()
        self.table = table
        self.prompt = nn.Embedding.from_pretrained(rows.detach().float().clone(), freeze=False)

    @property
    def weight(self) -> Tensor:
        """The table, as code that knows an embedding looks it up."""
        return self.table.weight

    @property
    def num_embeddings(self) -> int:
        """Ids of the vocabulary."""
        return self.table.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Columns of both tables."""
        return self.table.embedding_dim

    def forward(self, ids: Tensor) -> Tensor:
        """(rows, length) → (rows, length, columns)."""
        virtual = ids >= self.num_embeddings
        own = self.prompt((ids - self.num_embeddings).clamp(min=0))
        found = self.table(ids.masked_fill(virtual, 0))
        return torch.where(virtual[..., None], own.to(found.dtype), found)


def with_prompt(model: Any, rows: Tensor) -> Any:
    """The model with virtual tokens of these embeddings, (tokens, columns). UsageError where its embedding cannot be
    exchanged."""
    try:
        model.set_input_embeddings(Prompted(model.get_input_embeddings(), rows))
    except (NotImplementedError, AttributeError) as error:
        raise UsageError(f"the model's embedding cannot be given virtual tokens ({one_sentence(error)})") from error
    return model


def virtual_tokens(model: Any) -> tuple[int, ...]:
    """The ids that stand before every text; () of a model without a prompt."""
    table = _prompted(model)
    return () if table is None else tuple(table.num_embeddings + n for n in range(table.prompt.num_embeddings))


def _prompted(model: Any) -> Prompted | None:
    find = getattr(model, "get_input_embeddings", None)
    table = find() if callable(find) else None
    return table if isinstance(table, Prompted) else None


def write_prompt(model: Any, folder: Path) -> None:
    """The folder that PEFT writes of a prompt: adapter_config.json and adapter_model.safetensors."""
    peft, table = need("peft", "writing a prompt"), _prompted(model)
    assert table is not None
    config = model.config.get_text_config()
    made = peft.PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
        base_model_name_or_path=model.name_or_path,
        inference_mode=True,
        num_virtual_tokens=table.prompt.num_embeddings,
        token_dim=table.embedding_dim,
        num_transformer_submodules=1,
        num_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
    )
    folder.mkdir(parents=True, exist_ok=True)
    with hushed():
        made.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=2, sort_keys=True) + "\n")
    save_file({_KEY: table.prompt.weight.detach().cpu().contiguous()}, folder / WEIGHTS, {"format": "pt"})


def load_prompt(model: Any, folder: Path, tokens: int) -> Any:
    """The model with the `tokens` virtual tokens of PEFT's folder. UsageError where they do not fit."""
    try:
        rows = load_file(folder / WEIGHTS)[_KEY][:tokens]  # PEFT may keep rows for a decoder, which it does not use
    except Exception as error:
        raise UsageError(f"cannot read the prompt in {folder} ({one_sentence(error)}); is the folder whole?") from error
    width = model.get_input_embeddings().embedding_dim
    if rows.ndim != 2 or rows.shape[1] != width:
        raise UsageError(f"the prompt in {folder} has {rows.shape[-1]} columns, its base {width}; give its own base")
    adapted = with_prompt(model, rows.to(model.get_input_embeddings().weight.device))
    for parameter in adapted.parameters():
        parameter.requires_grad_(False)
    return adapted
