"""pass@k, mixed groups and their errors: in Python and in the store's SQL, held to brute force over subsets and to scipy."""

import itertools
import math
from pathlib import Path
from statistics import fmean

import duckdb
import numpy as np
import pytest
from scipy import stats

import predict
from curate.errors import InputError
from train.passk import fixed_set_variance, mean_pass_at_k, pass_at_k

SCHEMA = (Path(predict.__file__).parent / "schema.sql").read_text(encoding="utf-8")


def by_subsets(n: int, c: int, k: int, value) -> float:
    """Mean of `value(number right)` over every subset of k of n completions, c of which are right."""
    completions = [1] * c + [0] * (n - c)
    return fmean(value(sum(subset)) for subset in itertools.combinations(completions, k))


def expectation(n: int, p: float, value) -> float:
    """Expectation of `value(c)` when c of n completions are right with probability p each."""
    return sum(float(stats.binom.pmf(c, n, p)) * value(c) for c in range(n + 1))


def store_of(*checkpoints: list[tuple[int, int]], purpose: str = "signals") -> duckdb.DuckDBPyConnection:
    """The store's views over checkpoints of one run, each with (n, c) for every problem; step 0, 1, ..."""
    connection = duckdb.connect()
    connection.execute(SCHEMA)
    for step, counts in enumerate(checkpoints):
        connection.execute("INSERT INTO evaluation_jobs VALUES ('run', ?, 'key', 0, ?, 'sums', '{}', '{}')", [step, purpose])
        rows = [("run", step, "key", 0, "sums", f"p{i}", n, c, 0, 0, 0, 9.0) for i, (n, c) in enumerate(counts)]
        connection.executemany("INSERT INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    return connection


@pytest.mark.parametrize(("n", "k"), [(1, 1), (4, 2), (7, 3), (9, 9)])
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one(n, k):
    for c in range(n + 1):
        expected = by_subsets(n, c, k, lambda right: right > 0)
        assert pass_at_k([n], [c], k)[0] == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_equals_binomial_coefficients_for_large_counts():
    for n, c, k in itertools.product((64, 256, 1000), (0, 1, 5, 63, 64), (1, 2, 64)):
        expected = 1 - math.comb(n - c, k) / math.comb(n, k)
        assert pass_at_k([n], [c], k)[0] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_pass_at_k_is_unbiased_when_samples_are_drawn():
    for p, k in itertools.product((0.02, 0.3, 0.9), (1, 3, 8)):
        mean = expectation(8, p, lambda c, k=k: float(pass_at_k([8], [c], k)[0]))
        assert mean == pytest.approx(1 - (1 - p) ** k, rel=1e-9)


def test_one_number_of_samples_serves_all_problems():
    assert pass_at_k(4, [0, 1, 4], 2).tolist() == pytest.approx([0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("n", "c", "k", "words"),
    [
        ([8], [2], 9, "num_samples 8"),
        ([8, 4], [2, 2], 5, "num_samples 4"),
        ([8], [2], 0, "pass@0"),
        ([8], [9], 1, "num_correct"),
        ([8], [-1], 1, "num_correct"),
    ],
)
def test_counts_that_allow_no_estimate_are_refused(n, c, k, words):
    with pytest.raises(InputError, match=words):
        pass_at_k(n, c, k)


def test_standard_error_is_that_of_scipy():
    n, c = [16] * 6, [0, 1, 3, 8, 15, 16]
    value, error = mean_pass_at_k(n, c, 4)
    expected = [1 - math.comb(16 - right, 4) / math.comb(16, 4) for right in c]
    assert value == pytest.approx(np.mean(expected))
    assert error == pytest.approx(stats.sem(expected))


def test_every_bootstrap_of_the_problems_has_the_standard_error_less_its_factor():
    """The bootstrap over problems has SD sd sqrt((P - 1) / P) / sqrt(P): all P^P resamples of 5 problems."""
    c = [0, 1, 3, 8, 15]
    values = pass_at_k(16, c, 2)
    resamples = [np.mean(drawn) for drawn in itertools.product(values, repeat=5)]
    assert mean_pass_at_k([16] * 5, c, 2)[1] * math.sqrt(4 / 5) == pytest.approx(np.std(resamples), rel=1e-9)


def test_a_standard_error_of_one_problem_is_refused():
    with pytest.raises(InputError, match="at least 2 problems"):
        mean_pass_at_k([8], [3], 1)


@pytest.mark.parametrize(("n", "k", "p"), [(2, 1, 0.4), (6, 3, 0.1), (6, 2, 0.5), (8, 4, 0.8)])
def test_fixed_set_variance_is_unbiased(n, k, p):
    """Its mean over all outcomes of n draws is the true variance of the estimate."""
    estimate = [float(pass_at_k([n], [c], k)[0]) for c in range(n + 1)]
    mean = expectation(n, p, lambda c: estimate[c])
    truth = expectation(n, p, lambda c: (estimate[c] - mean) ** 2)
    assert expectation(n, p, lambda c: fixed_set_variance([n], [c], k)) == pytest.approx(truth, rel=1e-9)


def test_fixed_set_variance_of_a_mean_is_unbiased_over_two_problems():
    n, k, chances = 4, 2, (0.2, 0.7)
    each = [[float(stats.binom.pmf(c, n, p)) for c in range(n + 1)] for p in chances]
    pairs = [(a, b, each[0][a] * each[1][b]) for a, b in itertools.product(range(n + 1), repeat=2)]
    means = [(pass_at_k(n, [a, b], k).mean(), weight) for a, b, weight in pairs]
    centre = sum(value * weight for value, weight in means)
    truth = sum((value - centre) ** 2 * weight for value, weight in means)
    assert sum(fixed_set_variance(n, [a, b], k) * weight for a, b, weight in pairs) == pytest.approx(truth, rel=1e-9)


def test_fixed_set_variance_needs_twice_k_samples_and_says_how_many_came():
    with pytest.raises(InputError, match="num_samples >= 10, came 9"):
        fixed_set_variance([9, 12], [3, 3], 5)


def test_sql_estimate_equals_binomial_coefficients():
    cases = [(n, c, k) for n in (1, 5, 16, 128) for c in range(n + 1) for k in (1, 2, 8, 64) if k <= n]
    connection = store_of()
    connection.execute("CREATE TABLE cases (n BIGINT, c BIGINT, k BIGINT)")
    connection.executemany("INSERT INTO cases VALUES (?, ?, ?)", cases)
    found = connection.sql("SELECT n, c, k, pass_at_k(n, c, k) FROM cases").fetchall()
    assert len(found) == len(cases)
    for n, c, k, value in found:
        assert value == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)


def test_sql_estimate_past_the_samples_is_null():
    assert store_of().sql("SELECT pass_at_k(7, 3, 8), pass_at_k(7, 7, 8)").fetchall() == [(None, None)]


def test_view_pass_at_k_gives_mean_and_standard_error_over_problems():
    counts = [(9, 0), (9, 2), (9, 9), (9, 5)]
    rows = store_of(counts).sql("SELECT k, value, se, n_problems, num_samples FROM pass_at_k ORDER BY k").fetchall()
    assert [row[0] for row in rows] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    for k, value, error, problems, samples in rows:
        assert (problems, samples) == (4, 9)
        if k > 9:
            assert value is None
            assert error is None
            continue
        each = [by_subsets(n, c, k, lambda right: right > 0) for n, c in counts]
        assert value == pytest.approx(np.mean(each), abs=1e-12)
        assert error == pytest.approx(stats.sem(each), abs=1e-12)


def test_view_pass_at_k_is_null_where_one_problem_has_too_few_samples():
    rows = store_of([(16, 3), (4, 1)]).sql("SELECT k FROM pass_at_k WHERE value IS NOT NULL ORDER BY k").fetchall()
    assert [k for (k,) in rows] == [1, 2, 4]


def groups_of_16(*checkpoints: list[tuple[int, int]]) -> list[tuple[float | None, float | None]]:
    return store_of(*checkpoints).sql("SELECT mixed_share, expected_signal FROM checkpoint_counts ORDER BY step").fetchall()


def signal(right: int) -> float:
    """Standard deviation of the rewards of a group of 16."""
    return math.sqrt(right / 16 * (1 - right / 16))


def test_mixed_share_and_expected_signal_are_means_over_all_groups_of_16():
    counts = [(18, c) for c in (0, 1, 2, 9, 16, 17, 18)]
    mixed, expected = groups_of_16(counts)[0]
    assert mixed == pytest.approx(fmean(by_subsets(n, c, 16, lambda right: 0 < right < 16) for n, c in counts), abs=1e-10)
    assert expected == pytest.approx(fmean(by_subsets(n, c, 16, signal) for n, c in counts), abs=1e-10)


def test_mixed_share_and_expected_signal_equal_the_hypergeometric_of_scipy():
    counts = [(16, 5), (128, 0), (128, 1), (128, 40), (256, 250), (256, 256)]
    mixed, expected = groups_of_16(counts)[0]
    right = np.arange(17)
    chances = [stats.hypergeom(n, c, 16).pmf(right) for n, c in counts]
    assert mixed == pytest.approx(np.mean([1 - each[0] - each[16] for each in chances]), abs=1e-9)
    assert expected == pytest.approx(np.mean([each @ [signal(j) for j in right] for each in chances]), abs=1e-9)


def test_mixed_share_is_unbiased_when_samples_are_drawn():
    """Its mean over all outcomes of 18 draws is the chance of a mixed group, 1 - p^16 - (1 - p)^16."""
    shares = [mixed for mixed, _ in groups_of_16(*[[(18, c)] for c in range(19)])]
    for p in (0.03, 0.5, 0.95):
        assert expectation(18, p, lambda c: shares[c]) == pytest.approx(1 - p**16 - (1 - p) ** 16, rel=1e-9)


def test_groups_of_16_need_16_samples_of_every_problem():
    assert groups_of_16([(16, 4), (15, 4)]) == [(None, None)]


def test_sampling_variance_of_the_view_is_the_fixed_set_variance_of_pass_at_1():
    counts = [(8, 0), (8, 3), (16, 15), (4, 2)]
    value = store_of(counts, purpose="outcome").sql("SELECT sampling_variance FROM checkpoint_counts").fetchall()[0][0]
    plain = sum(c / n * (1 - c / n) / (n - 1) for n, c in counts) / len(counts) ** 2
    assert value == pytest.approx(plain)
    assert fixed_set_variance(*zip(*counts, strict=True), 1) == pytest.approx(plain)
