"""scripts/corpus.py keeps what shipped tasks test by out of the text; scripts/pretrain.py goes on where it stopped."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
pytestmark = pytest.mark.skipif(not SCRIPTS.exists(), reason="the scripts are not in a wheel")


@pytest.fixture
def corpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("corpus")


@pytest.fixture
def pretrain(corpus: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = importlib.import_module("pretrain")
    monkeypatch.setattr(module, "LENGTH", 16)
    monkeypatch.setattr(module, "ROWS", 2)
    return module


LONG = "one two three four five six seven eight nine ten"


def gathered(corpus: Any, texts: dict[str, str], glosses: dict[str, str], held: list[dict[str, str]]) -> dict[str, str]:
    """Documents by name, of packages named as their sources with "-bin" behind."""
    package, description, synset = corpus.Package, corpus.Description, corpus.Synset
    packages = [package(f"{name}-bin", "1", name, "misc", f"md5 {name}") for name in texts]
    english = {f"md5 {name}": description("synopsis", (text,)) for name, text in texts.items()}
    synsets = [synset(name, 5, ("word",), gloss, ("an example",)) for name, gloss in glosses.items()]
    found = corpus.documents(packages, english, synsets, corpus.HeldOut(held))
    assert len({document.name for document in found}) == len(found)
    return {document.name: document.text for document in found}


def test_packages_and_synsets_of_dev_and_test_are_left_out_by_name(corpus: Any) -> None:
    texts = {"kept": "a text", "asked": "another text", "rejected": "a third text"}
    held = [
        {"package": "asked-bin", "rejected_from": "rejected-bin", "prompt": "words"},
        {"synset": "2-n", "text": "x"},
    ]
    found = gathered(corpus, texts, {"1-n": "a gloss", "2-n": "its gloss"}, held)
    assert found == {"debian/kept": "a text", "wordnet/1-n": 'word: a gloss; "an example"'}


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        (f"before {LONG.upper()}, after", True),  # the row within a document, written otherwise
        ("before two three four five six seven eight nine after", True),  # eight words of it
        ("before two three four five six seven eight after", False),  # seven of a longer row
        ("before a short, held text after", True),  # four words that are a whole row
        ("before a short, held after", False),
        ("few words", True),  # a row of two words is only itself
        ("few words more", False),
    ],
)
def test_texts_of_dev_and_test_are_left_out_wherever_they_stand(corpus: Any, text: str, left_out: bool) -> None:
    held = [{"text": LONG, "label": text}, {"response": "a short held text"}, {"prompt": "few words"}]
    assert (gathered(corpus, {"a": text}, {}, held) == {}) is left_out
    assert (gathered(corpus, {}, {"1-n": text}, held) == {}) is (left_out and text != "few words")


def test_every_text_once_in_an_order_that_is_not_the_index_s(corpus: Any) -> None:
    found = gathered(corpus, {f"p{i}": f"Text {i % 10}." for i in range(10)} | {"q": "text 3"}, {}, [])
    assert sorted(found.values()) == [f"Text {i}." for i in range(10)]
    turned = gathered(corpus, {f"p{i}": f"Text {i % 10}." for i in reversed(range(10))}, {}, [])
    assert list(found) == list(turned) != sorted(found)


def test_every_row_of_dev_and_test_of_every_shipped_task_is_held_out(corpus: Any, pretrain: Any) -> None:
    held = corpus.read_held_out(pretrain.SHIPPED)
    paths = [path for split in ("dev", "test") for path in pretrain.SHIPPED.glob(f"*/{split}.jsonl")]
    assert {path.parent.name for path in paths} == {path.parent.name for path in pretrain.SHIPPED.glob("*/train.jsonl")}
    for path in paths:
        for row in map(json.loads, path.read_text().splitlines()):
            texts = [row[name] for name in ("text", "summary", "prompt", "chosen", "source", "response") if name in row]
            assert texts
            assert all(held.touches(text) for text in texts)
            assert row.get("package") in {*held.packages, None}
            assert row.get("synset") in {*held.synsets, None}


def run_of(pretrain: Any, folder: Path) -> Any:
    folder.mkdir(exist_ok=True)
    texts = [[0, *range(2 + i, 12 + i)] for i in range(20)]
    return pretrain.Run(folder, texts, pretrain.pack(texts), seed=0)


def test_a_run_that_was_stopped_ends_in_the_same_bits(pretrain: Any, tmp_path: Path) -> None:
    whole = run_of(pretrain, tmp_path / "whole")
    before = pretrain.held_out_loss(whole.model, whole.held)
    whole.train(None, steps=12)
    first = run_of(pretrain, tmp_path / "parts")
    taken = first.take

    def stopped(*args: Any) -> float:
        if first.step == 8:  # in the second epoch
            raise KeyboardInterrupt
        return taken(*args)

    first.take = stopped
    with pytest.raises(SystemExit, match="stopped at step 8; the same command goes on"):
        first.train(None, steps=12)
    second = run_of(pretrain, tmp_path / "parts")
    assert (second.step, second.seconds) == (8, first.seconds)
    second.train(None, steps=12)
    states = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert pretrain.held_out_loss(whole.model, whole.held) < before


def test_every_epoch_has_all_documents_in_an_order_of_its_own(pretrain: Any, tmp_path: Path) -> None:
    run = run_of(pretrain, tmp_path / "run")
    steps = 220 // 16 // 2  # 20 documents of 11 tokens
    seen: list[list[int]] = []
    for epoch in range(2):
        rows = []
        for run.step in range(epoch * steps, (epoch + 1) * steps):
            rows.extend(run.batch()[:, :-1].flatten().tolist())
        seen.append(rows)
    assert seen[0] != seen[1]
    known = sorted(token for text in run.texts for token in text)
    assert all(len(rows) == steps * 2 * 16 and set(rows) <= set(known) for rows in seen)
    assert all(rows.count(0) >= 16 for rows in seen)


def test_the_rate_rises_and_falls(pretrain: Any) -> None:
    assert 0 < pretrain.rate_at(0.0) < 0.1 * pretrain.PEAK
    assert pretrain.rate_at(pretrain.WARM_UP) == pretrain.PEAK
    assert pretrain.rate_at(1.0) == pytest.approx(pretrain.FLOOR * pretrain.PEAK)
    falling = [pretrain.rate_at(0.02 + 0.098 * i) for i in range(11)]
    assert falling == sorted(falling, reverse=True)
