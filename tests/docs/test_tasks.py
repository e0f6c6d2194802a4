"""docs/tasks.md: its tables say what the registry says, and its baselines are those that the command gives."""

import re
from pathlib import Path

import pytest

from zerothorder.data import TASKS, read_rows
from zerothorder.data.baselines import baselines
from zerothorder.data.local_tasks import LOCAL
from zerothorder.data.paper_tasks import PAPER

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")


def table(heading: str, number: int = 0) -> dict[str, list[str]]:
    """The cells behind a section's numbered table, by its first cell without backticks."""
    found = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in found[1].splitlines() if line[:1] == "|"
    ]
    starts = [at for at, row in enumerate(rows) if set(row[0]) <= set("-|: ")]
    ends = [*(at - 1 for at in starts[1:]), len(rows)]
    return {row[0].strip("`| "): row[1:] for row in rows[starts[number] + 1 : ends[number]]}


@pytest.mark.parametrize(("heading", "group"), [("On data that is here", LOCAL), ("Of the papers", PAPER)])
def test_the_tables_are_the_registry(heading: str, group: dict) -> None:
    asked, told = table(heading), table(heading, 1)
    assert list(asked) == list(told) == list(group)
    for name, task in group.items():
        answers = (
            f"`{task.verbalizers}`" if task.verbalizers else "free text" if task.generated else "the row's options"
        )
        shown = [f"`{text}`".replace("\n", "↵") for text in (task.template, task.bare)]
        assert [cell.rstrip(" |") for cell in asked[name]] == [task.about, *shown, answers]
        assert told[name][1].rstrip(" |") == task.licence
        if isinstance(task.source, str):
            assert told[name][0] == f"`{task.source}`"


@pytest.mark.parametrize("name", ["sections", "synopses"])
def test_rows_and_baselines_of_what_ships(name: str) -> None:
    counts = ", ".join(f"{len(read_rows(name, split)):,}" for split in ("train", "dev", "test"))
    assert table("On data that is here", 1)[name][0] == counts
    found = baselines(name, "dev")
    majority, overlap = table("What a task gives away")[name][:2]
    assert majority == f"{found['majority']:.3f}"
    assert overlap == ", by idf ".join(f"{value:.3f}" for key, value in found.items() if key != "majority")


def test_every_local_task_has_its_figures() -> None:
    assert list(table("What a task gives away")) == list(LOCAL)
    assert set(TASKS) == {*LOCAL, *PAPER}
