"""Suites of scores: equal searches, budgets in forwards, results that their ledgers repeat."""

import functools
import gzip
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from zerothorder import measuring, training
from zerothorder.bench import score as score_module
from zerothorder.bench.check import check_results
from zerothorder.bench.kept import ATTACHMENTS, LEDGER
from zerothorder.bench.memory import resident, resident_before
from zerothorder.bench.results import RESULT, identity, results, write_result
from zerothorder.bench.runner import check_suite
from zerothorder.bench.score import SEARCH_SEED, Score, best
from zerothorder.bench.score_page import summary, write_page
from zerothorder.bench.score_pictures import unbeaten
from zerothorder.bench.statistics import mean, paired
from zerothorder.bench.suite import QUICK, Suite, chosen, read_suite
from zerothorder.cli.main import main
from zerothorder.errors import UsageError
from zerothorder.evaluation import offsets
from zerothorder.optimizer import ZerothOrder

METHODS = """
[methods.zo-sgd]
[methods.zo-sgd-cons]
recipe = "zo-sgd-cons"
[methods.sgd]
recipe = "sgd"
only = ["films"]
scheme = ["full"]
"""


def suite_text(model: Path, data: Path, methods: str = METHODS) -> str:
    return f"""
kind = "score"
about = "A suite of a test."
seeds = [0, 1]
[defaults]
model = "{model}"
template = "{{text}} It was"
verbalizers = "0=terrible,1=great"
budget = 20
search = 10
batch = 4
looks = 2
dev_rows = 4
rates = {{ full = [1e-3, 1e-2], lora = [1e-2, 1e-1] }}
scheme = ["full", "lora"]
settings = {{ eps = 1e-2 }}
[tasks.films]
data = "{data}"
[tasks.again]
data = "{data}"
{methods.replace("[methods.sgd]", "[methods.sgd]" + chr(10) + "settings = {}")}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"text": f"a {'good' if n % 2 else 'bad'} film {n} and actors", "label": n % 2} for n in range(60)]
    path = tmp_path / "films.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def path(tmp_path: Path, llama_folder: Path, data: Path) -> Path:
    found = tmp_path / "scores.toml"
    found.write_text(suite_text(llama_folder, data))
    return found


def test_a_method_is_searched_once_a_scheme_and_before_its_runs(path: Path) -> None:
    suite = read_suite(path)
    assert suite.methods == ("zo-sgd+full", "zo-sgd+lora", "zo-sgd-cons+full", "zo-sgd-cons+lora", "sgd+full")
    searches = [cell for cell in suite.cells if cell.stage]
    assert len(searches) == 5 * 2
    assert {cell.task for cell in searches} == {"films"}, "the first task's dev alone"
    assert {cell.seed for cell in searches} == {SEARCH_SEED}
    assert {cell.settings["budget"] for cell in searches} == {10}
    assert [bool(cell.stage) for cell in suite.cells] == [True] * 10 + [False] * (4 * 2 * 2 + 2)
    last = suite.cell("again/zo-sgd+lora/seed-1")
    assert last.after == ("films/zo-sgd+lora/rate-0.01", "films/zo-sgd+lora/rate-0.1")
    part = chosen(suite, ["again", "lora"])
    assert {cell.method for cell in part.cells} == {"zo-sgd+lora", "zo-sgd-cons+lora"}
    assert len([cell for cell in part.cells if cell.stage]) == 4, "with the searches it waits for"
    assert len({cell.name for cell in suite.cells}) == len(suite.cells)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('scheme = ["full", "lora"]', "scheme = []", "scheme of zo-sgd .*; a list has at least one"),
        ('scheme = ["full", "lora"]', 'scheme = ["lora", "lora"]', "scheme of zo-sgd .*, each once"),
        ("settings = { eps = 1e-2 }", 'settings = "eps=1e-2"', "settings of films/.* is 'eps=1e-2'; it is a table"),
        ("lora = [1e-2, 1e-1]", "lora = [1e-2, -1e-1]", "rates of zo-sgd are .*; give a list of numbers above 0"),
        ("lora = [1e-2, 1e-1]", "lora = [1e-2, nan]", "numbers above 0"),
        ("lora = [1e-2, 1e-1]", "lora = [1e-2, true]", "numbers above 0"),
        ("dev_rows = 4", "dev_rows = 0", "dev_rows is 0, and a rate is chosen on dev"),
        ("seeds = [0, 1]", f"seeds = [0, {SEARCH_SEED}]", "is that of the runs which choose a rate"),
        ("[methods.zo-sgd-cons]", "[methods.zo-sgd-cons]\nrates = [1e-3]", "zo-sgd-cons.full has 1 rates and others 2"),
        ('recipe = "zo-sgd-cons"', 'recipe = "zo-sgd-con"', "unknown recipe 'zo-sgd-con'.*did you mean"),
        ('scheme = ["full", "lora"]', 'scheme = ["full", "laro"]', "no scheme 'laro'; known are full, head, lora"),
        ("eps = 1e-2", "epps = 1e-2", "no setting 'epps'.*did you mean 'eps'"),
        ("eps = 1e-2", 'eps = "small"', "setting eps of recipe 'zo-sgd' is 'small'; it is a number"),
        ("budget = 20", "budgets = 20", "field 'budgets'.*did you mean 'budget'"),
        ("[tasks.films]", "[tasks.films]\nrow = 3", "field 'row'"),
        ("budget = 20", 'budget = "20"', "budget of films/zo-sgd.full .* is '20'; it is a whole number"),
        ("lora = [1e-2, 1e-1]", 'lora = [1e-2, "a"]', "rates of zo-sgd are .*; give a list of numbers"),
        ("lora = [1e-2, 1e-1]", "lora = [1e-2, 1e-2]", "or one of them twice"),
        ("budget = 20", 'budget = 20\ndtype = "float8"', "no dtype 'float8'.*did you mean"),
        ("search = 10", "search = 30", "search is 30 forwards a rate, more than the budget of 20"),
        ("dev_rows = 4", "dev_rows = -3", "dev_rows is -3; it must be 0 or more"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "a list of different whole numbers"),
        ("budget = 20", 'budget = 20\nobjective = "metric"', "objective is 'metric'; scores are cross-entropies"),
        ("eps = 1e-2", "eps = { lora = 1e-2 }", "eps of zo-sgd has no value for the scheme full"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(path: Path, old: str, new: str, said: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=said):
        read_suite(path)


def test_a_budget_of_less_than_a_step_is_refused_by_name(path: Path, tmp_path: Path) -> None:
    path.write_text(path.read_text().replace("search = 10", "search = 4"))
    with pytest.raises(UsageError, match=r"zo-sgd-cons.*a step of zo-sgd-cons takes 5 forwards, and a search of 4 is"):
        check_suite(read_suite(path), tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{text} It was", "{txt} It was", "txt"),
        ("1=great", "2=great", "label"),
        ('verbalizers = "0=terrible,1=great"', "", "its answers"),
    ],
)
def test_a_wording_that_does_not_fit_the_data_is_told_before_anything_runs(
    path: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=said):
        check_suite(read_suite(path), tmp_path / "out")


def test_data_that_is_not_there_is_found_before_anything_runs(path: Path, tmp_path: Path) -> None:
    path.write_text(path.read_text().replace('films.jsonl"\n[tasks.again]', 'flims.jsonl"\n[tasks.again]'))
    with pytest.raises(UsageError, match="flims"):
        check_suite(read_suite(path), tmp_path / "out")


class Counted:
    """Rows that go through any causal model, evaluations left out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from transformers import LlamaForCausalLM

        self.rows, self.looking = 0, False
        own, evaluate = LlamaForCausalLM.forward, measuring.evaluate

        @functools.wraps(own)  # what it accepts is asked, and remembered
        def forward(model: Any, input_ids: Any = None, **others: Any) -> Any:
            self.rows += 0 if self.looking else len(input_ids)
            return own(model, input_ids=input_ids, **others)

        def looked(*args: Any, **others: Any) -> Any:
            self.looking = True
            try:
                return evaluate(*args, **others)
            finally:
                self.looking = False

        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        monkeypatch.setattr(measuring, "evaluate", looked)


