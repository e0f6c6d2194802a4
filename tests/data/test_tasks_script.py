"""scripts/tasks.py reads Debian's index: paragraphs, one package a source, and a split that does not hang on luck.

Of WordNet it reads synsets and makes the gloss task."""

import importlib
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "tasks.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the script is not in a wheel")


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPT.parent)  # where a script finds its neighbours
    return importlib.import_module("tasks")


@pytest.fixture
def wordnet(tasks: Any) -> Any:
    return importlib.import_module("wordnet")


PACKAGES = """Package: libabc-dev
Source: abc (1.0-2)
Version: 1.0-2+b1
Section: devel
Description-md5: 11

Package: abc
Version: 1.0-2
Section: games
Description-md5: 22

Package: zed
Version: 3
Section: net
Description-md5: 33
"""


def test_one_package_a_source_the_shortest_name_first(tasks: Any, tmp_path: Path) -> None:
    (tmp_path / "Packages").write_text(PACKAGES)
    found = {package.source: package for package in tasks.read_packages(tmp_path / "Packages")}
    assert {source: package.name for source, package in found.items()} == {"abc": "abc", "zed": "zed"}
    assert (found["abc"].section, found["abc"].digest, found["abc"].version) == ("games", "22", "1.0-2")


def test_a_description_is_its_running_text(tasks: Any, tmp_path: Path) -> None:
    (tmp_path / "Translation-en").write_text(
        "Package: abc\nDescription-md5: 22\nDescription-en: play with letters\n A game of\n letters.\n .\n Features:\n"
        "  * one\n  * two\n .\n It is free.\n"
    )
    (found,) = tasks.read_descriptions(tmp_path / "Translation-en", "en").values()
    assert found.synopsis == "play with letters"
    assert found.paragraphs == ("A game of letters.", "It is free.")


def test_addresses_and_code_are_left_out(tasks: Any) -> None:
    assert tasks.is_plain("a word", "and another")
    assert not tasks.is_plain("a word", "somebody@example")
    assert not tasks.is_plain("see https://example")


def test_a_split_is_the_same_whatever_the_order(tasks: Any) -> None:
    rows = [{"package": f"p{i}"} for i in range(50)]
    found = tasks.split_rows(rows, 10, 5)
    assert {name: len(part) for name, part in found.items()} == {"train": 35, "dev": 10, "test": 5}
    assert tasks.split_rows(rows[::-1], 10, 5) == found
    assert len({row["package"] for part in found.values() for row in part}) == 50


DOG = (
    "02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 022 @ 02083346 n 0000 | a member of the genus Canis; "
    'occurs in many breeds; "the dog barked all night"; "a good dog"  '
)
SHUT = "00001740 00 a 01 shut(p) 0 005 = 05200169 n 0000 | not open  "


def test_a_synset_is_words_definition_and_examples(wordnet: Any) -> None:
    dog = wordnet.read_synset(DOG)
    assert (dog.name, dog.file, dog.words) == ("02084071-n", 5, ("dog", "domestic dog", "Canis familiaris"))
    assert dog.gloss == "a member of the genus Canis; occurs in many breeds"
    assert dog.examples == ("the dog barked all night", "a good dog")
    assert wordnet.read_synset(SHUT).words == ("shut",)


def test_glosses_lose_the_names_of_all_classes_and_shared_ones_are_left_out(wordnet: Any) -> None:
    def synset(number: int, file: int, gloss: str) -> Any:
        return wordnet.read_synset(f"{number:08} {file:02} n 01 word{number} 0 000 | {gloss}")

    told = "large animal of a cold Place that people hunt for food"
    both = "any of several things with one and the same name"
    rows, dev, test = wordnet.glosses(
        iter([synset(1, 5, told), synset(2, 13, both), synset(3, 20, both), synset(4, 4, f"not in a class: {told}")])
    )
    assert rows == [
        {"text": "large of a cold that hunt for", "label": "animal", "word": "word1", "synset": "00000001-n"}
    ]
    assert (dev, test) == (300, 300)
