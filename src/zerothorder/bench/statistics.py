"""Means over seeds, and differences between methods on the same tasks and seeds."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

RESAMPLED = 10_000


def mean(values: Sequence[float], digits: int = 3) -> str:
    """The mean and its standard error over seeds; of infinite values the mean, "no number" where one is none."""
    if any(map(math.isnan, values)):
        return "no number"
    text = f"{statistics.fmean(values):.{digits}f}"
    return (
        text
        if len(values) < 2 or not all(map(math.isfinite, values))
        else f"{text} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"
    )


def paired(differences: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Of differences between two methods, a list of seeds for each task: the mean of the tasks' means, and the ends of
    its 95 % interval by the bootstrap, which draws seeds again within each task (10,000 times, percentiles).

    With three seeds the interval is of the size of what was seen, no more: it says what another draw of these seeds
    would give on these tasks.
    """
    draw = np.random.default_rng(0)
    total = np.zeros(RESAMPLED)
    for own in differences:
        values = np.asarray(own, dtype=np.float64)
        total += values[draw.integers(len(values), size=(RESAMPLED, len(values)))].mean(axis=1)
    low, high = np.percentile(total / len(differences), [2.5, 97.5])
    return statistics.fmean(map(statistics.fmean, differences)), float(low), float(high)
