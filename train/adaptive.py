"""Designs that bring pass@k of a fixed set of problems to a standard error with fewer samples than the same n everywhere (torch-free).

Looking at the counts and then deciding how many more to draw biases c / n and pass@k computed from the pooled counts. Designs
that stay unbiased:

- two stages: a pilot decides how many samples each problem gets, and the estimate uses the second stage alone, n_i >= k;
- stop rules: a problem is sampled in batches until it has `enough` correct ones, and its estimate accounts for the rule (Girshick,
  Mosteller and Savage 1946, "Unbiased estimates for certain binomial sampling problems"). Problems that are solved often stop early,
  far below k samples: their share of failures is not what limits pass@k. A pilot may choose each problem's rule;
- one stop rule for all problems, whose first batch is the counts at hand: nothing is put away. Each half of the problems goes by the
  rule that the other half's counts choose, since a problem's own counts may not decide which rule it stops by.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from curate.errors import InputError
from train import rates as spread
from train.passk import checked_counts

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
MOST_SAMPLES = 1 << 16
"""Samples a problem beyond which no design is proposed."""
ENOUGH = (1, 2, 3, 4, 6, 8, 12, 16)
"""Numbers of correct samples at which a problem may stop."""


def sampling_variance(rates: Array, num_samples: int, k: int) -> Array:
    """Variance of the estimate of one problem's pass@k from n samples, for success rates (G,) that are known.

    Two subsets of k out of n share j samples with the hypergeometric probability h_j, and are all wrong with probability
    (1 - p)^(2k - j); so the variance is sum_j h_j (1 - p)^(2k - j) - (1 - p)^2k.

    Raises:
        InputError: k < 1 or k > n.
    """
    if not 1 <= k <= num_samples:
        raise InputError(f"pass@{k}: expected 1 <= k <= num_samples, came num_samples {num_samples}")
    shared = np.arange(k + 1)
    wrong = (1 - rates)[:, None]
    both = wrong ** (2 * k - shared) @ stats.hypergeom.pmf(shared, num_samples, k, k)
    return np.maximum(both - wrong[:, 0] ** (2 * k), 0.0)


def uniform_samples(rates: Array, share: Array, k: int, variance: float) -> int:
    """Fewest n >= k for which problems with these rates (G,), `share` of them each, have this mean sampling variance.

    Raises:
        InputError: more than 65,536 samples a problem would be needed.
    """
    low, high = k - 1, k
    while share @ sampling_variance(rates, high, k) > variance:
        low, high = high, 2 * high
        if high > MOST_SAMPLES:
            raise InputError(
                f"pass@{k} to that precision needs more than {MOST_SAMPLES} samples a problem: ask for a larger --se"
            )
    while high - low > 1:
        middle = (low + high) // 2
        enough = share @ sampling_variance(rates, middle, k) <= variance
        low, high = (low, middle) if enough else (middle, high)
    return high


@dataclass(frozen=True)
class StopRule:
    """Draw a problem's samples in batches until `enough` are correct, `most` samples at the longest."""

    batch: int
    enough: int
    most: int
    first: int = 0
    """Samples of the first batch, where it is of another size: those at hand. 0: `batch`."""

    def __post_init__(self) -> None:
        if min(self.batch, self.enough, self.most) < 1 or not 0 <= self.first <= self.most:
            raise InputError(f"stop rule: expected batch, enough and most of at least 1, first of at most `most`, came {self}")

    @property
    def fixed(self) -> bool:
        """It never stops before `most` samples."""
        return self.enough > self.most

    @cached_property
    def sizes(self) -> list[int]:
        """Of the batches, the last one cut at `most`."""
        first = min(self.first or self.batch, self.most)
        return [first, *(min(self.batch, self.most - start) for start in range(first, self.most, self.batch))]

    def estimate(self, num_samples: Counts, num_correct: Counts, k: int) -> Array:
        """Unbiased pass@k of each problem, (P,), from the counts at which it stopped.

        1 - (paths to that stop that begin with k wrong samples) / (paths to that stop). It may lie outside of 0..1.

        Raises:
            InputError: `most` < k, or counts at which this rule does not stop.
        """
        n, c = checked_counts(num_samples, num_correct)
        if not 1 <= k <= self.most:
            raise InputError(f"pass@{k}: expected k <= {self.most}, the most samples of the stop rule")
        table = dict(self._stops(k))
        stops = [
            int(a) in table and b < len(table[int(a)]) and (b >= self.enough or a == self.most) for a, b in zip(n, c, strict=True)
        ]
        if not all(stops):
            at = stops.index(False)
            raise InputError(
                f"counts: problem {at + 1} has {c[at]} of {n[at]}, where this rule does not stop: batches of {self.batch} "
                f"until {self.enough} are correct, {self.most} samples at most"
            )
        return np.array([1 - table[int(a)][b] for a, b in zip(n, c, strict=True)])

    def standard_error(self, num_samples: Counts, num_correct: Counts, k: int) -> float:
        """Of the mean pass@k on these very problems, from u_k^2 - u_2k as in `passk.fixed_set_variance`.

        Raises:
            InputError: `most` < 2k, or counts at which this rule does not stop.
        """
        wrong, double = (1 - self.estimate(num_samples, num_correct, size) for size in (k, 2 * k))
        return float(np.sqrt(max((wrong**2 - double).sum(), 0.0)) / len(wrong))

    def moments(self, rates: Array, k: int) -> tuple[Array, Array]:
        """Expected samples and variance of the estimate of a problem with each of these success rates, (G,) both."""
        if self.fixed:
            return np.full(len(rates), float(self.most)), sampling_variance(rates, self.most, k)
        *_, last = curve(rates, self, k)
        return last[1], last[2]

    def still_expected(self, rates: Array, num_correct: int) -> Array:
        """Samples to come after the first batch, where `num_correct` of it were correct, at each of these rates, (G,)."""
        if num_correct >= self.enough:
            return np.zeros(len(rates))
        state, cost = np.zeros((len(rates), num_correct + 1)), np.zeros(len(rates))
        state[:, num_correct] = 1
        for size in self.sizes[1:]:
            cost += state.sum(1) * size
            state = _after_batch(state, size, rates)[:, : self.enough]
        return cost

    def _stops(self, k: int) -> Iterator[tuple[int, Array]]:
        """Samples at each stop, and by correct ones there (c,) the share of paths that begin with k wrong ones.

        Paths are weighted by one success rate, which keeps the numbers small and cancels.
        """
        rate = np.array([min(0.5, self.enough / (self.most + self.enough))])
        paths, begun = np.ones((1, 1)), np.ones((1, 1))
        done = 0
        for size in self.sizes:
            forced = min(max(k - done, 0), size)
            paths = _after_batch(paths, size, rate)
            begun = _after_batch(begun, size - forced, rate) * (1 - rate) ** forced
            done += size
            begun = np.pad(begun, ((0, 0), (0, paths.shape[1] - begun.shape[1])))
            share = np.divide(begun, paths, out=np.zeros_like(paths), where=paths > 0)[0]
            yield done, share
            paths, begun = paths[:, : self.enough], begun[:, : self.enough]


