"""Designs of unequal samples: variances against exact rationals, estimates unbiased by enumeration, allocation against brute force."""

import itertools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError
from train import rates
from train.adaptive import StopRule, allocate, estimate, go_on, sampling_variance, uniform_samples
from train.passk import fixed_set_variance, pass_at_k

LAB = Path(__file__).parent.parent / "studies" / "lab" / "runs" / "evaluations.parquet"


def binomial(n: int, c: int, p: Fraction) -> Fraction:
    return math.comb(n, c) * p**c * (1 - p) ** (n - c)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (6, 1), (6, 4), (9, 9), (12, 5)])
def test_sampling_variance_equals_exact_rationals(n, k):
    for p in (Fraction(0), Fraction(1, 50), Fraction(2, 5), Fraction(1)):
        wrong = [Fraction(math.comb(n - c, k), math.comb(n, k)) for c in range(n + 1)]
        exact = sum(binomial(n, c, p) * w**2 for c, w in enumerate(wrong)) - (1 - p) ** (2 * k)
        assert sampling_variance(np.array([float(p)]), n, k)[0] == pytest.approx(float(exact), rel=1e-9, abs=1e-15)


def test_sampling_variance_of_pass_at_1_is_that_of_a_share():
    p = np.linspace(0, 1, 11)
    assert sampling_variance(p, 30, 1) == pytest.approx(p * (1 - p) / 30)


def paths(rule: StopRule) -> list[tuple[int, int, str]]:
    """Every sequence of outcomes up to the stop: (n, c, outcomes)."""
    done, alive = [], [""]
    for size in rule.sizes:
        longer = [path + "".join(more) for path in alive for more in itertools.product("01", repeat=size)]
        stops = [path for path in longer if path.count("1") >= rule.enough or len(path) == rule.most]
        done += [(len(path), path.count("1"), path) for path in stops]
        alive = [path for path in longer if path not in set(stops)]
    return done


RULES = [(StopRule(1, 1, 6), 6), (StopRule(1, 2, 8), 3), (StopRule(3, 1, 8), 5), (StopRule(4, 3, 9), 4), (StopRule(5, 9, 8), 8)]
RULES += [(StopRule(2, 2, 8, first=3), 4), (StopRule(3, 1, 7, first=1), 5), (StopRule(2, 3, 6, first=6), 2)]


@pytest.mark.parametrize(("rule", "k"), RULES)
def test_the_estimate_of_a_stop_rule_is_the_share_of_paths_that_begin_with_k_wrong(rule, k):
    by_stop: dict[tuple[int, int], list[str]] = {}
    for n, c, path in paths(rule):
        by_stop.setdefault((n, c), []).append(path)
    for (n, c), sequences in by_stop.items():
        expected = 1 - sum(path[:k] == "0" * k for path in sequences) / len(sequences)
        assert rule.estimate(np.array([n]), np.array([c]), k)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("rule", "k"), RULES)
@pytest.mark.parametrize("p", [Fraction(1, 20), Fraction(1, 2), Fraction(9, 10)])
def test_a_stop_rule_is_unbiased_and_its_moments_are_those_of_all_its_paths(rule, k, p):
    everything = [(n, c, float(p**c * (1 - p) ** (n - c))) for n, c, _ in paths(rule)]
    n, c, weight = (np.array(each) for each in zip(*everything, strict=True))
    estimate = rule.estimate(n, c, k)
    samples, variance = rule.moments(np.array([float(p)]), k)
    truth = float(1 - (1 - p) ** k)
    assert weight @ estimate == pytest.approx(truth, rel=1e-9)
    assert samples[0] == pytest.approx(weight @ n)
    assert variance[0] == pytest.approx(weight @ (estimate - truth) ** 2, abs=1e-12)


