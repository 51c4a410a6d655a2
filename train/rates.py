"""How the success rates of a set of problems are spread, fitted to counts (torch-free).

Four families on a lattice of their parameters, each point weighted by its likelihood: beta, beta with a share of problems that are
never solved, beta with a lump of problems at one low rate, logit-normal. Nothing is maximised: sums over the lattice keep the
uncertainty of the parameters, and of the family, which a single best fit throws away.

Only the low end of the spread says what more samples will solve. So counts above `RARE` are told apart from one another no more
than from certainty: a family need not fit the whole spread to be right about the hard problems.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from curate.errors import InputError

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
FAMILIES = ("beta", "zero_inflated_beta", "lumped_beta", "logit_normal")
RARE = 3
"""Counts up to this one are told apart in the fit."""
TRUST = 0.5
"""Power of the likelihood: no family is the truth, so the data count for half. Chosen by benchmarks/extrapolation.py."""
FEWEST_PROBLEMS = 10
EDGES = np.linspace(-14.0, 14.0, 281)
"""Cells of the logit of a rate; the outermost ones take in the tails."""
POINTS = special.expit((EDGES[1:] + EDGES[:-1]) / 2)
SHARES = np.linspace(0.05, 0.95, 13)
"""Share of problems in the lump."""


@cache
def _betas() -> Array:
    """Probability of each cell under each beta, (parameters, cells): mean .002 to .98, a + b .1 to 100."""
    logit, total = np.meshgrid(np.linspace(-6, 4, 21), np.geomspace(0.1, 100, 10), indexing="ij")
    mean = special.expit(logit.ravel())[:, None]
    a, b = mean * total.ravel()[:, None], (1 - mean) * total.ravel()[:, None]
    return _cells(special.betainc(a, b, special.expit(EDGES[1:-1])))


@cache
def _logit_normals() -> Array:
    """The same for logit-normals, (parameters, cells): mean -8 to 5, standard deviation .4 to 5."""
    mean, sd = np.meshgrid(np.linspace(-8, 5, 27), np.geomspace(0.4, 5, 10), indexing="ij")
    return _cells(special.ndtr((EDGES[1:-1] - mean.ravel()[:, None]) / sd.ravel()[:, None]))


def _cells(distribution: Array) -> Array:
    return np.diff(distribution, axis=1, prepend=0.0, append=1.0)


@dataclass(frozen=True)
class Rates:
    """The fitted spread. H lattice points of all families, the lumps at A rates."""

    lumps: Array
    """Rates of the lump, (A,); the first is 0: the zero-inflated beta."""
    weights: Array
    """Weight of each lattice point, (H,), summing to 1."""
    log_likelihood: Array
    """Of each lattice point, (H,): what a profile likelihood needs."""

    @property
    def families(self) -> NDArray[np.int64]:
        """Index into FAMILIES of each lattice point, (H,)."""
        return _family_of_each(len(self.lumps))

    def expectation(self, function: Callable[[Array], Array]) -> Array:
        """Mean over the spread at every lattice point, (H, C), of a function of rates (G,) -> (G, C)."""
        return _expectation(function(POINTS), function(self.lumps))

    def mean_spread(self) -> tuple[Array, Array]:
        """Rates and their probabilities, (cells + A,) each, averaged over the lattice."""
        betas, normals, lumps = len(_betas()), len(_logit_normals()), len(self.lumps)
        shape = (lumps, len(SHARES), betas)
        lumped = self.weights[betas : betas + np.prod(shape)].reshape(shape)
        smooth = self.weights[:betas] + np.einsum("asb,s->b", lumped, 1 - SHARES)
        cells = smooth @ _betas() + self.weights[-normals:] @ _logit_normals()
        return np.concatenate([POINTS, self.lumps]), np.concatenate([cells, np.einsum("asb,s->a", lumped, SHARES)])

    def posterior(self, num_samples: Counts, num_correct: Counts) -> tuple[Array, Array]:
        """Rates (cells + A,) and their probabilities for each problem given its counts, (P, cells + A)."""
        points, prior = self.mean_spread()
        joint = prior * stats.binom.pmf(num_correct[:, None], num_samples[:, None], points)
        return points, joint / joint.sum(1, keepdims=True)


def fit(num_samples: Counts, num_correct: Counts) -> Rates:
    """Fit the spread to the counts of P problems, shape (P,) each.

    Raises:
        InputError: fewer than 10 problems.
    """
    if len(num_samples) < FEWEST_PROBLEMS:
        raise InputError(f"the spread of success rates needs at least {FEWEST_PROBLEMS} problems, came {len(num_samples)}")
    kinds, times = np.unique(np.stack([num_samples, np.minimum(num_correct, RARE + 1)]), axis=1, return_counts=True)
    lumps: Array = np.concatenate([[0.0], np.geomspace(0.1, 8, 12) / num_samples.mean()]).clip(max=0.9)
    chances = _expectation(_chances(kinds)(POINTS), _chances(kinds)(lumps))
    log_likelihood: Array = np.log(np.maximum(chances, 1e-300)) @ times.astype(float)
    log_weights = TRUST * log_likelihood + _log_prior(len(lumps))
    weights = np.exp(log_weights - log_weights.max())
    return Rates(lumps, weights / weights.sum(), log_likelihood)


def _chances(kinds: Counts) -> Callable[[Array], Array]:
    """Rates (G,) -> probability of each kind (n, c), (G, C); c above RARE stands for all such counts."""
    n, c = kinds

    def at(rates: Array) -> Array:
        p = rates[:, None]
        return np.where(c > RARE, stats.binom.sf(RARE, n, p), stats.binom.pmf(c, n, p))

    return at


def _expectation(on_cells: Array, on_lumps: Array) -> Array:
    """(cells, C) and (A, C) -> (H, C): betas, betas with a lump (rate, share, beta), logit-normals."""
    beta, normal = _betas() @ on_cells, _logit_normals() @ on_cells
    share = SHARES[None, :, None, None]
    lumped = (1 - share) * beta + share * on_lumps[:, None, None, :]
    return np.concatenate([beta, lumped.reshape(np.prod(lumped.shape[:3]), beta.shape[1]), normal])


@cache
def _family_of_each(lumps: int) -> NDArray[np.int64]:
    each = len(SHARES) * len(_betas())
    return np.repeat([0, 1, 2, 3], [len(_betas()), each, each * (lumps - 1), len(_logit_normals())])


@cache
def _log_prior(lumps: int) -> Array:
    """Families alike, and the lattice points of one family alike."""
    family = _family_of_each(lumps)
    return -np.log(np.bincount(family))[family]
