"""Prediction intervals of one more outcome.

Few clusters and a straight line: the t interval of least squares, its variance split into that between clusters and that within. From
FEWEST_FOR_CV clusters on, and for every other predictor: CV+ with whole clusters left out, one at a time or in 20 folds, which with
single rows is the jackknife+ (Barber et al. 2021, "Predictive inference with the jackknife+", arXiv 1905.02928). It assumes nothing of the
errors but exchangeable clusters. The plain quantile of leave-one-out residuals covers too little and is not used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
        return t_intervals(X, y, new, levels, clusters)
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


def t_intervals(
    X: Array, y: Array, new: Array, levels: Sequence[float], clusters: list[Rows] | None = None
) -> list[tuple[Array, Array]]:
    """Prediction intervals of least squares for one new outcome, of a cluster that was not fitted on: fit -+ t s, at each level.

    Rows of one cluster may share an error, of which few clusters tell little. Without clusters, or where what they share is not above 0,
    s^2 is the residual variance x (1 + leverage).
    """
    coefficients, inverse, variance, freedom = least_squares(X, y)
    rows = with_intercept(X, new)
    weights = rows @ inverse @ with_intercept(X, X).T
    shared = _shared_errors(X, y, clusters) if clusters else None
    if shared is None:
        spread, degrees = variance * (1 + (weights**2).sum(axis=1)), np.full(len(new), float(freedom))
    else:
        spread, degrees = shared.of_prediction(weights)
    points, error = rows @ coefficients, np.sqrt(spread)
    halves = [stats.t.ppf((1 + level) / 2, degrees) * error for level in levels]
    return [(points - half, points + half) for half in halves]


@dataclass(frozen=True)
class _SharedErrors:
    """y = X b + u_cluster + e: mean squares of the residuals between clusters and within, and their degrees of freedom.

    E[between] = var(e) + size var(u), E[within] = var(e): Henderson 1953, method 3. With equal clusters and no signal, the analysis of
    variance, and `size` is the clusters'.
    """

    member: Array
    """Row i in cluster j: 1, else 0, (n, J)."""
    between: float
    within: float
    degrees_between: int
    degrees_within: int
    size: float

    def of_prediction(self, weights: Array) -> tuple[Array, Array]:
        """Variance of outcome - prediction for predictions weights (m, n) @ y, and its degrees of freedom (Satterthwaite 1946), (m,)."""
        times_u, times_e = 1 + ((weights @ self.member) ** 2).sum(axis=1), 1 + (weights**2).sum(axis=1)
        of_between, of_within = times_u / self.size * self.between, (times_e - times_u / self.size) * self.within
        spread = of_between + of_within
        return spread, spread**2 / (of_between**2 / self.degrees_between + of_within**2 / self.degrees_within)


def _shared_errors(X: Array, y: Array, clusters: list[Rows]) -> _SharedErrors | None:
    """None where no shared error is seen: clusters of one row, too few rows, or no more variance between clusters than within."""
    member = np.zeros((len(y), len(clusters)))
    for number, rows in enumerate(clusters):
        member[rows, number] = 1.0
    _, inverse, variance, freedom = least_squares(X, y)
    _, _, within, degrees_within = least_squares(np.column_stack([member, X]), y)  # an intercept adds nothing to `member`
    degrees_between = freedom - degrees_within
    if degrees_within < 1 or degrees_between < 1:
        return None
    between = (variance * freedom - within * degrees_within) / degrees_between
    sums = with_intercept(X, X).T @ member
    size = (len(y) - np.einsum("ij,ik,kj->", sums, inverse, sums)) / degrees_between  # trace of Z' (I - H) Z
    return _SharedErrors(member, between, within, degrees_between, degrees_within, float(size)) if between > within else None


def least_squares(X: Array, y: Array) -> tuple[Array, Array, float, int]:
    """Coefficients (intercept first), (X'X)^-1, residual variance and its degrees of freedom; NaN where there are none."""
    design = with_intercept(X, X)
    coefficients, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    freedom = len(y) - int(rank)
    residual = y - design @ coefficients
    return (
        np.asarray(coefficients, float),
        np.asarray(np.linalg.pinv(design.T @ design), float),
        float(residual @ residual / freedom) if freedom else np.nan,
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
