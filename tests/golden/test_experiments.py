"""The committed runs: every ledger reads whole, and the demo's leads this code to the weights it recorded."""

import json
from pathlib import Path

import pytest

from zerothorder.cli import main
from zerothorder.ledger.reader import read

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RUNS = sorted(path.parent for path in EXPERIMENTS.rglob("ledger.zo"))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: str(run.relative_to(EXPERIMENTS)))
def test_a_committed_run_is_whole(run: Path):
    contents, config = read(run / "ledger.zo"), json.loads((run / "config.json").read_text())
    assert (len(contents.entries), contents.torn) == (config["steps"], 0)
    assert contents.final is not None
    assert not any(entry.skipped for entry in contents.entries)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["loss"] for r in rows if r["kind"] == "step"] == [e.notes["loss"] for e in contents.entries]


@pytest.mark.e2e
def test_the_demo_s_ledger_leads_to_its_weights():
    assert main(["ledger", "verify", "smollm2-135m", str(EXPERIMENTS / "laws/mezo-seed0/ledger.zo"), "--finished"]) == 0
