"""Text objectives against their definition: float64 by hand, the model library, one row at a time."""

import math

import pytest
import torch
from torch import Tensor, nn

import text_models
from text_models import PAD, Example, texts
from zerothorder.key import Key
from zerothorder.objectives import Objective
from zerothorder.objectives.classification import Accuracy, Classification, candidate_scores
from zerothorder.objectives.language_model import LanguageModel
from zerothorder.objectives.sequences import answer_logits, choice_logits
from zerothorder.objectives.wrap import MicroBatches

KEY = Key("prepare", 0)
SINGLE = tuple(((1, 1),) * 4)
MULTI = ((2, 3), (1, 3), (3, 1), (2, 2))
LENGTHS = (7, 3, 5, 1)


def kind_of(objective: Objective) -> str:
    return type(objective).__name__


def shared(examples: list[Example]) -> list[Example]:
    """The same candidates for every row, as a classification by verbalizer has them."""
    return [Example(e.prompt, examples[0].answers, e.label, e.references) for e in examples]


def nll_by_hand(model: nn.Module, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """-Σ log p(answer | prompt) in float64: one row, no padding, every logit."""
    wide = type(model)(model.config).double().eval()
    wide.load_state_dict({name: tensor.double() for name, tensor in model.state_dict().items()})
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            logits = wide(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([(PAD, *answer[:-1])])
            ).logits[0]
        else:
            logits = wide(input_ids=torch.tensor([(*prompt, *answer)])).logits[0, len(prompt) - 1 : -1]
    total = 0.0
    for row, token in zip(logits.tolist(), answer, strict=True):
        top = max(row)
        total -= row[token] - top - math.log(math.fsum(math.exp(x - top) for x in row))
    return total


@pytest.mark.parametrize("kind", ["single", "multi"])
@pytest.mark.parametrize("name", text_models.MODELS)
def test_classification_is_the_float64_definition(name: str, kind: str) -> None:
    model = text_models.build(name)
    examples = shared(texts(LENGTHS, SINGLE)) if kind == "single" else texts(LENGTHS, MULTI)
    found = Classification(PAD).evaluate(model, examples)
    assert found.value.dtype == torch.float32
    for value, e in zip(found.value.tolist(), examples, strict=True):
        scores = [-nll_by_hand(model, e.prompt, a) / len(a) for a in e.answers]
        expected = math.log(math.fsum(math.exp(s - scores[e.label]) for s in scores))
        assert value == pytest.approx(expected, rel=2e-5, abs=2e-6)


@pytest.mark.parametrize("name", text_models.MODELS)
def test_the_head_on_few_rows_gives_the_full_logits(name: str) -> None:
    model = text_models.build(name)
    prompts = [e.prompt for e in texts(LENGTHS, SINGLE)]
    words = [11, 4, 50]
    with torch.no_grad():
        full = answer_logits(model, prompts, [(0,)] * 4, PAD)[:, -1]
        few = choice_logits(model, prompts, words, PAD)
    torch.testing.assert_close(few, full[:, words], rtol=1e-5, atol=1e-5)


def test_a_bf16_model_gives_float32_logits_of_its_bf16_hidden_states() -> None:
    model = text_models.build("llama").to(torch.bfloat16)
    hidden: list[Tensor] = []
    handle = model.lm_head.register_forward_pre_hook(lambda module, args: hidden.append(args[0]))
    e = shared(texts(LENGTHS, SINGLE))
    with torch.no_grad():
        scores = candidate_scores(model, e, PAD)
    handle.remove()
    words = [a[0] for a in e[0].answers]
    expected = hidden[0][:, -1].float() @ model.lm_head.weight[words].float().T
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)
    # they are finer than bfloat16 has them: else ρ would move in steps of a rounding
    assert not torch.equal(scores, scores.to(torch.bfloat16).float())
    assert Classification(PAD).evaluate(model, e).value.dtype == torch.float32


