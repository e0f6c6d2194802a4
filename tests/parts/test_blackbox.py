"""numpy functions on the same spine: budget, ask and tell, replay."""

from pathlib import Path

import numpy as np
import pytest
import torch

import zerothorder as zo
from zerothorder.ledger.reader import read


def sphere(x: np.ndarray) -> float:
    return float(((x - np.arange(x.size)) ** 2).sum())


def test_minimize_finds_the_bottom_within_its_budget() -> None:
    calls = []
    result = zo.minimize(lambda x: calls.append(1) or sphere(x), np.zeros(5), budget=1500, lr=0.02, eps=1e-3, seed=1)
    assert len(calls) == result.evaluations <= 1500
    assert result.value == sphere(result.x) < 1e-6


def test_shape_and_start_are_kept() -> None:
    start = np.ones((2, 3))
    result = zo.minimize(lambda x: float((x**2).sum()), start, budget=51, draws=5, lr=0.01, eps=1e-2)
    assert result.x.shape == (2, 3)
    assert result.evaluations == 51
    assert len(result.entries) == 5
    assert (start == 1).all()


def test_ask_and_tell_equal_minimize() -> None:
    search = zo.Search(np.zeros(4), lr=0.05, eps=1e-3, seed=2, steps=20)
    while search.run.index < 20:
        points = search.ask()
        assert all(np.array_equal(a, b) for a, b in zip(points, search.ask(), strict=True))
        search.tell([sphere(p) for p in points])
    result = zo.minimize(sphere, np.zeros(4), budget=41, lr=0.05, eps=1e-3, seed=2)
    assert np.array_equal(search.x, result.x)


def test_the_points_lie_where_the_ledger_says() -> None:
    """x ± εz with one z: their middle is x to the last bits, and their distance is the same in every coordinate."""
    search = zo.Search(np.full(7, 3.0), law="rademacher", eps=0.5)
    plus, minus = search.ask()
    assert np.allclose((plus + minus) / 2, 3.0, atol=1e-15)
    assert np.allclose(np.abs(plus - minus), 1.0, atol=1e-15)


def test_a_ledger_holds_the_search(tmp_path: Path) -> None:
    result = zo.minimize(sphere, np.zeros(3), budget=21, lr=0.05, eps=1e-3, ledger=tmp_path / "ledger.zo")
    contents = read(tmp_path / "ledger.zo")
    assert len(contents.entries) == 10
    assert contents.entries[3].terms == result.entries[3].terms


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: zo.minimize(sphere, np.zeros(3), budget=2), "a budget of 2 evaluations is too small"),
        (lambda: zo.minimize(sphere, np.array([np.nan])), "finite numbers"),
        (lambda: zo.Search(np.zeros(2)).tell([1.0]), "1 values for 0 points"),
        (lambda: zo.minimize(sphere, np.zeros(2), recipe="nelder"), "unknown recipe 'nelder'"),
    ],
)
def test_mistakes_get_a_sentence(call, sentence: str) -> None:
    with pytest.raises(zo.UsageError, match=sentence):
        call()


@pytest.mark.parametrize(
    ("value", "named"),
    [(None, "None"), ("high", "'high' (a str)"), ([1.0, 2.0], "[1.0, 2.0] (a list)"), (np.ones(3), "(a ndarray)")],
)
def test_what_is_no_number_is_named(value: object, named: str) -> None:
    search = zo.Search(np.zeros(2))
    search.ask()
    before = search.x
    for call, where in (
        (lambda: search.tell([1.0, value]), "value 1 given to tell() is"),  # type: ignore[list-item]
        (lambda: zo.minimize(lambda x: value, np.zeros(2)), "the function returned"),  # type: ignore[arg-type,return-value]
    ):
        with pytest.raises(zo.UsageError) as told:
            call()
        assert str(told.value).startswith(where)
        assert str(told.value).endswith(f"{named}; it must be one number")
    with pytest.raises(
        zo.UsageError, match=r"tell\(\) got 3.0 \(a float\); give a list with one number for each point"
    ):
        search.tell(3.0)  # type: ignore[arg-type]
    # nothing was taken in: the right answer is still to come
    assert search.run.index == 0
    assert np.array_equal(search.x, before)
    assert search.tell([torch.tensor(1.0), np.float32(2.0)]) is not None  # type: ignore[list-item]


def test_a_result_prints_without_its_entries() -> None:
    result = zo.minimize(sphere, np.zeros(2), budget=401)
    assert len(result.entries) == 200
    assert len(repr(result)) < 200
    assert "evaluations=401" in repr(result)


def test_nan_values_are_skipped() -> None:
    search = zo.Search(np.zeros(2))
    search.ask()
    entry = search.tell([float("nan"), 1.0])
    assert entry is not None
    assert entry.skipped
    assert np.array_equal(search.x, np.zeros(2))
    assert torch.get_default_dtype() == torch.float32
