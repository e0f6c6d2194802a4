"""Help, version and wrong words: quick, complete, and without the libraries that training needs."""

import dataclasses
import subprocess
import sys

import pytest

from cli.conftest import Zo
from zerothorder.cli import evaluate, main, train
from zerothorder.cli.flags import field_docs
from zerothorder.cli.main import COMMANDS
from zerothorder.config import EvalConfig, TrainConfig

HEAVY = ("transformers", "matplotlib", "numba", "datasets", "pandas", "peft")
LISTED = f"""
import sys
from zerothorder.cli import main
main(sys.argv[1:])
print(*sorted(name for name in sys.modules if name.partition(".")[0] in {HEAVY!r}), file=sys.stderr)
"""


@pytest.mark.parametrize("words", ["--help", "train --help", "ledger show --help"])
def test_help_loads_nothing_heavy(words: str):
    done = subprocess.run(
        [sys.executable, "-c", LISTED, *words.split()], capture_output=True, text=True, timeout=60, check=True
    )
    assert "zo" in done.stdout
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "plan"])
def test_every_command_has_help(zo: Zo, command: str):
    said = zo(*command.split(), "--help")
    assert said.code == 0
    assert said.out.startswith(f"usage: zo {command}")


@pytest.mark.parametrize(("kind", "groups"), [(TrainConfig, train.GROUPS), (EvalConfig, evaluate.GROUPS)])
def test_every_flag_has_a_group_and_help(kind: type, groups: dict[str, tuple[str, ...]]):
    names = [field.name for field in dataclasses.fields(kind)]
    assert sorted(name for group in groups.values() for name in group) == sorted(names)
    docs = field_docs(kind)
    assert all(docs.get(name, "").endswith(".") for name in names if name != "template"), docs


def test_flags_become_the_dataclass_and_its_defaults():
    words = ["--output", "x", "--freeze", "a", "b", "--lr", "2e-3", "--chat", "--schedule", "cosine"]
    config, complete = train.read_flags(words)
    given = {"freeze": ("a", "b"), "lr": 2e-3, "chat": True, "schedule": "cosine"}
    assert config == dataclasses.replace(TrainConfig(output=config.output), **given)
    assert not complete


def test_version_and_wrong_words(zo: Zo):
    from zerothorder import __version__

    assert zo("--version").out == f"zo {__version__}\n"
    said = zo("trian", "--model", "x")
    assert (said.code, said.err) == (2, "zo: unknown command 'trian'; did you mean `zo train`?\n")
    assert "zo ledger verify" in zo("ledger", "verfy").err
    assert zo().code == 2
    assert zo("ledger").code == 2
    assert zo("ledger", "--help").code == 0
    said = zo("train", "--outptu", "x")
    assert said.code == 2
    assert "--outptu" in said.err


def test_a_mistake_in_a_flag_is_no_exception():
    assert main(["train", "--steps", "many", "--output", "x"]) == 2


def test_recipes_come_from_the_catalogue(zo: Zo):
    from zerothorder.catalogue import CATALOGUE

    listed = zo("recipes", "--json").rows[0]["recipes"]
    assert [row["name"] for row in listed] == list(CATALOGUE)
    assert "mezo" in zo("recipes").out
    told = zo("recipes", "mezo", "--json").rows[0]
    eps = next(row for row in told["settings"] if row["setting"] == "eps")
    assert [float(eps[scheme]) for scheme in told["schemes"]] == [1e-3, 1e-2, 1e-1]
    assert "arXiv 2305.17333" in zo("recipes", "mezo").out
    said = zo("recipes", "mezoo")
    assert said.code == 2
    assert "did you mean 'mezo'" in said.err
