"""pass@k beyond the samples: the fitted spread against scipy's compound distributions, and coverage against what happened."""

import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from curate.errors import InputError
from train import rates
from train.extrapolate import extrapolate


def drawn(rate: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).binomial(n, rate)


@pytest.mark.parametrize("index", [0, 57, 104, 163, 209])
def test_a_beta_of_the_lattice_gives_the_beta_binomial_of_scipy(index):
    """Cells of a tenth of a logit: probabilities of counts to 1 %."""
    logit, total = np.meshgrid(np.linspace(-6, 4, 21), np.geomspace(0.1, 100, 10), indexing="ij")
    mean, total = special.expit(logit.ravel()[index]), total.ravel()[index]
    n, c = 16, np.arange(17)
    expected = stats.betabinom.pmf(c, n, mean * total, (1 - mean) * total)
    spread = rates.fit(np.full(20, 16), np.arange(20) % 17)
    found = spread.expectation(lambda p: stats.binom.pmf(c, n, p[:, None]))[index]
    assert found == pytest.approx(expected, rel=0.01, abs=3e-5)


def test_a_logit_normal_of_the_lattice_gives_the_integral_of_scipy():
    mean, sd = np.linspace(-8, 5, 27)[10], np.geomspace(0.4, 5, 10)[5]

    def integrand(z: float) -> float:
        return (1 - special.expit(z)) ** 64 * stats.norm.pdf(z, mean, sd)

    spread = rates.fit(np.full(20, 16), np.arange(20) % 17)
    found = spread.expectation(lambda p: (1 - p[:, None]) ** 64)[spread.families == 3][10 * 10 + 5]
    assert found == pytest.approx(integrate.quad(integrand, mean - 9 * sd, mean + 9 * sd, limit=200)[0], rel=0.01)


def test_lumped_betas_are_mixtures_of_a_beta_and_a_point():
    spread = rates.fit(np.full(20, 16), np.arange(20) % 17)
    values = spread.expectation(lambda p: (1 - p[:, None]) ** 8)[:, 0]
    betas = values[spread.families == 0]
    lumped = values[(spread.families == 1) | (spread.families == 2)].reshape(len(spread.lumps), len(rates.SHARES), len(betas))
    for a, s in ((0, 0), (3, 5), (12, 12)):
        expected = (1 - rates.SHARES[s]) * betas + rates.SHARES[s] * (1 - spread.lumps[a]) ** 8
        assert lumped[a, s] == pytest.approx(expected)


def test_the_spread_averaged_over_the_lattice_has_the_mean_of_its_parts():
    c = drawn(np.random.default_rng(1).beta(0.5, 1, 80), 32)
    spread = rates.fit(np.full(80, 32), c)
    points, chances = spread.mean_spread()
    assert chances.sum() == pytest.approx(1)
    assert chances @ (1 - points) ** 40 == pytest.approx(
        spread.weights @ spread.expectation(lambda p: (1 - p[:, None]) ** 40)[:, 0]
    )


def test_the_posterior_is_bayes_rule():
    spread = rates.fit(np.full(40, 8), np.arange(40) % 9)
    points, prior = spread.mean_spread()
    found = spread.posterior(np.array([8, 4]), np.array([0, 3]))[1]
    for row, (n, c) in zip(found, ((8, 0), (4, 3)), strict=True):
        joint = prior * math.comb(n, c) * points**c * (1 - points) ** (n - c)
        assert row == pytest.approx(joint / joint.sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_value_lies_in_its_interval_and_that_between_what_is_solved_and_one(seed):
    c = drawn(np.random.default_rng(seed).beta(0.2, 0.8, 60), 32, seed)
    found = extrapolate(32, c, 128)
    assert np.mean(c > 0) == pytest.approx(found.observed)
    assert found.observed <= found.low <= found.value <= found.high <= 1
    assert sum(family.weight for family in found.families) == pytest.approx(1)
    assert "extrapolated from 32 to 128" in found.words


def test_more_samples_solve_more():
    c = drawn(np.random.default_rng(3).beta(0.2, 0.8, 60), 32)
    values = [extrapolate(32, c, k).value for k in (33, 64, 128, 512)]
    assert values == sorted(values)
    assert values[0] - np.mean(c > 0) < 0.02


def test_where_all_are_solved_nothing_is_left_to_guess():
    found = extrapolate(16, np.full(12, 3), 64)
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_where_none_is_solved_the_interval_starts_at_zero_and_is_not_a_point():
    found = extrapolate(64, np.zeros(50, dtype=int), 256)
    assert found.low == 0 < found.value < found.high < 0.25


def test_problems_with_k_samples_already_count_as_they_were_measured():
    """Ten with 8 samples need a model; ten with 32 have an estimate of pass@16, 1 - C(31, 16) / C(32, 16) = 1/2 each."""
    n, c = np.repeat([8, 32], 10), np.repeat([8, 1], 10)
    assert extrapolate(n, c, 16).value == pytest.approx((10 * 1 + 10 * 0.5) / 20)


def test_the_same_seed_gives_the_same_interval():
    c = drawn(np.random.default_rng(5).beta(0.2, 0.8, 40), 32)
    assert extrapolate(32, c, 128, seed=4) == extrapolate(32, c, 128, seed=4)


@pytest.mark.parametrize(
    ("n", "c", "k", "words"),
    [
        (64, [1] * 20, 64, "use pass_at_k"),
        (64, [1] * 9, 128, "at least 10 problems, came 9"),
        (64, [1] * 19 + [65], 128, "problem 20 has num_correct 65 of num_samples 64"),
        (0, [0] * 20, 128, "at least one sample"),
    ],
)
def test_what_cannot_be_extrapolated_is_refused(n, c, k, words):
    with pytest.raises(InputError, match=words):
        extrapolate(n, c, k)


def two_points(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.where(rng.random(size) < 0.5, 0.005, 0.3)


GENERATORS = {
    "beta": lambda rng, size: rng.beta(0.3, 1, size),
    "zero-inflated beta": lambda rng, size: rng.beta(1, 3, size) * (rng.random(size) > 0.3),
    "logit-normal": lambda rng, size: special.expit(rng.normal(-2, 2, size)),
    "two points": two_points,
    "log-uniform": lambda rng, size: 10 ** rng.uniform(-4, 0, size),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_intervals_hold_what_the_remaining_samples_solved(name):
    """40 sets of 128 problems, 64 -> 256. A coverage of .9 gives 29 of 40 or fewer with probability .001."""
    rng, inside = np.random.default_rng(7), 0
    for _ in range(40):
        rate = GENERATORS[name](rng, 128)
        first, rest = rng.binomial(64, rate), rng.binomial(192, rate)
        found = extrapolate(64, first, 256)
        inside += found.low - 1e-9 <= np.mean(first + rest > 0) <= found.high + 1e-9
    assert inside >= 30
