"""tests/mutants.toml keeps up with the code: every defect can be planted and every test it names is there."""

import ast
import tomllib
from pathlib import Path

import pytest

import zerothorder

HERE = Path(__file__).parent.parent
MUTANTS = tomllib.loads((HERE / "mutants.toml").read_text())
PUBLISHED = {
    "update draws another direction than was perturbed": ["another-direction"],
    "order-keyed z": ["order-keyed"],
    "snapshot aliasing the live weights": ["aliased-anchor", "aliased-base", "aliased-copy"],
    "a mask of the wrong share": ["complement-of-the-mask", "mask-in-one-view", "mask-of-the-first-chunk"],
    "one key for all blocks": ["one-key-for-all"],
    "a dropped scale": ["no-two-eps", "no-mean-over-draws"],
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_defect_can_be_planted(name: str) -> None:
    mutant = MUTANTS[name]
    source = (Path(zerothorder.__path__[0]) / mutant["file"]).read_text()
    assert source.count(mutant["find"]) == 1
    changed = source.replace(mutant["find"], mutant["replace"])
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))


@pytest.mark.parametrize("name", MUTANTS)
def test_its_tests_exist(name: str) -> None:
    assert MUTANTS[name]["tests"]
    for test in MUTANTS[name]["tests"]:
        path, function = test.split("::")
        tree = ast.parse((HERE.parent / path).read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_every_published_defect_has_its_mutant() -> None:
    assert {name for names in PUBLISHED.values() for name in names} <= set(MUTANTS)
