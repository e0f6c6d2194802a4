"""docs/benchmarks.md is made of the results alone: targets missed, reached and not measured are named as such."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not in the archive")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def result(name: str, **found: Any) -> dict[str, Any]:
    environment = {"processor": "a processor", "cores": 2, "threads": 2, "instructions": "AVX2", "torch": "2"}
    about = {"commit": "0123456789abcdef", "changed_since_commit": False}
    load = {"load_average_before": [0.5, 0, 0], "load_average_after": [0.6, 0, 0]}
    return {"name": name, "dtype": "float32", "environment": environment | about, **load, **found}


def step(spsa: list[float]) -> dict[str, Any]:
    """Two forwards of a second; low-rank as fast as they are; `spsa` as given."""
    seconds = {"two_forwards": [1.0] * 3, "both_in_one": [0.9] * 3, "low-rank": [0.97] * 3, "spsa": spsa}
    return result(
        "step-float32-16x64-smollm2", family="smollm2", rows=16, tokens=64, loss="choice", attention="eager", rounds=3,
        seconds=seconds, median_seconds={name: sorted(found)[1] for name, found in seconds.items()},
        bytes={"update": 1e9, "dense": 2e9}, bandwidth=1e10, floor={"low_rank": 1.1, "dense": 1.2},
        alone={"spsa": {"reason": "some reason", "one_by_one": []}},
        phases={"spsa": {"forward": 1.0, "perturbation": 0.3, "update": 0.1}},
    )  # fmt: skip


def keys(entry: float) -> dict[str, Any]:
    seconds = {"one_entry": [entry] * 7, "one_term": [0.1] * 7}
    medians = {"one_entry": entry, "one_term": 0.1}
    return result(
        "keys-float32-spsa", method="spsa", terms=256, rounds=7, floor=0.01, seconds=seconds, median_seconds=medians
    )


def written(tmp_path: Path, *results: dict[str, Any]) -> str:
    from benchmarks.page import write_page
    from benchmarks.run import measurements

    folder = tmp_path / "results"
    folder.mkdir()
    for found in results:
        (folder / f"{found['name']}.json").write_text(json.dumps(found))
    write_page(folder, tmp_path, list(measurements()))
    return (tmp_path / "benchmarks.md").read_text()


def line(page: str, *words: str) -> str:
    """The one line that holds all of these words."""
    (found,) = [line for line in page.splitlines() if all(word in line for word in words)]
    return found


def test_a_missed_target_is_named_with_its_median_its_limit_and_what_that_is_made_of(tmp_path: Path) -> None:
    page = written(tmp_path, step([1.1, 1.4, 1.3]), keys(2.56))
    case = "spsa, 16×64, SmolLM2-135M"
    # the median of the rounds, not the best of them; the floor is both in one and 2 GB at 10 GB/s
    assert line(page, f"| R1 | {case} |") == f"| R1 | {case} | **1.30** (1.10 to 1.40) | ≤ 1.15 | **no** | 1.10 |"
    missed = line(page, f"- R1, {case}: 1.30, target ≤ 1.15, limit 1.10")
    assert "unperturbed take 0.90" in missed
    assert "2 GB at 10.0 GB/s takes 0.20" in missed
    assert "most is perturbation" in missed
    assert "`Swap` took over, for some reason" in page
    assert "- 3 rounds: `step-float32-16x64-smollm2`" in page


def test_the_page_begins_with_what_was_found(tmp_path: Path) -> None:
    page = written(tmp_path, step([1.1, 1.4, 1.3]), keys(2.56))
    said = "- A whole training step takes 0.97 × its two forwards along low-rank directions, 1.30 × along dense ones"
    assert line(page.split("`make bench`")[0], "- ").startswith(said)


def test_a_target_that_is_reached_is_not_among_the_missed(tmp_path: Path) -> None:
    page = written(tmp_path, step([1.1, 1.1, 1.1]), keys(2.56))
    assert line(page, "| R1 | low-rank, 16×64, SmolLM2-135M |").endswith("| ≤ 1.00 | yes | 1.00 |")
    assert line(page, "| R8 | spsa, float32 |").endswith("**0.10** (0.10 to 0.10) | ≤ 0.50 | yes | 0.010 |")
    assert "Not reached" not in page
    assert line(page, "| R8 | An entry").endswith("| 1 of 1 | 5 |")


def test_what_was_not_measured_is_said_to_be_missing(tmp_path: Path) -> None:
    page = written(tmp_path, keys(2.56))
    assert line(page, "| R7 | low-rank, float32 |") == "| R7 | low-rank, float32 | not measured | ≥ 20 | – | – |"
    assert line(page, "| R7 | Replayed").endswith("| – | 4 |")
    without = line(page, "Without a result:")
    assert "`replay-float32-low-rank`" in without
    assert "`keys-float32-spsa`" not in without
    # tasks that a result does not hold are missing too, not an error
    assert "| R1 | mezo, 16×64, SmolLM2-135M | not measured |" in page


def test_every_picture_is_written_and_old_ones_go(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "old.svg").write_text("")
    page = written(tmp_path, step([1.1, 1.1, 1.1]), keys(2.56))
    names = {path.name for path in (tmp_path / "benchmarks").iterdir()}
    assert names == {"step-float32.svg", "keys.svg"}
    assert all(f"(benchmarks/{name})" in page for name in names)


def test_without_results_the_page_says_so(tmp_path: Path) -> None:
    assert "There are no results yet." in written(tmp_path)


def test_every_target_has_a_measurement() -> None:
    from benchmarks.run import measurements
    from benchmarks.targets import ABOUT, targets

    assert {target.source for target in targets()} <= set(measurements())
    assert {target.id for target in targets()} == set(ABOUT)


def test_the_plain_loops_come_back_to_the_weights_and_move_along_their_estimate() -> None:
    from benchmarks.plain_mezo import FusedMeZO, PlainMeZO, PlainPopulation

    torch.manual_seed(0)
    model = torch.nn.Linear(40, 40, dtype=torch.float64)
    loss = lambda: sum(float(p.detach().square().sum()) for p in model.parameters())  # noqa: E731
    for make in (PlainMeZO, FusedMeZO, lambda *rest: PlainPopulation(*rest, 4)):
        before = model.weight.detach().clone()
        make(model, 0.0, 1e-3).step(loss)
        assert torch.allclose(model.weight, before, atol=1e-12, rtol=0)
        began, walk = loss(), make(model, 1e-4, 1e-3)
        for _ in range(20):
            walk.step(loss)
        assert loss() < began
