"""Prediction intervals of one more outcome.

Few clusters and a straight line: the t interval of least squares. From FEWEST_FOR_CV clusters on, and for every other predictor: CV+ with
whole clusters left out, one at a time or in 20 folds, which with single rows is the jackknife+ (Barber et al. 2021, "Predictive inference with
the jackknife+", arXiv 1905.02928). It assumes nothing of the errors but exchangeable clusters. The plain quantile of leave-one-out
residuals covers too little and is not used.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from curate.errors import UsageError
from predict.folds import fold_numbers, predictions
from predict.predictors import Predictor

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
FEWEST_FOR_CV = 19
FEWEST_WITHOUT_LINE = 10
"""Clusters below which CV+ has no 90 % interval worth its name (below 9 it is infinite)."""


def uses_line(predictor: Predictor, clusters: list[Rows]) -> bool:
    """Whether the interval is the t interval of least squares."""
    return predictor.linear and len(clusters) < FEWEST_FOR_CV


def prediction_intervals(
    predictor: Predictor, X: Array, y: Array, clusters: list[Rows], new: Array, levels: Sequence[float], seed: int = 0
) -> list[tuple[Array, Array]]:
    """Low and high ends (m,) for the rows `new` (m, d) at each level, after fitting on X (n, d) and y (n,).

    Raises:
        UsageError: too few clusters for an interval of this kind.
    """
    if uses_line(predictor, clusters):
        return [t_interval(X, y, new, level) for level in levels]
    if len(clusters) < FEWEST_WITHOUT_LINE:
        raise UsageError(
            f"{predictor.name}: a 90 % interval without a linear model needs at least {FEWEST_WITHOUT_LINE} independent runs or cells, "
            f"came {len(clusters)}; use a least-squares predictor such as pass_at_64"
        )
    fold = fold_numbers(clusters, len(y), np.random.default_rng(seed))
    at_new, residuals = left_out(predictor, X, y, fold, new)
    return [cv_plus(at_new, residuals, level) for level in levels]


def left_out(predictor: Predictor, X: Array, y: Array, fold: Rows, new: Array) -> tuple[Array, Array]:
    """Of each row (n,): what the fit without its fold predicts for the new rows, (n, m), and by how much it misses the row, (n,)."""
    kept = np.arange(fold.max() + 1)[:, None] != fold
    padded = np.concatenate([kept, np.zeros((len(kept), len(new)), dtype=bool)], axis=1)
    everywhere = predictions(predictor, np.vstack([X, new]), np.append(y, np.full(len(new), y.mean())), padded)
    own = everywhere[fold, np.arange(len(y))]
    return everywhere[fold, len(y) :], np.abs(y - own)


def cv_plus(at_new: Array, residuals: Array, level: float) -> tuple[Array, Array]:
    """Order statistics floor(a (n + 1)) and ceil((1 - a)(n + 1)) of prediction -+ residual over all runs.

    Raises:
        UsageError: too few runs for this level: the interval would be infinite.
    """
    count = len(residuals)
    rank = int(np.floor((1 - level) * (count + 1) + 1e-9))  # 1 - .9 is a little less than .1
    if rank < 1:
        raise UsageError(f"a {level:.0%} interval needs more runs than {count}")
    low = np.sort(at_new - residuals[:, None], axis=0)
    high = np.sort(at_new + residuals[:, None], axis=0)
    return low[rank - 1], high[count - rank]


def with_intercept(X: Array, new: Array) -> Array:
    """New rows in the design of the fit on X, (m, 1 + d); a column of zeros (the mean) adds nothing."""
    return np.column_stack([np.ones(len(new)), new]) if X.any() else np.ones((len(new), 1))


def leverage(X: Array, new: Array) -> Array:
    """Leverage x (X'X)^-1 x' of each new row, intercept included, (m,)."""
    design, rows = with_intercept(X, X), with_intercept(X, new)
    return np.einsum("ij,jk,ik->i", rows, np.linalg.pinv(design.T @ design), rows)


def t_interval(X: Array, y: Array, new: Array, level: float) -> tuple[Array, Array]:
    """Prediction interval of least squares for one new outcome: fit -+ t s sqrt(1 + leverage)."""
    coefficients, _, variance, freedom = least_squares(X, y)
    points = with_intercept(X, new) @ coefficients
    half = stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(variance * (1 + leverage(X, new)))
    return points - half, points + half


def least_squares(X: Array, y: Array) -> tuple[Array, Array, float, int]:
    """Coefficients (intercept first), (X'X)^-1, residual variance and its degrees of freedom."""
    design = with_intercept(X, X)
    coefficients, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    freedom = len(y) - int(rank)
    residual = y - design @ coefficients
    return (
        np.asarray(coefficients, float),
        np.asarray(np.linalg.pinv(design.T @ design), float),
        float(residual @ residual / freedom),
        freedom,
    )


def posterior_draws(X: Array, y: Array, new: Array, draws: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draws of the mean outcome of the new rows (draws, m) and of the residual variance (draws,), under the usual flat prior.

    sigma^2 = RSS / chi^2; coefficients normal around the fit, common to all new rows.
    """
    coefficients, inverse, variance, freedom = least_squares(X, y)
    sigma2 = variance * freedom / rng.chisquare(freedom, draws)
    unit = rng.multivariate_normal(np.zeros(len(coefficients)), inverse, draws, method="eigh")
    return (coefficients + np.sqrt(sigma2)[:, None] * unit) @ with_intercept(X, new).T, sigma2
