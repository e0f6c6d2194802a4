"""The shipped text tasks are the ones that were built: whole, disjoint, without addresses, each with its source."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

import zerothorder.data.sources as sources
from zerothorder.data import read_rows
from zerothorder.data.sources import SHIPPED, data_folder
from zerothorder.errors import UsageError

FOLDER = Path(sources.__file__).parent / "shipped"
COLUMNS = {
    "sections": ("text", "label"),
    "summaries": ("text", "summary"),
    "preferences": ("prompt", "chosen", "rejected"),
    "translations": ("source", "target"),
    "conversations": ("prompt", "response"),
    "glosses": ("text", "label", "word"),
}
GLOSS_CLASSES = ("animal", "artifact", "food", "location", "person", "plant")


def test_the_files_are_those_of_the_build_and_nothing_else_lies_there() -> None:
    built = json.loads((FOLDER / "built.json").read_text())
    found = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.jsonl")}
    assert found == set(built["files"])
    for name, told in built["files"].items():
        data = (FOLDER / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == told["sha256"], name
        assert data.count(b"\n") == told["rows"]
    notice = (FOLDER / "NOTICE").read_text()
    assert set(SHIPPED) == set(COLUMNS) == {path.name for path in FOLDER.iterdir() if path.is_dir()} - {"models"}
    assert all(name in notice for name in SHIPPED)


@pytest.mark.parametrize("name", COLUMNS)
def test_rows_have_their_columns_and_no_row_is_in_two_splits(name: str) -> None:
    seen: dict[str, str] = {}
    for split in ("train", "dev", "test"):
        rows = read_rows(name, split, required=COLUMNS[name])
        assert len(rows) >= 140
        for row in rows:
            key = row.get("package") or row.get("synset") or row["prompt"].lower()
            assert seen.setdefault(key, split) == split, key
            texts = " ".join(str(value) for value in row.values())
            assert "@" not in texts
            assert "://" not in texts
            assert name in ("conversations", "glosses") or row["version"]


def test_tasks_of_descriptions_share_no_package() -> None:
    packages = {
        name: {row["package"] for split in ("train", "dev", "test") for row in read_rows(name, split)}
        for name in ("sections", "summaries", "preferences")
    }
    assert not packages["sections"] & packages["summaries"]
    assert not packages["summaries"] & packages["preferences"]
    assert not packages["sections"] & packages["preferences"]


def test_what_is_asked_for_is_never_an_answer_s_copy() -> None:
    for row in read_rows("summaries"):
        assert row["summary"].lower() not in row["text"].lower()
    for row in read_rows("preferences"):
        assert row["chosen"] != row["rejected"]
    assert {row["label"] for row in read_rows("sections")} == {"games", "graphics", "mail", "net", "science", "sound"}


def test_glosses_are_balanced_and_name_no_class() -> None:
    rows = [row for split in ("train", "dev", "test") for row in read_rows("glosses", split)]
    assert Counter(row["label"] for row in rows) == dict.fromkeys(GLOSS_CLASSES, 300)
    words = {word for row in rows for word in re.findall(r"[a-z]+", row["text"].lower())}
    assert not words & {f"{name}{end}" for name in (*GLOSS_CLASSES, "place") for end in ("", "s")}
    # No definition stands twice, so none of dev or test can be looked up in train.
    assert len({row["text"] for row in rows}) == len(rows)


def test_a_name_that_is_nearly_one_is_told() -> None:
    assert data_folder("summaries") == FOLDER / "summaries"
    with pytest.raises(UsageError, match="did you mean 'summaries'"):
        data_folder("sumaries")