def _after_batch(state: Array, size: int, rates: Array) -> Array:
    """Probabilities of the counts (G, c) -> (G, c + size) after `size` more samples."""
    right = np.arange(size + 1)
    log_ways = special.gammaln(size + 1) - special.gammaln(right + 1) - special.gammaln(size - right + 1)
    chances = np.exp(log_ways + special.xlogy(right, rates[:, None]) + special.xlog1py(size - right, -rates[:, None]))
    result = np.zeros((len(state), state.shape[1] + size))
    for c in range(state.shape[1]):
        result[:, c : c + size + 1] += state[:, [c]] * chances
    return result


def curve(rates: Array, rule: StopRule, k: int) -> Iterator[tuple[int, Array, Array]]:
    """`most`, expected samples and variance, (G,) both, of the rules that end where a batch of this one does, from k on."""
    state = np.ones((len(rates), 1))
    stopped, cost = np.zeros(len(rates)), np.zeros(len(rates))
    square = (1 - rates) ** (2 * k)
    for size, (done, all_wrong) in zip(rule.sizes, rule._stops(k), strict=True):
        state = _after_batch(state, size, rates)
        cost = cost + (state.sum(1) * size)
        if done >= k:
            yield done, cost, stopped + state @ all_wrong**2 - square
        stopped = stopped + state[:, rule.enough :] @ all_wrong[rule.enough :] ** 2
        state = state[:, : rule.enough]


