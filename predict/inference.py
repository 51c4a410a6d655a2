"""How steep is the outcome in a signal? Slopes with robust errors, and the slopes that signals without measurement error would have.

Noise in a signal flattens its slope. The corrected slope answers 'by how much do checkpoints differ that truly differ by one', or 'what if
we measured with more problems'. It is not for forecasting: a candidate's signal is as noisy as the signals of the runs, and the flat slope
is the best one for such a signal.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from predict.prediction import least_squares

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
LEAST_RELIABLE = 0.1
"""Share of the variance along some direction of the signals that must be more than measurement error."""


@dataclass(frozen=True)
class Noise:
    """Covariance of the measurement errors of d signals, and with that of the outcome."""

    xx: Array
    """(d, d)."""
    xy: Array
    """(d,); 0 where signals and outcome are measured on different problems."""


@dataclass(frozen=True)
class Slopes:
    """Least squares with an intercept, (1 + d,) each, intercept first."""

    coefficients: Array
    errors: Array
    """HC3 standard errors (MacKinnon and White 1985)."""
    r2: float


@dataclass(frozen=True)
class CorrectedSlopes:
    """Errors-in-variables slopes, (1 + d,) each, intercept first."""

    coefficients: Array
    errors: Array
    """Cluster jackknife; the noise is held."""
    reliability: Array
    """Share of each signal's variance that is not measurement error, (d,)."""


def slopes(X: Array, y: Array) -> Slopes:
    """Coefficients, HC3 errors and R^2 of least squares, X (n, d), y (n,).

    >>> import numpy as np
    >>> slopes(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([1.0, 3.0, 5.0, 7.0])).coefficients.round(6).tolist()
    [1.0, 2.0]
    """
    coefficients, inverse, _, _ = least_squares(X, y)
    design = np.column_stack([np.ones(len(y)), X])
    residual = y - design @ coefficients
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
    weighted = design * (residual / (1 - leverage))[:, None]
    covariance = inverse @ (weighted.T @ weighted) @ inverse
    r2 = 1 - float(residual @ residual) / float(((y - y.mean()) ** 2).sum())
    return Slopes(coefficients, np.sqrt(np.diag(covariance)), r2)


def measurement_noise(signals: Array, outcome: Array | None = None) -> Noise:
    """Noise of means over problems: what is left of each checkpoint's scores without its mean and without each problem's.

    A problem that is hard for all checkpoints moves all of them alike and flattens no slope: only the interaction counts.

    Args:
        signals: per-problem values of d signals, (d, n, P): pass@1 and pass@64 share their samples, so all entries of the covariance count.
        outcome: per-problem outcome (n, P) on the same problems, or None where they are others.
    """
    left = (
        signals
        - signals.mean(axis=2, keepdims=True)
        - signals.mean(axis=1, keepdims=True)
        + signals.mean(axis=(1, 2), keepdims=True)
    )
    _, n, problems = signals.shape
    if n < 2 or problems < 2:
        raise InputError(f"measurement error needs at least 2 checkpoints and 2 problems, came {n} and {problems}")
    freedom = (n - 1) * (problems - 1) * problems
    xx = np.einsum("inp,jnp->ij", left, left) / freedom
    if outcome is None:
        return Noise(xx, np.zeros(len(signals)))
    of_y = outcome - outcome.mean(axis=1, keepdims=True) - outcome.mean(axis=0) + outcome.mean()
    return Noise(xx, np.einsum("inp,np->i", left, of_y) / freedom)


def corrected_slopes(X: Array, y: Array, noise: Noise, clusters: list[Rows] | None = None) -> CorrectedSlopes:
    """Beta = (S_xx - U_xx)^-1 (S_xy - U_xy) (Fuller 1987, section 2.2), with a jackknife over clusters (default: rows).

    Raises:
        InputError: hardly anything but measurement error is left of some direction of the signals.
    """
    groups = clusters or list(np.arange(len(y))[:, None])
    _refuse_all_noise(X, noise)
    coefficients = _corrected(X, y, noise)
    everything = np.arange(len(y))
    left_out = np.stack([_corrected(X[kept], y[kept], noise) for kept in (np.setdiff1d(everything, rows) for rows in groups)])
    count = len(groups)
    errors = np.sqrt((count - 1) / count * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    return CorrectedSlopes(coefficients, errors, 1 - np.diag(noise.xx) / X.var(axis=0, ddof=1))


def _corrected(X: Array, y: Array, noise: Noise) -> Array:
    away = X - X.mean(axis=0)
    seen = away.T @ away / (len(y) - 1)
    beta = np.linalg.solve(seen - noise.xx, away.T @ (y - y.mean()) / (len(y) - 1) - noise.xy)
    return np.concatenate([[y.mean() - X.mean(axis=0) @ beta], beta])


def _refuse_all_noise(X: Array, noise: Noise) -> None:
    seen = np.atleast_2d(np.cov(X.T))
    left = float(np.linalg.eigvals(np.linalg.solve(seen, seen - noise.xx)).real.min())
    if left < LEAST_RELIABLE:
        raise InputError(
            f"measurement error is all but {max(left, 0):.0%} of the variance along some direction of the signals: the corrected slope is "
            "not determined; measure on more problems, or use fewer signals"
        )
