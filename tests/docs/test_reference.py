"""docs/reference.md: its directives name what exists, and its tables what a run writes."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from zerothorder import folder
from zerothorder.cli.failures import DEFECT, INTERRUPTED, MENDABLE
from zerothorder.cli.main import COMMANDS

PAGE = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")

PROMPTS: dict[str, dict[str, Any]] = {
    "classification": {"template": "{text} It was", "verbalizers": "0=terrible,1=great"},
    "lm": {},
    "metric": {"template": "{text}"},
}


def first_column(heading: str) -> list[str]:
    """The cells in front of a section's table rows, plain."""
    found = re.search(rf"^(#+) {re.escape(heading)}$(.*?)(?=^#+ |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/reference.md has no section {heading!r}"
    rows = [line.strip("|").split("|")[0].strip() for line in found[2].splitlines() if line.startswith("|")]
    return [re.sub(r"[`/]", "", row) for row in rows if not set(row) <= set("-: ")]


@pytest.mark.parametrize("name", re.findall(r"^::: (\S+)$", PAGE, re.MULTILINE))
def test_a_directive_names_what_exists_and_has_words(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    assert found.__module__ == module, "named where it is defined"
    assert found.__doc__


def test_everything_public_has_a_directive() -> None:
    import zerothorder as zo

    named = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", PAGE, re.MULTILINE)}
    assert set(zo.__all__) <= named


def test_the_table_of_files_is_what_a_run_may_leave() -> None:
    assert set(first_column("Files of a run")) - {"file"} == {*folder._FILES, *folder._FOLDERS}


def test_commands_and_exit_codes_are_those_of_the_command_line() -> None:
    cells = first_column("Command line")
    commands = {re.sub(r" [A-Z-].*", "", cell.removeprefix("zo ")) for cell in cells if cell.startswith("zo ")}
    assert commands == set(COMMANDS)
    assert {int(cell) for cell in cells if cell.isdigit()} == {0, DEFECT, MENDABLE, INTERRUPTED}


def test_the_tables_of_metrics_name_every_field_that_runs_write(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zerothorder as zo
    from zerothorder import training
    from zerothorder.journal import read_journal
    from zerothorder.reporter import Silent

    monkeypatch.setattr(training, "write_report", lambda folder: folder)  # seconds of matplotlib
    written: dict[str, set[str]] = {"step": set(), "eval": set(), "profile": set(), "end": set()}
    for objective, prompt in PROMPTS.items():
        data = tmp_path / f"{objective}.jsonl"
        rows = [{"text": f"a good film {n}", "label": n % 2, "references": ["good"]} for n in range(60)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config: dict[str, Any] = {"model": str(llama_folder), "data": str(data), "objective": objective, **prompt}
        small = {"steps": 2, "batch_size": 2, "eval_rows": 2, "test_rows": 2, "check": "off", "threads": 1}
        zo.train(zo.TrainConfig(output=tmp_path / f"run-{objective}", profile=True, **config, **small), Silent())
        for row in read_journal(tmp_path / f"run-{objective}" / "metrics.jsonl"):
            written[row["kind"]] |= set(row)
    assert set(first_column("Step rows")) - {"field"} == written["step"]
    assert set(first_column("Profile row")) - {"field"} == written["profile"]
    measures = set(first_column("Evaluation rows")) - {"field"}
    assert measures == written["eval"]
    assert {name.removeprefix("dev_") for name in written["end"]} <= measures
