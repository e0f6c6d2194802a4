"""Suites: what a file may say, what is run, what is never mixed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from zerothorder.bench import suite as suite_module
from zerothorder.bench.contents import content
from zerothorder.bench.predict import predicted
from zerothorder.bench.preference import Preference, curve, method
from zerothorder.bench.preference_page import write_page
from zerothorder.bench.results import RESULT, read_result, results, write_result
from zerothorder.bench.runner import run_suite
from zerothorder.bench.statistics import mean
from zerothorder.bench.suite import Cell, chosen, read_suite
from zerothorder.cli.main import main
from zerothorder.errors import UsageError

SUITE = """
kind = "preference"
about = "A suite of a test."
seeds = [0, 1]

[defaults]
updates = 2

[tasks.short]
data = "summaries"
prompt = "{text}"
reference = "{summary}"

[tasks.german]
data = "translations"
prompt = "{source}"
reference = "{target}"
reward = "chrf"

[methods.plain]
first = { recipe = "spsa", lr = 1e-3 }

[methods.guided]
rounds = 2
updates = 1

[methods.pairs]
objective = "dpo"
only = ["short"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "tiny.toml"
    found.write_text(SUITE)
    return found


def result(gain: float, seconds: float = 10.0) -> dict[str, Any]:
    look = {"reward": 0.25, "spread": 0.0, "kl": 0.0, "length": 8.0, "texts": [["say", "this"], ["and", "that"]]}
    return {
        "before": look, "after": look | {"reward": 0.25 + gain, "kl": 0.5}, "tokens": 1000, "forwards": 10,
        "curve": [{"tokens": 10.0 * i, "seconds": float(i), "reward": 0.1 * i, "kl": 0.0} for i in range(1, 4)],
        "memory": 2**30, "seconds": seconds,
    }  # fmt: skip


def test_cells_are_tasks_by_methods_by_seeds_and_the_method_has_the_last_word(path: Path) -> None:
    suite = read_suite(path)
    assert (suite.tasks, suite.methods) == (("short", "german"), ("plain", "guided", "pairs"))
    assert len(suite.cells) == 2 * 2 * 2 + 2
    assert [cell.seed for cell in suite.cells] == [0] * 5 + [1] * 5, "all of a seed before any of the next"
    assert {cell.task for cell in suite.cells if cell.method == "pairs"} == {"short"}
    cells = {cell.name: cell for cell in suite.cells}
    assert cells["short/plain/seed-0"].settings["updates"] == 2
    assert cells["german/guided/seed-1"].settings["updates"] == 1
    assert cells["german/guided/seed-1"].settings["reward"] == "chrf"
    assert isinstance(suite.cell("short/plain/seed-0").made(), Preference)
    assert len({cell.digest for cell in suite.cells}) == len(suite.cells)
    assert {cell.method for cell in chosen(suite, ["plain"]).cells} == {"plain"}
    assert {(c.task, c.method) for c in chosen(suite, ["pairs", "short"]).cells} == {("short", "pairs")}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "preference"', 'kind = "preferense"', r"no kind of suite 'preferense'.*did you mean 'preference'"),
        ("updates = 2", "update = 2", r"\[defaults\].*'update'.*did you mean 'updates'"),
        ('reward = "chrf"', 'rewards = "chrf"', r"\[tasks.german\].*'rewards'.*did you mean 'reward'"),
        ('recipe = "spsa"', 'recipe = "spssa"', r"unknown recipe 'spssa'.*did you mean 'spsa'"),
        ("lr = 1e-3", "lrr = 1e-3", "no setting 'lrr'.*did you mean 'lr'"),
        ('objective = "dpo"', 'objective = "dpp"', "no objective 'dpp'.*did you mean 'dpo'"),
        ('only = ["short"]', 'only = ["shirt"]', "a task 'shirt'.*did you mean 'short'"),
        ("seeds = [0, 1]", "seeds = 3", "seeds .* is 3; it is a list"),
        ("seeds = [0, 1]", "seed = [0]", "a field 'seed' .*did you mean 'seeds'"),
        ('prompt = "{text}"', "", "short/plain .* lacks a setting: 'prompt'"),
        ("updates = 2", "updates = 2\ntest_rows = 0", "test_rows is 0; a cell compares"),
        ("[tasks.short]", "[tasks.short", "cannot read the suite"),
        ('kind = "preference"', 'kind = ["preference"]', "kind of .* it is a text"),
        ('about = "A suite of a test."', "about = 3", "about of .* is 3; it is a text"),
        ('only = ["short"]', 'only = "short"', "only of methods.pairs .* is 'short'; it is a list of tasks"),
        ("seeds = [0, 1]", "seeds = [0, true]", "different whole numbers"),
        ("seeds = [0, 1]", "seeds = [-1]", "different whole numbers, 0 or more"),
        (
            "[tasks.short]",
            '[tasks]\nwet = "wet.csv"\n[tasks.short]',
            r"wet in \[tasks\].*; it is a table, \[tasks.wet\]",
        ),
        ("[tasks.german]", '[tasks.".."]', "the name '..', which no folder of results can have"),
        ("first = { recipe", 'first = "spsa"\n#', "first of short/plain .* is 'spsa'; it is a table"),
    ],
)
def test_a_mistake_is_named_with_the_nearest_name(path: Path, old: str, new: str, said: str) -> None:
    assert old in SUITE
    path.write_text(SUITE.replace(old, new, 1))
    with pytest.raises(UsageError, match=said):
        read_suite(path)