def allocate(rates: Array, posterior: Array, k: int, variance: float, batch: int | None = None) -> list[StopRule]:
    """The rule of each problem that takes the fewest expected samples in all, for this mean sampling variance.

    Args:
        posterior: probabilities of the rates (G,) of each problem given its pilot, (P, G).
        batch: samples drawn of a problem at a time; None for fixed sizes, which stop at nothing.

    One price of variance, found by bisection, chooses every problem's rule (Lagrange); so the least sum is reached up to the
    last step between two rules.
    """
    longest = 4 * uniform_samples(rates, posterior.mean(0), k, variance)
    kinds, member = np.unique(posterior.round(12), axis=0, return_inverse=True)
    rules, costs, variances = _options(rates, kinds, k, longest, batch)
    weight = np.bincount(member.ravel()) / len(posterior)
    low, high = 1e-6, 1e12
    for _ in range(60):
        price = np.sqrt(low * high)
        chosen = variances[np.arange(len(kinds)), (costs + price * variances).argmin(1)]
        low, high = (low, price) if weight @ chosen <= variance else (price, high)
    best = (costs + high * variances).argmin(1)
    return [rules[best[kind]] for kind in member.ravel()]


def one_rule(rates: Array, share: Array, k: int, variance: float, batch: int, first: int) -> StopRule:
    """The one rule for all problems that takes the fewest expected samples, for this mean sampling variance.

    Args:
        share: of problems with each of these rates, (G,).
        first: samples of each problem at hand, which count.
    """
    longest = max(first, 4 * uniform_samples(rates, share, k, variance))
    rules, costs, variances = _options(rates, share[None], k, longest, batch, first)
    return rules[np.where(variances[0] <= variance, costs[0], np.inf).argmin()]


def go_on(num_samples: Counts, num_correct: Counts, k: int, variance: float, batch: int) -> list[StopRule]:
    """Rules that keep the counts at hand as their first batch, for this mean sampling variance; one rule for each number of samples.

    Even problems go by the rule that the counts of the odd ones choose, and the other way round: so the rule does not depend on the
    outcomes that it judges, and the estimates are unbiased.

    Raises:
        InputError: fewer than 20 problems.
    """
    n, c = checked_counts(num_samples, num_correct)
    even = np.arange(len(n)) % 2 == 0
    rules: dict[tuple[bool, int], StopRule] = {}
    for mine in (True, False):
        others = even != mine
        points, posterior = spread.fit(n[others], c[others]).posterior(n[others], c[others])
        for first in np.unique(n[even == mine]).tolist():
            rules[mine, first] = one_rule(points, posterior.mean(0), k, variance, batch, first)
    return [rules[bool(side), int(first)] for side, first in zip(even, n, strict=True)]


def _options(
    rates: Array, kinds: Array, k: int, longest: int, batch: int | None, first: int = 0
) -> tuple[list[StopRule], Array, Array]:
    """Rules with n >= k at the longest: expected samples and variance, (kinds, rules), of problems with these rates' chances."""
    rules: list[StopRule] = []
    columns: list[tuple[Array, Array]] = []
    for size in np.unique(np.geomspace(max(k, first), longest, 96).astype(int)).tolist():
        rules.append(StopRule(batch or size, size + 1, size, first))
        columns.append((np.full(len(kinds), float(size)), kinds @ sampling_variance(rates, size, k)))
    top = max(first, k, longest // 2)
    for enough, step in itertools.product(ENOUGH, [batch] if batch else []):
        for most, cost, variance in curve(rates, StopRule(step, enough, top, first), k):
            rules.append(StopRule(step, enough, most, first))
            columns.append((kinds @ cost, kinds @ variance))
    costs, variances = (np.column_stack(each) for each in zip(*columns, strict=True))
    return rules, costs, variances


def estimate(rules: Sequence[StopRule], num_samples: Counts, num_correct: Counts, k: int) -> Array:
    """Unbiased pass@k of each problem, (P,), sampled by its own rule.

    Raises:
        InputError: counts at which a problem's rule does not stop.
    """
    n, c = checked_counts(num_samples, num_correct)
    result = np.empty(len(n))
    for rule in set(rules):
        mine = np.array([other == rule for other in rules])
        result[mine] = rule.estimate(n[mine], c[mine], k)
    return result
