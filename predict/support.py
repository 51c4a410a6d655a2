"""Is a candidate like the runs that the forecast rests on? Leverage, Gower distance, and the nearest runs.

A convex hull is empty in three or more dimensions at a dozen runs; leverage against the largest observed is not.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from predict.prediction import leverage
from predict.predictors import Predictor

Array = NDArray[np.float64]
NEAREST = 3


def support(predictor: Predictor, X: Array, new: Array, names: list[str]) -> list[tuple[dict[str, Any], list[str]]]:
    """Of each new row: leverage, the largest among the runs, the share of runs within one Gower radius, words; and the nearest runs.

    Another value of a feature that never varied is outside whatever its leverage.

    Args:
        X: the runs fitted on, (n, d). new: (m, d). names: of the runs.
    """
    seen, asked = _as_numbers(predictor, X, new)
    largest, at = float(leverage(seen, seen).max()), leverage(seen, asked)
    distances, radius = gower(seen, asked), float(gower(seen, seen).mean())
    strange = ((asked != seen[0]) & (np.ptp(seen, axis=0) == 0)).any(axis=1)
    result = []
    for i in range(len(new)):
        inside = bool(at[i] <= largest + 1e-12 and not strange[i])
        words = "inside the observed runs" if inside else "outside of the observed runs: an extrapolation"
        numbers = {"leverage": at[i], "leverage_max": largest, "gower_share": (distances[i] <= radius).mean()}
        facts = {name: round(float(value), 6) for name, value in numbers.items()}
        nearest = [names[j] for j in np.argsort(distances[i], kind="stable")[:NEAREST]]
        result.append(({**facts, "inside": inside, "words": words}, nearest))
    return result


def _as_numbers(predictor: Predictor, X: Array, new: Array) -> tuple[Array, Array]:
    """Label codes as columns of 0 and 1; other columns as they are."""
    if predictor.categorical:
        return _indicators(X, new)
    if not predictor.grouping:
        return X, new
    seen, asked = _indicators(X[:, -1:], new[:, -1:])
    return np.column_stack([X[:, :-1], seen]), np.column_stack([new[:, :-1], asked])


def _indicators(X: Array, new: Array) -> tuple[Array, Array]:
    """Label codes (n, 1) and (m, 1) as columns of 0 and 1, one a label and one for labels that are not in X."""
    labels = np.unique(X)
    both = np.vstack([X, new]) == labels
    columns = np.column_stack([both, ~both.any(axis=1)]).astype(float)
    return columns[: len(X)], columns[len(X) :]


def gower(X: Array, new: Array) -> Array:
    """Gower distance (m, n): mean over features of the difference as a share of the observed range."""
    spread = np.ptp(X, axis=0)
    spread[spread == 0] = 1.0
    return np.asarray((np.abs(new[:, None] - X[None]) / spread).mean(2))
