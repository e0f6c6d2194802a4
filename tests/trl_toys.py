"""A tiny Llama, a tokenizer of words, and a data set of each form that TRL's trainers take."""

import random
from functools import cache
from pathlib import Path
from typing import Any

import torch

WORDS = 61
PREFERENCE = ("prompt", "chosen", "rejected")


@cache
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(WORDS))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def config(**more: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=WORDS + 3, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, pad_token_id=0, eos_token_id=1, bos_token_id=None, **more,
    )  # fmt: skip


def llama(seed: int = 0) -> Any:
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(config())


def t5(dropout: float = 0.0) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=WORDS + 3, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0, dropout_rate=dropout,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def scorer() -> Any:
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    return LlamaForSequenceClassification(config(num_labels=1))


def rows(form: str, count: int = 16) -> Any:
    """Rows of a form: text, preference, reference (with a gold answer), unpaired or prompt."""
    from datasets import Dataset

    draw = random.Random(0)

    def words(n: int) -> str:
        return " ".join(f"w{draw.randrange(WORDS)}" for _ in range(n))

    made = {
        "text": lambda i: {"text": words(8)},
        "preference": lambda i: {"prompt": words(4), "chosen": " " + words(3 + i % 3), "rejected": " " + words(5)},
        "reference": lambda i: {n: words(4) if n == "prompt" else " " + words(4) for n in (*PREFERENCE, "reference")},
        "unpaired": lambda i: {"prompt": words(4), "completion": " " + words(5), "label": i % 2 == 0},
        "prompt": lambda i: {"prompt": words(4)},
    }
    return Dataset.from_list([made[form](i) for i in range(count)])


def arguments(kind: Any, output: Path, **more: Any) -> Any:
    """Four updates of two micro-batches of two rows; nothing saved, nothing reported."""
    given: dict[str, Any] = {
        "output_dir": str(output), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 4,
        "learning_rate": 1e-3, "logging_steps": 1, "report_to": [], "bf16": False, "save_strategy": "no",
        "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    return kind(**given | more)
