"""Rows with options of their own: how they are read, refused, encoded, scored and measured."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import zerothorder as zo
from zerothorder.config import EvalConfig
from zerothorder.data import Row, encode
from zerothorder.data.options import options_of
from zerothorder.errors import UsageError
from zerothorder.evaluation import auc, evaluate
from zerothorder.objectives.classification import Accuracy, candidate_scores
from zerothorder.reporter import Silent
from zerothorder.task import load_task

ROWS = [
    {"text": "a pan is for", "options": ["frying eggs", "flying to the moon", "reading"], "label": 0},
    {"text": "a boat is for", "options": ["cutting", "the water"], "label": "the water"},
]


def ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_label_is_an_index_or_the_text_of_the_right_option():
    assert options_of(ROWS[0], "row 1") == (("frying eggs", "flying to the moon", "reading"), 0)
    assert options_of(ROWS[1], "row 2") == (("cutting", "the water"), 1)
    numbers = {"options": ["1", "0"], "label": "1"}
    assert options_of(numbers, "row 1")[1] == 0  # a text is a text
    assert options_of(numbers | {"label": 1}, "row 1")[1] == 1
    assert options_of(numbers | {"label": 1.0, "options": (" a ", "b")}, "row 1") == (("a", "b"), 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"options": None}, "row 7 has no options .it has text, options, label."),
        ({"options": "yes, no"}, "row 7 has a str in column 'options': give a list of texts"),
        ({"options": ["one"]}, "row 7 has 1 of at least 2 options"),
        ({"options": ["one", " "]}, "row 7 has the option ' '"),
        ({"options": ["one", 2]}, "row 7 has the option 2"),
        ({"options": ["one", "two", "one "]}, "row 7 has the option 'one' twice"),
        ({"label": None}, "row 7 has nothing in column 'label'"),
        ({"label": 3}, "row 7 has the label 3, which is none of its 3 options: give an index from 0 to 2"),
        ({"label": -1}, "row 7 has the label -1"),
        ({"label": True}, "row 7 has the label True"),
        ({"label": 0.5}, "row 7 has the label 0.5"),
        ({"label": "0"}, "row 7 has the label '0'"),
        ({"label": "frying"}, "row 7 has the label 'frying'"),
    ],
)
@pytest.mark.parametrize("objective", ["classification", "metric"])
def test_what_is_refused_names_its_row(tokenizer: Any, change: dict[str, Any], says: str, objective: str):
    rows = [Row(ROWS[1].items(), "f.jsonl row 6"), Row({**ROWS[0], **change}.items(), "f.jsonl row 7")]
    with pytest.raises(UsageError, match=rf"f\.jsonl {says}"):
        encode(rows, tokenizer, objective=objective, max_length=64)


def test_every_row_needs_options_where_one_has_them(tokenizer: Any):
    with pytest.raises(UsageError, match="row 2 has no options"):
        encode([ROWS[0], {"text": "a", "label": 0}], tokenizer, objective="classification", max_length=64)


@pytest.mark.parametrize("objective", ["classification", "metric"])
def test_each_option_continues_the_template(tokenizer: Any, objective: str):
    made = encode(ROWS, tokenizer, objective=objective, max_length=64, template="{text}:").examples
    assert [len(e.answers) for e in made] == [3, 2]
    assert made[0].prompt == ids(tokenizer, "a pan is for:")
    assert made[0].answers[1] == ids(tokenizer, " flying to the moon")
    assert [(e.label, e.references) for e in made] == [(0, ("frying eggs",)), (1, ("the water",))]
    bare = encode(ROWS, tokenizer, objective=objective, max_length=64).examples
    assert bare[0].prompt == ids(tokenizer, "a pan is for")
    with pytest.raises(UsageError, match="ends with a space"):
        encode(ROWS, tokenizer, objective=objective, max_length=64, template="{text} ")


def test_verbalizers_that_are_given_come_before_options(tokenizer: Any):
    row = ROWS[0] | {"label": "b"}
    made = encode(
        [row], tokenizer, objective="classification", max_length=64, template="{text}", verbalizers="a=bad,b=good"
    )
    assert (len(made.examples[0].answers), made.examples[0].label) == (2, 1)


def test_the_longest_option_has_room_and_the_text_gives_way(tokenizer: Any):
    row = {"text": "word " * 40 + "end", "options": ["a", "b c d e f g h"], "label": 1}
    made = encode([row], tokenizer, objective="classification", max_length=30)
    (example,) = made.examples
    assert (made.truncated, made.max_tokens) == (1, len(example.prompt) + len(example.answers[1]))
    assert 25 <= made.max_tokens <= 30
    assert tokenizer.decode(example.prompt).endswith("end")


@pytest.fixture
def options_file(tmp_path: Path) -> Path:
    """Two to four options a row, the right one in any place."""
    rows = [
        {
            "text": f"a good film {n}",
            "options": [f"and actors {n} {k}" if k % 2 else f"bad {n + k}" for k in range(2 + n % 3)],
            "label": n % 2,
        }
        for n in range(50)
    ]
    path = tmp_path / "options.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def by_hand(model: Any, example: Any) -> list[float]:
    """The mean log-probability of each option's tokens, one sequence at a time without padding."""
    found = []
    for answer in example.answers:
        tokens = torch.tensor([[*example.prompt, *answer]])
        with torch.no_grad():
            scores = model(input_ids=tokens).logits[0].double().log_softmax(-1)
        places = range(len(example.prompt) - 1, tokens.shape[1] - 1)
        found.append(math.fsum(float(scores[place, tokens[0, place + 1]]) for place in places) / len(answer))
    return found


