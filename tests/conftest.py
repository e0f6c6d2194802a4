"""A byte-level tokenizer, a Llama and a BERT of a few thousand weights. Libraries load with their fixture."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHAT = "{% for m in messages %}<u>{{ m['content'] }}</u>\n{% endfor %}{% if add_generation_prompt %}<a>\n{% endif %}"


def pytest_configure() -> None:
    """A suite started in the background inherits an ignored Ctrl-C, which the tests of it could then not send."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def precision_as_asked() -> None:
    """Arguments with bf16=True set this variable at transformers 4.56; trainers of later tests would compute in it."""
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)


@pytest.fixture(scope="session")
def tokenizer() -> "PreTrainedTokenizerFast":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = "a great film It was great It was terrible a terrible plot and good good actors\n" * 4
    core.train_from_iterator([words], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    made.chat_template = CHAT
    return made


@pytest.fixture
def llama_folder(tmp_path: Path, tokenizer: "PreTrainedTokenizerFast") -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
    )
    folder = tmp_path / "llama"
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def bert_folder(tmp_path: Path, tokenizer: "PreTrainedTokenizerFast") -> Path:
    """An encoder that never had a pooler or a head."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=len(tokenizer)
    )
    folder = tmp_path / "bert"
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
