"""What a task gives away without a model, against counts by hand and scikit-learn."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from zerothorder.cli import main
from zerothorder.data import read_rows
from zerothorder.data.baselines import baselines, equal_guesses
from zerothorder.errors import UsageError


def test_classes_by_their_words_are_scikit_learn_s_naive_bayes():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    train, dev = (read_rows("sections", split) for split in ("train", "dev"))
    counter = CountVectorizer(token_pattern=r"\w+")
    model = MultinomialNB().fit(counter.fit_transform([r["text"] for r in train]), [r["label"] for r in train])
    expected = model.score(counter.transform([r["text"] for r in dev]), [r["label"] for r in dev])
    found = baselines("sections", "dev")
    assert found["overlap"] == pytest.approx(expected)
    commonest = Counter(row["label"] for row in train).most_common(3)
    assert commonest[0][1] == 152, "three sections are as common: the first by name is taken"
    assert found["majority"] == sum(row["label"] == "net" for row in dev) / len(dev)


def test_options_by_hand():
    row = {"text": "the red fox runs", "label": 1}
    train = [
        {"text": "the fox", "options": ["a", "b"], "label": 1}, {"text": "the dog", "options": ["a", "b"], "label": 1},
        {"text": "the cat", "options": ["a", "b"], "label": 0},
    ]  # fmt: skip
    test = [
        row | {"options": ["blue sky", "the red dog"]},  # 0/2 and 2/3 of its words
        row | {"options": ["the day", "fox far away"]},  # 1/2 and 1/3; by idf 0 and something, for `the` is everywhere
        row | {"options": ["red", "Fox fox fox!"]},  # both whole: a tie of two is worth a half
    ]
    found = baselines({"train": train, "test": test})
    assert found == {"majority": 1.0, "overlap": pytest.approx(1 / 2), "overlap_idf": pytest.approx(5 / 6)}
    assert baselines({"train": [*train, *[train[2]] * 2], "test": test})["majority"] == 0
    assert math.log((1 + 3) / (1 + 3)) == 0  # the idf of `the`


def test_free_text_by_hand():
    train = [{"text": "x", "question": "q", "references": ["two"]} for _ in range(2)]
    train.append({"text": "x", "question": "q", "references": ["one"]})
    test = [
        {"text": "It rained. The cat sat on two mats.", "question": "Where sat the cat?", "references": ["two mats"]},
        {"text": "Nothing here.", "question": "What?", "references": ["none", "two"]},
    ]
    found = baselines({"train": train, "test": test})
    # "cat sat on two mats": 5 words without the article, 2 shared of 2
    assert found == {"majority": pytest.approx((2 / 3 + 1) / 2), "overlap": pytest.approx(4 / 7 / 2)}


def test_any_data_and_its_columns(tmp_path: Path):
    rows = [{"said": f"{'good' if n % 3 else 'bad'} {n}", "is": n % 3 != 0} for n in range(90)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = baselines(path, "dev", columns={"text": "said", "label": "is"})
    dev = read_rows(path, "dev")
    assert found == {"majority": sum(row["is"] for row in dev) / len(dev), "overlap": 1.0}
    assert baselines(path, "dev", "{said}", {"label": "is"})["overlap"] == 1.0
    with pytest.raises(UsageError, match="row 1 has no label, options or references, only text; "):
        baselines({"train": [{"text": "a"}], "test": [{"text": "a"}]})
    with pytest.raises(UsageError, match="row 2 has nothing in column 'label'"):
        baselines({"train": [{"text": "a", "label": 1}, {"text": "a", "label": None}], "test": [{"text": "a"}]})
    with pytest.raises(UsageError, match=r"the template names column 'text', which .*a.jsonl row \d+ does not have"):
        baselines(path, "dev", columns={"label": "is"})


def test_equal_guesses_are_worth_the_logarithm_of_how_many_there_are(tmp_path: Path):
    rows = [{"text": f"a {n}", "label": n % 3} for n in range(90)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert equal_guesses(str(tmp_path / "a.jsonl")) == pytest.approx(math.log(3))
    assert equal_guesses("synopses") == pytest.approx(math.log(4))
    assert equal_guesses("summaries") is None


def zo(*words: str) -> int:
    return main(list(words))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{"said": f"{'good' if n % 3 else 'bad'} {n}", "is": n % 3 != 0} for n in range(90)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ("--text-column", "said", "--label-column", "is", "--template", "{text}")
    assert zo("baselines", str(path), *flags, "--json") == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["data"], told["dev"]["overlap"], set(told["test"])) == (str(path), 1.0, {"majority", "overlap"})
    assert zo("baselines", "synopses") == 0
    shown = capsys.readouterr().out
    assert "overlap, by idf" in shown
    assert zo("baselines", "synopses", "--quiet") == 0
    assert not capsys.readouterr().out
    assert zo("baselines", "synopsis") == 2
    assert "did you mean 'synopses'?" in capsys.readouterr().err
