"""Intervals and tests held to scipy, statsmodels and exact counts."""

import itertools

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from predict import intervals
from predict.comparing import added_p, max_t_p, sign_flip_p
from predict.folds import half_masks, half_splits, jackknife_masks
from predict.intervals import (
    Resamples,
    clusters_of,
    fisher,
    jackknife,
    kendall,
    multiplicities,
    percentile,
    resampled_ranks,
    spearman,
)
from predict.predictors import parse

RNG = np.random.default_rng(6)
X, Y = RNG.normal(size=30), RNG.normal(size=30)
TIED = (np.round(X), np.round(2 * X + Y))
PAIRS = clusters_of(np.arange(30) // 2)


@pytest.mark.parametrize(("x", "y"), [(X, Y), TIED])
def test_rank_correlations_equal_scipy_with_ties(x, y):
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


def test_rank_correlations_of_a_constant_or_of_two_rows_are_none():
    assert spearman(np.ones(5), Y[:5]) is spearman(X[:2], Y[:2]) is kendall(np.ones(5), Y[:5]) is None


@pytest.mark.parametrize(("x", "y"), [(X, Y), TIED])
def test_ranks_and_correlations_of_all_resamples_at_once_are_those_of_the_rows_drawn(x, y, monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 300)  # more than one block
    times = multiplicities(PAIRS, np.random.default_rng(0))
    ranks, draws = resampled_ranks(x, times), Resamples(y, times).spearman(x)
    for draw in range(0, 300, 7):
        rows = np.repeat(np.arange(30), times[:, draw].astype(int))
        assert ranks[rows, draw] == pytest.approx(stats.rankdata(x[rows]))
        assert draws[draw] == pytest.approx(stats.spearmanr(x[rows], y[rows]).statistic)


def test_clusters_are_drawn_whole_and_as_many_as_there_are():
    times = multiplicities(PAIRS, np.random.default_rng(0))
    assert (times[::2] == times[1::2]).all()
    assert (times.sum(axis=0) == 30).all()
    assert times.mean() == pytest.approx(1)
    assert times[0].var() == pytest.approx(1 - 1 / 15, rel=0.1)


def test_the_percentile_interval_of_spearman_agrees_with_scipys_bootstrap():
    times = multiplicities(PAIRS, np.random.default_rng(0))
    ours = percentile(spearman(*TIED), Resamples(TIED[1], times).spearman(TIED[0]), 15)

    def statistic(picked: np.ndarray) -> float:
        rows = np.concatenate([PAIRS[index] for index in picked])
        return stats.spearmanr(TIED[0][rows], TIED[1][rows]).statistic

    theirs = stats.bootstrap((np.arange(15),), statistic, confidence_level=0.9, method="percentile", vectorized=False,
                             n_resamples=2000, rng=np.random.default_rng(1)).confidence_interval  # fmt: skip
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=0.04), pytest.approx(theirs.high, abs=0.02))


def test_the_bootstrap_of_a_mean_over_single_rows_agrees_with_scipys():
    times = multiplicities(clusters_of(range(30)), np.random.default_rng(0))
    ours = percentile(Y.mean(), Y @ times / 30, 30)
    theirs = stats.bootstrap((Y,), np.mean, confidence_level=0.9, method="percentile", rng=np.random.default_rng(1))
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.03)


def test_below_six_clusters_there_is_no_interval():
    found = percentile(0.5, np.linspace(0, 1, 100), 5)
    assert (found.value, found.low, found.high) == (0.5, None, None)
    assert jackknife(0.5, np.linspace(0, 1, 5), 5).low is None


def test_fishers_interval_covers_the_rank_correlation_of_a_dozen_rows():
    """12 rows of a bivariate normal: its Spearman is 6 / pi asin(rho / 2)."""
    rng, truth, inside = np.random.default_rng(0), 6 / np.pi * np.arcsin(0.7 / 2), 0
    for _ in range(2000):
        x = rng.normal(size=12)
        found = fisher(stats.spearmanr(x, 0.7 * x + np.sqrt(1 - 0.7**2) * rng.normal(size=12)).statistic, 12)
        inside += found.low <= truth <= found.high
    assert 0.87 <= inside / 2000 <= 0.94


def test_fishers_interval_is_its_closed_form_and_absent_at_three_rows():
    found, error = fisher(0.5, 12), np.sqrt((1 + 0.25 / 2) / 9)
    assert found.low == pytest.approx(np.tanh(np.arctanh(0.5) - stats.norm.ppf(0.95) * error))
    assert fisher(0.5, 3).low is fisher(1.0, 12).low is None


def test_the_jackknife_of_a_mean_is_its_t_interval():
    y, clusters = Y[:15], clusters_of(range(15))
    without = np.array([y[kept].mean() for kept in jackknife_masks(clusters, 15, np.random.default_rng(0))])
    found = jackknife(y.mean(), without, 15)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.9, 14, loc=y.mean(), scale=stats.sem(y)))


@pytest.mark.parametrize("splits", [200, 2000])
def test_more_half_splits_do_not_shrink_the_standard_error(splits, monkeypatch):
    """sqrt(1 / J + n_test / n_train) sd: the second part stays however many the splits."""
    monkeypatch.setattr("predict.folds.HALF_SPLITS", splits)
    y = X + Y
    found = half_splits(parse("a"), X[:, None], y, half_masks(PAIRS, 30, np.random.default_rng(0)))
    assert found["se"] == pytest.approx(found["sd"] * np.sqrt(1 / splits + 14 / 16))
    assert found["se"] > 0.9 * found["sd"] > found["sd"] / np.sqrt(splits)