@given(batch=st.integers(1, 9), enough=st.integers(1, 6), most=st.integers(1, 40), p=st.floats(0, 1), data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_stop_rule_draws_at_most_its_most_and_has_a_variance(batch, enough, most, p, data):
    k = data.draw(st.integers(1, most))
    samples, variance = StopRule(batch, enough, most).moments(np.array([p]), k)
    assert min(batch, most) - 1e-9 <= samples[0] <= most + 1e-9
    assert variance[0] >= -1e-12


def test_stopping_at_the_first_correct_one_is_pass_at_n_for_fewer_samples():
    """The same estimate as n = k everywhere, so the same variance; expected samples (1 - (1 - p)^k) / p."""
    p = np.array([0.01, 0.1, 0.6])
    samples, variance = StopRule(1, 1, 32).moments(p, 32)
    assert variance == pytest.approx(sampling_variance(p, 32, 32))
    assert samples == pytest.approx((1 - (1 - p) ** 32) / p)


def test_a_rule_that_never_stops_early_is_the_plain_estimate():
    c = np.arange(13)
    assert StopRule(4, 13, 12).estimate(np.full(13, 12), c, 5) == pytest.approx(pass_at_k(12, c, 5))
    assert StopRule(12, 1, 12).standard_error(np.full(13, 12), c, 5) == pytest.approx(math.sqrt(fixed_set_variance(12, c, 5)))


def test_the_standard_error_of_a_stop_rule_is_unbiased_in_the_square():
    """Two problems of one rate: the mean of SE^2 over all pairs of paths is the variance of their mean."""
    rule, k, p = StopRule(2, 2, 8), 3, 0.15
    ends = [(n, c, p**c * (1 - p) ** (n - c)) for n, c, _ in paths(rule)]
    wrong = {(n, c): [1 - rule.estimate(np.array([n]), np.array([c]), size)[0] for size in (k, 2 * k)] for n, c, _ in ends}
    mean = sum(w * (wrong[n, c][0] ** 2 - wrong[n, c][1]) for n, c, w in ends)
    assert mean == pytest.approx(rule.moments(np.array([p]), k)[1][0], rel=1e-9)
    n, c = np.array([8, 6]), np.array([1, 2])
    pair = [wrong[int(a), int(b)] for a, b in zip(n, c, strict=True)]
    assert rule.standard_error(n, c, k) == pytest.approx(math.sqrt(max(sum(u**2 - v for u, v in pair), 0)) / 2)


@pytest.mark.parametrize(("n", "c"), [(4, 1), (8, 3), (12, 5), (6, 2)])
def test_counts_at_which_a_rule_does_not_stop_are_refused(n, c):
    """Batches of 4 until 2 are correct, 12 at most: 8 of which 3 stop, 12 of which 5 are within reach; 6 samples are no batch."""
    rule = StopRule(4, 2, 12)
    if (n, c) in {(a, b) for a, b, _ in paths(rule)}:
        assert rule.estimate(np.array([n]), np.array([c]), 4)[0] <= 1
    else:
        with pytest.raises(InputError, match="problem 1 has"):
            rule.estimate(np.array([n]), np.array([c]), 4)


def test_looking_and_pooling_is_biased_where_the_stop_rule_is_not():
    """1 sample, 3 more if it was wrong, pooled: the mean of c / n is not p."""
    p = 0.3
    pooled = p * 1 + sum(float(binomial(3, c, Fraction(3, 10))) * (1 - p) * c / 4 for c in range(4))
    assert abs(pooled - p) > 0.1
    rule = StopRule(1, 1, 4)
    ends = [(n, c, p**c * (1 - p) ** (n - c)) for n, c, _ in paths(rule)]
    assert sum(w * rule.estimate(np.array([n]), np.array([c]), 1)[0] for n, c, w in ends) == pytest.approx(p)


SPREAD = np.array([0.0, 0.01, 0.05, 0.2, 0.6])
SHARE = np.array([0.1, 0.2, 0.2, 0.2, 0.3])


def test_uniform_samples_are_the_fewest():
    for k, goal in ((1, 0.002), (32, 0.03), (32, 0.01)):
        n = uniform_samples(SPREAD, SHARE, k, goal)
        assert SHARE @ sampling_variance(SPREAD, n, k) <= goal
        assert n == k or SHARE @ sampling_variance(SPREAD, n - 1, k) > goal


def test_a_precision_out_of_reach_is_refused():
    with pytest.raises(InputError, match="larger --se"):
        uniform_samples(SPREAD, SHARE, 1, 1e-9)


def test_two_stages_take_about_as_few_as_the_best_of_all_allocations():
    """Three problems of known rates, every allocation on a grid tried: the price finds the best to 5 %."""
    k, p = 4, np.array([0.02, 0.1, 0.6])
    goal = float(sampling_variance(p, 20, k).mean())
    found = np.array([rule.most for rule in allocate(p, np.eye(3), k, goal)])
    tables = [{n: sampling_variance(p[[i]], n, k)[0] for n in range(k, 81)} for i in range(3)]
    best = min(
        sum(sizes)
        for sizes in itertools.product(range(k, 81, 2), repeat=3)
        if sum(tables[i][n] for i, n in enumerate(sizes)) / 3 <= goal
    )
    assert np.mean([sampling_variance(p[[i]], int(n), k)[0] for i, n in enumerate(found)]) <= goal
    assert (found >= k).all()
    assert found.sum() <= 1.05 * best + 3


def test_two_stage_estimates_are_unbiased_over_pilot_and_second_stage():
    """All pilots of 2 samples and all second stages of two problems, exactly: the mean is the true pass@2."""
    k, chances, pilot = 2, (0.2, 0.7), 2
    points = np.array([0.05, 0.2, 0.5, 0.8])
    total = 0.0
    for seen in itertools.product(range(pilot + 1), repeat=2):
        likelihood = np.array([[math.comb(pilot, c) * q**c * (1 - q) ** (pilot - c) for q in points] for c in seen])
        rules = allocate(points, likelihood / likelihood.sum(1, keepdims=True), k, 0.03)
        weight = math.prod(math.comb(pilot, c) * p**c * (1 - p) ** (pilot - c) for c, p in zip(seen, chances, strict=True))
        means = [
            sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k([n], [c], k)[0] for c in range(n + 1))
            for n, p in zip((rule.most for rule in rules), chances, strict=True)
        ]
        total += weight * float(np.mean(means))
    assert total == pytest.approx(np.mean([1 - (1 - p) ** k for p in chances]), rel=1e-9)


