"""scripts/tasks.py reads Debian's index: paragraphs, one package a source, and a split that does not hang on luck."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "tasks.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the script is not in a wheel")


@pytest.fixture(scope="module")
def tasks() -> Any:
    spec = importlib.util.spec_from_file_location("tasks_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tasks_script"] = module  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


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
