"""The report is one offline page for any run: whole, cut short, empty or odd."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from zerothorder.errors import UsageError
from zerothorder.report import write_report

CONFIG = {
    "model": "smollm2",
    "data": {"name": "rotten-tomatoes", "split": "train"},
    "recipe": {"name": "mezo", "eps": 0.001, "lr": 1e-6},
    "steps": 40,
    "verbalizers": {"0": " terrible", "1": " <great>"},
    "report_to": None,
}


def step(at: int, **more: Any) -> dict[str, Any]:
    row = {"kind": "step", "step": at, "loss": 0.7 - at / 100, "projected_gradient": (-1.0) ** at, "lr": 1e-6}
    return (
        row
        | {"forwards": 32 * at, "tokens": 900 * at, "seconds": 0.5, "skipped": False, "memory": 1e9}
        | more
    )


def run(folder: Path, rows: list[Any], config: Any = CONFIG) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if config is not None:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def full(folder: Path) -> Path:
    rows: list[Any] = [
        {"kind": "eval", "step": 0, "split": "zero-shot", "accuracy": 0.48, "auc": 0.72, "loss": 0.9}
    ]
    for at in range(1, 41):
        rows.append(step(at, moved=at / 1e4, changed=at / 50) if at % 10 == 0 else step(at))
        if at % 10 == 0:
            rows.append({"kind": "eval", "step": at, "split": "dev", "accuracy": 0.5 + at / 400, "auc": 0.72})
    rows.append({"kind": "eval", "step": 40, "split": "test", "accuracy": 0.61, "auc": 0.715, "loss": 0.6})
    rows.append({"kind": "end", "step": 40, "reason": "all steps done"})
    run(folder, rows)
    (folder / "ledger.zo").write_bytes(b"")
    return folder


def titles(page: str) -> list[str]:
    return re.findall(r'<figure aria-label="([^"]*)"', page)


def test_a_full_run_shows_its_pictures_scores_settings_and_replay(tmp_path: Path) -> None:
    page = write_report(full(tmp_path / "demo")).read_text()
    assert titles(page) == [
        "Scores",
        "Loss",
        "Projected gradient",
        "Distance from the base model",
        "Weights changed",
        "Time per step",
        "Memory",
    ]
    assert page.count("<svg") == page.count("</svg>") == 7
    for words in (
        "+0.130",
        "−0.005",
        "finished after 40 steps",
        "0.48",
        "mezo on smollm2, with rotten-tomatoes",
    ):
        assert words in page, words
    assert f"zo replay smollm2 {tmp_path}/demo/ledger.zo -o replayed" in page
    assert "zo ledger verify smollm2" in page
    assert "forwards (examples)" in page
    assert "data.split" in page


def test_the_page_fetches_nothing_and_closes_every_element(tmp_path: Path) -> None:
    page = write_report(full(tmp_path / "demo")).read_text()
    namespaces = re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
    assert not re.search(r"(https?:)?//[a-z]|<script|<link|@import|url\((?!#)", namespaces)

    class Balance(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    parser = Balance()
    parser.feed(page)
    assert parser.open == []


def test_what_a_run_says_is_escaped(tmp_path: Path) -> None:
    page = write_report(run(tmp_path / "demo", [step(1)])).read_text()
    assert " &lt;great&gt;" in page
    assert "<great>" not in page


def test_colours_are_the_style_sheet_s_for_light_and_dark(tmp_path: Path) -> None:
    page = write_report(full(tmp_path / "demo")).read_text()
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}\b", drawn), "a colour that does not follow the page"
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", page))
    light, dark = re.findall(r":root \{(.*?)\}", page, flags=re.DOTALL)
    for variable in used:
        assert f"{variable}:" in light, variable
        assert f"{variable}:" in dark, variable


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = full(tmp_path / "demo")
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "ledger.zo",
        "metrics.jsonl",
        "report.html",
    ]


def test_an_empty_folder_still_gives_a_page(tmp_path: Path) -> None:
    page = write_report(tmp_path).read_text()
    assert "config.json is missing" in page
    assert "metrics.jsonl is missing" in page
    assert "<svg" not in page


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [step(1)],
        [step(1, loss=None, projected_gradient=None, skipped=True)],
        [step(1, loss=math.nan), step(2, loss=math.inf), step(3, loss=-math.inf)],
        [step(1, seconds=0.0, memory=0, forwards=0, tokens=0)],
        [step(1, moved=0.0, changed=0.0)],
        [step(1, lr={"gains": 1e-3})],
        [{"kind": "step", "step": 3}],
        [{"kind": "eval", "step": 0, "split": "test", "accuracy": math.nan}],
        [{"kind": "eval", "step": 0, "split": "zero-shot", "accuracy": 0.5}],
        [{"kind": "eval", "step": 5, "perplexity": 12.5}],
        [{"kind": "end", "reason": None}],
        [step(at, loss=1e30 * at) for at in range(3)],
    ],
)
def test_odd_and_short_runs_give_a_page(tmp_path: Path, rows: list[Any]) -> None:
    assert "</html>" in write_report(run(tmp_path / "demo", rows, config=None)).read_text()


def test_unreadable_lines_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    rows = [
        step(1),
        "[1, 2]",
        {"kind": "dance", "step": 1},
        {"kind": "step"},
        step(2),
        '{"kind": "step", "st',
    ]
    page = write_report(run(tmp_path / "demo", rows, config="{bad")).read_text()
    for words in (
        "Line 2 of",
        "Line 3 of",
        "Line 4 of",
        "Line 6 of metrics.jsonl is torn",
        "cannot be read as JSON",
    ):
        assert words in page, words
    assert "last step 2" in page
    assert "Loss" in titles(page)


def test_a_thousand_bad_lines_do_not_fill_the_page(tmp_path: Path) -> None:
    page = write_report(run(tmp_path / "demo", ["nonsense"] * 1000)).read_text()
    assert page.count("is not a JSON object") < 30
    assert "more of the kind" in page


def test_a_long_run_stays_a_small_page(tmp_path: Path) -> None:
    page = write_report(run(tmp_path / "demo", [step(at, loss=math.sin(at)) for at in range(20_000)]))
    assert page.stat().st_size < 300_000


def test_a_schedule_and_an_odd_metric_get_their_own_pictures(tmp_path: Path) -> None:
    rows = [step(at, lr=1e-6 * (5 - at)) for at in range(5)]
    rows += [{"kind": "eval", "step": at, "split": "dev", "perplexity": 30.0 - at} for at in range(5)]
    page = write_report(run(tmp_path / "demo", rows)).read_text()
    assert {"Learning rate", "Perplexity"} <= set(titles(page))
    assert "perplexity ↓" in page


def test_the_command_is_told_when_the_config_has_it(tmp_path: Path) -> None:
    config = CONFIG | {"command": ["zo", "train", "--template", "{text} It was"]}
    page = write_report(run(tmp_path / "demo", [step(1)], config)).read_text()
    assert "zo train --template &#39;{text} It was&#39;" in page
    assert "zo replay" not in page, "there is no ledger to replay"


def test_no_such_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        write_report(tmp_path / "nothing")


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named_with_the_fix(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UsageError, match=rf"{package}.*pip install 'zerothorder\[report\]'"):
        write_report(full(tmp_path / "demo"))
