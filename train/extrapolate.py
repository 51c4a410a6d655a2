"""pass@k beyond the samples that were drawn: an extrapolation for the same problems, never an estimate (torch-free).

The target is the share of these problems that are solved once each has k samples, the ones drawn already among them. A problem that
was solved stays solved, so only those without a correct sample need a model: the chance that k - n more samples solve one of them,
given that n did not, by the fitted spread of success rates (`train.rates`).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curate.errors import InputError
from train import rates
from train.passk import checked_counts, pass_at_k

DRAWS = 4000
LEVEL = 0.9


@dataclass(frozen=True)
class Family:
    """One family's part in an extrapolation."""

    name: str
    weight: float
    value: float | None
    """Its own answer; None where the data leave it no weight."""


@dataclass(frozen=True)
class Extrapolation:
    """pass@k for k beyond the samples at hand, with its 90 % interval."""

    k: int
    num_samples: int
    """The fewest that a problem has."""
    value: float
    low: float
    high: float
    observed: float
    """pass@k counted so far: a lower end that more samples cannot undo."""
    families: tuple[Family, ...]
    words: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def extrapolate(num_samples: ArrayLike, num_correct: ArrayLike, k: int, seed: int = 0) -> Extrapolation:
    """pass@k from fewer than k samples of some problems, with a 90 % interval.

    The interval is of simulated continuations: parameters are drawn in proportion to their likelihood, and each problem that is
    not solved yet is solved or not in its remaining samples. Coverage and width: docs/planning.md.

    Args:
        num_samples: n of each problem, shape (P,) or one number for all.
        num_correct: c of each problem, shape (P,).

    Raises:
        InputError: impossible counts, fewer than 10 problems, or n >= k everywhere (pass_at_k estimates it then).
    """
    n, c = checked_counts(num_samples, num_correct)
    if (n < 1).any():
        raise InputError("extrapolation: expected at least one sample of every problem")
    if (n >= k).all():
        raise InputError(f"pass@{k} needs no extrapolation: every problem has {k} samples or more; use pass_at_k")
    spread = rates.fit(n, c)
    settled = np.where(n < k, c > 0, pass_at_k(np.maximum(n, k), c, k))
    sizes, times = np.unique(n[(n < k) & (c == 0)], return_counts=True)
    solved = _chance_to_be_solved(spread, sizes, k)
    more = solved @ times / len(n)
    continued = _continuations(spread.weights, solved, times, np.random.default_rng(seed)) / len(n)
    observed = float(settled.mean())
    low, high = observed + np.quantile(continued, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Extrapolation(
        k=k,
        num_samples=int(n.min()),
        value=min(observed + float(spread.weights @ more), 1.0),
        low=float(low),
        high=min(float(high), 1.0),
        observed=observed,
        families=_families(spread, observed + more),
        words=f"extrapolated from {n.min()} to {k} samples of the same {len(n)} problems",
    )


def _chance_to_be_solved(spread: rates.Rates, sizes: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Of a problem with n wrong samples and no right one, in k - n more: (H, len(sizes))."""
    unsolved = spread.expectation(lambda p: (1 - p[:, None]) ** sizes)
    still = spread.expectation(lambda p: (1 - p[:, None]) ** k)
    return 1 - still / np.maximum(unsolved, 1e-300)


def _continuations(
    weights: NDArray[np.float64], solved: NDArray[np.float64], times: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Problems solved by the remaining samples, (DRAWS,): parametric bootstrap over parameters and samples."""
    lattice = rng.choice(len(weights), DRAWS, p=weights)
    return rng.binomial(times, solved[lattice].clip(0, 1)).sum(1)


def _families(spread: rates.Rates, values: NDArray[np.float64]) -> tuple[Family, ...]:
    result = []
    for index, name in enumerate(rates.FAMILIES):
        mine = spread.families == index
        weight = float(spread.weights[mine].sum())
        value = float(spread.weights[mine] @ values[mine]) / weight if weight > 1e-12 else None
        result.append(Family(name, weight, value))
    return tuple(result)
