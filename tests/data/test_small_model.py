"""The language model that ships with the library: whole, small, trained, and one that never saw what tasks test by."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from zerothorder.config import EvalConfig
from zerothorder.data import load_model, read_rows
from zerothorder.data.sources import MODELS, model_folder
from zerothorder.evaluation import evaluate
from zerothorder.task import load_task

NAME = "llama-2.5m"
FOLDER = Path(model_folder(NAME))
MEASURES = json.loads((FOLDER / "pretraining.json").read_text())


@pytest.fixture(scope="module")
def loaded() -> Any:
    return load_model(NAME)


def nats(model: Any, tokenizer: Any, texts: list[str]) -> float:
    """Nats a token of these texts."""
    total, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            logits = model(input_ids=ids).logits
        total += float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum"))
        tokens += ids.shape[1] - 1
    return total / tokens


def test_it_is_what_its_name_says(loaded: Any) -> None:
    model, tokenizer = loaded.model, loaded.tokenizer
    assert MODELS[NAME].wheel is None
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.num_parameters() == 2_557_632
    config = model.config
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (4096, 192, 4)
    assert (config.intermediate_size, config.num_attention_heads, config.max_position_embeddings) == (512, 6, 256)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(tokenizer) == 4096
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|endoftext|>",
        "<|endoftext|>",
        "<pad>",
    )
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6e6
    # In bfloat16 on the disk, so both dtypes hold the same weights.
    again = load_model(NAME, "bfloat16").model.state_dict()
    assert all(torch.equal(tensor, again[name].float()) for name, tensor in model.state_dict().items())


def test_texts_begin_with_the_token_that_stood_between_documents(loaded: Any) -> None:
    text = "naïve café 東京 🙂, two  spaces\nand a line"
    ids = loaded.tokenizer(text)["input_ids"]
    assert ids[0] == loaded.model.config.bos_token_id == 0
    assert loaded.tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("word", ["games", "graphics", "mail", "network", "science", "sound"])
def test_sections_are_single_tokens(loaded: Any, word: str) -> None:
    assert len(loaded.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1


@pytest.mark.parametrize("word", ["animal", "object", "food", "place", "person", "plant"])
def test_classes_of_glosses_are_single_tokens(loaded: Any, word: str) -> None:
    assert len(loaded.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1


def test_it_has_learnt_the_language_of_texts_that_it_did_not_see(loaded: Any) -> None:
    texts = [row["text"] for row in read_rows("sections", "dev")[:30] + read_rows("glosses", "dev")[:60]]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = type(loaded.model)(loaded.model.config)
    assert nats(fresh, loaded.tokenizer, texts) > 8.0  # ln 4096 is 8.3
    # Frequencies of tokens alone give 6.9 on held-out documents, so this takes words that follow on words.
    assert nats(loaded.model, loaded.tokenizer, texts) < 5.0


def test_the_card_says_what_was_measured() -> None:
    card = (FOLDER / "README.md").read_text()
    said = [f"{MEASURES['tokens_seen']:,}", f"{MEASURES['held_out_loss']:.2f}", f"{MEASURES['documents']:,}"]
    said.append(f"{MEASURES['held_out_bits_per_character']:.2f}")
    said.append(f"{MEASURES['steps']:,}")
    assert all(re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", card) for number in said), said


def test_evaluation_knows_it_by_name() -> None:
    verbalizers = "animal=animal,artifact=object,food=food,location=place,person=person,plant=plant"
    config = EvalConfig(model=NAME, data="glosses", template="{text}\nCategory:", verbalizers=verbalizers)
    task = load_task(config, ("dev",))
    assert task.truncated == {"dev": 0}
    assert all(len(answer) == 1 for answer in task.splits["dev"][0].answers)
    found = evaluate(task, "dev", "classification", rows=30)
    assert found["rows"] == 30
    assert math.isfinite(found["loss"])
