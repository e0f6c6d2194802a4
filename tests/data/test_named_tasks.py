"""The named tasks: how each row is asked, which rows are trained on, and what is said where that cannot be."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from public_rows import ASKED, ROWS
from zerothorder.config import EvalConfig
from zerothorder.data import TASKS, encode, parse_verbalizers, read_rows
from zerothorder.data.local_tasks import LOCAL
from zerothorder.data.paper_tasks import PAPER
from zerothorder.data.tasks import wording
from zerothorder.errors import UsageError
from zerothorder.places import absolute

FIELD = {
    "sst2": "sentence", "rte": "premise", "cb": "premise", "boolq": "passage", "wsc": "text", "wic": "sentence1",
    "copa": "premise", "multirc": "paragraph", "record": "passage", "winogrande": "sentence", "squad": "context",
    "drop": "passage",
}  # fmt: skip
"""The public column of the text that rows may share."""


def public(name: str, count: int, shared: int = 1) -> list[dict[str, Any]]:
    """Rows in the public columns; every `shared` of them have one text."""
    rows = []
    for number in range(count):
        row = copy.deepcopy(ROWS[name])
        row[FIELD[name]] = f"{number // shared}: {row[FIELD[name]]}"
        rows.append(row | {"number": number})
    return rows


def write(folder: Path, **parts: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in parts.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_every_task_of_the_papers_has_a_row_here():
    assert set(PAPER) == set(ROWS) == set(ASKED) == set(FIELD)
    assert set(TASKS) == {*PAPER, *LOCAL}


@pytest.fixture(scope="module")
def tokenizer(tokenizer: Any) -> Any:
    """With the answers as tokens of their own, as real models have them."""
    made = copy.deepcopy(tokenizer)
    made.add_tokens([" Yes", " No", " Maybe"])
    return made


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("bare", [False, True])
def test_how_a_row_is_asked(name: str, bare: bool, tokenizer: Any, tmp_path: Path):
    folder = write(tmp_path / "raw", train=public(name, 4), validation=[ROWS[name]])
    data = f"{name}:{folder}"
    rows = read_rows(data, "test")
    objective = "metric" if TASKS[name].generated else "classification"
    template, verbalizers = wording(data, objective, bare=bare)
    (example,) = encode(
        rows, tokenizer, objective=objective, max_length=512, template=template, verbalizers=verbalizers
    ).examples
    prompt, plain, answers, label = ASKED[name]
    assert example.text == (plain if bare else prompt)
    assert tokenizer.decode(example.prompt) == example.text
    if label is None:
        assert example.references == tuple(answers)
        answers = answers[:1]
    else:
        assert (example.label, example.references) == (label, (answers[label],))
    assert example.answers == tuple(ids(tokenizer, " " + answer) for answer in answers)


@pytest.mark.parametrize("name", ["copa", "record", "winogrande", "squad", "drop"])
def test_the_likelihood_is_that_of_the_right_answer_after_the_template(name: str, tokenizer: Any, tmp_path: Path):
    data = f"{name}:{write(tmp_path / 'raw', train=public(name, 4), validation=[ROWS[name]])}"
    template, verbalizers = wording(data, "lm")
    rows = read_rows(data, "test")
    (example,) = encode(
        rows, tokenizer, objective="lm", max_length=512, template=template, verbalizers=verbalizers
    ).examples
    prompt, _, answers, label = ASKED[name]
    assert example.text == prompt
    assert example.answers == ((*ids(tokenizer, " " + answers[label or 0]), tokenizer.eos_token_id),)


def test_whole_texts_are_learnt_where_the_answers_are_verbalizers():
    assert wording("sst2", "lm") == (None, None)
    assert wording("sections", "lm", template="{text}!") == ("{text}!", None)


@pytest.mark.parametrize(("name", "verbalizers"), [(n, t.verbalizers) for n, t in TASKS.items() if t.verbalizers])
def test_verbalizers_are_words_apart(name: str, verbalizers: str):
    found = parse_verbalizers(verbalizers)
    assert all(" " not in word for word in found.words), name


def splits(data: str) -> dict[str, list[int]]:
    return {split: [row["number"] for row in read_rows(data, split)] for split in ("train", "dev", "test")}


@pytest.fixture
def keep_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of sst2 keep the number that `public` gave them, and nothing else changes."""
    import dataclasses

    from zerothorder.data.named import each

    read = each(lambda row: {"text": row["sentence"], "label": row["label"], "number": row["number"]})
    monkeypatch.setitem(TASKS, "sst2", dataclasses.replace(TASKS["sst2"], read=read))


