"""Regressors that hold back: ridge by scikit-learn, with all folds at once, and Huber's."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import HuberRegressor, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from predict.estimators import Mean, standardised, subset_means

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
ALPHAS = np.logspace(-3, 3, 13)
"""Ridge penalties to choose from, for standardised columns."""


class Ridge(RegressorMixin, BaseEstimator):
    """Ridge on standardised columns; the penalty has the least exact leave-one-out error among the training rows."""

    def fit(self, X: Array, y: Array) -> "Ridge":
        """scikit-learn's StandardScaler and RidgeCV."""
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        self.pipeline_ = make_pipeline(StandardScaler(), RidgeCV(alphas=ALPHAS)).fit(X, y)
        return self

    def predict(self, X: Array) -> Array:
        """(n, d) -> (n,)."""
        check_is_fitted(self)
        return np.asarray(self.pipeline_.predict(validate_data(self, X, dtype=np.float64, reset=False)))

    def predict_many(self, X: Array, y: Array, kept: Mask) -> Array:
        """The same from the eigenvectors of each subset's correlation matrix, some subsets at a time for memory's sake."""
        scaled, varies = standardised(X)[:, 1:], np.ptp(X, axis=0).any()
        if not varies:
            return Mean().predict_many(X, y, kept)
        parts = np.array_split(kept, max(1, len(kept) * len(X) // 50_000))
        return np.concatenate([_ridge_many(scaled, y, part) for part in parts])


def _ridge_many(X: Array, y: Array, kept: Mask) -> Array:
    """Ridge of each subset at every penalty, and the predictions at the best one."""
    weights, count, width = kept.astype(float), kept.sum(axis=1), X.shape[1]
    mean, level = weights @ X / count[:, None], subset_means(y, kept)
    gram = (weights @ (X[:, :, None] * X[:, None]).reshape(len(X), -1)).reshape(-1, width, width)
    gram -= count[:, None, None] * mean[:, :, None] * mean[:, None]
    scale = np.sqrt(np.einsum("sii->si", gram) / count[:, None])
    scale[scale < 1e-10] = 1.0
    values, vectors = np.linalg.eigh(gram / (scale[:, :, None] * scale[:, None]))
    turned = ((X - mean[:, None]) / scale[:, None]) @ vectors
    moment = np.einsum("sni,sn->si", turned, weights * (y - level[:, None]))
    shrink = 1 / (np.maximum(values, 0)[:, :, None] + ALPHAS)
    fitted = level[:, None, None] + turned @ (moment[:, :, None] * shrink)
    leverage = 1 / count[:, None, None] + turned**2 @ shrink
    missed = np.where(kept[:, :, None], (y[:, None] - fitted) / (1 - leverage), 0.0)
    best = (missed**2).sum(axis=1).argmin(axis=1)
    return fitted[np.arange(len(kept)), :, best]


def huber() -> Any:
    """scikit-learn's HuberRegressor on standardised columns: squared errors near, absolute ones far."""
    return make_pipeline(StandardScaler(), HuberRegressor(max_iter=1000))
