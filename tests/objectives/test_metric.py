"""Token F1: SQuAD's rule in numbers, and generation that is the same in a batch as alone."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import text_models
from text_models import PAD, Example
from zerothorder.execution.batched import Batched
from zerothorder.execution.swap import Swap
from zerothorder.objectives.metric import TokenF1, generate, normalised, token_f1
from zerothorder.recipes.mezo import MeZO
from zerothorder.run import Run
from zerothorder.space import ParameterSpace

CASES = [
    ("The cat!", ["cat"], 1.0),  # case, punctuation and articles do not count
    ("a theory", ["theory"], 1.0),  # an article is a word of its own, not the start of one
    ("U.S. 1,000", ["us 1000"], 1.0),
    ("cat cat dog", ["cat dog dog"], 2 / 3),  # words count as often as they occur
    ("big cat", ["cat"], 2 / 3),
    ("dog", ["cat"], 0.0),
    ("dog", ["a cat", "the dog house", "hot dog bun stand"], 2 / 3),  # the best reference
    ("the", ["an"], 1.0),  # both empty
    ("the", ["cat"], 0.0),
    ("cat", [""], 0.0),
]


@pytest.mark.parametrize(("answer", "references", "expected"), CASES)
def test_token_f1_is_squad_s(answer: str, references: list[str], expected: float) -> None:
    assert token_f1(answer, references) == pytest.approx(expected)


def test_normalised_words() -> None:
    assert normalised("  An Apple,\na  DAY; there's") == ["apple", "day", "theres"]


def letters(ids: list[int]) -> str:
    """Tokens as text: the third ends a line."""
    return "".join(" \n"[i == 3] if i < 4 else chr(93 + i) for i in ids)


class Sizes(TorchDispatchMode):
    """The most elements a result of torch had inside the block."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor):
            self.most = max(self.most, found.numel())
        return found


@pytest.mark.parametrize("name", text_models.CAUSAL)
def test_frozen_weights_generate_without_copies_of_the_output_layer(name: str) -> None:
    model = text_models.build(name).requires_grad_(False)
    head = model.get_output_embeddings()
    examples = [Example((5 + row, 6, 7), ((4,),)) for row in range(8)]
    sizes = Sizes()
    with torch.no_grad(), sizes:
        generate(model, examples, letters, PAD, 1)
    assert sizes.most < len(examples) * head.weight.numel()
    assert not head._forward_pre_hooks


@pytest.mark.parametrize("name", text_models.MODELS)
def test_generated_in_a_batch_is_generated_alone(name: str) -> None:
    model = text_models.build(name, spread=12.0)
    prompts = [(5, 6, 7, 8, 9), (20,), (31, 30, 44)]
    examples = [Example(p, ((4,),)) for p in prompts]
    together = generate(model, examples, letters, PAD, 8)
    assert together == [generate(model, [e], letters, PAD, 8)[0] for e in examples]
    if name in text_models.CAUSAL:
        for prompt, answer in zip(prompts, together, strict=True):
            ids = list(prompt)
            while len(ids) < len(prompt) + 8 and ids[-1] != 2:
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            assert answer == letters(ids[len(prompt) :]).split("\n")[0].strip()


def test_an_answer_ends_at_the_line() -> None:
    model = text_models.build("llama", spread=12.0)
    lines = generate(model, [Example((5, 6), ((4,),))], lambda ids: " one line\nanother", PAD, 3)
    assert lines == ["one line"]


def test_points_that_generate_together_share_every_layer() -> None:
    model = text_models.build("llama", spread=12.0)
    executor = Batched(check=False)
    run = Run(model, ParameterSpace.of(model), MeZO(lr=1e-3, eps=0.05), TokenF1(PAD, letters, 4), executor, seed=1)
    run.step([Example((5, 6, 7), ((4,),), references=("a b",))])
    assert executor.reason is None
    assert list(executor.sentences()) == []


def test_a_run_on_f1_moves_weights_without_any_gradient_and_counts_every_token_s_forward() -> None:
    model = text_models.build("llama", spread=12.0)
    objective = TokenF1(PAD, lambda ids: " ".join(f"w{i}" for i in ids), max_new_tokens=4)
    prompts = [(5, 6, 7), (9,), (31, 30, 44), (20, 50)]
    said = generate(model, [Example(p, ((4,),)) for p in prompts], objective.decode, PAD, 4)
    examples = [Example(p, ((4,),), references=(text,)) for p, text in zip(prompts, said, strict=True)]
    assert objective.evaluate(model, examples).value.tolist() == [-1.0] * 4
    before = {name: p.clone() for name, p in model.named_parameters()}
    run = Run(model, ParameterSpace.of(model), MeZO(lr=1e-3, eps=0.05), objective, Swap(), seed=1)
    entry = run.step(examples)
    assert run.around.meter.calls == 2 * 4  # two points, four tokens each
    assert run.around.meter.examples == 2 * 4 * 4
    assert entry.terms[0][1] != 0  # the words changed at one of the points
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
