"""Regressors behind the predictors' names, each with scikit-learn's `fit` and `predict`.

Those that are refitted thousands of times have `predict_many(X, y, kept)` too: predictions of all rows, shape (S, n), by the fits on S
subsets of the rows given as a mask (S, n), from sums over rows in place of S fits. The two ways agree to rounding.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
SINGULAR = 1e-9
"""Smallest over largest eigenvalue of a subset's X'X below which it is refitted by an orthogonal method."""


class LeastSquares(RegressorMixin, BaseEstimator):
    """Ordinary least squares with an intercept; of collinear columns the minimum-norm solution."""

    def fit(self, X: Array, y: Array) -> "LeastSquares":
        """(n, d) and (n,)."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        centre = X.mean(axis=0)
        self.coef_ = np.linalg.lstsq(X - centre, y - y.mean(), rcond=None)[0]
        self.intercept_ = float(y.mean() - centre @ self.coef_)
        return self

    def predict(self, X: Array) -> Array:
        """(n, d) -> (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray(X @ self.coef_ + self.intercept_)

    def predict_many(self, X: Array, y: Array, kept: Mask) -> Array:
        """Normal equations of every subset at once; a subset that they cannot bear is fitted alone."""
        design, weights = standardised(X), kept.astype(float)
        width = design.shape[1]
        products = (design[:, :, None] * design[:, None]).reshape(len(X), -1)
        gram = (weights @ products).reshape(-1, width, width)
        moment = weights @ (design * (y - y.mean())[:, None])
        eigenvalues = np.linalg.eigvalsh(gram)
        sound = eigenvalues[:, 0] > SINGULAR * eigenvalues[:, -1]
        result = np.empty(kept.shape)
        result[sound] = np.linalg.solve(gram[sound], moment[sound][..., None])[..., 0] @ design.T + y.mean()
        for subset in np.flatnonzero(~sound):
            result[subset] = LeastSquares().fit(X[kept[subset]], y[kept[subset]]).predict(X)
        return result


def standardised(X: Array) -> Array:
    """Ones and the standardised columns that vary, (n, 1 + varying): the same fits, in numbers of one size."""
    spread = X.std(axis=0)
    varies = np.ptp(X, axis=0) > 0
    return np.column_stack([np.ones(len(X)), (X[:, varies] - X[:, varies].mean(axis=0)) / spread[varies]])


def leave_one_out_residuals(X: Array, y: Array) -> Array:
    """What least squares with an intercept misses of each row when fitted on the others, (n,): e_i / (1 - h_ii).

    Allen 1974 (PRESS). A row that alone carries a column (h_ii = 1) has no such residual: inf.
    """
    basis = orthonormal(X)
    residual = y - basis @ (basis.T @ y)
    free = 1 - (basis**2).sum(axis=1)
    return np.divide(residual, free, out=np.full(len(y), np.inf), where=free > 1e-10)


def orthonormal(X: Array) -> Array:
    """Orthonormal columns that span the intercept and X, (n, rank)."""
    left, singular, _ = np.linalg.svd(standardised(X), full_matrices=False)
    return left[:, singular > 1e-10 * singular[0]]


class Mean(LeastSquares):
    """The training mean, whatever the columns."""

    def fit(self, X: Array, y: Array) -> "Mean":
        """Learn the mean alone."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        self.coef_, self.intercept_ = np.zeros(X.shape[1]), float(y.mean())
        return self

    def predict_many(self, X: Array, y: Array, kept: Mask) -> Array:
        """One mean a subset."""
        return np.broadcast_to(subset_means(y, kept)[:, None], kept.shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags


def subset_means(y: Array, kept: Mask) -> Array:
    """Mean outcome of each subset's rows, (S,)."""
    return (kept @ y) / kept.sum(axis=1)


class Identity(RegressorMixin, BaseEstimator):
    """The outcome is the column itself: nothing is fitted."""

    def fit(self, X: Array, y: Array) -> "Identity":
        """Learn nothing."""
        validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        return self

    def predict(self, X: Array) -> Array:
        """(n, d) -> (n,): the first column."""
        check_is_fitted(self, "n_features_in_")
        return np.asarray(validate_data(self, X, dtype=np.float64, reset=False)[:, 0])

    def predict_many(self, X: Array, y: Array, kept: Mask) -> Array:
        """The same for every subset."""
        return np.broadcast_to(X[:, 0], kept.shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags


class AverageOfSingleFits(RegressorMixin, BaseEstimator):
    """Mean of the least-squares fits on each column alone: steadier than one joint fit when columns agree."""

    def fit(self, X: Array, y: Array) -> "AverageOfSingleFits":
        """Fit one line a column."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        self.fits_ = [LeastSquares().fit(X[:, [j]], y) for j in range(X.shape[1])]
        return self

    def predict(self, X: Array) -> Array:
        """(n, d) -> (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.mean([fit.predict(X[:, [j]]) for j, fit in enumerate(self.fits_)], axis=0)

    def predict_many(self, X: Array, y: Array, kept: Mask) -> Array:
        """The lines of every subset, averaged."""
        return np.mean([LeastSquares().predict_many(X[:, [j]], y, kept) for j in range(X.shape[1])], axis=0)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # the average of d lines explains a d-th of d independent columns
        return tags


class LabelMeans(RegressorMixin, BaseEstimator):
    """Mean outcome of the training rows with the same label; a label not seen there gets the mean of all."""

    def fit(self, X: Array, y: Array) -> "LabelMeans":
        """(n, 1) codes: learn one mean a label."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        self.overall_ = float(y.mean())
        self.means_ = {label: float(y[X[:, 0] == label].mean()) for label in np.unique(X[:, 0])}
        return self

    def predict(self, X: Array) -> Array:
        """(n, 1) codes -> (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.array([self.means_.get(label, self.overall_) for label in X[:, 0]])

    def predict_many(self, X: Array, y: Array, kept: Mask) -> Array:
        """Sums by label of every subset."""
        labels, code = np.unique(X[:, 0], return_inverse=True)
        belongs, weights = np.eye(len(labels))[code], kept.astype(float)
        count = weights @ belongs
        overall = np.broadcast_to(subset_means(y, kept)[:, None], count.shape).copy()
        return np.divide(weights @ (belongs * y[:, None]), count, out=overall, where=count > 0)[:, code]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags


class Nested(RegressorMixin, BaseEstimator):
    """Least squares on one of the columns: the one with the least leave-one-out error among the training rows.

    A choice made inside the training fold costs what it costs; the best of many k chosen on all rows looks better than it is.
    """

    def fit(self, X: Array, y: Array) -> "Nested":
        """Choose the column (`chosen_`) and fit it."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        errors = [float((leave_one_out_residuals(X[:, [j]], y) ** 2).mean()) for j in range(X.shape[1])]
        self.chosen_ = int(np.argmin(errors))
        self.fit_ = LeastSquares().fit(X[:, [self.chosen_]], y)
        return self

    def predict(self, X: Array) -> Array:
        """(n, d) -> (n,)."""
        check_is_fitted(self)
        return self.fit_.predict(validate_data(self, X, dtype=np.float64, reset=False)[:, [self.chosen_]])

    def predict_many(self, X: Array, y: Array, kept: Mask) -> Array:
        """One line a column and subset; each subset keeps the line with the least leave-one-out error in it."""
        lines = np.stack([LeastSquares().predict_many(X[:, [j]], y, kept) for j in range(X.shape[1])])
        errors = np.stack([_subset_loo(X[:, j], y, line, kept) for j, line in enumerate(lines)])
        return lines[errors.argmin(axis=0), np.arange(len(kept))]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags


def _subset_loo(x: Array, y: Array, line: Array, kept: Mask) -> Array:
    """Sum of squared leave-one-out residuals of a line within each subset, (S,)."""
    away = x - subset_means(x, kept)[:, None]
    spread = (kept * away**2).sum(axis=1, keepdims=True)
    leverage = 1 / kept.sum(axis=1, keepdims=True) + np.divide(away**2, spread, out=np.zeros_like(away), where=spread > 0)
    free = 1 - leverage
    missed = np.divide(y - line, free, out=np.full(kept.shape, np.inf), where=free > 1e-10)
    return np.asarray((np.where(kept, missed, 0.0) ** 2).sum(axis=1))
