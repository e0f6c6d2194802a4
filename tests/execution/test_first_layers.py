"""Layers before the first perturbed one run on one point's rows, and the values are those of copied models."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from many_points import DIRECTIONS, Rows, bind, look, pairs, shaken, truth
from zerothorder.execution.batched import Batched
from zerothorder.execution.copy import Copy
from zerothorder.objectives.classification import Classification
from zerothorder.objectives.wrap import MicroBatches

VOCABULARY = 60
POINTS = pairs(3)


class Text(Rows):
    """A model of text, without the cache that it would keep by default."""

    def values(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
        return super().values(model, prepared | {"use_cache": False})  # type: ignore[dict-item]


def logits_and_labels(model: nn.Module, prepared: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    inputs = {name: tensor for name, tensor in prepared.items() if name != "labels"}
    return model(**inputs).logits, prepared["labels"]


class Regression(Rows):
    """Squared distance of the first logit from a number a row: one row of logits would go with any number of labels."""

    def values(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
        logits, labels = logits_and_labels(model, prepared)
        return (logits[:, 0] - labels) ** 2


class CrossEntropy(Rows):
    """Refuses labels of another number of rows than the logits."""

    def values(self, model: nn.Module, prepared: dict[str, Tensor]) -> Tensor:
        logits, labels = logits_and_labels(model, prepared)
        return nn.functional.cross_entropy(logits, labels.long(), reduction="none")


SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip


def llama(kind: str = "LlamaForCausalLM") -> nn.Module:
    import transformers

    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=1, num_labels=4, pad_token_id=0, eos_token_id=None)
    return getattr(transformers, kind)(config)


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(**SMALL, num_labels=4))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=3, n_head=2, n_positions=32))


def opt() -> nn.Module:
    from transformers import OPTConfig, OPTForCausalLM

    config = {"vocab_size": VOCABULARY, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24}
    return OPTForCausalLM(OPTConfig(**config, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=32))


def bart() -> nn.Module:
    from transformers import BartConfig, BartForConditionalGeneration

    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    config = BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32,
        bos_token_id=None, forced_eos_token_id=None, **sizes,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


def text(rows: int, pairs: bool = False) -> dict[str, Tensor]:
    ids = torch.randint(4, VOCABULARY, (rows, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask} | (
        {"decoder_input_ids": ids[:, :3].contiguous()} if pairs else {}
    )


def searching(model: nn.Module, *names: str) -> nn.Module:
    """Only parameters whose name holds one of these are searched."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in names))
    return shaken(model)


@contextmanager
def seen(model: nn.Module, blocks: str) -> Iterator[list[int]]:
    """Rows of what each block gives, in the order of the calls."""
    found: list[int] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        found.append(len(output if isinstance(output, Tensor) else output[0]))

    handles = [block.register_forward_hook(note) for block in model.get_submodule(blocks)]  # type: ignore[union-attr]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


STACKS: dict[str, tuple[Callable[[], nn.Module], str, tuple[str, ...]]] = {
    "llama": (llama, "model.layers", ("layers.2", "model.norm")),
    "llama, within a block": (llama, "model.layers", ("layers.2.mlp",)),
    "bert": (bert, "bert.encoder.layer", ("layer.2", "pooler", "classifier")),
    "gpt2": (gpt2, "transformer.h", ("h.2.mlp", "ln_f")),
    "opt": (opt, "model.decoder.layers", ("layers.2", "decoder.final_layer_norm")),
}


@pytest.mark.parametrize("rows", [3, 1])
@pytest.mark.parametrize("law", ["gaussian", "rank-1"])
@pytest.mark.parametrize("name", STACKS)
def test_frozen_first_blocks_run_once_for_all_points(name: str, law: str, rows: int) -> None:
    make, blocks, searched = STACKS[name]
    model, batch = searching(make(), *searched), text(rows)
    bound, objective = bind(model, DIRECTIONS[law]), Rows() if name == "bert" else Text()
    expected = truth(bound, batch, POINTS, objective)
    executor, whole = Batched(check=False), rows * len(POINTS)
    for own in ([whole] * 3, [rows, rows, whole], [rows, rows, whole]):  # the first pass learns where points part
        with seen(model, blocks) as found:
            assert torch.allclose(look(executor, bound, batch, POINTS, objective), expected, rtol=0, atol=1e-10)
        assert found == own
        assert executor.reason is None
        assert executor.one_by_one == set()


@pytest.mark.parametrize("name", STACKS)
def test_with_nothing_frozen_nothing_is_shared(name: str) -> None:
    make, blocks, _ = STACKS[name]
    model, batch = searching(make(), ""), text(3)
    bound, objective, executor = bind(model), Rows() if name == "bert" else Text(), Batched(check=False)
    expected = look(Copy(), bound, batch, POINTS, objective)
    for _ in range(2):
        with seen(model, blocks) as found:
            assert torch.allclose(look(executor, bound, batch, POINTS, objective), expected, rtol=0, atol=1e-10)
        assert found == [3 * len(POINTS)] * 3
    assert executor.shared is False


def test_a_later_chunk_uses_what_the_first_has_learned() -> None:
    model, batch = searching(llama(), "layers.1", "layers.2"), text(2)
    bound = bind(model)
    with seen(model, "model.layers") as found:
        values = look(Batched(copies=4, check=False), bound, batch, POINTS, Text())
    assert found == [8, 8, 8, 2, 4, 4]
    assert torch.allclose(values, truth(bound, batch, POINTS, Text()), rtol=0, atol=1e-10)


