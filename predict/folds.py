"""Predictions of rows that were left out of the fit: single rows, whole clusters, half of the clusters.

A scheme is a mask `kept` (S, n): the training rows of each of S fits. Held-out R^2 is
1 - sum (y - prediction)^2 / sum (y - mean of the training fold)^2, so that `mean` scores exactly 0 under every scheme.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predict.estimators import subset_means
from predict.predictors import Predictor

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
HALF_SPLITS = 200
MOST_BLOCKS = 20
"""Blocks of the delete-a-group jackknife, and folds of CV+."""
CELLS_AT_ONCE = 2_000_000


def predictions(predictor: Predictor, X: Array, y: Array, kept: Mask) -> Array:
    """Predictions of all rows by the fit on each subset, (S, n)."""
    if hasattr(predictor.estimator, "predict_many"):
        return np.asarray(predictor.estimator.predict_many(X, y, kept))
    return np.stack([np.asarray(predictor.fit(X[rows], y[rows]).predict(X), dtype=float) for rows in kept])


@dataclass(frozen=True)
class HeldOut:
    """Predictions of rows that were not in the training fold, and that fold's mean, (n,) each."""

    predicted: Array
    training_mean: Array

    @property
    def ranked(self) -> Array:
        """Predictions less their fold's intercept: raw ones of different folds are not to be ranked together."""
        return self.predicted - self.training_mean

    def r2(self, y: Array, *, grand: bool = False) -> float:
        """Against the training fold's mean; `grand` against the mean of all rows, as scikit-learn's r2_score."""
        centre = y.mean() if grand else self.training_mean
        return float(1 - ((y - self.predicted) ** 2).sum() / ((y - centre) ** 2).sum())


def held_out(predictor: Predictor, X: Array, y: Array, clusters: list[Rows], among: Mask | None = None) -> HeldOut:
    """Leave each cluster out, some at a time for memory's sake.

    Args:
        among: the rows there are, (n,); the figures of others are NaN.
    """
    there = np.ones(len(y), dtype=bool) if among is None else among
    predicted, means = np.full((2, len(y)), np.nan)
    present = [kept for rows in clusters if len(kept := rows[there[rows]])]
    for part in _parts(present, max(1, CELLS_AT_ONCE // len(y))):
        kept = np.repeat(there[None], len(part), axis=0)
        fold = np.repeat(np.arange(len(part)), [len(rows) for rows in part])
        rows = np.concatenate(part)
        kept[fold, rows] = False
        predicted[rows] = predictions(predictor, X, y, kept)[fold, rows]
        means[rows] = subset_means(y, kept)[fold]
    return HeldOut(predicted, means)


def _parts(items: list[Rows], size: int) -> Iterator[list[Rows]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def single_rows(n: int) -> list[Rows]:
    """Every row a cluster of its own."""
    return list(np.arange(n)[:, None])


def half_masks(clusters: list[Rows], n: int, rng: np.random.Generator) -> Mask:
    """Training halves of random splits of the clusters, (HALF_SPLITS, n); of an odd number one more is trained on."""
    member = np.zeros((len(clusters), n), dtype=bool)
    for number, rows in enumerate(clusters):
        member[number, rows] = True
    order = rng.permuted(np.tile(np.arange(len(clusters)), (HALF_SPLITS, 1)), axis=1)
    return np.stack([member[picked].any(axis=0) for picked in order[:, len(clusters) // 2 :]])


def half_splits(predictor: Predictor, X: Array, y: Array, kept: Mask) -> dict[str, float | None]:
    """R^2 on one half of the clusters after fitting on the other: mean, sd, median, and a standard error of the mean.

    The splits share rows, so the sd over them is no standard error and more of them add little: the error is
    sqrt((1 / J + n_test / n_train) sd^2) (Nadeau and Bengio 2003). All None where a half is too small.
    """
    trained = kept.sum(axis=1)
    if (trained < X.shape[1] + 2).any() or (len(y) - trained < 2).any():
        return dict.fromkeys(("mean", "sd", "median", "se"))
    centre = subset_means(y, kept)[:, None]
    spread = np.where(kept, 0.0, (y - centre) ** 2).sum(axis=1)
    errors = np.where(kept, 0.0, (y - predictions(predictor, X, y, kept)) ** 2).sum(axis=1)
    values = 1 - errors[spread > 0] / spread[spread > 0]
    sd, ratio = float(np.std(values, ddof=1)), float(np.mean((len(y) - trained) / trained))
    error = float(np.sqrt(1 / len(values) + ratio) * sd)
    return {"mean": float(np.mean(values)), "sd": sd, "median": float(np.median(values)), "se": error}


def jackknife_masks(clusters: list[Rows], n: int, rng: np.random.Generator) -> Mask:
    """The rows that stay when a block of clusters goes, (B, n), B at most MOST_BLOCKS."""
    parts = np.array_split(rng.permutation(len(clusters)), min(MOST_BLOCKS, len(clusters)))
    kept = np.ones((len(parts), n), dtype=bool)
    for block, part in enumerate(parts):
        kept[block, np.concatenate([clusters[index] for index in part])] = False
    return kept


def r2_without_blocks(predictor: Predictor, X: Array, y: Array, clusters: list[Rows], stays: Mask) -> Array:
    """Leave-one-cluster-out R^2 computed anew, refits included, on what stays of the rows, (B,)."""
    values = []
    for rows in stays:
        held = held_out(predictor, X, y, clusters, rows)
        values.append(HeldOut(held.predicted[rows], held.training_mean[rows]).r2(y[rows]))
    return np.array(values)


def fold_numbers(clusters: list[Rows], n: int, rng: np.random.Generator) -> Rows:
    """Whole clusters in at most MOST_BLOCKS folds: the fold of each row, (n,)."""
    parts = np.array_split(rng.permutation(len(clusters)), min(MOST_BLOCKS, len(clusters)))
    fold = np.empty(n, dtype=np.int64)
    for number, part in enumerate(parts):
        fold[np.concatenate([clusters[index] for index in part])] = number
    return fold
