"""Rows as token ids: answers where they stand, cuts that spare template and answer, and refusals by row."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zerothorder.data import Encoded, encode
from zerothorder.data.formats import Row
from zerothorder.errors import UsageError

ROWS = [{"text": "a great film", "label": 1}, {"text": "a terrible plot and terrible actors", "label": 0}]
TASK: dict[str, Any] = {
    "objective": "classification",
    "template": "{text} It was",
    "verbalizers": "0=terrible,1=great",
}


def ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_classification_reads_as_one_text(tokenizer: Any):
    made = encode(ROWS, tokenizer, max_length=64, **TASK)
    first, second = made.examples
    assert first.prompt == ids(tokenizer, "a great film It was")
    assert [tokenizer.decode(answer) for answer in first.answers] == [" terrible", " great"]
    assert (*first.prompt, *first.answers[1]) == ids(tokenizer, "a great film It was great")
    assert (first.label, second.label) == (1, 0)
    assert (first.references, second.references) == (("great",), ("terrible",))
    assert first.text == "a great film It was"
    longest = max(len(row.prompt) + len(answer) for row in made.examples for answer in row.answers)
    assert (made.truncated, made.max_tokens) == (0, longest)


@given(
    texts=st.lists(st.text(max_size=60), min_size=1, max_size=4),
    room=st.integers(12, 40),
    chat=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_longer_than_allowed_and_the_tail_stays(tokenizer: Any, texts: list[str], room: int, chat: bool):
    rows = [{"text": "x" + text, "label": 0} for text in texts]
    room += 10 if chat else 0
    made = encode(rows, tokenizer, max_length=room, chat=chat, **TASK)
    free = encode(rows, tokenizer, max_length=10_000, chat=chat, **TASK)
    end = " It was</u>\n<a>\n" if chat else " It was"
    changed = 0
    for cut, whole in zip(made.examples, free.examples, strict=True):
        assert len(cut.prompt) + max(map(len, cut.answers)) <= room
        assert tokenizer.decode(cut.prompt).endswith(end)
        assert cut.answers == whole.answers
        changed += cut.prompt != whole.prompt
        fitted = len(whole.prompt) + max(map(len, whole.answers)) <= room
        assert fitted == (cut.prompt == whole.prompt)
    assert made.truncated == changed
    assert made.max_tokens <= room


def test_the_cut_takes_the_left_end_and_no_more_than_it_must(tokenizer: Any):
    text = " ".join(f"word{number}" for number in range(50))
    made = encode([{"text": text, "label": 0}], tokenizer, max_length=30, **TASK)
    kept = tokenizer.decode(made.examples[0].prompt).removesuffix(" It was")
    assert text.endswith(kept)
    assert 25 <= made.max_tokens <= 30


def test_the_text_is_cut_before_other_columns_and_these_after_it(tokenizer: Any):
    row = {"text": "x" * 20, "title": "y" * 40, "label": 0}
    task = TASK | {"template": "{title}: {text} It was"}
    some = encode([row], tokenizer, max_length=60, **task).examples[0]
    assert tokenizer.decode(some.prompt).startswith("y" * 40 + ": x")
    more = encode([row], tokenizer, max_length=30, **task).examples[0]
    assert tokenizer.decode(more.prompt).endswith("y:  It was")


def test_a_length_that_holds_no_text_is_refused(tokenizer: Any):
    rows = [ROWS[0], Row({"text": "a good film", "label": 0}.items(), "f.csv row 7")]
    bare = len(ids(tokenizer, " It was")) + max(len(ids(tokenizer, word)) for word in (" terrible", " great"))
    with pytest.raises(
        UsageError, match=f"row 1 does not fit a maximum length of {bare}: without its text.*{bare} tok"
    ):
        encode(rows, tokenizer, max_length=bare, **TASK)
    with pytest.raises(UsageError, match=r"f\.csv row 7 does not fit a maximum length of 3"):
        encode(rows[1:], tokenizer, max_length=3, **TASK)


def test_slow_tokenizers_have_no_offsets(tokenizer: Any):
    class Slow:
        is_fast, chat_template, eos_token_id = False, None, 1

        def __call__(self, text: Any, add_special_tokens: bool = True) -> Any:
            return tokenizer(text, add_special_tokens=add_special_tokens)

    slow: Any = Slow()
    made = encode([{"text": "word " * 50, "label": 0}], slow, max_length=30, **TASK)
    assert made.truncated == 1
    assert 20 <= made.max_tokens <= 30
    assert tokenizer.decode(made.examples[0].prompt).endswith(" It was")


def test_chat_wraps_the_prompt_and_the_answer_starts_a_line(tokenizer: Any):
    made = encode(ROWS, tokenizer, max_length=64, chat=True, **TASK)
    assert tokenizer.decode(made.examples[0].prompt) == "<u>a great film It was</u>\n<a>\n"
    assert [tokenizer.decode(answer) for answer in made.examples[0].answers] == ["terrible", "great"]


def test_chat_that_cannot_be(tokenizer: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('only with tools') }}")
    with pytest.raises(UsageError, match=r"chat template fails \(only with tools\)"):
        encode(ROWS, tokenizer, max_length=64, chat=True, **TASK)
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(UsageError, match="has no chat template"):
        encode(ROWS, tokenizer, max_length=64, chat=True, **TASK)
    with pytest.raises(UsageError, match="prompt and completion"):
        encode(ROWS, tokenizer, objective="lm", max_length=64, chat=True)


def test_an_answer_after_a_line_end_has_no_space(tokenizer: Any):
    made = encode(ROWS, tokenizer, max_length=64, **TASK | {"template": "{text}\nIt was\n"})
    assert tokenizer.decode(made.examples[0].answers[1]) == "great"


def test_tokenizers_that_mark_the_start_of_a_text():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "▁a", "▁great", "▁terrible", "▁It", "▁was", "▁"]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made = encode(ROWS, PreTrainedTokenizerFast(tokenizer_object=core), max_length=64, **TASK)
    assert made.examples[0].answers == ((3,), (2,))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"verbalizers": None}, "give verbalizers like 0=terrible,1=great"),
        ({"template": None}, "needs a template that they complete"),
        ({"template": "{text} It was "}, "ends with a space"),
        ({"template": "{sentence} It was"}, "names column 'sentence', which row 1 does not have"),
        ({"verbalizers": "0=great,1=great film"}, "'great' and 'great film' begin with the same token"),
        (
            {"verbalizers": "0=bad,2=good"},
            "row 1 has the label '1', not one of the verbalizers; give it a word or correct the row; known are 0, 2",
        ),
    ],
)
def test_classification_that_cannot_be(tokenizer: Any, change: dict[str, Any], says: str):
    with pytest.raises(UsageError, match=says):
        encode(ROWS, tokenizer, max_length=64, **TASK | change)


def test_rows_without_a_label(tokenizer: Any):
    for row in ({"text": "a"}, {"text": "a", "label": None}):
        with pytest.raises(UsageError, match=r"f\.csv row 4 has nothing in column 'label'"):
            encode([Row(row.items(), "f.csv row 4")], tokenizer, max_length=64, **TASK)


def test_a_head_has_classes_and_no_words(tokenizer: Any):
    made = encode(ROWS, tokenizer, objective="classification", max_length=64, verbalizers="0=a,1=a b", head=True)
    assert [(row.prompt, row.answers, row.label) for row in made.examples] == [
        (ids(tokenizer, ROWS[0]["text"]), (), 1),
        (ids(tokenizer, ROWS[1]["text"]), (), 0),
    ]


def test_lm_on_whole_texts(tokenizer: Any):
    made = encode(ROWS, tokenizer, objective="lm", max_length=6)
    whole = ids(tokenizer, ROWS[1]["text"])
    assert made.examples[1].prompt == ()
    assert made.examples[1].answers == (whole[-6:],)
    assert made.examples[1].label == 0
    assert (made.truncated, made.max_tokens) == (sum(len(ids(tokenizer, r["text"])) > 6 for r in ROWS), 6)
    with pytest.raises(UsageError, match="row 1 has an empty text"):
        encode([{"text": ""}], tokenizer, objective="lm", max_length=6)
    with pytest.raises(UsageError, match="leaves nothing to predict"):
        encode(ROWS, tokenizer, objective="lm", max_length=1)


def test_lm_keeps_what_a_tokenizer_puts_first(tokenizer: Any):
    from copy import deepcopy

    from tokenizers import processors

    other = deepcopy(tokenizer)
    ends = [("<s>", 0), ("</s>", 1)]
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    example = encode(ROWS[:1], other, objective="lm", max_length=64).examples[0]
    assert example.prompt == (0,)
    assert example.answers == (ids(tokenizer, ROWS[0]["text"]),)
    other.bos_token = other.eos_token = "<s>"  # as OPT has it: one token for both
    assert encode(ROWS[:1], other, objective="lm", max_length=64).examples[0].prompt == (0,)
    other.bos_token = None  # as T5 has it: only an end
    assert encode(ROWS[:1], other, objective="lm", max_length=64).examples[0].prompt == ()


def test_lm_completions_stand_as_given_and_stop(tokenizer: Any):
    rows = [{"prompt": "a great film It was", "completion": " good"}]
    example = encode(rows, tokenizer, objective="lm", max_length=64).examples[0]
    assert example.prompt == ids(tokenizer, "a great film It was")
    assert example.answers == ((*ids(tokenizer, " good"), tokenizer.eos_token_id),)
    assert example.references == (" good",)
    cut = encode(rows, tokenizer, objective="lm", max_length=len(example.answers[0]) + 2)
    assert cut.examples[0].answers == example.answers
    assert cut.truncated == 1
    with pytest.raises(UsageError, match="row 2 has nothing in column 'completion'"):
        encode([*rows, {"prompt": "x"}], tokenizer, objective="lm", max_length=64)


def metric(tokenizer: Any, row: dict[str, Any], **how: Any) -> Encoded:
    return encode([row], tokenizer, objective="metric", max_length=64, **how)


def test_metric_rows(tokenizer: Any):
    both = metric(tokenizer, {"prompt": "a film", "references": ["good", "great"]}).examples[0]
    assert both.prompt == ids(tokenizer, "a film")
    assert both.references == ("good", "great")
    assert both.answers == (ids(tokenizer, " good"),)
    assert metric(tokenizer, {"text": "a film", "label": "good"}).examples[0].references == ("good",)
    chosen = metric(tokenizer, ROWS[0], template=TASK["template"], verbalizers=TASK["verbalizers"]).examples[0]
    assert (chosen.label, chosen.references, len(chosen.answers)) == (1, ("great",), 2)
    for row in ({"text": "a"}, {"text": "a", "references": []}, {"text": "a", "references": ["x", " "]}):
        with pytest.raises(UsageError, match=r"row 1 has (nothing|an empty answer) in column 'references'"):
            metric(tokenizer, row)


def test_no_rows_at_all(tokenizer: Any):
    for how in (TASK, {"objective": "lm"}, {"objective": "metric"}):
        assert encode([], tokenizer, max_length=64, **how) == Encoded((), 0, 0)