def test_a_resumed_run_shares_from_its_first_step_on() -> None:
    model, batch = searching(llama(), "layers.2"), text(3)
    bound, first = bind(model), Batched(check=False)
    expected = look(first, bound, batch, POINTS, Text())
    resumed = Batched().restored({}, json.loads(json.dumps(first.findings(model))))
    with seen(model, "model.layers") as found:
        assert torch.allclose(look(resumed, bound, batch, POINTS, Text()), expected, rtol=0, atol=1e-10)
    assert found == [3, 3, 18]


POOLING: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...], bool]] = {
    "llama, a block": (lambda: llama("LlamaForSequenceClassification"), ("layers.2", "score"), False),
    "llama, its head": (lambda: llama("LlamaForSequenceClassification"), ("score",), False),
    "bert, a block": (bert, ("layer.2", "classifier"), True),
    "bert, its head": (bert, ("classifier",), True),
}


@pytest.mark.parametrize("rows", [3, 1])
@pytest.mark.parametrize("objective", [Rows, Regression, CrossEntropy])
@pytest.mark.parametrize("name", POOLING)
def test_models_that_pool_inside_give_the_right_values(name: str, objective: type[Rows], rows: int) -> None:
    """Llama finds the last token by the input's rows, which are one point's: the passes after that are whole again."""
    make, searched, shares = POOLING[name]
    model = searching(make(), *searched)
    batch = text(rows) | ({} if objective is Rows else {"labels": torch.arange(rows) % 4 + 0.0})
    bound, executor = bind(model), Batched(check=False)
    if name.startswith("llama"):
        model.config.use_cache = False  # type: ignore[union-attr]
    expected = look(Copy(), bound, batch, POINTS, objective())
    for shared in (True, shares, shares):  # the first pass learns where points part, the second tries it
        assert torch.allclose(look(executor, bound, batch, POINTS, objective()), expected, rtol=0, atol=1e-10)
        assert bool(executor.shared) is shared
    assert executor.reason is None


@pytest.mark.parametrize("rows", [3, 1])
@pytest.mark.parametrize("searched", ["encoder.layers.1", "decoder.layers.1", "decoder.", "encoder."])
def test_an_encoder_decoder_gives_the_right_values(searched: str, rows: int) -> None:
    model, batch = searching(bart(), searched), text(rows, pairs=True)
    bound, executor = bind(model), Batched(check=False)
    expected = look(Copy(), bound, batch, POINTS, Text())
    for _ in range(3):
        assert torch.allclose(look(executor, bound, batch, POINTS, Text()), expected, rtol=0, atol=1e-10)
    assert executor.reason is None


def test_the_check_before_the_first_pass_looks_at_the_sharing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where blocks mix what they are given for all points, the first evaluation finds it: whole passes then."""
    from zerothorder.execution import first_layers

    own = first_layers.FirstLayers._repeat

    def shuffled(self: Any, module: nn.Module, args: Any, kwargs: Any) -> Any:
        return first_layers.mapped(lambda t: t.flip(0) if t.ndim == 3 else t, own(self, module, args, kwargs))

    model, batch = searching(llama(), "layers.2"), text(3)
    bound, executor = bind(model), Batched()
    monkeypatch.setattr(first_layers.FirstLayers, "_repeat", shuffled)
    expected = truth(bound, batch, POINTS, Text())
    for _ in range(2):
        assert torch.allclose(look(executor, bound, batch, POINTS, Text()), expected, rtol=0, atol=1e-10)
    assert executor.reason is None
    assert executor.shared is False


@dataclass
class Example:
    prompt: tuple[int, ...]
    label: int
    answers: Sequence[Sequence[int]] = ((5, 6), (9,))
    references: Sequence[str] = ()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_candidates_of_several_tokens_are_rows_of_their_own(size: int) -> None:
    """Two rows an example, which the executor learns from the model's input and not from the objective's count."""
    model = searching(llama(), "layers.2", "lm_head")
    rows = [Example((3, 8, 20), 0), Example((4, 31), 1), Example((7, 7, 7, 9), 0)]
    bound, executor, objective = bind(model), Batched(check=False), MicroBatches(Classification(0), size)
    batch = objective.prepare(model, rows, POINTS[0].terms[0][0])  # type: ignore[arg-type]
    expected = look(Copy(), bound, batch, POINTS, objective)
    assert torch.allclose(look(executor, bound, batch, POINTS, objective), expected, rtol=0, atol=1e-5)
    with seen(model, "model.layers") as found:
        assert torch.allclose(look(executor, bound, batch, POINTS, objective), expected, rtol=0, atol=1e-5)
    assert found[:3] == [2 * size, 2 * size, 2 * size * len(POINTS)]
    assert executor.reason is None


@pytest.mark.parametrize("rows", [3, 1])
def test_a_layer_that_is_searched_later_ends_the_sharing(rows: int) -> None:
    model, batch = searching(llama(), "layers.2"), text(rows)
    executor = Batched(check=False)
    for _ in range(2):
        look(executor, bind(model), batch, POINTS, Text())
    assert isinstance(executor.shared, nn.Module)
    searching(model, "layers.")
    bound = bind(model)
    expected = look(Copy(), bound, batch, POINTS, Text())
    for _ in range(2):
        assert torch.allclose(look(executor, bound, batch, POINTS, Text()), expected, rtol=0, atol=1e-10)
    assert executor.reason is None
