"""Cosines, angles, shapes and dependence of paths, from the inner products of their updates. All float64."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_NOTHING = 1e-300


def cosines(inner: Matrix, squares: Matrix, others: Matrix) -> Matrix:
    """⟨a_i, b_j⟩ / (‖a_i‖ ‖b_j‖) from inner (T, S), ‖a_i‖² (T,) and ‖b_j‖² (S,); NaN where a vector is zero."""
    lengths = np.sqrt(np.outer(squares, others))
    return np.divide(inner, lengths, out=np.full(inner.shape, np.nan), where=lengths > _NOTHING)


def chance(count: int) -> float:
    """The standard deviation of the cosine of two independent directions in `count` dimensions, 1/√n."""
    return 1 / math.sqrt(count)


def angles(cosine: Matrix) -> Matrix:
    """In degrees, 0 to 180."""
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def positions(updates: Matrix) -> Matrix:
    """Inner products (T+1, T+1) of the places passed, measured from the start, given those of the updates (T, T)."""
    count = len(updates)
    passed = np.tril(np.ones((count + 1, count)), -1)
    return passed @ updates @ passed.T


def centred(gram: Matrix) -> Matrix:
    """The same inner products measured from the mean of the points."""
    keep = np.eye(len(gram)) - 1 / len(gram)
    return keep @ gram @ keep


def principal(gram: Matrix, count: int = 3) -> tuple[Matrix, Matrix]:
    """(coordinates (T, count), shares of the variance (count,)) of points with these inner products.

    Principal components of the points themselves: classical scaling of their Gram matrix is the same thing. The sign of
    each is that in which the last point lies above the first.
    """
    values, vectors = np.linalg.eigh(centred(gram))
    order = np.argsort(values)[::-1][:count]
    kept = np.clip(values[order], 0, None)
    found = vectors[:, order] * np.sqrt(kept)
    found *= np.where(found[-1] < found[0], -1.0, 1.0)
    if found.shape[1] < count:
        found = np.pad(found, ((0, 0), (0, count - found.shape[1])))
        kept = np.pad(kept, (0, count - len(kept)))
    total = np.clip(values, 0, None).sum()
    return found, kept / total if total > _NOTHING else kept


def disparity(one: Matrix, other: Matrix) -> float:
    """Procrustes: what is left of two paths of as many points, 0 to 1, after shifting, scaling and turning one onto the
    other: 1 - (Σ singular values of XᵀY)² for centred X, Y of length 1. NaN where a path stands still.

    Only inner products are needed: the singular values are those of √G_x √G_y. Source: Gower 1975.
    """
    a, b = centred(one), centred(other)
    if np.trace(a) <= _NOTHING or np.trace(b) <= _NOTHING:
        return math.nan
    singular = np.linalg.svd(_root(a / np.trace(a)) @ _root(b / np.trace(b)), compute_uv=False)
    return float(max(0.0, 1 - singular.sum() ** 2))


def distances(gram: Matrix) -> Matrix:
    """‖x_i - x_j‖ of points with these inner products."""
    squares = np.diag(gram)
    return np.sqrt(np.clip(squares[:, None] + squares[None] - 2 * gram, 0, None))


def distance_correlation(one: Matrix, other: Matrix) -> float:
    """0 to 1, 0 for independent points (in the limit of many): the correlation of doubly centred distances.

    NaN where all points of one are the same. Source: Székely, Rizzo, Bakirov 2007; the V-statistic, biased upwards for
    few points.
    """
    a, b = centred(distances(one)), centred(distances(other))
    spread = float((a * a).mean() * (b * b).mean())
    return math.sqrt(max(0.0, float((a * b).mean())) / math.sqrt(spread)) if spread > _NOTHING else math.nan


def _root(gram: Matrix) -> Matrix:
    values, vectors = np.linalg.eigh(gram)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


@dataclass(frozen=True)
class Pair:
    """What two paths over the same weights have to do with each other, step by step and as a whole.

    together: cosine of update i of both; after: of the second's update i and the first's update i + 1 (its effect).
    """

    together: Matrix
    after: Matrix
    disparity: float
    distance_correlation: float

    @classmethod
    def of(cls, one: Matrix, other: Matrix, across: Matrix) -> "Pair":
        """From the updates' inner products (T, T), (S, S) and those across (T, S); compared over the shorter."""
        count = min(len(one), len(other))
        cosine = cosines(across, np.diag(one), np.diag(other))
        first, second = positions(one[:count, :count]), positions(other[:count, :count])
        return cls(
            together=np.diag(cosine)[:count].copy(),
            after=np.diag(cosine, -1)[: count - 1].copy(),
            disparity=disparity(first, second),
            distance_correlation=distance_correlation(first, second),
        )