@pytest.mark.parametrize("part", ["defaults", "tasks", "methods"])
def test_parts_that_are_no_tables_are_named(path: Path, part: str) -> None:
    path.write_text(f'{part} = "all"\n' + re.sub(rf"\[{part}.*?(?=\n\[(?!{part})|\Z)", "", SUITE, flags=re.DOTALL))
    with pytest.raises(UsageError, match=rf"{part} of .* is 'all'; it is a table, \[{part}"):
        read_suite(path)


def test_a_page_of_nothing_is_not_written(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "mine"
    other.mkdir()
    (other / "README.md").write_text("my own")
    assert main(["bench", str(path), "--page", "--output", str(other)]) == 2
    assert "has no results of" in capsys.readouterr().err
    assert (other / "README.md").read_text() == "my own"
    assert main(["bench", str(path), "--check", "0"]) == 2
    assert "--check is 0; give how many results" in capsys.readouterr().err


def test_a_suite_without_methods_and_names_of_nothing(path: Path) -> None:
    with pytest.raises(UsageError, match=r"no task or method 'plane'.*did you mean 'plain'"):
        chosen(read_suite(path), ["plane"])
    with pytest.raises(UsageError, match="has no cell 'short/plain/seed-9'"):
        read_suite(path).cell("short/plain/seed-9")
    path.write_text('kind = "preference"\n[tasks.a]\ndata = "x"\n')
    with pytest.raises(UsageError, match="has no methods"):
        read_suite(path)


def test_results_of_other_settings_are_never_mixed(path: Path, tmp_path: Path) -> None:
    suite = read_suite(path)
    cell = suite.cells[0]
    (tmp_path / "out" / cell.name).mkdir(parents=True)
    assert read_result(tmp_path / "out", cell) is None
    write_result(tmp_path / "out", cell, result(0.1))
    kept = read_result(tmp_path / "out", cell)
    assert kept is not None
    assert kept["settings"]["updates"] == 2
    assert {"commit", "environment", "seed"} <= kept.keys()
    assert list(results(suite, tmp_path / "out")) == [cell.name]
    path.write_text(SUITE.replace("updates = 2", "updates = 3"))
    other = read_suite(path).cells[0]
    with pytest.raises(UsageError, match=r"of other settings \(updates 2, not 3\); give another output folder"):
        read_result(tmp_path / "out", other)
    with pytest.raises(UsageError, match="of other settings"):
        run_suite(read_suite(path), tmp_path / "out")
    (tmp_path / "out" / cell.name / RESULT).write_text("{")
    with pytest.raises(UsageError, match="remove it to run the cell again"):
        read_result(tmp_path / "out", cell)


def test_a_result_of_rows_that_were_changed_since_is_of_other_settings(path: Path, tmp_path: Path) -> None:
    rows = tmp_path / "own: rows" / "train.jsonl"
    rows.parent.mkdir()
    rows.write_text('{"text": "a", "summary": "b"}\n')

    def first(data: Path) -> Cell:
        path.write_text(SUITE.replace('"summaries"', f'"{data}"'))
        return read_suite(path).cells[0]

    assert not read_suite(path).cells[0].content, "shipped rows change with the library only"
    for data in (rows, rows.parent):
        cell = first(data)
        out = tmp_path / f"out-{data.name}"
        (out / cell.name).mkdir(parents=True)
        write_result(out, cell, result(0.1))
        assert read_result(out, first(data)) is not None
        before = rows.read_text()
        rows.write_text('{"text": "a", "summary": "c"}\n')
        with pytest.raises(UsageError, match=r"of other settings \(the files of .* hold something else\)"):
            read_result(out, first(data))
        rows.write_text(before)
        assert read_result(out, first(data)) is not None, "written again, not changed"
    assert content(f"sst2:{rows.parent}") == content(str(rows.parent)) != content(str(rows))


def test_the_server_of_cells_begins_without_a_word() -> None:
    """Its standard error is the terminal's: libraries that it imports early must not write there."""
    begun = subprocess.run([sys.executable, "-c", "import zerothorder.bench.warm"], capture_output=True, text=True)
    assert (begun.returncode, begun.stdout, begun.stderr) == (0, "", "")


def test_the_time_left_is_told_by_what_took_like_cells(path: Path, tmp_path: Path) -> None:
    suite = read_suite(path)
    cells = {cell.name: cell for cell in suite.cells}
    waiting = [cells["short/plain/seed-1"], cells["german/plain/seed-0"], cells["short/pairs/seed-0"]]
    assert predicted(suite, tmp_path, waiting, 2) is None
    for name, seconds in (("short/plain/seed-0", 10.0), ("short/guided/seed-0", 50.0)):
        (tmp_path / name).mkdir(parents=True)
        write_result(tmp_path, cells[name], result(0.1, seconds))
    # its own task and method; its method; all there are
    assert predicted(suite, tmp_path, waiting, 2) == (10 + 10 + 30) / 2
    assert predicted(suite, tmp_path, waiting[:1], 2) == 10


def test_the_page_has_means_curves_and_samples_and_says_what_is_missing(path: Path, tmp_path: Path) -> None:
    suite = read_suite(path)
    for cell, gain in zip([c for c in suite.cells if c.task == "short"], (0.1, 0.2, 0.0, 0.3, 0.2, 0.0), strict=True):
        (tmp_path / cell.name).mkdir(parents=True)
        rounds = {"rewards": [{"reward": gain / 2}, {"reward": 0.25 + gain}]} if cell.method == "guided" else {}
        own: dict[str, Any] = result(gain) | rounds
        if cell.method == "plain" and cell.seed == 0:
            for when, chrf in (("before", 0.5), ("after", 0.25)):
                own[when] = dict(own[when]) | {"metrics": {"chrf": chrf}}
        write_result(tmp_path, cell, own)
    page = write_page(suite, results(suite, tmp_path), tmp_path)
    text = page.read_text()
    assert "6 of 10 runs" in text
    assert "Not run: german/plain/seed-0" in text
    assert "| plain | 2 | 0.250 ± 0.000 | 0.450 ± 0.100 | **0.200 ± 0.100** | 0.50 ± 0.00 |" in text
    assert "| method | chrf before | chrf after |" in text
    assert "| plain | 0.500 | 0.250 |" in text, "of the seeds that have it"
    assert "| guided | – | – |" in text
    assert "- before: this" in text
    assert "Reward after each round of `guided`: 0.100 ± 0.000, 0.450 ± 0.000." in text
    assert "round of `plain`" not in text
    for name in ("short-tokens.svg", "short-seconds.svg", "short-kl.svg"):
        assert (tmp_path / name).read_text().startswith("<svg xmlns")
        assert f"({name})" in text
    assert not (tmp_path / "short-length.svg").exists(), "no curve has a length"
    assert mean([0.5]) == "0.500"


def test_stages_of_a_curve_follow_each_other() -> None:
    stage = {
        "log": [{"zo/tokens": 10, "zo/cpu_seconds": 1.0, "reward": 0.5, "completions/mean_length": 3.0}, {"epoch": 1}]
    }
    found = curve([("policy-0", stage), ("policy-1", stage)])
    assert [(row["tokens"], row["seconds"]) for row in found] == [(10.0, 1.0), (20.0, 2.0)]
    assert found[0]["length"] == 3.0
    # what a reward model is fitted with, and what was drawn for its judge, is paid before the next policy
    again = stage | {"drawn": {"tokens": 5, "forwards": 1, "cpu_seconds": 0.5}}
    found = curve([("reward-0", stage), ("policy-0", stage), ("reward-1", again), ("policy-1", stage)])
    assert [(row["tokens"], row["seconds"]) for row in found] == [(20.0, 2.0), (45.0, 4.5)]
    truth = {"log": [{"zo/tokens": 10, "zo/cpu_seconds": 1.0, "reward": 0.5, "rewards/rouge_l/mean": 0.25}]}
    assert curve([("policy-0", truth)], "rewards/rouge_l/mean")[0]["reward"] == 0.25
    assert method({"recipe": "spsa", "lr": 1e-3}) == ("spsa", {"lr": 1e-3})


def test_the_command_writes_the_page_of_what_there_is(path: Path, tmp_path: Path, capsys: Any) -> None:
    suite = read_suite(path)
    cell = suite.cells[0]
    (tmp_path / "tiny" / cell.name).mkdir(parents=True)
    write_result(tmp_path / "tiny", cell, result(0.125))
    assert main(["bench", str(path), "--page", "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["done"], last["of"], last["failed"]) == (1, 10, [])
    assert Path(last["page"]) == tmp_path / "tiny" / "README.md"
    assert main(["bench", str(tmp_path / "nothing.toml")]) == 2
    assert main(["bench", str(path), "--only", "plane"]) == 2
    assert main(["bench", str(path), "--processes", "0"]) == 2
    assert "--processes is 0; at least one" in capsys.readouterr().err


def small_suite(tmp_path: Path) -> str:
    """The head of a suite of TRL's trainers, with a model and rows of its own in the folder."""
    pytest.importorskip("trl")
    from trl_toys import llama, tokenizer

    llama().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    for split, count in (("train", 8), ("dev", 4), ("test", 4)):
        rows = [{"text": f"w{i} w{i + 1} w{i + 2}", "summary": f"w{i} w{i + 1}"} for i in range(count)]
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"""
kind = "preference"
[defaults]
model = "{tmp_path / "model"}"
dtype = "float32"
updates = 2
prompts = 2
tokens = 4
rank = 2
test_rows = 4
reward = "chrf"
[tasks.short]
data = "{tmp_path / "data"}"
prompt = "{{text}}"
reference = "{{summary}}"
"""


@pytest.mark.slow
def test_a_suite_runs_in_processes_and_what_is_done_is_left_alone(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(
        small_suite(tmp_path)
        + """
[methods.zopro]
rounds = 2
updates = 1
[methods.dpo]
objective = "dpo"
[methods.fitted]
reward = "fitted"
fits = 1
first = { recipe = "spsa" }
"""
    )
    assert main(["bench", str(path), "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["done"], last["of"]) == (3, 3)
    suite = read_suite(path)
    found = results(suite, tmp_path / "tiny")
    guided, fitted = found["short/zopro/seed-0"], found["short/fitted/seed-0"]
    assert len(guided["curve"]) == len(guided["rewards"]) == 2
    assert guided["rewards"][-1]["reward"] == guided["after"]["reward"]
    assert guided["after"]["metrics"]["chrf"] == guided["after"]["reward"], "the same completions"
    assert set(guided["before"]["metrics"]) == {"chrf", "rouge_l"}
    assert len(fitted["rewards"]) == 1, "of policies, not of reward models"
    assert all(0 <= row["reward"] <= 1 for row in fitted["curve"]), "chrF, not the scores of the model that was fitted"
    pairs = found["short/dpo/seed-0"]
    assert pairs["forwards"] == 2 * 4 * 2 * (3 + 1), "updates, rows, answers; the policy's gradient, its reference"
    assert guided["tokens"] > guided["curve"][0]["tokens"] > 0
    assert guided["before"]["reward"] == found["short/dpo/seed-0"]["before"]["reward"]
    ledgers = tmp_path / "tiny/short/zopro/seed-0/ledgers"
    assert sorted(p.name for p in ledgers.iterdir()) == ["policy-0.zo", "policy-1.zo"]
    assert fitted["tokens"] > fitted["curve"][-1]["tokens"] - fitted["curve"][0]["tokens"] > 0
    assert (tmp_path / "tiny/short/fitted/seed-0/ledgers/reward-0.zo").exists(), (
        "a reward model is part of what it took"
    )
    times = {cell.name: (tmp_path / "tiny" / cell.name / RESULT).stat().st_mtime_ns for cell in suite.cells}
    assert main(["bench", str(path), "--quiet"]) == 0
    assert times == {cell.name: (tmp_path / "tiny" / cell.name / RESULT).stat().st_mtime_ns for cell in suite.cells}


@pytest.mark.slow
def test_ctrl_c_ends_the_cells_well(tmp_path: Path) -> None:
    path, cell = tmp_path / "tiny.toml", tmp_path / "tiny/short/long/seed-0"
    path.write_text(small_suite(tmp_path) + '[methods.long]\nupdates = 3000\nfirst = { recipe = "spsa" }\n')
    zo = (sys.executable, "-c", "from zerothorder.cli import main; raise SystemExit(main())")
    suite = subprocess.Popen([*zo, "bench", str(path)], stderr=subprocess.PIPE, text=True, start_new_session=True)
    ledger, sizes, patience = cell / "run/policy-0/ledger.zo", set[int](), time.monotonic() + 300
    while len(sizes) < 3:  # its head, and steps
        assert suite.poll() is None
        assert time.monotonic() < patience, "the cell never trained"
        time.sleep(0.1)
        sizes |= {ledger.stat().st_size} if ledger.exists() else set()
    os.killpg(suite.pid, signal.SIGINT)  # as a terminal does: to the suite and whoever is in its group
    said = suite.communicate(timeout=120)[1]
    assert suite.returncode == 130
    assert "stopped; the same command goes on" in said
    assert "leaked" not in said, "semaphores of a cell that was killed"
    assert not (cell / RESULT).exists()
    assert (cell / "run/policy-0").is_dir()


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_its_log_says_why(path: Path, tmp_path: Path, capsys: Any) -> None:
    path.write_text(SUITE.replace("updates = 2", 'updates = 2\nmodel = "./nowhere"'))
    assert main(["bench", str(path), "--only", "short", "plain"]) == 2
    said = capsys.readouterr().err
    assert "2 runs ended in an error; the first says why in" in said
    assert "short/plain/seed-1 FAILED; " in said
    assert "./nowhere does not exist" in (tmp_path / "tiny/short/plain/seed-0/log.txt").read_text()


def test_kinds_are_found_by_name() -> None:
    assert suite_module.kind_of("preference") is Preference
