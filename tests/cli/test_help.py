"""Help, version and wrong words: quick, complete, and without the libraries that training needs."""

import dataclasses
import subprocess
import sys

import pytest

from cli.conftest import Zo
from zerothorder.cli import evaluate, main, train
from zerothorder.cli.flags import field_docs, parse
from zerothorder.cli.main import COMMANDS
from zerothorder.config import EvalConfig, TrainConfig
from zerothorder.errors import UsageError

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


@pytest.mark.parametrize("command", list(COMMANDS))
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


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_names_what_it_takes(zo: Zo, command: str):
    text = " ".join(zo(*command.split(), "--help").out.replace("│", " ").split())
    for nothing in ("options options", "None", "(default: )", "--no-json", "--no-quiet"):
        assert nothing not in text
    assert ("on resume" in text) == (command == "train")
    optional = {"recipes": "[NAME]", "eval": "[MODEL]"}
    assert optional.get(command, "") in text


def test_what_the_recipe_decides_says_where_to_look():
    docs = field_docs(TrainConfig)
    for name in ("lr", "eps", "draws", "weight_decay", "schedule", "warmup", "optimizer", "law"):
        assert "zo recipes RECIPE" in docs[name], name
    assert "--output" in docs["resume"]


def test_a_flag_that_is_on_can_be_turned_off():
    @dataclasses.dataclass(frozen=True)
    class Both:
        """Flags."""

        on: bool = True
        """On."""
        off: bool = False
        """Off."""

    assert parse(Both, ["--no-on", "--off"], "both") == Both(on=False, off=True)
    assert parse(Both, ["--on"], "both") == Both()
    assert parse(Both, ["--no-off"], "both", default=Both(off=True)) == Both()
    with pytest.raises(UsageError, match="both has no flag --no-off"):
        parse(Both, ["--no-off"], "both")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train --outptu x", "zo train has no flag --outptu; did you mean --output?"),
        ("train --zzz", "zo train has no flag --zzz; `zo train --help` lists its flags"),
        ("train --steps many --output x", "--steps is 'many', but must be a whole number"),
        ("train --lr=fast --output x", "--lr is 'fast', but must be a number"),
        (
            "train --dtype float23",
            "--dtype is 'float23', but must be one of float32, bfloat16, float16; did you mean 'float32'?",
        ),
        ("train --output", "--output has no value; it must be followed by a path"),
        ("train --resume --output", "--output has no value; it must be followed by a path"),
        ("train", "zo train needs --output PATH; `zo train --help` tells what it is"),
        (
            "train mezo --output x",
            "zo train takes flags only, so 'mezo' has no place; `zo train --help` lists its flags",
        ),
        ("train --json=yes --output x", "--json takes no value, so leave 'yes' out"),
        ("replay base -o", "-o has no value; it must be followed by a path"),
        ("replay base -o x", "zo replay needs LEDGER; `zo replay --help` tells what it is"),
        ("eval --model X", "zo eval takes its model without a flag: zo eval MODEL"),
        ("plan --stepz 3", "zo plan has no flag --stepz; did you mean --steps?"),
        ("recipes mezoo", "unknown recipe 'mezoo'; did you mean 'mezo'? (`zo recipes` lists them)"),
        ("ledger shw x", "unknown command 'ledger shw'; did you mean `zo ledger show`?"),
        (
            "ledger list",
            "unknown command 'ledger list'; there are `zo ledger show`, `zo ledger verify`, `zo ledger diff`",
        ),
    ],
)
def test_a_wrong_word_gets_one_sentence(zo: Zo, words: str, sentence: str):
    said = zo(*words.split())
    assert (said.code, said.out, said.err) == (2, "", f"zo: {sentence}\n")


def test_flags_are_read_as_they_were_before():
    words = ["--output=x", "--batch_size", "3", "--lr", "-1", "--freeze", "a", "b", "--seed", "-2", "--threads", "None"]
    config, _ = train.read_flags(words)
    given = {"batch_size": 3, "lr": -1.0, "freeze": ("a", "b"), "seed": -2}
    assert config == dataclasses.replace(TrainConfig(output=config.output), **given)


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
    assert [float(eps[scheme]) for scheme in told["schemes"]] == [1e-3, 1e-2, 1e-1, 1e-3, 1e-3]
    assert "arXiv 2305.17333" in zo("recipes", "mezo").out
    said = zo("recipes", "mezoo")
    assert said.code == 2
    assert "did you mean 'mezo'" in said.err
