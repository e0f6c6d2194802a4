"""The report is one offline page for any run: whole, cut short, empty or odd."""

import json
import math
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import tyro

from zerothorder.config import TrainConfig
from zerothorder.errors import UsageError
from zerothorder.key import Key
from zerothorder.ledger.entry import Entry, Rates
from zerothorder.ledger.header import Header
from zerothorder.ledger.writer import Ledger
from zerothorder.report import write_report
from zerothorder.report.origin import train_command

CONFIG = {
    "output": "runs/demo",
    "model": "smollm2",
    "data": "reviews.jsonl",
    "template": "{text} <It was>",
    "recipe": "mezo",
    "steps": 40,
    "batch_size": 16,
    "lr": 1e-6,
    "freeze": ["embed", "norm"],
    "chat": True,
    "overwrite": True,
    "report_to": [],
    "eps": None,
}


def step(at: int, **more: Any) -> dict[str, Any]:
    row = {"kind": "step", "step": at, "loss": 0.7 - at / 100, "projected_gradient": (-1.0) ** at, "lr": 1e-6}
    return row | {"forwards": 32 * at, "tokens": 900 * at, "seconds": 0.5, "skipped": False, "memory": 1e9} | more


def run(folder: Path, rows: list[Any], config: Any = CONFIG) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if config is not None:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def full(folder: Path) -> Path:
    rows: list[Any] = [{"kind": "eval", "step": 0, "split": "zero-shot", "accuracy": 0.48, "auc": 0.72, "loss": 0.9}]
    for at in range(1, 41):
        rows.append(step(at))
        if at % 10 == 0:
            row = {"kind": "eval", "step": at, "split": "dev", "accuracy": 0.5 + at / 400, "auc": 0.72}
            rows.append(row | {"moved": at / 1e4, "changed": at / 50, "forwards": 40 * at})
    rows.append({"kind": "eval", "step": 40, "split": "test", "accuracy": 0.61, "auc": 0.715, "loss": 0.6})
    rows.append({"kind": "end", "step": 40, "accuracy": 0.61})
    run(folder, rows)
    ledger(folder / "ledger.zo", 40)
    return folder


def ledger(path: Path, steps: int) -> None:
    header = Header(
        base="b" * 64,
        sites=[],
        recipe="mezo",
        settings={"eps": 1e-3, "law": "gaussian"},
        run_key="00" * 16,
        generator=1,
        precision="residual",
        columns=("loss",),
        groups=("decay", "plain"),
        origin={"torch": "2.13.0", "model": "smollm2"},
    )
    path.unlink(missing_ok=True)
    writing = Ledger(header, path)
    rates = {group: Rates(1e-6) for group in header.groups}
    for at in range(steps):
        writing.append(Entry(at, ((Key("z", at, 0), 0.5),), {"loss": 0.7}, rates))
    writing.end("f" * 64)
    writing.close()


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
        "mezo on smollm2, with reviews.jsonl",
    ):
        assert words in page, words
    assert f"zo replay smollm2 {tmp_path}/demo/ledger.zo -o replayed" in page
    assert "zo ledger verify smollm2" in page
    assert "forwards (examples)" in page
    for words in ("32 bytes a step, header ", "gaussian", "f" * 64, "b" * 64, "made with torch"):
        assert words in page, words


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
    assert "&lt;It was&gt;" in page
    assert "<It was>" not in page


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


PROFILE = {
    "kind": "profile", "step": 40, "steps": 40, "seconds": 20.0, "step_seconds": 0.4, "ratio": 1.6,
    "phases": {
        "forward": {"seconds": 10.0, "share": 0.5, "median": 0.25},
        "update": {"seconds": 6.0, "share": 0.3, "median": 0.00002},
        "evaluation": {"seconds": 4.0, "share": 0.2},
    },
}  # fmt: skip


