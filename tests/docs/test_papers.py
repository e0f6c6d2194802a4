"""docs/papers.md: every check of a method's card has its tests, and these exist; its commands are ones `zo` takes."""

import ast
import re
from pathlib import Path

import pytest

from zerothorder import catalogue
from zerothorder.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")

CHECKS = {
    "MeZO": (
        *("1", "2", "3", "4", "5", "6", "7"),
        *("trap: 16-bit updates", "trap: tied weights", "trap: dropout", "trap: LoRA at B = 0"),
        *("trap: ε of a scheme", "trap: NaN"),
    ),
    "SPSA": ("estimate", "law", "moments", "nothing else", "replay"),
    "Low-rank SPSA": (
        *(f"EGGROLL {n}" for n in range(1, 8)),
        "EGGROLL trap: keys",
        *(f"batched {n}" for n in range(1, 9)),
        *("batched trap: dropout, batch norm", "batched trap: cache", "batched trap: masks and positions"),
        "batched trap: small matrices",
    ),
    "ZOPrO": (*"123456", "trap: schedule", "trap: names and shapes", "trap: vectors that change"),
    "ZPG": (*"123456", "trap: ties", "trap: pairs", "refusals"),
    "Preference losses": (
        *(f"losses {n}" for n in range(1, 7)),
        "losses: constants",
        *(f"DiscoPOP {n}" for n in range(1, 6)),
        *(f"{card} {n}" for card in ("MPO", "SVPO") for n in range(1, 6)),
    ),
    "ZO-Bench": (*"12345678", "trap: kernels", "all"),
    "SGD and AdamW": ("steps", "gradient", "trainer", "ledger", "bad values", "refusals"),
}
"""What the card of each method asks for, by the method's heading; of those that have none the page says what."""

FILES = {
    "MeZO": "test_mezo.py", "SPSA": "test_spsa.py", "Low-rank SPSA": "test_low_rank.py", "ZOPrO": "test_zopro.py",
    "ZPG": "test_zpg.py",
    "ZO-Bench": "test_zo_bench.py", "SGD and AdamW": "test_first_order.py",
}  # fmt: skip
"""The tests of each recipe by itself: every one of them stands for a check."""

SECTIONS = ("Settings", "What the official code does differently", "What was reproduced", "Card check to test")


def entry(heading: str) -> str:
    """The page's text on one method."""
    found = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/papers.md has no entry {heading!r}"
    return found[1]


def mapped(heading: str) -> dict[str, list[str]]:
    """check → test ids, from the method's last table."""
    table = entry(heading).partition("### Card check to test")[2]
    rows = [
        re.split(r"\s*\|\s*", line.strip().strip("|").strip()) for line in table.splitlines() if line.startswith("|")
    ]
    checks = [row for row in rows if not set(row[0]) <= set("-: ") and row[0] != "check"]
    assert all(len(row) == 3 for row in checks)
    names = [row[0] for row in checks]
    assert len(set(names)) == len(names), "a check has two rows"
    return {row[0]: re.findall(r"`([^`]+)`", row[2]) for row in checks}


def functions_of(path: str) -> set[str]:
    """The names of a test file's functions; none for a file that does not exist."""
    file = ROOT / path
    if not file.is_file():
        return set()
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


def faults(checks: tuple[str, ...], found: dict[str, list[str]]) -> list[str]:
    """What is wrong with a map, in sentences."""
    said = [f"check {check!r} has no row" for check in checks if check not in found]
    said += [f"{check!r} is no check of the card" for check in found if check not in checks]
    for check, ids in found.items():
        said += [] if ids else [f"check {check!r} names no test"]
        for test in ids:
            path, _, name = test.partition("::")
            if not name.startswith("test_") or name not in functions_of(path):
                said.append(f"check {check!r} names {test}, which does not exist")
    return said


@pytest.mark.parametrize("heading", CHECKS)
def test_every_check_of_the_card_has_tests_that_exist(heading: str) -> None:
    assert faults(CHECKS[heading], mapped(heading)) == []


def test_a_hole_in_the_map_is_found() -> None:
    found = mapped("MeZO")
    whole = CHECKS["MeZO"]
    assert faults(whole, {check: ids for check, ids in found.items() if check != "3"}) == ["check '3' has no row"]
    assert faults(whole, {**found, "2": []}) == ["check '2' names no test"]
    for gone in (
        "tests/recipes/test_mezo.py::test_of_nothing",
        "tests/nowhere.py::test_x",
        "tests/recipes/test_mezo.py",
    ):
        assert faults(whole, {**found, "2": [gone]}) == [f"check '2' names {gone}, which does not exist"]
    assert faults(whole, {**found, "8": found["1"]}) == ["'8' is no check of the card"]


@pytest.mark.parametrize("heading", FILES)
def test_every_test_of_a_recipe_stands_for_a_check(heading: str) -> None:
    cited = {test for ids in mapped(heading).values() for test in ids}
    path = f"tests/recipes/{FILES[heading]}"
    tests = {name for name in functions_of(path) if name.startswith("test_")}
    assert tests
    assert {f"{path}::{name}" for name in tests} <= cited


def test_every_recipe_has_an_entry_with_its_sections_and_its_paper() -> None:
    for name, row in CATALOGUE.items():
        if not row.recipe.__module__.startswith("zerothorder.recipes."):
            continue
        (heading,) = [heading for heading in CHECKS if f"Recipe `{name}`" in entry(heading)]
        assert re.findall(r"^### (.*)$", entry(heading), re.MULTILINE) == list(SECTIONS)
        assert row.recipe.paper.rpartition("arXiv ")[2] in entry(heading)


def commands(heading: str) -> list[list[str]]:
    """The `zo train` commands of a method's entry, run or not."""
    import shlex

    joined = re.sub(r"\\\n> *", "", entry(heading))
    return [shlex.split(line)[2:] for line in re.findall(r"^\$ (zo train .*)$", joined, re.MULTILINE)]


@pytest.mark.parametrize(
    ("heading", "recipe", "settings"),
    [
        ("MeZO", "mezo", [("full", {}), ("lora", {}), ("prefix", {})]),
        ("SPSA", "spsa", [("full", {})]),
        ("Low-rank SPSA", "low-rank", [("full", {}), ("full", {"law": "gaussian"})]),
    ],
)
def test_the_commands_are_ones_that_zo_takes_with_the_settings_of_the_scheme(
    heading: str, recipe: str, settings: list[tuple[str, dict[str, str]]]
) -> None:
    from zerothorder.cli.train import read_flags

    made = [read_flags(words)[0] for words in commands(heading)]
    assert [(config.recipe, config.scheme) for config in made] == [(recipe, scheme) for scheme, _ in settings]
    for config, (scheme, own) in zip(made, settings, strict=True):
        built = catalogue.build(config.recipe, config.scheme, **config.recipe_settings())
        assert built == catalogue.build(recipe, scheme, **own)  # the paper's settings are the defaults
        assert (config.steps, config.batch_size) == (20_000, 16)
