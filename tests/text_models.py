"""Language models of a few thousand random weights, one of every shape that objectives and schemes must know."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
    OPTForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
)

VOCABULARY, PAD = 60, 0
_ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": PAD}


def llama(**changes: Any) -> LlamaForCausalLM:
    """Rotary positions, grouped keys and values, tied head."""
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=VOCABULARY, max_position_embeddings=64, tie_word_embeddings=True, **_ENDS, **changes,
        )
    )  # fmt: skip


def gpt2() -> GPT2LMHeadModel:
    """Learned positions, Conv1D with a fused projection."""
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=VOCABULARY, n_positions=64, **_ENDS))


def opt() -> OPTForCausalLM:
    """Learned positions counted from the mask, biases."""
    return OPTForCausalLM(
        OPTConfig(
            hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=VOCABULARY,
            max_position_embeddings=64, word_embed_proj_dim=16, **_ENDS,
        )
    )  # fmt: skip


def t5() -> T5ForConditionalGeneration:
    """Encoder and decoder, heads whose width is not d_model / heads, layers not the same number."""
    return T5ForConditionalGeneration(
        T5Config(
            d_model=16, d_kv=4, d_ff=24, num_layers=2, num_decoder_layers=1, num_heads=2, vocab_size=VOCABULARY,
            decoder_start_token_id=PAD, pad_token_id=PAD, eos_token_id=2,
        )
    )  # fmt: skip


_SIZES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "vocab_size": VOCABULARY, "max_position_embeddings": 64, "num_labels": 3, "pad_token_id": PAD,
}  # fmt: skip

CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**_SIZES)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**_SIZES)),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(dim=16, hidden_dim=24, n_layers=2, n_heads=2, vocab_size=VOCABULARY, num_labels=3)
    ),
    "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**_SIZES)),
    "gpt2": lambda: GPT2ForSequenceClassification(
        GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=VOCABULARY, n_positions=64, num_labels=3, **_ENDS)
    ),
    "opt": lambda: OPTForSequenceClassification(
        OPTConfig(
            hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=VOCABULARY,
            max_position_embeddings=64, word_embed_proj_dim=16, num_labels=3, **_ENDS,
        )
    ),
    "t5": lambda: T5ForSequenceClassification(
        T5Config(
            d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2, vocab_size=VOCABULARY, decoder_start_token_id=PAD,
            pad_token_id=PAD, eos_token_id=2, num_labels=3,
        )
    ),
}  # fmt: skip
"""Three classes each: encoders, decoders, and one that is both."""

CAUSAL: dict[str, Callable[[], Any]] = {"llama": llama, "gpt2": gpt2, "opt": opt}
MODELS: dict[str, Callable[[], Any]] = {**CAUSAL, "t5": t5}


def build(name: str, seed: int = 0, spread: float = 8.0) -> Any:
    """A model in eval mode. Initial weights are tiny; `spread` makes its opinions differ from token to token."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and name != "t5":
                parameter.mul_(spread)
    return model


def classifier(name: str) -> Any:
    """A classifier in eval mode whose classes differ from text to text."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = CLASSIFIERS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model


@dataclass(frozen=True)
class Example:
    """What the text objectives read."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    label: int = 0
    references: tuple[str, ...] = field(default=("",))


def texts(lengths: tuple[int, ...], answer_lengths: tuple[tuple[int, ...], ...], seed: int = 0) -> list[Example]:
    """One example a length: its prompt, and answers of the given lengths."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (count,), generator=generator).tolist())

    return [
        Example(tokens(length), tuple(tokens(n) for n in answers), label=index % len(answers))
        for index, (length, answers) in enumerate(zip(lengths, answer_lengths, strict=True))
    ]