def test_a_profile_has_a_section_with_bars_and_a_table(tmp_path: Path) -> None:
    folder = full(tmp_path / "demo")
    assert "Where the time went" not in write_report(folder).read_text()
    rows = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(
        json.dumps(PROFILE | {"ratio": 9.0}) + "\n" + json.dumps(PROFILE) + "\n" + rows
    )
    page = write_report(folder).read_text()
    assert "no step, eval" not in page
    section = page[page.index("Where the time went") : page.index("Run it again")]
    assert titles(section) == ["Time by phase"]
    assert "A step takes 1.60 × its forwards; 40 steps, 20.0 s in all. Grey: between steps." in section
    drawn = section[section.index("<svg") : section.index("</svg>")]
    for words in ("forward", "update", "evaluation", "50.0 %", "30.0 %", "20.0 %"):
        assert f">{words}</text>" in drawn, words
    assert not re.search(r"#[0-9a-f]{6}\b", drawn)
    cells = [re.findall(r"<td>(.*?)</td>", line) for line in re.findall(r"<tr>(.*?)</tr>", section)]
    assert cells == [
        [], ["forward", "250.00", "50.0 %"], ["update", "0.02", "30.0 %"], ["a whole step", "400.00", "80.0 %"],
        ["evaluation", "–", "20.0 %"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [
        {"phases": {}},
        {"phases": None},
        {"phases": {"forward": 1.0}},
        {"phases": {"forward": {"share": "half", "median": 1.0}}},
        {"phases": {"forward": {"share": 0.5, "median": None}}},
        {"step_seconds": None},
        {"ratio": "much"},
    ],
)
def test_a_profile_that_cannot_be_read_is_named(tmp_path: Path, damage: dict[str, Any]) -> None:
    page = write_report(run(tmp_path / "demo", [step(1), PROFILE | damage])).read_text()
    assert "Line 2 of metrics.jsonl is no step, eval, profile or end row" in page
    assert "Where the time went" not in page


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
        [{"kind": "end", "accuracy": None}],
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


def test_rows_stand_below_the_scores_where_they_are_known(tmp_path: Path) -> None:
    assert "rows measured" not in write_report(full(tmp_path / "silent")).read_text()
    rows = [
        {"kind": "eval", "step": at, "split": split, "accuracy": 0.5, "rows": count}
        for at, split, count in ((0, "zero-shot", 1000), (1, "dev", 200), (2, "dev", 250))
    ]
    page = write_report(run(tmp_path / "demo", rows)).read_text()
    (row,) = re.findall(r"<tr><td>rows measured</td>(.*?)</tr>", page)
    assert re.findall(r"<td>(.*?)</td>", row) == ["1,000", "250", "", "250", "–", ""]


def test_the_commands_work_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    page = write_report(Path("demo")).read_text()
    assert f"--output {tmp_path}/demo<" in page
    assert f"zo replay smollm2 {tmp_path}/demo/ledger.zo" in page


def test_a_schedule_and_an_odd_metric_get_their_own_pictures(tmp_path: Path) -> None:
    rows = [step(at, lr=1e-6 * (5 - at)) for at in range(5)]
    rows += [{"kind": "eval", "step": at, "split": "dev", "perplexity": 30.0 - at} for at in range(5)]
    page = write_report(run(tmp_path / "demo", rows)).read_text()
    assert {"Learning rate", "Perplexity"} <= set(titles(page))
    assert "perplexity ↓" in page


def test_the_command_has_every_setting_that_is_not_the_default() -> None:
    assert train_command(CONFIG) == (
        "zo train --model smollm2 --data reviews.jsonl --template '{text} <It was>' --steps 40 --lr 1e-06 "
        "--freeze embed norm --chat --output runs/demo"
    )
    assert train_command({}) is None
    assert train_command({"something": "else"}) is None


def test_the_command_is_read_back_as_the_same_config() -> None:
    command = train_command(CONFIG)
    assert command is not None
    config = tyro.cli(tyro.conf.configure(tyro.conf.OmitArgPrefixes)(TrainConfig), args=shlex.split(command)[2:])
    saved = json.loads(config.to_json())
    assert {name: saved[name] for name in CONFIG if name != "overwrite"} == {
        name: value for name, value in CONFIG.items() if name != "overwrite"
    }


@pytest.mark.parametrize("damage", ["missing", "empty", "torn", "flipped"])
def test_what_is_wrong_with_the_ledger_is_said(tmp_path: Path, damage: str) -> None:
    folder = full(tmp_path / "demo")
    path = folder / "ledger.zo"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        flipped = data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
        path.write_bytes({"empty": b"", "torn": data[:-50], "flipped": flipped}[damage])
    page = write_report(folder).read_text()
    words = {
        "missing": "ledger.zo is missing, so this run cannot be replayed.",
        "empty": "is not a ledger",
        "torn": "resuming drops it",
        "flipped": "is damaged at step",
    }[damage]
    assert words in page
    assert ("zo replay" in page) == (damage == "torn")
    assert "Loss" in titles(page)


def test_no_such_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run folder"):
        write_report(tmp_path / "nothing")


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named_with_the_fix(tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UsageError, match=rf"{package}.*pip install 'zerothorder\[report\]'"):
        write_report(full(tmp_path / "demo"))
