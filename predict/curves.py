"""Regressors that bend or know of groups: a saturating curve, a monotone step, a mixed model with a random intercept."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.isotonic import IsotonicRegression
from sklearn.utils.validation import check_is_fitted, validate_data

Array = NDArray[np.float64]
BENDS = np.linspace(0, 8, 33)
"""Curvatures tried: 0 is the straight line; at 8 the curve is level over nine tenths of the range."""


class OfOneColumn(RegressorMixin, BaseEstimator):
    """A regressor of one column: with more it would have to guess which one is meant."""

    def _column(self, X: Array) -> Array:
        """(n, 1) -> (n,)."""
        if X.shape[1] != 1:
            raise ValueError(f"{type(self).__name__} takes one column, came {X.shape[1]}")
        return X[:, 0]


class Saturating(OfOneColumn):
    """The outcome rises to a ceiling: y = a + b (1 - exp(-c u)), b >= 0, with u from 0 at the poor end of the column to 1 at the good one.

    c is the one of `BENDS` with the least squared error, a and b are least squares given c; c = 0 is the straight line.
    """

    def fit(self, X: Array, y: Array) -> "Saturating":
        """(n, 1) and (n,).

        Raises:
            ValueError: more than one column.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        x = self._column(X)
        rises = np.cov(x, y)[0, 1] >= 0
        poor, good = (x.min(), x.max()) if rises else (x.max(), x.min())
        self.start_, self.span_ = float(poor), float(good - poor) or 1.0
        curves = self._curve((x - self.start_) / self.span_, BENDS)
        away = curves - curves.mean(axis=0)
        slopes = np.divide(away.T @ (y - y.mean()), (away**2).sum(axis=0), out=np.zeros(len(BENDS)), where=np.ptp(x) > 0)
        errors = (((y - y.mean())[:, None] - away * slopes) ** 2).sum(axis=0)
        best = int(errors.argmin())
        self.bend_, self.slope_ = float(BENDS[best]), float(slopes[best])
        self.level_ = float(y.mean() - self.slope_ * curves[:, best].mean())
        return self

    @staticmethod
    def _curve(u: Array, bends: Array) -> Array:
        """(n,) positions and (C,) curvatures -> (n, C), from 0 at u = 0 to 1 at u = 1."""
        safe = np.where(bends > 0, bends, 1.0)
        return np.where(bends > 0, np.expm1(-u[:, None] * safe) / np.expm1(-safe), u[:, None])

    def predict(self, X: Array) -> Array:
        """(n, 1) -> (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        curve = self._curve((X[:, 0] - self.start_) / self.span_, np.array([self.bend_]))[:, 0]
        return self.level_ + self.slope_ * curve


class Monotone(OfOneColumn):
    """Isotonic regression, rising or falling, whichever has the smaller squared error; level beyond the observed range."""

    def fit(self, X: Array, y: Array) -> "Monotone":
        """(n, 1) and (n,).

        Raises:
            ValueError: more than one column.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        x = self._column(X)
        fits = [IsotonicRegression(increasing=way, out_of_bounds="clip").fit(x, y) for way in (True, False)]
        self.fit_ = min(fits, key=lambda fit: float(((y - fit.predict(x)) ** 2).sum()))
        return self

    def predict(self, X: Array) -> Array:
        """(n, 1) -> (n,)."""
        check_is_fitted(self)
        return np.asarray(self.fit_.predict(validate_data(self, X, dtype=np.float64, reset=False)[:, 0]))


class RandomIntercept(RegressorMixin, BaseEstimator):
    """Mixed model y = X b + u_group + e by restricted maximum likelihood; the last column holds the group's code.

    `theta_` is var(u) / var(e). A group seen in training is predicted with its own u (best linear unbiased prediction), a new one
    with u = 0. Laird and Ware 1982; statsmodels' MixedLM finds the same optimum by a general search.
    """

    def fit(self, X: Array, y: Array) -> "RandomIntercept":
        """(n, d + 1), the group's code last, and (n,).

        Raises:
            ValueError: fewer than two columns.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        if X.shape[1] < 2:
            raise ValueError(f"a mixed model takes columns and, last, a group's code, came n_features={X.shape[1]}")
        design = np.column_stack([np.ones(len(y)), X[:, :-1]])
        groups, code = np.unique(X[:, -1], return_inverse=True)
        sums = _Sums(design, y, code)
        found = minimize_scalar(lambda share: sums.loss(share / (1 - share)), bounds=(0.0, 0.999), method="bounded",
                                options={"xatol": 1e-7})  # fmt: skip
        self.theta_ = 0.0 if sums.loss(0.0) <= found.fun else float(found.x / (1 - found.x))
        self.coef_, self.scale_ = sums.solve(self.theta_)
        missed = np.bincount(code, y - design @ self.coef_)
        self.effects_ = dict(zip(groups.tolist(), self.theta_ * missed / (1 + self.theta_ * sums.count), strict=True))
        return self

    def predict(self, X: Array) -> Array:
        """(n, d + 1) -> (n,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        effect = np.array([self.effects_.get(code, 0.0) for code in X[:, -1].tolist()])
        return self.coef_[0] + X[:, :-1] @ self.coef_[1:] + effect


class _Sums:
    """What the likelihood of a random intercept needs: sums over all rows and over each group."""

    def __init__(self, design: Array, y: Array, code: NDArray[np.int64]) -> None:
        both = np.column_stack([design, y])
        member = np.eye(int(code.max()) + 1)[code]
        self.gram, self.by_group, self.count = both.T @ both, member.T @ both, member.sum(axis=0)

    def _weighted(self, theta: float) -> Array:
        """[X y]' V^-1 [X y] with V = I + theta 11' within groups (Sherman and Morrison)."""
        return self.gram - (self.by_group.T * (theta / (1 + theta * self.count))) @ self.by_group

    def solve(self, theta: float) -> tuple[Array, float]:
        """Generalised least squares: coefficients and the residual variance."""
        weighted = self._weighted(theta)
        coefficients: Array = np.linalg.lstsq(weighted[:-1, :-1], weighted[:-1, -1], rcond=None)[0].astype(np.float64)
        freedom = self.count.sum() - len(coefficients)
        return coefficients, float((weighted[-1, -1] - weighted[:-1, -1] @ coefficients) / freedom)

    def loss(self, theta: float) -> float:
        """-2 log restricted likelihood, the variance profiled out, constants dropped."""
        weighted, (_, variance) = self._weighted(theta), self.solve(theta)
        freedom = self.count.sum() - len(weighted) + 1
        return float(
            freedom * np.log(max(variance, 1e-300))
            + np.log1p(theta * self.count).sum()
            + np.linalg.slogdet(weighted[:-1, :-1])[1]
        )