def test_the_measures_are_those_of_options_scored_one_by_one(llama_folder: Path, options_file: Path):
    task = load_task(EvalConfig(model=str(llama_folder), data=str(options_file)), ("train", "dev"))
    found = evaluate(task, "train", "classification", calibrate=20)
    examples = task.splits["train"]
    assert {len(e.answers) for e in examples} == {2, 3, 4}
    scores = [by_hand(task.model, e) for e in examples]
    right = [max(range(len(s)), key=s.__getitem__) == e.label for s, e in zip(scores, examples, strict=True)]
    losses = [math.log(math.fsum(map(math.exp, s))) - s[e.label] for s, e in zip(scores, examples, strict=True)]
    assert found["accuracy"] == pytest.approx(sum(right) / len(right))
    assert 0 < sum(right) < len(right)
    assert found["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert set(found) == {"rows", "accuracy", "loss"}, "the first option of one row is not that of another"
    alone = evaluate(task, "train", "classification", batch_size=1)
    assert alone["loss"] == pytest.approx(found["loss"], rel=1e-5)


def test_two_options_that_all_rows_share_are_two_classes(llama_folder: Path, tmp_path: Path):
    rows = [{"text": f"film {n} " * (1 + n % 4), "options": ["bad", "good"], "label": n % 2} for n in range(40)]
    own, one = tmp_path / "own.jsonl", tmp_path / "one.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # the last row's options are others: there is no common scale any more
    one.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:-1], rows[-1] | {"options": ["good", "bad"]}]))
    asked = {"model": str(llama_folder), "data": str(own)}
    task = load_task(EvalConfig(**asked), ("train", "dev"))
    words = load_task(EvalConfig(**asked, template="{text}", verbalizers="0=bad,1=good"), ("train", "dev"))
    found = evaluate(task, "train", "classification", calibrate=20)
    assert found == evaluate(words, "train", "classification", calibrate=20)
    scores = candidate_scores(task.model, task.splits["train"], task.pad_id).detach()
    labels = torch.tensor([e.label for e in task.splits["train"]])
    assert found["auc"] == pytest.approx(auc(scores[:, 1] - scores[:, 0], labels))
    apart = load_task(EvalConfig(model=str(llama_folder), data=str(one)), ("train", "dev", "test"))
    measures = [set(evaluate(apart, split, "classification", calibrate=20)) for split in apart.splits]
    assert sorted("auc" in names for names in measures) == [False, True, True]
    assert all(("auc" in names) == ("calibrated_accuracy" in names) for names in measures)


def test_the_metric_of_options_is_accuracy(llama_folder: Path, options_file: Path):
    config = EvalConfig(model=str(llama_folder), data=str(options_file), objective="metric")
    task = load_task(config, ("train",))
    assert isinstance(task.objective, Accuracy)
    found = evaluate(task, "train", "metric")
    values = task.objective.evaluate(task.model, task.splits["train"]).value
    assert found["accuracy"] == pytest.approx(-float(values.mean()))


@pytest.mark.parametrize("objective", ["classification", "metric"])
def test_a_run_over_options_goes_through_and_learns_from_the_right_ones(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: Any
):
    from zerothorder import training

    monkeypatch.setattr(training, "write_report", lambda folder: folder)
    rows = [{"text": f"film {n}", "options": ["and", "a good one", "bad"], "label": "a good one"} for n in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = zo.TrainConfig(
        output=tmp_path / "run", model=str(llama_folder), data=str(tmp_path / "a.jsonl"), objective=objective,
        steps=12, batch_size=4, lr=1e-2, eps=1e-2, threads=1, check="off",
    )  # fmt: skip
    notes: list[str] = []

    class Noting(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    run = training.Training(config, Noting())
    run.go()
    assert not any("one by one" in note for note in notes), "as many options in every row: points share a pass"
    measures = run.measures
    assert set(measures["test"]) >= {"accuracy", "loss"}
    if objective == "classification":
        assert measures["test"]["loss"] < measures["zero-shot"]["loss"] - 0.01
