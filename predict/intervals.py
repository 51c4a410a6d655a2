"""Intervals from resampled clusters, from a jackknife over blocks of them, and from Fisher's z.

The unit of resampling is the cluster (a cell, a base model), never a row: checkpoints of one cell are near twins. All draws of a
bootstrap are computed at once on multiplicities (n, R): how often each row is in each resample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
FEWEST_CLUSTERS = 6
"""Below it a resampling interval says nothing."""
RESAMPLES = 2000
BLOCK = 250
LEVEL = 0.9


@dataclass(frozen=True)
class Interval:
    """A value with its 90 % interval; the ends are None where none can be had."""

    value: float | None
    low: float | None = None
    high: float | None = None


def clusters_of(labels: Sequence[object]) -> list[Rows]:
    """Row indices of each cluster, in order of first appearance."""
    rows: dict[object, list[int]] = {}
    for index, label in enumerate(labels):
        rows.setdefault(label, []).append(index)
    return [np.array(indices) for indices in rows.values()]


def spearman(x: Array, y: Array) -> float | None:
    """Rank correlation, ties sharing their mean rank; None where one side is constant or there are fewer than 3 rows."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def kendall(x: Array, y: Array) -> float | None:
    """Kendall's tau-b, scipy's; None where one side is constant or there are fewer than 3 rows."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(stats.kendalltau(x, y).statistic)


def multiplicities(clusters: list[Rows], rng: np.random.Generator) -> Array:
    """How often each row is in each of RESAMPLES resamples of the clusters, (n, R)."""
    count = len(clusters)
    drawn = rng.integers(0, count, (RESAMPLES, count)) + count * np.arange(RESAMPLES)[:, None]
    times = np.bincount(drawn.ravel(), minlength=RESAMPLES * count).reshape(RESAMPLES, count).T.astype(float)
    cluster = np.empty(sum(map(len, clusters)), dtype=np.int64)
    for number, rows in enumerate(clusters):
        cluster[rows] = number
    return times[cluster]


def resampled_ranks(x: Array, times: Array) -> Array:
    """Ranks of the rows within each resample, ties (a row and its copies among them) sharing the mean rank, (n, R)."""
    order, starts = _sorted(x)
    totals = np.add.reduceat(times[order], starts, axis=0)
    ranks = np.cumsum(totals, axis=0) - (totals - 1) / 2
    tied = np.empty(len(x), dtype=np.int64)
    tied[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(x))))
    return ranks[tied]


def _sorted(x: Array) -> tuple[Rows, Rows]:
    """The order of the values, and where in it each different value starts."""
    order = np.argsort(x, kind="stable")
    return order, np.flatnonzero(np.append(True, np.diff(x[order]) > 0))


class Resamples:
    """Resamples of the rows with the outcome ranked in each: made once, asked by every predictor."""

    def __init__(self, y: Array, times: Array) -> None:
        """`times` (n, R) is how often each row is in each resample; it is worked through in blocks that a CPU's cache holds."""
        self.parts = [
            _RankedOutcome.of(y, np.ascontiguousarray(times[:, at : at + BLOCK])) for at in range(0, times.shape[1], BLOCK)
        ]

    def spearman(self, x: Array) -> Array:
        """Rank correlation of x with the outcome in each resample, (R,); NaN where one side is constant there."""
        order, starts = _sorted(x)
        return np.concatenate([part.spearman(order, starts) for part in self.parts])


@dataclass(frozen=True)
class _RankedOutcome:
    """What the rank correlations of some resamples need of the outcome."""

    times: Array
    weighted: Array
    """times x (rank of the outcome - mean rank), (n, R)."""
    spread: Array
    size: Array

    @classmethod
    def of(cls, y: Array, times: Array) -> "_RankedOutcome":
        size = times.sum(axis=0)
        away = resampled_ranks(y, times) - (size + 1) / 2
        weighted = times * away
        return cls(times, weighted, (weighted * away).sum(axis=0), size)

    def spearman(self, order: Rows, starts: Rows) -> Array:
        totals, outcome = self.times[order], self.weighted[order]
        if len(starts) < len(order):  # tied rows count as one, with their common rank
            totals, outcome = np.add.reduceat(totals, starts, axis=0), np.add.reduceat(outcome, starts, axis=0)
        ranks = np.cumsum(totals, axis=0)
        ranks -= (totals - 1) / 2
        covariance = np.einsum("nr,nr->r", ranks, outcome)
        spread = np.einsum("nr,nr,nr->r", totals, ranks, ranks) - self.size * ((self.size + 1) / 2) ** 2
        known = (spread > 1e-6) & (self.spread > 1e-6)
        return np.divide(covariance, np.sqrt(np.abs(spread * self.spread)), out=np.full(len(spread), np.nan), where=known)


def percentile(value: float | None, draws: Array, n_clusters: int) -> Interval:
    """The value with the percentiles of its bootstrap draws; no ends below FEWEST_CLUSTERS clusters."""
    known = draws[~np.isnan(draws)]
    if value is None or n_clusters < FEWEST_CLUSTERS or not len(known):
        return Interval(value)
    low, high = np.quantile(known, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(value, float(low), float(high))


def fisher(rho: float | None, n: int) -> Interval:
    """Interval of a rank correlation by Fisher's z with SE sqrt((1 + rho^2 / 2) / (n - 3)) (Bonett and Wright 2000)."""
    if rho is None or n < 4 or abs(rho) >= 1:
        return Interval(rho)
    margin = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    return Interval(rho, float(np.tanh(np.arctanh(rho) - margin)), float(np.tanh(np.arctanh(rho) + margin)))


def jackknife(value: float | None, left_out: Array, n_clusters: int) -> Interval:
    """The value with a t interval from the values without each block of clusters, (B,)."""
    known = left_out[~np.isnan(left_out)]
    count = len(known)
    if value is None or n_clusters < FEWEST_CLUSTERS or count < FEWEST_CLUSTERS:
        return Interval(value)
    error = np.sqrt((count - 1) / count * ((known - known.mean()) ** 2).sum())
    margin = float(stats.t.ppf((1 + LEVEL) / 2, count - 1) * error)
    return Interval(value, value - margin, value + margin)