@pytest.mark.parametrize("differences", [[0.2, 0.1, 0.3], [-1.0, 2.0, 0.5, 0.5], [0.0, 0.0, 1.0, -3.0, 2.0, 0.25, 1.5]])
def test_sign_flips_are_exact_for_few_groups(differences):
    """Counted over all 2^G assignments in whole numbers."""
    scaled = [round(20 * d) for d in differences]
    flips = [abs(sum(signed)) for signed in itertools.product(*[(d, -d) for d in scaled])]
    expected = sum(flip >= abs(sum(scaled)) for flip in flips) / len(flips)
    assert sign_flip_p(np.array(differences), np.random.default_rng(0)) == expected


def test_three_groups_cannot_beat_a_quarter():
    assert sign_flip_p(np.array([5.0, 6.0, 7.0]), np.random.default_rng(0)) == 2 ** (1 - 3)
    assert max_t_p(np.array([[5.0, 1.0], [6.0, -1.0], [7.0, 0.1]]), np.random.default_rng(0))[0] >= 2 ** (1 - 3)


def test_sign_flips_of_many_groups_come_close_to_the_exact_p():
    differences = np.random.default_rng(3).normal(0.25, 1, 14)
    exact = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_p(differences, np.random.default_rng(0)) == pytest.approx(exact, abs=0.02)


def test_sign_flip_p_is_uniform_where_both_predictors_are_equally_good_but_not_identical():
    """Two signals with errors of one size: the difference of their squared errors is as often above 0 as below."""
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(400, 2, 9))
    p = [sign_flip_p(a**2 - b**2, rng) for a, b in errors]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_max_t_of_one_predictor_is_its_sign_flip_p():
    differences = np.random.default_rng(1).normal(0.5, 1, 9)
    rng = np.random.default_rng(0)
    assert max_t_p(differences[:, None], rng) == pytest.approx([sign_flip_p(differences, rng)])


def test_max_t_by_brute_force_over_all_assignments():
    """The largest |t| of scipy's one-sample test over all columns, for each of the 2^7 joint flips."""
    differences = np.random.default_rng(4).normal(0.4, 1, (7, 3))
    flips = np.array(list(itertools.product((1, -1), repeat=7)))
    largest = [np.abs(stats.ttest_1samp(differences * flip[:, None], 0).statistic).max() for flip in flips]
    observed = np.abs(stats.ttest_1samp(differences, 0).statistic)
    expected = [(np.array(largest) >= one - 1e-12).mean() for one in observed]
    assert max_t_p(differences, np.random.default_rng(0)) == pytest.approx(expected)


def test_max_t_keeps_the_chance_of_any_false_finding_at_its_level():
    """Eight correlated predictors none of which is better: one in twenty studies finds one, where single p find one in four."""
    rng, adjusted, single = np.random.default_rng(0), 0, 0
    for _ in range(200):
        differences = rng.normal(size=(10, 1)) * 0.5 + rng.normal(size=(10, 8))
        adjusted += max_t_p(differences, rng).min() <= 0.05
        single += min(sign_flip_p(column, rng) for column in differences.T) <= 0.05
    assert adjusted / 200 <= 0.09
    assert single / 200 > 0.15


def test_a_predictor_equal_to_the_baseline_has_p_1():
    differences = np.column_stack([np.random.default_rng(0).normal(3, 1, 8), np.zeros(8)])
    assert max_t_p(differences, np.random.default_rng(0))[1] == 1


def test_the_p_of_an_added_column_is_that_of_the_f_test_where_errors_are_normal():
    rng = np.random.default_rng(2)
    x, more = rng.normal(size=(40, 2)), rng.normal(size=(40, 1))
    y = x @ [1.0, -1.0] + 0.3 * more[:, 0] + rng.normal(size=40)
    small, large = sm.OLS(y, sm.add_constant(x)).fit(), sm.OLS(y, sm.add_constant(np.column_stack([x, more]))).fit()
    rows = [np.array([row]) for row in range(40)]
    assert added_p(x, more, y, rows, np.random.default_rng(0)) == pytest.approx(large.compare_f_test(small)[1], abs=0.015)


def test_the_p_of_an_added_column_is_uniform_under_the_null_with_twins_in_clusters():
    """Errors and columns are shared within cells of three: rows alone would call one in three noise columns a finding."""
    rng, by_cell, by_row = np.random.default_rng(0), [], []
    cells = clusters_of(np.arange(30) // 3)
    for _ in range(150):
        x, more, error = (rng.normal(size=10).repeat(3)[:, None] + 0.1 * rng.normal(size=(30, 1)) for _ in range(3))
        y = (x + error)[:, 0]
        by_cell.append(added_p(x, more, y, cells, rng))
        by_row.append(stats.f.sf((_f(x, more, y)), 1, 27))
    assert stats.kstest(by_cell, "uniform").pvalue > 0.01
    assert np.mean(np.array(by_row) < 0.05) > 0.2


def _f(x: np.ndarray, more: np.ndarray, y: np.ndarray) -> float:
    small, large = sm.OLS(y, sm.add_constant(x)).fit(), sm.OLS(y, sm.add_constant(np.column_stack([x, more]))).fit()
    return float(large.compare_f_test(small)[0])