@pytest.mark.parametrize("name", text_models.MODELS)
def test_language_model_is_the_library_s_own_loss(name: str) -> None:
    model = text_models.build(name)
    examples = texts(LENGTHS, ((3,), (1,), (4,), (2,)))
    if model.config.is_encoder_decoder:
        longest, answer = max(LENGTHS), 4
        ids = torch.tensor([[*e.prompt, *[PAD] * (longest - len(e.prompt))] for e in examples])
        mask = torch.tensor([[1] * len(e.prompt) + [0] * (longest - len(e.prompt)) for e in examples])
        labels = torch.tensor([[*e.answers[0], *[-100] * (answer - len(e.answers[0]))] for e in examples])
        expected = model(input_ids=ids, attention_mask=mask, labels=labels).loss.detach()
    else:
        rows = [(*e.prompt, *e.answers[0]) for e in examples]
        longest = max(map(len, rows))
        ids = torch.tensor([[*r, *[PAD] * (longest - len(r))] for r in rows])  # padded on the right, ours on the left
        mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])
        labels = torch.tensor(
            [
                [-100] * len(e.prompt) + [*e.answers[0]] + [-100] * (longest - len(r))
                for e, r in zip(examples, rows, strict=True)
            ]
        )
        expected = model(input_ids=ids, attention_mask=mask, labels=labels).loss.detach()
    found = LanguageModel(PAD).evaluate(model, examples)
    assert found.weight.tolist() == [3, 1, 4, 2]
    assert found.mean() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", text_models.CAUSAL)
def test_a_text_without_a_prompt_is_predicted_from_its_first_token(name: str) -> None:
    model = text_models.build(name)
    ids = (5, 9, 12, 40, 7)
    found = LanguageModel(PAD).evaluate(model, [Example((), (ids,))])
    expected = model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.detach()
    assert found.weight.tolist() == [4]
    assert found.mean() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    "objective", [Classification(PAD), LanguageModel(PAD), Accuracy(PAD)], ids=lambda o: type(o).__name__
)
@pytest.mark.parametrize("name", text_models.MODELS)
def test_padding_changes_no_value(name: str, objective: Objective) -> None:
    model = text_models.build(name)
    for examples in (texts(LENGTHS, MULTI), shared(texts(LENGTHS, SINGLE))):
        together = objective.evaluate(model, examples)
        alone = [objective.evaluate(model, [e]) for e in examples]
        torch.testing.assert_close(together.value, torch.cat([v.value for v in alone]), rtol=1e-5, atol=1e-5)
        assert torch.equal(together.weight, torch.cat([v.weight for v in alone]))


def test_accuracy_is_minus_one_where_the_best_candidate_is_right() -> None:
    model = text_models.build("llama")
    examples = texts(LENGTHS, MULTI)
    best = candidate_scores(model, examples, PAD).argmax(1)
    right = [Example(e.prompt, e.answers, int(b)) for e, b in zip(examples, best, strict=True)]
    wrong = [Example(e.prompt, e.answers, 1 - int(b)) for e, b in zip(examples, best, strict=True)]
    assert Accuracy(PAD).evaluate(model, right).value.tolist() == [-1.0] * 4
    assert Accuracy(PAD).evaluate(model, wrong).value.tolist() == [0.0] * 4


def test_rows_may_have_different_numbers_of_candidates() -> None:
    model = text_models.build("llama")
    examples = texts(LENGTHS, ((1, 2), (2, 1, 2), (1, 1), (3, 2)))
    together = Classification(PAD).evaluate(model, examples).value
    for value, e in zip(together, examples, strict=True):
        torch.testing.assert_close(value[None], Classification(PAD).evaluate(model, [e]).value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("objective", [Classification(PAD), LanguageModel(PAD)], ids=kind_of)
def test_micro_batches_have_the_values_of_the_whole_batch(objective: Objective, rows: int) -> None:
    model = text_models.build("llama")
    examples = texts(LENGTHS, MULTI)
    whole = objective.evaluate(model, objective.prepare(model, examples, KEY))
    pieces = MicroBatches(objective, rows)
    prepared = pieces.prepare(model, examples, KEY)
    assert max(map(len, prepared)) == min(rows, 4)
    found = pieces.evaluate(model, prepared)
    torch.testing.assert_close(found.value, whole.value, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.weight, whole.weight)
    assert found.mean() == pytest.approx(whole.mean(), rel=1e-5)


def test_select_cuts_by_example() -> None:
    model = text_models.build("llama")
    objective = Classification(PAD)
    prepared = objective.prepare(model, texts(LENGTHS, MULTI), KEY)
    whole = objective.evaluate(model, prepared).value
    some = objective.evaluate(model, objective.select(prepared, (2, 0))).value
    torch.testing.assert_close(some, whole[[2, 0]], rtol=1e-5, atol=1e-5)
