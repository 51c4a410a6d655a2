"""Resampling over clusters: bootstrap intervals, jackknife intervals of a difference, sign flips (statistics of the method page).

The unit of resampling is the cluster (a cell, a base model), never a row: checkpoints of one cell are near twins.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
FEWEST_CLUSTERS = 6
"""Below it a resampling interval says nothing."""
RESAMPLES = 1000
MOST_BLOCKS = 20
"""Blocks of the delete-a-group jackknife."""


@dataclass(frozen=True)
class Interval:
    """A value with its 90 % interval; the ends are None where none can be had."""

    value: float | None
    low: float | None = None
    high: float | None = None


def clusters_of(labels: Sequence[object]) -> list[NDArray[np.int64]]:
    """Row indices of each cluster, in order of first appearance."""
    rows: dict[object, list[int]] = {}
    for index, label in enumerate(labels):
        rows.setdefault(label, []).append(index)
    return [np.array(indices) for indices in rows.values()]


def spearman(x: Array, y: Array) -> float | None:
    """Rank correlation; None where one side is constant or there are fewer than 3 rows."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float | None], clusters: list[NDArray[np.int64]], rng: np.random.Generator
) -> Interval:
    """The statistic on all rows with a percentile interval from resampled clusters.

    Args:
        statistic: takes row indices, repeated as drawn.
    """
    value = statistic(np.concatenate(clusters))
    if value is None or len(clusters) < FEWEST_CLUSTERS:
        return Interval(value)
    draws = []
    for _ in range(RESAMPLES):
        picked = rng.integers(0, len(clusters), len(clusters))
        drawn = statistic(np.concatenate([clusters[index] for index in picked]))
        if drawn is not None:
            draws.append(drawn)
    low, high = np.quantile(draws, (0.05, 0.95))
    return Interval(value, float(low), float(high))


def jackknife(
    statistic: Callable[[NDArray[np.int64]], float | None], clusters: list[NDArray[np.int64]], rng: np.random.Generator
) -> Interval:
    """The statistic with a t interval from leaving blocks of clusters out and computing it, refits included, anew."""
    value = statistic(np.concatenate(clusters))
    if value is None or len(clusters) < FEWEST_CLUSTERS:
        return Interval(value)
    blocks = np.array_split(rng.permutation(len(clusters)), min(MOST_BLOCKS, len(clusters)))
    left_out = []
    for block in blocks:
        kept = [clusters[index] for index in range(len(clusters)) if index not in set(block.tolist())]
        left_out.append(statistic(np.concatenate(kept)))
    values = np.array([v for v in left_out if v is not None])
    if len(values) < FEWEST_CLUSTERS:
        return Interval(value)
    count = len(values)
    error = np.sqrt((count - 1) / count * ((values - values.mean()) ** 2).sum())
    margin = float(stats.t.ppf(0.95, count - 1) * error)
    return Interval(value, value - margin, value + margin)


def sign_flip_p(differences: Array, rng: np.random.Generator) -> float:
    """Two-sided p of mean difference 0 by flipping the sign of each cluster's difference.

    Exact up to 12 clusters; the smallest possible p is 2^(1 - clusters). Otherwise 9,999 random flips.
    """
    observed = abs(differences.mean())
    if len(differences) <= 12:
        signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
        return float((np.abs((signs * differences).mean(1)) >= observed - 1e-15).mean())
    signs = rng.choice((1, -1), (9999, len(differences)))
    beyond = (np.abs((signs * differences).mean(1)) >= observed - 1e-15).sum()
    return float((beyond + 1) / 10000)