def test_each_problem_is_estimated_by_its_own_rule():
    rules = [StopRule(4, 2, 12), StopRule(5, 9, 8), StopRule(4, 2, 12)]
    n, c = np.array([8, 8, 12]), np.array([2, 5, 0])
    expected = [rule.estimate(n[[i]], c[[i]], 4)[0] for i, rule in enumerate(rules)]
    assert estimate(rules, n, c, 4) == pytest.approx(expected)


@pytest.mark.parametrize("rule", [StopRule(2, 2, 8, first=3), StopRule(3, 1, 7, first=1), StopRule(4, 9, 8)])
def test_samples_to_come_are_those_of_all_paths_with_that_first_batch(rule):
    p, first = 0.3, rule.sizes[0]
    for seen in range(first + 1):
        mine = [(n, p**c * (1 - p) ** (n - c)) for n, c, path in paths(rule) if path[:first].count("1") == seen]
        n, weight = (np.array(each) for each in zip(*mine, strict=True))
        assert rule.still_expected(np.array([p]), seen)[0] == pytest.approx(weight @ (n - first) / weight.sum())


def test_no_problem_goes_on_by_a_rule_that_its_own_half_chose():
    """Other counts of the even problems: the even ones' rules stay, the odd ones' change."""
    rng = np.random.default_rng(0)
    n, c = np.full(60, 8), rng.binomial(8, rng.beta(0.4, 1, 60))
    harder = np.where(np.arange(60) % 2 == 0, np.minimum(c, 1), c)
    rules, others = go_on(n, c, 16, 0.02, 4), go_on(n, harder, 16, 0.02, 4)
    assert rules[::2] == others[::2]
    assert rules[1::2] != others[1::2]


