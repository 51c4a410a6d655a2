"""Selection by length: each mix against its definition, budgets, and the target distributions it aims at."""

import itertools
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from curate.errors import CheckFailed
from curate.lengths import Budget, Select, distance, has_several_traces, select, target


def rows(lengths: list[list[int]]) -> pl.DataFrame:
    """One list a problem: the tokens of its traces."""
    traces = [
        (f"{problem}-{trace}", str(problem), tokens) for problem, own in enumerate(lengths) for trace, tokens in enumerate(own)
    ]
    ids, problems, tokens = zip(*traces, strict=True) if traces else ([], [], [])
    return pl.DataFrame({"id": list(ids), "prompt": list(problems), "prompt_key": list(problems), "tokens": list(tokens)})


def single(count: int, low: int = 10, high: int = 400, seed: int = 0) -> pl.DataFrame:
    rng = random.Random(seed)
    return rows([[rng.randint(low, high)] for _ in range(count)])


POOLS = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=3), min_size=4, max_size=30)
MIXES = st.sampled_from(
    [Select(length=mix) for mix in ("short", "long", "short+long", "varying", "uniform")]
    + [Select(length="quantiles", quantiles={0: 5, 0.5: 20, 1: 50})]
)


@settings(max_examples=150, deadline=None)
@given(POOLS, MIXES, st.integers(0, 3), st.randoms())
def test_a_selection_takes_each_problem_once_and_ignores_the_order_of_the_rows(lengths, wanted, seed, rng):
    pool = rows(lengths)
    budget = Budget(examples=len(lengths) // 2)
    chosen = select(pool, wanted, budget, seed)
    assert len(chosen) == len(lengths) // 2
    assert chosen["prompt_key"].is_unique().all()
    assert set(chosen["id"]) <= set(pool["id"])
    order = list(range(len(pool)))
    rng.shuffle(order)
    assert select(pool[order], wanted, budget, seed)["id"].to_list() == chosen["id"].to_list()


@settings(max_examples=100, deadline=None)
@given(POOLS, MIXES, st.integers(20, 400))
def test_a_token_budget_is_met_within_one_percent_or_refused_with_what_was_reachable(lengths, wanted, tokens):
    try:
        chosen = select(rows(lengths), wanted, Budget(tokens=tokens), 0)
    except CheckFailed as error:
        assert "are reachable" in str(error)
    else:
        assert abs(chosen["tokens"].sum() - tokens) <= 0.01 * tokens


def test_short_and_long_take_the_ends_of_the_same_problems_where_there_are_several_traces():
    pool = rows([[5, 9, 7], [30, 10], [4, 4, 8], [100, 20, 50]])
    chosen = {mix: select(pool, Select(length=mix), Budget(), 1) for mix in ("short", "long", "short+long")}
    assert dict(chosen["short"].select("prompt", "tokens").iter_rows()) == {"0": 5, "1": 10, "2": 4, "3": 20}
    assert dict(chosen["long"].select("prompt", "tokens").iter_rows()) == {"0": 9, "1": 30, "2": 8, "3": 100}
    assert chosen["short"]["prompt"].to_list() == chosen["long"]["prompt"].to_list() == chosen["short+long"]["prompt"].to_list()
    assert chosen["short+long"]["tokens"][::2].to_list() == chosen["short"]["tokens"][::2].to_list()
    assert chosen["short+long"]["tokens"][1::2].to_list() == chosen["long"]["tokens"][1::2].to_list()


def test_lengths_vary_at_equal_problems_where_most_have_several_traces():
    assert has_several_traces(rows([[5, 9], [4, 8], [7]]))
    assert not has_several_traces(rows([[5, 9], [4], [7]]))
    assert not has_several_traces(rows([[5, 9], [7]]))
    mostly_one = rows([[50, 90], [4], [7], [20]])
    assert select(mostly_one, Select(length="short"), Budget(), 0)["tokens"].to_list() == [4, 7, 20, 50]
    assert select(mostly_one, Select(length="long"), Budget(), 0)["tokens"].to_list() == [90, 20, 7, 4]


def test_short_and_long_by_turns_where_each_problem_has_one_trace():
    pool = rows([[tokens] for tokens in (7, 1, 6, 3, 5, 2, 4)])
    assert not has_several_traces(pool)
    assert select(pool, Select(length="short+long"), Budget(), 0)["tokens"].to_list() == [1, 7, 2, 6, 3, 5, 4]
    assert select(pool, Select(length="short+long"), Budget(examples=4), 0)["tokens"].to_list() == [1, 7, 2, 6]


def test_a_uniform_mix_of_a_skewed_pool_is_uniform():
    rng = random.Random(3)
    pool = rows([[10 + round(rng.expovariate(1 / 60))] for _ in range(8000)])
    low, high = target(pool, Select(length="uniform")).values()
    assert (low, high) == tuple(np.quantile(pool["tokens"], [0.05, 0.95], method="nearest"))
    chosen = select(pool, Select(length="uniform"), Budget(examples=800), 0)
    random_mix = select(pool, Select(length="varying"), Budget(examples=800), 0)
    wanted = stats.uniform(low, high - low).cdf
    assert stats.kstest(chosen["tokens"].to_numpy(), wanted).statistic < 0.02
    assert stats.kstest(random_mix["tokens"].to_numpy(), wanted).statistic > 0.25


def test_quantiles_are_met_exactly_where_the_pool_has_every_length():
    pool = rows([[tokens] for tokens in range(1, 401) for _ in range(3)])
    wanted = Select(length="quantiles", quantiles={0: 50, 0.5: 100, 1: 300})
    chosen = select(pool, wanted, Budget(examples=200), 0)["tokens"]
    assert [np.quantile(chosen, share) for share in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([50, 75, 100, 200, 300], abs=1.5)
    by_tokens = select(pool, wanted, Budget(tokens=20_000), 0)["tokens"]
    assert by_tokens.sum() == pytest.approx(20_000, rel=0.01)
    assert stats.wasserstein_distance(by_tokens, chosen) < 2


def test_several_traces_let_the_same_problems_follow_another_distribution():
    pool = rows([[20, 60, 180] for _ in range(300)])
    wanted = Select(length="quantiles", quantiles={0: 20, 0.499: 20, 0.501: 180, 1: 180})
    chosen = select(pool, wanted, Budget(), 0)
    assert len(chosen) == 300
    assert sorted(chosen["tokens"].unique()) == [20, 180]
    assert (chosen["tokens"] == 20).sum() == pytest.approx(150, abs=3)


def test_all_traces_of_a_problem_stay_together():
    pool = rows([[5, 9, 7], [30, 10], [4], [100, 20, 50, 60]])
    chosen = select(pool, Select(traces="all"), Budget(), 0)
    assert sorted(chosen["id"]) == sorted(pool["id"])
    problems = chosen["prompt"].to_list()
    assert sum(one != other for one, other in itertools.pairwise(problems)) == 3
    assert len(select(pool, Select(traces="all"), Budget(examples=5), 0)) == 5
    with pytest.raises(ValueError, match="goes with `varying`"):
        Select(length="short", traces="all")


def test_another_seed_takes_other_rows_of_the_same_distribution():
    pool = single(4000)
    first, second = (select(pool, Select(length="uniform"), Budget(examples=400), seed) for seed in (0, 1))
    assert len(set(first["id"]) & set(second["id"])) < 120
    assert stats.ks_2samp(first["tokens"], second["tokens"]).statistic < 0.02


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"length": "quantiles"}, "go together"),
        ({"length": "short", "quantiles": {0: 1, 1: 2}}, "go together"),
        ({"length": "quantiles", "quantiles": {0: 5, 1: 2}}, "rise"),
        ({"length": "quantiles", "quantiles": {0.5: 5}}, "at least two"),
        ({"length": "quantiles", "quantiles": {0: 5, 1.5: 7}}, "less than or equal to 1"),
    ],
)
def test_quantiles_that_are_no_quantile_function_are_refused(settings_, message):
    with pytest.raises(ValueError, match=message):
        Select(**settings_)


@settings(max_examples=100, deadline=None)
@given(*[st.lists(st.one_of(st.integers(0, 50), st.floats(0, 1e4, allow_subnormal=False)), min_size=1, max_size=40)] * 2)
def test_the_distance_of_two_samples_of_lengths_is_scipys_to_the_bit(ours, theirs):
    with np.errstate(divide="ignore"):  # the p-value of very few rows
        apart = stats.ks_2samp(ours, theirs, method="asymp").statistic
    expected = {"wasserstein_tokens": stats.wasserstein_distance(ours, theirs), "kolmogorov_smirnov": apart}
    assert distance(ours, theirs) == expected


def test_no_sample_is_at_no_distance():
    assert distance([], [1.0]) is distance([1], []) is None
