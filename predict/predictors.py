"""Predictors of the RL outcome, baselines first: a name becomes columns and a scikit-learn estimator.

    mean                      the training mean
    identity(pass_at_1)       outcome = that column, nothing fitted: choosing by post-SFT pass@1
    label(length_mix)         mean outcome of the runs with the same label
    A, A+B, log(A), logit(A)  ordinary least squares
    average(A,B)              mean of the single least-squares fits
    ridge(A,B,...)            standardised, penalty chosen inside the training fold
    huber(A,...)              standardised, robust to outlying runs

To add one, write a function that makes its estimator and register it in ESTIMATORS; to use your own without registering, pass `Predictor("name", (Term("column"), ...), estimator)`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.linear_model import HuberRegressor, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from curate.errors import UsageError
from predict.features import Term, label_codes

Array = NDArray[np.float64]
DEFAULTS = (
    "pass_at_1",
    "mean",
    "identity(pass_at_1)",
    "label(length_mix)",
    "pass_at_8",
    "pass_at_64",
    "mixed_share",
    "gen_loss",
    "gen_loss_style_free",
    "gen_loss+pass_at_64",
    "gen_loss_style_free+pass_at_64",
    "average(gen_loss,pass_at_64)",
    "ridge(pass_at_1,pass_at_8,pass_at_64,mixed_share,gen_loss,gen_loss_style_free,entropy_t1,mean_tokens)",
)
"""What is scored on a store where nothing is named; the first is the baseline: the practice to beat."""
_CALL = re.compile(r"(mean|identity|label|average|ridge|huber)(?:\((.*)\))?")


@dataclass(frozen=True)
class Predictor:
    """A named way from columns to the outcome."""

    name: str
    terms: tuple[Term, ...]
    estimator: Any
    """A scikit-learn regressor; it is cloned for each fit."""
    linear: bool = False
    """Ordinary least squares with an intercept: t intervals apply."""
    categorical: bool = False

    @property
    def features(self) -> list[str]:
        """Names of the columns it reads."""
        return [term.column for term in self.terms]

    @property
    def numeric(self) -> list[str]:
        """Names of the columns it reads as numbers."""
        return [] if self.categorical else self.features

    def matrix(self, frame: pl.DataFrame) -> Array:
        """Its columns, shape (n, d), NaN where one is null; one column of zeros where it reads none."""
        if not self.terms:
            return np.zeros((len(frame), 1))
        if self.categorical:
            return np.column_stack([label_codes(frame, term.column) for term in self.terms])
        return np.column_stack([term.values(frame) for term in self.terms])

    def fit(self, X: Array, y: Array) -> Any:
        """A clone of the estimator, fitted."""
        with config_context(assume_finite=True, skip_parameter_validation=True):
            return clone(self.estimator).fit(X, y)


def parse(name: str) -> Predictor:
    """Read a predictor's name.

    Raises:
        UsageError: not of the grammar in this module's docstring.
    """
    text = name.strip()
    call = _CALL.fullmatch(text)
    if not call or (call[2] is None and call[1] != "mean"):
        return _linear(text)
    arguments = call[2].split(",") if (call[2] or "").strip() else []
    if bool(arguments) == (call[1] == "mean"):
        raise UsageError(f"predictor {name!r}: expected {'no columns' if call[1] == 'mean' else 'columns'} in the brackets")
    terms = tuple(Term.parse(part) for part in arguments)
    if call[1] in ("identity", "label") and len(terms) != 1:
        raise UsageError(f"predictor {name!r}: {call[1]} takes one column, came {len(terms)}")
    linear, categorical = call[1] == "mean", call[1] == "label"
    return Predictor(text, terms, ESTIMATORS[call[1]](), linear, categorical)


def _linear(text: str) -> Predictor:
    if not text or any(not part.strip() for part in text.split("+")):
        raise UsageError(f"predictor {text!r}: expected a column, A+B, or name(A,B) with one of {', '.join(ESTIMATORS)}")
    terms = tuple(Term.parse(part) for part in text.split("+"))
    return Predictor("+".join(part.strip() for part in text.split("+")), terms, LeastSquares(), linear=True)


class LeastSquares(RegressorMixin, BaseEstimator):
    """Ordinary least squares with an intercept: scikit-learn's LinearRegression without its checks.

    Folds refit it thousands of times on a few dozen rows, where those checks cost twenty times the fit.
    """

    def fit(self, X: Array, y: Array) -> "LeastSquares":
        """Minimum-norm solution of the centred system."""
        centre = X.mean(axis=0)
        self.coef_ = np.linalg.lstsq(X - centre, y - y.mean(), rcond=None)[0]
        self.intercept_ = float(y.mean() - centre @ self.coef_)
        return self

    def predict(self, X: Array) -> Array:
        """(n, d) -> (n,)."""
        return np.asarray(X @ self.coef_ + self.intercept_)


class Identity(RegressorMixin, BaseEstimator):
    """The outcome is the column itself: nothing is fitted."""

    def fit(self, X: Array, y: Array) -> "Identity":
        """Learn nothing."""
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: Array) -> Array:
        """(n, 1) -> (n,)."""
        return np.asarray(X[:, 0], dtype=float)


class Mean(LeastSquares):
    """The training mean, whatever the columns."""

    def fit(self, X: Array, y: Array) -> "Mean":
        """Learn the mean alone."""
        self.coef_, self.intercept_ = np.zeros(X.shape[1]), float(y.mean())
        return self


class AverageOfSingleFits(RegressorMixin, BaseEstimator):
    """Mean of the least-squares fits on each column alone: steadier than one joint fit when columns agree."""

    def fit(self, X: Array, y: Array) -> "AverageOfSingleFits":
        """Fit one line a column."""
        self.fits_ = [LeastSquares().fit(X[:, [j]], y) for j in range(X.shape[1])]
        return self

    def predict(self, X: Array) -> Array:
        """(n, d) -> (n,)."""
        return np.mean([fit.predict(X[:, [j]]) for j, fit in enumerate(self.fits_)], axis=0)


class LabelMeans(RegressorMixin, BaseEstimator):
    """Mean outcome of the training rows with the same label; a label not seen there gets the mean of all."""

    def fit(self, X: Array, y: Array) -> "LabelMeans":
        """Learn one mean a label."""
        self.overall_ = float(y.mean())
        self.means_ = {label: float(y[X[:, 0] == label].mean()) for label in np.unique(X[:, 0])}
        return self

    def predict(self, X: Array) -> Array:
        """(n, 1) codes -> (n,)."""
        return np.array([self.means_.get(label, self.overall_) for label in X[:, 0]])


def _ridge() -> Any:
    return make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-3, 3, 13)))


def _huber() -> Any:
    return make_pipeline(StandardScaler(), HuberRegressor(max_iter=1000))


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "mean": Mean,
    "identity": Identity,
    "label": LabelMeans,
    "average": AverageOfSingleFits,
    "ridge": _ridge,
    "huber": _huber,
}
