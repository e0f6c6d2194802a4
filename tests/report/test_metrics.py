"""Reading and condensing a run's rows."""

import json
from pathlib import Path

import numpy as np
import pytest

from zerothorder.report import text
from zerothorder.report.metrics import Metrics, best, read_metrics, running_median
from zerothorder.report.svg import thin


def read(tmp_path: Path, *rows: dict[str, object]) -> Metrics:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_metrics(path)


def test_a_step_written_twice_after_a_resume_counts_once(tmp_path: Path) -> None:
    metrics = read(
        tmp_path,
        {"kind": "step", "step": 1, "loss": 1.0},
        {"kind": "step", "step": 2, "loss": 2.0},
        {"kind": "eval", "step": 2, "split": "dev", "auc": 0.1},
        {"kind": "step", "step": 2, "loss": 3.0},
        {"kind": "eval", "step": 2, "split": "dev", "auc": 0.2},
    )
    steps, losses = metrics.series("loss")
    assert steps.tolist() == [1, 2]
    assert losses.tolist() == [1.0, 3.0]
    assert metrics.evaluated("auc", "dev")[1].tolist() == [0.2]


def test_null_is_nan_and_a_missing_column_is_left_out(tmp_path: Path) -> None:
    metrics = read(
        tmp_path,
        {"kind": "step", "step": 1, "loss": None, "skipped": True},
        {"kind": "step", "step": 2, "loss": 0.5, "moved": 0.1},
    )
    assert np.isnan(metrics.series("loss")[1][0])
    assert metrics.series("moved")[0].tolist() == [2]
    assert metrics.skipped == 1
    assert metrics.last("loss") == 0.5
    assert metrics.last("tokens") is None


def test_forwards_between_rows_are_interpolated_from_zero(tmp_path: Path) -> None:
    metrics = read(tmp_path, *({"kind": "step", "step": at, "forwards": 32 * at} for at in (10, 20)))
    at = metrics.forwards_at(np.array([0.0, 5.0, 15.0, 20.0]))
    assert at is not None
    assert at.tolist() == [0, 160, 480, 640]
    assert read(tmp_path).forwards_at(np.array([1.0])) is None


def test_totals_go_on_where_a_resumed_run_began_again(tmp_path: Path) -> None:
    rows = [32, 64, 96, 32, 64, None, 32]
    metrics = read(tmp_path, *({"kind": "step", "step": at, "forwards": n} for at, n in enumerate(rows)))
    totals = metrics.series("forwards")[1]
    assert totals[np.isfinite(totals)].tolist() == [32, 64, 96, 128, 160, 192]
    assert metrics.last("forwards") == 192


def test_movement_stands_on_rows_of_either_kind(tmp_path: Path) -> None:
    metrics = read(
        tmp_path,
        {"kind": "step", "step": 1, "moved": 0.1},
        {"kind": "eval", "step": 5, "split": "dev", "auc": 0.7, "moved": 0.2},
        {"kind": "eval", "step": 5, "split": "test", "auc": 0.7, "moved": 0.2},
    )
    assert metrics.series("moved")[0].tolist() == [1, 5]
    assert metrics.metric_names == ["auc"]


def test_best_knows_which_way_is_up() -> None:
    steps, values = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.7, 0.6])
    assert best("auc", steps, values) == (0.7, 2)
    assert best("loss", steps, values) == (0.5, 1)


def test_running_median_ignores_nan_and_keeps_the_level() -> None:
    x = np.arange(1000.0)
    y = np.where(x % 7 == 0, np.nan, 3.0)
    y[500] = 1e9
    at, medians = running_median(x, y)
    assert at.size == 600
    assert set(medians.tolist()) == {3.0}
    assert running_median(x[:0], y[:0])[1].size == 0
    assert np.isnan(running_median(x[:1], y[:1])[1]).all()


def test_thinning_keeps_every_extreme() -> None:
    x = np.arange(10_000.0)
    y = np.zeros_like(x)
    y[1234], y[5678], y[9] = 5.0, -5.0, np.nan
    short_x, short_y = thin(x, y, 200)
    assert short_x.size <= 202
    assert short_y.max() == 5.0
    assert short_y.min() == -5.0
    assert (np.diff(short_x) > 0).all()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (0.48129, "0.481"),
        (12300, "12,300"),
        (3.21e-7, "3.21e-07"),
        (float("nan"), "NaN"),
        (1234.5, "1,234"),
    ],
)
def test_numbers(value: float | None, words: str) -> None:
    assert text.number(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.43, "430 ms"), (12.34, "12.3 s"), (425, "7 min 05 s"), (4320, "1 h 12 min"), (None, "–")],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert text.duration(seconds) == words


@pytest.mark.parametrize(("count", "words"), [(12, "12 B"), (6.6e8, "660 MB"), (1.24e9, "1.24 GB"), (2e12, "2.00 TB")])
def test_sizes(count: float, words: str) -> None:
    assert text.size(count) == words


def test_settings_are_flat_and_exact() -> None:
    config = {
        "lr": 1e-6,
        "seed": 123456789.25,
        "recipe": {"eps": 0.001, "mask": None},
        "tags": ["a", "b"],
        "on": True,
    }
    assert dict(text.settings(config)) == {
        "lr": "1e-06",
        "seed": "123456789.25",
        "recipe.eps": "0.001",
        "recipe.mask": "–",
        "tags": "a, b",
        "on": "yes",
    }
