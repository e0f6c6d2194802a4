"""Measures from inner products are those of the vectors themselves."""

import math

import numpy as np
import pytest

from zerothorder.interplay import measures as m

RANDOM = np.random.default_rng(0)


def points(count: int, n: int) -> np.ndarray:
    return RANDOM.standard_normal((count, n))


def test_cosines_and_angles_are_those_of_the_vectors() -> None:
    a, b = points(4, 30), points(5, 30)
    found = m.cosines(a @ b.T, (a * a).sum(1), (b * b).sum(1))
    for i in range(4):
        for j in range(5):
            assert found[i, j] == pytest.approx(a[i] @ b[j] / np.linalg.norm(a[i]) / np.linalg.norm(b[j]))
    assert m.angles(np.array([[1.0, 0.0, -1.0]])) == pytest.approx(np.array([[0.0, 90.0, 180.0]]))
    assert np.isnan(m.cosines(np.zeros((1, 1)), np.zeros(1), np.ones(1))).all()


def test_independent_updates_spread_by_chance() -> None:
    n, count = 900, 400
    a, b = points(count, n), points(count, n)
    found = np.diag(m.cosines(a @ b.T, (a * a).sum(1), (b * b).sum(1)))
    # the standard error of a standard deviation of 400 values is 3.5 %
    assert found.std() == pytest.approx(m.chance(n), rel=0.18)


def test_places_are_the_sums_of_updates() -> None:
    updates = points(5, 7)
    places = np.concatenate([np.zeros((1, 7)), np.cumsum(updates, 0)])
    assert m.positions(updates @ updates.T) == pytest.approx(places @ places.T)


def test_principal_components_are_those_of_the_points() -> None:
    places = points(9, 40) * np.linspace(3, 0.1, 40)
    found, shares = m.principal(places @ places.T, 3)
    centred = places - places.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :3] * singular[:3]
    assert np.abs(found) == pytest.approx(np.abs(expected))
    assert shares == pytest.approx(singular[:3] ** 2 / (singular**2).sum())
    assert (found[-1] >= found[0]).all()
    # the picture of a straight line is a straight line, however few its points
    line, share = m.principal(np.outer([0.0, 1.0], [0.0, 1.0]), 3)
    assert share == pytest.approx([1, 0, 0])
    assert line.shape == (2, 3)


def test_disparity_is_zero_for_the_same_shape_turned_shifted_and_scaled() -> None:
    one = points(8, 20)
    turn = np.linalg.qr(points(20, 20))[0]
    other = 3 * one @ turn + points(1, 20)
    assert m.disparity(one @ one.T, other @ other.T) == pytest.approx(0, abs=1e-9)
    third = points(8, 20)
    assert m.disparity(one @ one.T, third @ third.T) > 0.05
    assert math.isnan(m.disparity(np.zeros((3, 3)), np.eye(3)))


def test_disparity_is_what_scipy_says() -> None:
    spatial = pytest.importorskip("scipy.spatial")
    one, other = points(10, 4), points(10, 4)
    assert m.disparity(one @ one.T, other @ other.T) == pytest.approx(spatial.procrustes(one, other)[2])


def test_distance_correlation_is_one_for_similar_points_and_small_for_independent_ones() -> None:
    one = points(60, 3)
    same = 2 * one + 1
    assert m.distance_correlation(one @ one.T, same @ same.T) == pytest.approx(1)
    other = points(60, 3)
    assert m.distance_correlation(one @ one.T, other @ other.T) < 0.45
    assert math.isnan(m.distance_correlation(np.zeros((3, 3)), np.eye(3)))


def test_distance_correlation_is_that_of_the_textbook() -> None:
    """Székely, Rizzo, Bakirov 2007, definitions 4 and 5, element by element from the points themselves."""

    def doubly_centred(points: np.ndarray) -> np.ndarray:
        apart = np.array([[math.dist(p, q) for q in points] for p in points])
        rows, columns = apart.mean(1), apart.mean(0)
        return np.array(
            [[apart[k, j] - rows[k] - columns[j] + apart.mean() for j in range(len(apart))] for k in range(len(apart))]
        )

    for n, (p, q) in ((25, (3, 3)), (7, (40, 2)), (60, (1, 5))):
        one = points(n, p)
        for other in (points(n, q), np.abs(one).sum(1, keepdims=True) + 0.1 * points(n, q)):
            a, b = doubly_centred(one), doubly_centred(other)
            covariance, *variances = ((x * y).sum() / n**2 for x, y in ((a, b), (a, a), (b, b)))
            expected = math.sqrt(covariance / math.sqrt(variances[0] * variances[1]))
            assert m.distance_correlation(one @ one.T, other @ other.T) == pytest.approx(expected, abs=1e-12)


def test_a_pair_tells_together_from_after() -> None:
    """The first run's update i + 1 follows the second's update i exactly: only `after` sees it."""
    n = 4000
    second = points(6, n)
    first = np.concatenate([points(1, n), second[:-1]])
    pair = m.Pair.of(first @ first.T, second @ second.T, first @ second.T)
    assert pair.after == pytest.approx(np.ones(5))
    assert np.abs(pair.together).max() < 6 * m.chance(n)
    assert len(pair.together) == 6
