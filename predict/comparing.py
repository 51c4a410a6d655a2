"""Is one predictor better than another? Tests by flipping the signs of whole clusters.

Permuting the outcome tests that there is no association, which is not the question; flipping the sign of the difference of two
predictors' squared errors, cluster by cluster, tests that both are equally good.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

from predict.estimators import orthonormal

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
FLIPS = 9999
MOST_EXACT = 12
"""Clusters up to which all 2^G assignments of signs are counted."""


def signs(clusters: int, rng: np.random.Generator) -> tuple[Array, bool]:
    """Assignments of +1 and -1, (F, G): all of them (and True) for few clusters, else FLIPS random ones."""
    if clusters <= MOST_EXACT:
        return np.array(list(itertools.product((1.0, -1.0), repeat=clusters))), True
    return rng.choice((1.0, -1.0), (FLIPS, clusters)), False


def _share(reached: NDArray[np.bool_], exact: bool) -> float:
    """p: the share of assignments that reach the observed value; random ones count the observed one too."""
    return float(reached.mean()) if exact else float((reached.sum() + 1) / (len(reached) + 1))


def sign_flip_p(differences: Array, rng: np.random.Generator) -> float:
    """Two-sided p of mean difference 0 by flipping the sign of each cluster's difference, (G,).

    The smallest possible p is 2^(1 - G).
    """
    flips, exact = signs(len(differences), rng)
    observed = abs(differences.mean())
    return _share(np.abs((flips * differences).mean(1)) >= observed - 1e-15, exact)


def max_t_p(differences: Array, rng: np.random.Generator) -> Array:
    """P of each of J mean differences, adjusted for looking at all of them, (G, J) -> (J,).

    The signs of a cluster flip together for all predictors, so their correlation is kept; each |t| is held against the largest
    |t| of every assignment (Westfall and Young 1993, single step). A column of zeros has p = 1.
    """
    flips, exact = signs(len(differences), rng)
    size = np.sqrt((differences**2).mean(axis=0))
    scaled = np.divide(differences, size, out=np.zeros_like(differences), where=size > 1e-12 * size.max())
    means = flips @ scaled / len(scaled)
    # t is a rising function of |mean| / root mean square, and flips leave the latter as it is
    largest, observed = np.abs(means).max(axis=1), np.abs(scaled.mean(axis=0))
    return np.array([_share(largest >= one - 1e-12, exact) for one in observed])


def added_p(X: Array, more: Array, y: Array, clusters: list[Rows], rng: np.random.Generator) -> float:
    """P of the columns `more` adding nothing to least squares on X (Freedman and Lane 1983).

    The residuals of the smaller model change sign by cluster (they are permuted where every row is its own cluster), and the share
    of them that `more` explains is held against the observed one.
    """
    small = orthonormal(X)
    both = orthonormal(np.column_stack([X, more]))
    residual = y - small @ (small.T @ y)
    if len(clusters) == len(y):
        changed, exact = rng.permuted(np.tile(residual, (FLIPS, 1)), axis=1), False
    else:
        cluster = np.empty(len(y), dtype=np.int64)
        for number, rows in enumerate(clusters):
            cluster[rows] = number
        flips, exact = signs(len(clusters), rng)
        changed = flips[:, cluster] * residual
    return _share(_explained(changed, small, both) >= _explained(residual[None], small, both) - 1e-12, exact)


def _explained(residuals: Array, small: Array, both: Array) -> Array:
    """Share of the smaller model's squared error that the larger one removes, a rising function of F, (F, n) -> (F,)."""
    total = (residuals**2).sum(axis=1)
    left_small = total - ((residuals @ small) ** 2).sum(axis=1)
    left_both = total - ((residuals @ both) ** 2).sum(axis=1)
    return 1 - left_both / left_small
