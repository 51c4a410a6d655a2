"""Choosing rows: the greedy maximum over joint draws, I-optimal runs for a regression with correlated errors, space filling."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SHARED = (0.5, 0.2)
"""Assumed correlation of the misfit of two runs of one cell, and of one base model: twins teach less than strangers."""


def greedy_maximum(draws: Array, budget: int) -> tuple[list[int], list[float]]:
    """Columns of (draws, m) picked one at a time for the largest E[max of the picked], and what each adds.

    The set function is submodular, so that this is within 1 - 1/e of the best set (Nemhauser, Wolsey and Fisher 1978); the
    orders are nested, so that a smaller budget takes the first ones.
    """
    order: list[int] = []
    gains: list[float] = []
    reached, mean = np.full(len(draws), -np.inf), 0.0
    for _ in range(budget):
        means = np.maximum(reached[:, None], draws).mean(0)
        means[order] = -np.inf
        order.append(int(means.argmax()))
        gains.append(float(means[order[-1]]) - mean)
        reached, mean = np.maximum(reached, draws[:, order[-1]]), float(means[order[-1]])
    return order, gains


def regret_of_measured(draws: Array, measured: Array, rows: Sequence[int]) -> float:
    """Expected true level lost to the best of all by taking the row of `rows` that measures best, draws and measured (D, m)."""
    taken = np.asarray(rows)[measured[:, rows].argmax(1)]
    return float((draws.max(1) - draws[np.arange(len(draws)), taken]).mean())


def standardised(X: Array, *, categorical: bool) -> Array:
    """A design with intercept: columns of mean 0 and SD 1, constant ones left out; labels become indicators. (n, d) -> (n, 1 + e)."""
    if categorical:
        X = (np.unique(X[~np.isnan(X).any(1)])[1:] == X).astype(float)
    spread = np.nanstd(X, axis=0)
    kept = X[:, spread > 0]
    return np.column_stack([np.ones(len(X)), (kept - np.nanmean(kept, axis=0)) / spread[spread > 0]])


def correlation(labels: Sequence[Sequence[object]], rows: int) -> Array:
    """Assumed correlation of the misfits of all rows, (n, n): cell before base model; without labels, none."""
    result = np.zeros((rows, rows))
    for each, shared in zip(labels, SHARED, strict=False):
        codes = np.unique(np.array([str(label) for label in each]), return_inverse=True)[1]
        result = np.maximum(result, shared * (codes[:, None] == codes))
    np.fill_diagonal(result, 1.0)
    return result


def i_optimal(
    X: Array, correlation: Array, seen: NDArray[np.int64], candidates: NDArray[np.int64], budget: int
) -> tuple[list[int], list[float]]:
    """Rows to add to those seen, greedily, for the least mean variance x' M^-1 x of the fit over all rows.

    M = X' V^-1 X is the information of generalized least squares with V the correlation of the rows in it. One more row with
    correlations v to them adds r r' / s with r = x - X' V^-1 v and s = 1 - v' V^-1 v, and Sherman-Morrison gives its worth.

    Returns:
        Row numbers in order, and the mean variance before and after each, in units of the residual variance.
    """
    inside, left = list(seen), [int(row) for row in candidates]
    wanted = X.T @ X / len(X)
    order: list[int] = []
    variances = [mean_variance(X, correlation, inside)]
    for _ in range(budget):
        weights = np.linalg.inv(correlation[np.ix_(inside, inside)])
        covariance = np.linalg.pinv(X[inside].T @ weights @ X[inside])
        shared = weights @ correlation[np.ix_(inside, left)]
        new = X[left] - shared.T @ X[inside]
        scale = 1 - np.einsum("ij,ij->j", correlation[np.ix_(inside, left)], shared)
        toward = new @ covariance
        fall = np.einsum("ij,jk,ik->i", toward, wanted, toward) / (scale + np.einsum("ij,ij->i", toward, new))
        order.append(left.pop(int(fall.argmax())))
        inside.append(order[-1])
        variances.append(mean_variance(X, correlation, inside))
    return order, variances


def mean_variance(X: Array, correlation: Array, rows: Sequence[int]) -> float:
    """Mean over all rows of x' (X' V^-1 X)^-1 x, the fit being on `rows` alone; in units of the residual variance."""
    information = X[rows].T @ np.linalg.solve(correlation[np.ix_(rows, rows)], X[rows])
    return float(np.trace(X @ np.linalg.pinv(information) @ X.T) / len(X))


def gower(X: Array, labels: Sequence[Sequence[object]], *, categorical: bool) -> Array:
    """Gower distance of all rows, (n, n): range-scaled difference of a column, 0 or 1 for a label; mean over both."""
    spread = np.ptp(X, axis=0)
    spread[spread == 0] = 1.0
    apart = np.abs(X[:, None] - X[None])
    parts = [*((apart > 0) if categorical else apart / spread).transpose(2, 0, 1).astype(float)]
    for each in labels:
        codes = np.unique(np.array([str(label) for label in each]), return_inverse=True)[1]
        parts.append((codes[:, None] != codes).astype(float))
    return np.asarray(np.mean(parts, axis=0))


def farthest_first(distances: Array, to_seen: Array, budget: int) -> tuple[list[int], list[float]]:
    """Rows of (m, m), each the farthest from those seen, (m, s), and picked before (Gonzalez 1985: within twice the best radius).

    With none seen the first is the row with the smallest mean distance.

    Returns:
        Rows in order, and the distance of each to what was there before it; then the largest distance that is left.
    """
    nearest = to_seen.min(1) if to_seen.shape[1] else None
    order: list[int] = []
    radii: list[float] = []
    for _ in range(budget):
        row = int(distances.mean(1).argmin() if nearest is None else nearest.argmax())
        order.append(row)
        radii.append(float(distances[row].max() if nearest is None else nearest[row]))
        nearest = distances[row] if nearest is None else np.minimum(nearest, distances[row])
    return order, [*radii, float(nearest.max()) if nearest is not None else 0.0]
