"""pass@k from counts: the chance that at least one of k completions is right (torch-free).

Counts are stored, pass@k is derived when it is read. The estimator is the unbiased one of Chen et al. 2021
("Evaluating large language models trained on code", arXiv 2107.03374, section 2.1): 1 - C(n - c, k) / C(n, k).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curate.errors import InputError

POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""The k that are reported."""


def pass_at_k(num_samples: ArrayLike, num_correct: ArrayLike, k: int) -> NDArray[np.float64]:
    """Unbiased pass@k of each problem, shape (P,).

    Args:
        num_samples: n of each problem, shape (P,) or one number for all.
        num_correct: c of each problem, shape (P,).

    Raises:
        InputError: k < 1, k > n (an extrapolation, not an estimate), or counts that are not 0 <= c <= n.
    """
    n, c = checked_counts(num_samples, num_correct)
    if k < 1 or (n < k).any():
        raise InputError(f"pass@{k}: expected 1 <= k <= num_samples, came num_samples {int(n.min(initial=k))}")
    return 1.0 - _all_wrong(n, c, k)


def checked_counts(num_samples: ArrayLike, num_correct: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """N and c of each problem, shape (P,) each.

    Raises:
        InputError: not 0 <= c <= n, with the first problem where it is not so.
    """
    n, c = np.broadcast_arrays(np.asarray(num_samples, dtype=np.int64), np.asarray(num_correct, dtype=np.int64))
    if (bad := (c < 0) | (c > n)).any():
        at = int(bad.argmax())
        came = f"problem {at + 1} has num_correct {c.flat[at]} of num_samples {n.flat[at]}"
        raise InputError(f"counts: expected 0 <= num_correct <= num_samples for every problem; {came}")
    return n, c


def mean_pass_at_k(num_samples: ArrayLike, num_correct: ArrayLike, k: int) -> tuple[float, float]:
    """Mean over problems and its standard error, sd / sqrt(P): for new problems of the same kind.

    The error is NaN-free: with one problem it cannot be estimated, and an InputError says so.
    """
    values = pass_at_k(num_samples, num_correct, k)
    if len(values) < 2:
        raise InputError(f"a standard error over problems needs at least 2 problems, came {len(values)}")
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def fixed_set_variance(num_samples: ArrayLike, num_correct: ArrayLike, k: int) -> float:
    """Variance of the mean on these very problems: only the samples are drawn anew.

    Unbiased where 2k <= n: with u_k = C(n - c, k) / C(n, k), Var(u_k) is estimated by u_k^2 - u_2k.
    """
    n, c = checked_counts(num_samples, num_correct)
    if k < 1 or (n < 2 * k).any():
        came = int(n.min(initial=2 * k))
        raise InputError(f"variance of pass@{k} on a fixed set: expected num_samples >= {2 * k}, came {came}")
    single, double = _all_wrong(n, c, k), _all_wrong(n, c, 2 * k)
    return float((single**2 - double).sum() / len(n) ** 2)


def _all_wrong(n: NDArray[np.int64], c: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """C(n - c, k) / C(n, k) as a product of k factors, exact to rounding; 0 where fewer than k are wrong."""
    factors: Sequence[int] = range(k)
    result = np.ones(n.shape)
    for i in factors:
        result *= np.maximum(n - c - i, 0) / (n - i)
    return result