def test_going_on_keeps_the_samples_of_each_problem():
    rng = np.random.default_rng(0)
    n = np.where(np.arange(60) < 30, 4, 24)
    c = rng.binomial(n, rng.beta(0.4, 1, 60))
    rules = go_on(n, c, 16, 0.02, 8)
    assert [rule.sizes[0] for rule in rules] == n.tolist()
    assert all(rule.most >= 16 for rule in rules)


def test_stop_rules_never_take_more_than_fixed_sizes():
    for goal in (0.03, 0.01, 0.001):
        fixed, stopping = (allocate(SPREAD, np.eye(5), 16, goal, batch) for batch in (None, 4))
        cost = [rule.moments(SPREAD[[i]], 16)[0][0] for i, rule in enumerate(stopping)]
        variance = [rule.moments(SPREAD[[i]], 16)[1][0] for i, rule in enumerate(stopping)]
        assert np.mean(variance) <= goal
        assert sum(cost) <= sum(rule.most for rule in fixed)


@pytest.mark.parametrize("k", [32, 64])
def test_stop_rules_chosen_by_a_pilot_need_half_of_the_uniform_samples_or_less(k):
    """Planned from a pilot of 4 samples, judged by the true rates at the standard error that is reached, pilot counted."""
    rng = np.random.default_rng(0)
    truth, every = rng.beta(0.4, 1, 200), np.full(200, 1 / 200)
    pilot = rng.binomial(4, truth)
    points, posterior = rates.fit(np.full(200, 4), pilot).posterior(np.full(200, 4), pilot)
    goal = float(sampling_variance(truth, 2 * k, k).mean())
    moments = [rule.moments(truth[[i]], k) for i, rule in enumerate(allocate(points, posterior, k, goal, batch=8))]
    samples, variance = (np.concatenate(each) for each in zip(*moments, strict=True))
    assert math.sqrt(variance.mean() / goal) == pytest.approx(1, abs=0.15)
    assert 4 + samples.mean() <= uniform_samples(truth, every, k, float(variance.mean())) / 2


def test_stop_rules_halve_the_samples_on_the_laboratorys_counts():
    """Rates of the 128-sample counts as the truth, 64 samples there before, pass@64 at the standard error of 128 samples everywhere."""
    frame = pl.read_parquet(LAB).filter(pl.col("purpose") == "signals")
    counts = frame.group_by(["run_id", "step"], maintain_order=True).agg("num_correct")["num_correct"]
    c = counts[0].to_numpy()
    truth, seen = c / 128, np.random.default_rng(0).hypergeometric(c, 128 - c, 64)
    goal = float(sampling_variance(truth, 128, 64).mean())
    points, posterior = rates.fit(np.full(len(truth), 64), seen).posterior(np.full(len(truth), 64), seen)
    moments = [rule.moments(truth[[i]], 64) for i, rule in enumerate(allocate(points, posterior, 64, goal, batch=8))]
    samples, variance = (np.concatenate(each) for each in zip(*moments, strict=True))
    every = np.full(len(truth), 1 / len(truth))
    assert samples.mean() <= uniform_samples(truth, every, 64, float(variance.mean())) / 2
    assert math.sqrt(variance.mean() / goal) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("k", [32, 64])
def test_going_on_from_a_pilot_takes_fewer_samples_than_putting_it_away(k):
    """Exact moments at the true rates, as a share of uniform at the standard error that each design reaches."""
    rng = np.random.default_rng(1)
    truth, every = rng.beta(0.4, 1, 200), np.full(200, 1 / 200)
    n, seen = np.full(200, 8), rng.binomial(8, truth)
    goal = float(sampling_variance(truth, 2 * k, k).mean())
    anew = allocate(*rates.fit(n, seen).posterior(n, seen), k, goal, batch=8)
    shares = []
    for paid, rules in ((8, anew), (0, go_on(n, seen, k, goal, 8))):
        moments = [rule.moments(truth[[i]], k) for i, rule in enumerate(rules)]
        samples, variance = (np.concatenate(each) for each in zip(*moments, strict=True))
        shares.append((paid + samples.mean()) / uniform_samples(truth, every, k, float(variance.mean())))
    assert shares[1] < shares[0]
    assert shares[1] <= 0.5