def score(model: Path, data: Path, **others: Any) -> Score:
    asked: dict[str, Any] = {
        "data": str(data), "rates": [1e-2], "model": str(model), "template": "{text} It was", "batch": 4,
        "verbalizers": "0=terrible,1=great", "budget": 20, "looks": 2, "dev_rows": 4, **others,
    }  # fmt: skip
    return Score(**asked)


@pytest.mark.parametrize(
    ("recipe", "settings", "cost", "weight"),
    [
        ("zo-sgd", {}, 2, 1),
        ("zo-sgd", {"draws": 3, "sides": "one"}, 4, 1),
        ("zo-sgd-cons", {}, 5, 1),
        ("block-wise", {}, 8, 1),
        ("forward-grad", {}, 2, 2),
        ("sparse-gradient", {}, 2, 1),
        ("sgd", {}, 3, 3),
    ],
)
def test_forwards_of_a_result_are_those_that_were_made(
    recipe: str, settings: dict[str, Any], cost: int, weight: int, llama_folder: Path, data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    own = score(llama_folder, data, recipe=recipe, settings=settings)
    assert own.cost() == cost
    counted = Counted(monkeypatch)
    (tmp_path / "out/t/m/s").mkdir(parents=True)
    found = own.run(tmp_path / "out/t/m/s", 0)
    assert found["steps"] == 20 // cost
    assert found["forwards"] == found["steps"] * cost
    assert found["forwards"] == counted.rows * weight / 4
    assert found["forwards"] <= 20
    assert not (tmp_path / "out/t/m/s/run").exists()
    assert (tmp_path / "out/t/m/s" / LEDGER).exists() == (recipe != "sgd")


def test_a_search_never_looks_at_test(
    llama_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits: list[str] = []
    evaluate = measuring.evaluate

    def looked(task: Any, split: str, *args: Any, **others: Any) -> Any:
        splits.append(split)
        return evaluate(task, split, *args, **others)

    monkeypatch.setattr(measuring, "evaluate", looked)
    found = score(llama_folder, data).searching(1e-2).run(tmp_path, 0)
    assert set(splits) == {"dev"}
    assert (found["test"], found["zero_shot"]) == ({}, {})
    assert not (tmp_path / LEDGER).exists()


def test_a_run_that_was_stopped_goes_on_to_the_same_result(
    llama_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = score(llama_folder, data, settings={"eps": 1e-2})
    for name in "ab":
        (tmp_path / "out/t/m" / name).mkdir(parents=True)
    whole = own.run(tmp_path / "out/t/m/a", 0)
    step, taken = training.Run.step, list[int]()

    def stopped(run: Any, batch: Any) -> Any:
        taken.append(run.index)
        if len(taken) == 5:
            raise KeyboardInterrupt
        return step(run, batch)

    monkeypatch.setattr(score_module, "resident_before", lambda dtype: 0)  # it takes a step of its own
    monkeypatch.setattr(training.Run, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        own.run(tmp_path / "out/t/m/b", 0)
    found = own.run(tmp_path / "out/t/m/b", 0)
    for name in ("test", "dev", "curve", "forwards", "zero_shot"):
        assert found[name] == whole[name]
    ledgers = [gzip.decompress((tmp_path / "out/t/m" / name / LEDGER).read_bytes()) for name in "ab"]
    assert ledgers[0] == ledgers[1]


def test_the_best_rate_has_the_lowest_loss_that_is_a_number() -> None:
    assert best({1e-3: 0.5, 1e-2: 0.4, 1e-1: math.nan}) == 1e-2
    assert best({1e-3: math.nan, 1e-2: math.nan}) == 1e-3
    assert best({1e-2: 0.4, 1e-3: 0.4}) == 1e-3


def test_the_bootstrap_draws_seeds_within_tasks() -> None:
    assert paired([[0.1, 0.1], [-0.3, -0.3]]) == pytest.approx((-0.1, -0.1, -0.1)), "tasks are not drawn"
    value, low, high = paired([[0.0, 1.0]])
    assert value == 0.5
    assert (low, high) == (0.0, 1.0), "a quarter of the draws takes one seed twice"
    draw = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(200):
        sample = torch.randn(40, generator=draw, dtype=torch.float64)
        _, low, high = paired([sample.tolist()])
        covered += low <= 0 <= high
    assert 176 <= covered <= 199, "95 % of the intervals hold the truth: 190 ± 3·3.1, less what 40 draws miss"


def test_calibration_of_many_classes_is_that_of_two() -> None:
    draw = torch.Generator().manual_seed(1)
    scores = torch.randn(101, 2, generator=draw)
    margin = (scores[:, 1] - scores[:, 0]).double()
    ours = (scores.double() - offsets(scores)).argmax(1)
    assert torch.equal(ours, (margin > margin.median()).long())
    biased = torch.randn(3000, 4, generator=draw) + torch.tensor([0.0, 3.0, -1.0, 1.0])
    assert (biased.argmax(1) == 1).double().mean() > 0.8
    shares = torch.bincount((biased.double() - offsets(biased)).argmax(1), minlength=4) / 3000
    assert (shares - 0.25).abs().max() < 0.03


def test_what_nothing_beats_at_its_cost() -> None:
    places = [(1.0, 5.0, "a"), (2.0, 6.0, "b"), (3.0, 4.0, "c"), (3.0, 4.5, "d")]
    assert [name for *_, name in unbeaten(places)] == ["a", "c"]
    assert mean([1.0, 3.0]) == "2.000 ± 1.000"


def fake(loss: float, **others: Any) -> dict[str, Any]:
    return {
        "rate": 1e-3, "tried": {"0.001": 0.5, "0.01": 0.6}, "steps": 10, "cost": 2, "forwards": 20.0, "searched": 20.0,
        "skipped": 0, "zero_shot": {"loss": 0.7, "accuracy": 0.5, "calibrated_accuracy": 0.6}, "dev": {"loss": loss},
        "test": {"loss": loss, "accuracy": 0.5, "calibrated_accuracy": 1 - loss}, "memory": 2**20, "seconds": 3.0,
        "curve": [{"forwards": 10.0, "loss": 0.6, "accuracy": 0.5}, {"forwards": 20.0, "loss": loss, "accuracy": 0.5}],
        "training_seconds": 2.0, **others,
    }  # fmt: skip


def fill(suite: Suite, out: Path, losses: dict[str, float]) -> None:
    """A result for every cell: a loss by its method, and 0.01 more with each seed; all searches found 0.5."""
    for cell in suite.cells:
        (out / cell.name).mkdir(parents=True)
        tried = {f"{suite.cell(name).settings['rate']:g}": 0.5 for name in cell.after}
        loss = 0.5 if cell.stage else losses.get(cell.method, 0.6) + 0.01 * cell.seed
        write_result(out, cell, fake(loss, tried=tried))


def test_the_page_has_paired_differences_tables_and_pictures(path: Path, tmp_path: Path) -> None:
    suite, out = read_suite(path), tmp_path / "out"
    fill(suite, out, {"zo-sgd+full": 0.5, "zo-sgd-cons+full": 0.4, "sgd+full": math.nan})
    text = write_page(suite, results(suite, out), out).read_text()
    assert "28 of 28 runs" in text
    assert "| zo-sgd | 0 | 0 | 2 | 10 | 20 | 20 | (0.001) | 2 | 1 |" in text
    assert "| zo-sgd-cons | -0.100 | +0.100 |" in text, "two seeds have no interval"
    assert "| sgd | no number | no number |" in text
    assert "| zo-sgd-cons | +0.000 | +0.000 |" in text, "with lora they are the same"
    assert "| before training |  | 0.700 | 0.600 | 0.500 |  |" in text
    assert "| zo-sgd+full | 2 | 0.505 ± 0.005 | 0.495 ± 0.005 |" in text
    assert "Compared on what all of them have done: films (seeds 0, 1), again (seeds 0, 1)." in text, "of lora"
    assert "Compared on what all of them have done: films (seeds 0, 1).\n" in text, "sgd is for films alone"
    some = results(suite, out)
    del some["films/zo-sgd-cons+lora/seed-1"], some["again/zo-sgd+lora/seed-0"]
    fewer = write_page(suite, some, out).read_text()
    assert "Compared on what all of them have done: films (seeds 0), again (seeds 1)." in fewer
    for name in ("differences", "forwards", "seconds", "memory"):
        assert (out / f"full-{name}.svg").read_text().startswith("<svg xmlns")
    assert summary(suite, results(suite, out))[1][0] == ("films", "zo-sgd+full", "2", "0.505 ± 0.005", "0.495 ± 0.005")


def test_results_of_other_code_are_not_gone_on_with_unasked(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = read_suite(path)
    (tmp_path / "out" / suite.cells[0].name).mkdir(parents=True)
    write_result(tmp_path / "out", suite.cells[0], fake(0.5), {"commit": "0123abcd", "code": "other"})
    with pytest.raises(UsageError, match=r"made by the code of 0123abcd, this is .*--any-commit"):
        check_suite(suite, tmp_path / "out")
    assert len(check_suite(suite, tmp_path / "out", any_commit=True)) == len(suite.cells) - 1
    # documents were changed, not the code
    write_result(tmp_path / "out", suite.cells[0], fake(0.5), identity() | {"commit": "0123abcd"})
    assert len(check_suite(suite, tmp_path / "out")) == len(suite.cells) - 1
    # an older result knows its commit alone
    result = json.loads((older := tmp_path / "out" / suite.cells[0].name / RESULT).read_text())
    older.write_text(json.dumps({name: value for name, value in result.items() if name != "code"}))
    with pytest.raises(UsageError, match="made by the code of 0123abcd"):
        check_suite(suite, tmp_path / "out")


def test_a_rate_from_other_searches_than_those_that_are_there_is_told(path: Path, tmp_path: Path) -> None:
    suite, out = read_suite(path), tmp_path / "out"
    late = suite.cell("again/zo-sgd+lora/seed-1")
    for name, loss in zip(late.after, (0.5, 0.6), strict=True):
        (out / name).mkdir(parents=True)
        write_result(out, suite.cell(name), fake(loss))
    (out / late.name).mkdir(parents=True)
    write_result(out, late, fake(0.4, tried={"0.01": 0.5, "0.1": 0.6}))
    assert len(results(suite, out)) == 3
    write_result(out, suite.cell(late.after[0]), fake(0.55))
    with pytest.raises(UsageError, match=r"again/zo-sgd.lora/seed-1 chose its rate from other searches.*remove"):
        results(suite, out)


def test_a_model_of_a_hub_is_one_folder_of_the_results(path: Path) -> None:
    text = path.read_text()
    line = next(line for line in text.splitlines() if line.startswith("model = "))
    name = line.partition('"')[2].rpartition('"')[0]
    path.write_text(text.replace(line, f'model = ["{name}", "Org/Name"]'))
    suite = read_suite(path)
    assert all(cell.name.count("/") == 2 for cell in suite.cells)
    assert "zo-sgd+Org-Name+full" in suite.methods


def test_few_pairs_make_nothing_bold(path: Path, tmp_path: Path) -> None:
    path.write_text(path.read_text().replace("[0, 1]", "[0, 1, 2]"))
    suite, out = read_suite(path), tmp_path / "out"
    fill(suite, out, {method: 0.4 if method.startswith("zo-sgd-cons") else 0.5 for method in suite.methods})
    found = results(suite, out)
    text = write_page(suite, found, out).read_text()
    assert "| zo-sgd-cons | **-0.100** (-0.100 to -0.100) |" in text, "two tasks of three seeds"
    one = {name: result for name, result in found.items() if not name.startswith("again/")}
    assert "| zo-sgd-cons | -0.100 (-0.100 to -0.100) |" in write_page(suite, one, out).read_text()


@pytest.mark.slow
def test_a_scheme_that_begins_elsewhere_has_a_start_of_its_own(path: Path, tmp_path: Path) -> None:
    suite, out = read_suite(path), tmp_path / "out"
    fill(suite, out, {})
    for seed, loss in ((0, 1.0), (1, 1.2)):
        file = out / f"films/zo-sgd+lora/seed-{seed}" / RESULT
        found = json.loads(file.read_text())
        file.write_text(json.dumps(found | {"zero_shot": found["zero_shot"] | {"loss": loss}}))
    text = write_page(suite, results(suite, out), out).read_text()
    films = text.partition("## films")[2].partition("\n## ")[0]
    assert "| before training |  | 0.700 |" in films
    assert "| before training, lora |  | 1.100 ± 0.100 |" in films
    assert text.count("| before training, ") == 1, "the other task has one start"


def test_a_suite_from_search_to_page_and_back_through_its_ledgers(
    llama_folder: Path, data: Path, tmp_path: Path, capsys: Any
) -> None:
    methods = METHODS.replace('scheme = ["full"]', 'scheme = ["full", "prefix"]')
    text = suite_text(llama_folder, data, methods.replace('"zo-sgd-cons"', '"block-wise"'))
    text = text.replace("1e-1] }", "1e-1], prefix = [1e-2, 1e-1] }").replace("search = 10", "search = 12")
    text = text.replace('scheme = ["full", "lora"]', 'scheme = ["lora", "prefix"]')
    path = tmp_path / "scores.toml"
    path.write_text(text.replace("seeds = [0, 1]", "seeds = [3]").replace("[tasks.again]", "[tasks.other]"))
    assert main(["bench", str(path), "--json", "--only", "films"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "runs to do, about" in next(row["text"] for row in said if row["kind"] == "note")
    out = tmp_path / "scores"
    suite = read_suite(path)
    found = results(suite, out)
    assert said[-1]["done"] == len(found) == 6 * 2 + 6
    own = found["films/zo-sgd+prefix/seed-3"]
    tried = {rate: found[f"films/zo-sgd+prefix/rate-{rate}"]["dev"]["loss"] for rate in ("0.01", "0.1")}
    assert own["tried"] == tried
    assert own["rate"] == best({float(rate): loss for rate, loss in tried.items()})
    assert own["searched"] == 24
    assert "differences" in (out / "README.md").read_text()
    assert (out / ATTACHMENTS).is_dir(), "the prefix's start and the blocks"
    rows = check_results(suite, out, 99)
    assert len(rows) == 4
    # the weights are the same; sums of a forward may round by where a process has its memory
    assert [row.again for row in rows] == pytest.approx([row.recorded for row in rows], abs=1e-5)
    assert main(["bench", str(path), "--check", "2", "--quiet"]) == 0
    capsys.readouterr()
    ledger = out / rows[0].name / LEDGER
    whole = ledger.read_bytes()
    for damaged in (whole[:-40], b"garbage", None):
        ledger.unlink() if damaged is None else ledger.write_bytes(damaged)
        assert main(["bench", str(path), "--check", "99"]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert ("is gone" if damaged is None else "ledger.zo.gz is") in said
        assert "result.json beside it to run the cell again" in said
    ledger.write_bytes(whole)
    assert main(["bench", str(path), "--check", "-1"]) == 2
    for row in rows:
        changed = json.loads((out / row.name / RESULT).read_text())
        changed["test"]["loss"] += 0.01
        (out / row.name / RESULT).write_text(json.dumps(changed))
    assert main(["bench", str(path), "--check", "1"]) == 2
    assert "another score than its ledger gives" in capsys.readouterr().err


@pytest.mark.slow
def test_an_encoder_with_a_classifier_is_planned_run_and_rebuilt(bert_folder: Path, data: Path, tmp_path: Path) -> None:
    text = suite_text(bert_folder, data, "[methods.zo-sgd]").replace("[tasks.again]", "[tasks.other]")
    text = text.replace('template = "{text} It was"', "head = true").replace("[0, 1]", "[0]").replace("lora", "head")
    path = tmp_path / "scores.toml"
    path.write_text(text)
    assert main(["bench", str(path), "--only", "films", "--quiet"]) == 0
    suite = read_suite(path)
    assert len(results(suite, tmp_path / "scores")) == 2 * 3
    rows = check_results(suite, tmp_path / "scores", 99)
    assert {row.name for row in rows} == {"films/zo-sgd+full/seed-0", "films/zo-sgd+head/seed-0"}
    assert [row.again for row in rows] == pytest.approx([row.recorded for row in rows], abs=1e-5)


def test_a_killed_suite_takes_its_cells_with_it_and_goes_on_to_the_same_ledgers(
    llama_folder: Path, data: Path, tmp_path: Path
) -> None:
    text = suite_text(llama_folder, data, "[methods.zo-sgd]").replace("[tasks.again]", "[tasks.other]")
    text = text.replace("[1e-3, 1e-2]", "[1e-3]").replace('scheme = ["full", "lora"]', "").replace("[0, 1]", "[0]")
    path = tmp_path / "scores.toml"
    path.write_text(text.replace("budget = 20", "budget = 800"))
    code = "import sys; from zerothorder.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "bench", str(path), "--only", "films", "--quiet"]
    ledger = tmp_path / "scores/films/zo-sgd/seed-0/run/ledger.zo"
    process = subprocess.Popen(words)
    while process.poll() is None and not (ledger.exists() and ledger.stat().st_size > 5000):
        time.sleep(0.02)
    assert process.poll() is None, "it was done before it could be killed"
    process.kill()
    process.wait()
    size = -1
    while size != (size := ledger.stat().st_size):
        time.sleep(0.5)
    assert not (tmp_path / "scores/films/zo-sgd/seed-0" / RESULT).exists()
    assert main([*words[3:]]) == 0
    assert main([*words[3:], "--output", str(tmp_path / "whole")]) == 0
    kept = [(tmp_path / name / "films/zo-sgd/seed-0" / LEDGER).read_bytes() for name in ("scores", "whole")]
    assert kept[0] == kept[1]


def test_the_quick_suite_needs_an_output(capsys: Any) -> None:
    assert read_suite(QUICK).kind == "score"
    assert main(["bench", "--quick"]) == 2
    assert "--quick and --output" in capsys.readouterr().err
    assert main(["bench", "--quick", "some.toml"]) == 2
    assert "--quick is a suite of its own" in capsys.readouterr().err


@pytest.mark.slow
def test_the_quick_suite_runs_end_to_end(tmp_path: Path, capsys: Any) -> None:
    assert main(["bench", "--quick", "--output", str(tmp_path / "quick"), "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["done"], last["of"], last["failed"]) == (24, 24, [])
    found = results(read_suite(QUICK), tmp_path / "quick")
    taught = [r for name, r in found.items() if "adamw+full/seed" in name]
    assert all(r["test"]["loss"] < r["zero_shot"]["loss"] - 0.3 for r in taught), "a pretrained model, a real task"
    assert main(["bench", "--quick", "--output", str(tmp_path / "quick"), "--check", "2", "--quiet"]) == 0


@pytest.mark.slow
def test_committed_scores_are_those_of_their_ledgers() -> None:
    folder = Path(__file__).parents[2] / "experiments"
    if not folder.is_dir():
        pytest.skip("the experiments are not beside the tests of a source archive")
    assert main(["bench", str(folder / "grid.toml"), "--check", "2", "--quiet"]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_counts_from_a_step_that_has_compiled_the_kernels(dtype: torch.dtype) -> None:
    steps: list[torch.dtype] = []
    own = ZerothOrder.step

    def step(self: Any, *words: Any) -> Any:
        steps.append(next(iter(self.param_groups[0]["params"])).dtype)
        return own(self, *words)

    before = torch.random.get_rng_state()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ZerothOrder, "step", step)
        found = resident_before(dtype)
    assert steps == [dtype]
    assert 0 < found <= resident()
    assert torch.equal(before, torch.random.get_rng_state())