@pytest.mark.usefixtures("keep_numbers")
def test_the_protocol_of_the_papers(tmp_path: Path):
    train, validation = public("sst2", 2600, shared=2), public("sst2", 1100)
    folder = write(tmp_path / "raw", train=train, validation=validation, test=public("sst2", 9))
    found = splits(f"sst2:{folder}")
    assert {split: len(set(numbers)) for split, numbers in found.items()} == {"train": 1000, "dev": 500, "test": 1000}
    assert not {number // 2 for number in found["train"]} & {number // 2 for number in found["dev"]}, (
        "a text on two sides"
    )
    assert max(found["test"]) > 1000, "test rows are validation rows, and not the first thousand"
    random.Random(0).shuffle(train)
    assert splits(f"sst2:{write(folder, train=train)}") == found, "the order of the file decides nothing"


@pytest.mark.usefixtures("keep_numbers")
def test_a_third_is_for_dev_where_there_are_too_few(tmp_path: Path):
    folder = write(tmp_path / "raw", train=public("sst2", 30), validation=public("sst2", 5))
    found = splits(f"sst2:{folder}")
    assert {split: len(numbers) for split, numbers in found.items()} == {"train": 20, "dev": 10, "test": 5}
    assert not set(found["train"]) & set(found["dev"])
    one = splits(f"sst2:{folder / 'train.jsonl'}")
    assert sorted(one["train"] + one["test"]) == sorted(found["train"])
    assert one["dev"] == found["dev"]


@pytest.mark.parametrize("name", PAPER)
def test_the_hub_is_asked_for_name_and_configuration(name: str, monkeypatch: pytest.MonkeyPatch):
    import datasets

    made = datasets.DatasetDict(
        {split: datasets.Dataset.from_list(public(name, 9)) for split in ("train", "validation", "test")}
    )
    asked: list[Any] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *words: asked.append(words) or made)
    rows = {split: read_rows(name, split) for split in ("train", "dev", "test")}
    assert {split: len(found) for split, found in rows.items()} == {"train": 6, "dev": 3, "test": 9}
    repository, _, configuration = str(TASKS[name].source).partition(":")
    assert set(asked) == {(repository, configuration or None)}
    assert rows["test"][0].where.startswith(f"{TASKS[name].source}[validation] row ")


def test_spans_of_drop_in_their_older_form(tmp_path: Path):
    row = ROWS["drop"] | {"answers_spans": [{"spans": "5", "types": "number"}, {"spans": "five", "types": "span"}]}
    (found,) = read_rows(f"drop:{write(tmp_path / 'raw', validation=[row], train=[row])}", "test")
    assert (found["references"], found["completion"]) == (["5", "five"], " 5")


def refused(data: str, *says: str, split: str = "test") -> None:
    with pytest.raises(UsageError) as caught:
        read_rows(data, split)
    for part in says:
        assert part in str(caught.value)


def test_rows_that_are_not_the_source_s(tmp_path: Path):
    lacking = {"text": "a film", "label": 1}
    folder = write(tmp_path / "raw", train=[lacking], validation=[ROWS["sst2"], lacking])
    refused(f"sst2:{folder}", "validation.jsonl row 2 has no column 'sentence' (it has text, label)")
    odd = ROWS["winogrande"] | {"sentence": "no blank at all"}
    refused(f"winogrande:{write(folder, validation=[odd])}", "validation.jsonl row 1 is not as its source has it")
    asked = ROWS["copa"] | {"question": "why"}
    refused(f"copa:{write(folder, validation=[asked])}", "validation.jsonl row 1", "why")
    refused(f"sst2:{tmp_path / 'nowhere'}", "nowhere does not exist: give a data file, a folder")


