"""Were the forecasts right, and were their probabilities? Scores that neither a wide interval nor a hedged probability wins."""

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from curate.errors import InputError

Array = NDArray[np.float64]


class IntervalFigures(NamedTuple):
    """How a set of intervals did."""

    n: int
    coverage: float
    width: float
    score: float
    """Mean interval score; lower is better."""


def interval_score(y: ArrayLike, low: ArrayLike, high: ArrayLike, level: float = 0.9) -> Array:
    """Interval score of each outcome: width + 2 / (1 - level) times the distance by which the outcome lies outside.

    Winkler 1972; Gneiting and Raftery 2007, equation 43. In units of the outcome; the true quantiles minimise its mean.

    >>> interval_score([0.5, 0.75], [0.25, 0.25], [0.75, 0.5], level=0.5).tolist()
    [0.5, 1.25]
    """
    truth, below, above = (np.asarray(values, dtype=float) for values in (y, low, high))
    if (above < below).any():
        raise InputError("interval_score: expected low <= high, came an interval upside down")
    outside = np.maximum(below - truth, 0) + np.maximum(truth - above, 0)
    return np.asarray(above - below + 2 / (1 - level) * outside)


def interval_figures(y: ArrayLike, low: ArrayLike, high: ArrayLike, level: float = 0.9) -> IntervalFigures:
    """Coverage, mean width and mean interval score of intervals, (n,) each."""
    truth, below, above = (np.asarray(values, dtype=float) for values in (y, low, high))
    inside = (below <= truth) & (truth <= above)
    score = interval_score(truth, below, above, level).mean()
    return IntervalFigures(len(truth), float(inside.mean()), float((above - below).mean()), float(score))


def brier_score(p_best: ArrayLike, best: int) -> float:
    """Sum over candidates of (probability - was it the best)^2, one choice among m; 0 is perfect, 1 - 1/m says nothing."""
    p = np.asarray(p_best, dtype=float)
    return float(((p - (np.arange(len(p)) == best)) ** 2).sum())


def log_skill(p_best: ArrayLike, best: int) -> float:
    """Log of the probability given to what turned out best, over 1/m: above 0 beats not knowing; in nats.

    Raises:
        InputError: the best had probability 0, which no finite score forgives.
    """
    p = np.asarray(p_best, dtype=float)
    if p[best] <= 0:
        raise InputError(f"log_skill: candidate {best} was the best and had probability 0")
    return float(np.log(p[best] * len(p)))


def reliability(probability: ArrayLike, happened: ArrayLike, bins: int = 10) -> pl.DataFrame:
    """How often events happened that had about one probability: columns probability (mean of the bin), share, error, n.

    `error` is the standard error sqrt(p (1 - p) / n) under the forecast itself; empty bins are left out.
    """
    p, was = np.asarray(probability, dtype=float), np.asarray(happened, dtype=float)
    if ((p < 0) | (p > 1)).any():
        raise InputError("reliability: expected probabilities in 0..1")
    number = np.minimum((p * bins).astype(int), bins - 1)
    table = pl.DataFrame({"bin": number, "probability": p, "share": was})
    grouped = table.group_by("bin").agg(pl.col("probability", "share").mean(), pl.len().alias("n")).sort("bin").drop("bin")
    return grouped.with_columns(error=(pl.col("probability") * (1 - pl.col("probability")) / pl.col("n")).sqrt()).select(
        "probability", "share", "error", "n"
    )