def test_a_hub_that_cannot_be_reached_names_the_way_around(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    refused("rte", "cannot load the data set 'aps/super_glue:rte'", "behind the task's name: NAME:FOLDER")


def test_unknown_tasks_and_asking_that_cannot_be():
    for name, close in (("synopsis", "synopses"), ("winogrand", "winogrande"), ("food-review", "food-reviews")):
        refused(name, f"did you mean {close!r}?")
    with pytest.raises(UsageError, match=r"takes the wording off a named task, and 'sst' is none; did you mean 'sst2'"):
        wording("sst", "classification", bare=True)
    with pytest.raises(UsageError, match="both say how to ask"):
        wording("sst2", "classification", template="{text}", bare=True)
    with pytest.raises(UsageError, match=r"squad:here is answered in free text: give --objective metric .* or .* lm"):
        wording("squad:here", "classification")


def test_a_folder_behind_a_name_is_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "raw")
    write(tmp_path / "sections")
    names = ("sst2:raw", "sst2:nowhere", "glue:raw", "sections", "./sections")
    assert [absolute(name) for name in names] == [
        f"sst2:{tmp_path / 'raw'}", "sst2:nowhere", "glue:raw", "sections", str(tmp_path / "sections"),
    ]  # fmt: skip


def test_a_task_brings_its_prompt_and_takes_another(llama_folder: Path, tmp_path: Path):
    from zerothorder.task import load_task

    own = write(tmp_path / "raw", dev=[{"text": "a good film", "label": "great"}, {"text": "a", "label": "other"}])
    asked = {"model": str(llama_folder), "data": f"food-reviews:{own}"}
    for changes, prompt in (
        ({}, "a good film It was"),
        ({"bare": True}, "a good film"),
        ({"template": "{text}!"}, "a good film!"),
    ):
        (first, _) = load_task(EvalConfig(**asked, **changes), ("dev",)).splits["dev"]
        assert (first.text, first.label, len(first.answers)) == (prompt, 1, 2)
    (_, second) = load_task(EvalConfig(**asked, verbalizers="great=good,other=bad"), ("dev",)).splits["dev"]
    assert (second.label, second.references) == (1, ("bad",))


def test_free_text_is_measured_by_its_f1(llama_folder: Path, tmp_path: Path):
    from zerothorder.evaluation import evaluate
    from zerothorder.task import load_task

    data = f"squad:{write(tmp_path / 'raw', train=public('squad', 6), validation=public('squad', 3))}"
    task = load_task(EvalConfig(model=str(llama_folder), data=data, objective="metric"), ("test",))
    found = evaluate(task, "test", "metric")
    assert set(found) == {"rows", "f1"}
    assert found["rows"] == 3


def test_synopses_are_chosen_among_near_ones_of_the_same_split():
    from zerothorder.data.splits import words

    summaries = {split: {row["summary"] for row in read_rows("summaries", split)} for split in ("train", "dev", "test")}
    for split, own in summaries.items():
        rows = read_rows("synopses", split)
        assert len(rows) == {"train": 1200, "dev": 300, "test": 300}[split]
        for row in rows[:60]:
            assert len(set(row["options"])) == 4
            assert set(row["options"]) <= own
            assert row["options"][row["label"]] == row["summary"] == row["completion"].strip()
            seen = set(words(row["text"]))
            share = {s: len(set(words(s)) & seen) / len(set(words(s))) for s in own - {row["summary"]}}
            eighth = sorted(share.values())[-8]
            assert all(share[option] >= eighth for option in row["options"] if option != row["summary"])
    places = [row["label"] for row in read_rows("synopses", "train")]
    assert all(abs(places.count(place) - 300) < 60 for place in range(4))  # four standard errors
    assert [row["label"] for row in read_rows("synopses", "dev")[:8]] == FIRST_PLACES, "other rows than were measured"


FIRST_PLACES = [1, 1, 3, 1, 2, 2, 2, 1]


def test_too_few_summaries_to_choose_from(tmp_path: Path):
    rows = [{"text": f"what {n} does", "summary": f"does {n}"} for n in range(3)]
    refused(f"synopses:{write(tmp_path / 'raw', test=rows)}", "3 rows are too few to choose from 4 summaries")
    lacking = [*rows, {"text": "a"}]
    refused(f"synopses:{write(tmp_path / 'raw', test=lacking)}", "test.jsonl row 4 has no text in column 'summary'")


@pytest.mark.e2e
def test_the_words_for_classes_are_single_tokens_of_the_packaged_model():
    import torch

    from zerothorder.data import load_model

    tokenizer = load_model("smollm2-135m", torch.bfloat16, "cpu").tokenizer
    for name, task in TASKS.items():
        for word in parse_verbalizers(task.verbalizers).words if task.verbalizers else ():
            assert len(ids(tokenizer, " " + word)) == 1, (name, word)
