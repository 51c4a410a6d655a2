"""Which runs to pay for, and how many samples: against enumeration, closed forms and designs whose answer is known."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats
from typer.testing import CliRunner

from curate.errors import InputError, UsageError
from predict import designs
from predict.cli import app
from predict.planning import plan
from predict.precision import advise, read_counts, stored_counts
from predict.store import ingest
from train.adaptive import StopRule, sampling_variance

LAB = Path(__file__).parent.parent / "studies" / "lab" / "runs"


def table(known: int = 12, candidates: int = 8, noise: float = 0.02, seed: int = 0) -> pl.DataFrame:
    """Outcome .3 + .4 signal + noise; the last rows have none."""
    rng = np.random.default_rng(seed)
    rows = known + candidates
    x = rng.uniform(0, 1, rows)
    y = 0.3 + 0.4 * x + noise * rng.normal(size=rows)
    return pl.DataFrame(
        {
            "id": [f"run{i}" for i in range(rows)],
            "cell": [f"cell{i}" for i in range(rows)],
            "base_model": [f"base{i % 2}" for i in range(rows)],
            "signal": x,
            "y": [*y[:known], *[None] * candidates],
        }
    )


def made(frame: pl.DataFrame, budget: int, **arguments):
    return plan(frame, budget, predictor="signal", outcome="y", **arguments)


# -- choosing rows --------------------------------------------------------------------------------------------------


def test_the_greedy_maximum_is_near_the_best_set_of_all():
    draws = np.random.default_rng(1).normal(size=(3000, 8)) * np.linspace(0.5, 2, 8) + np.linspace(1, 0, 8)
    order, gains = designs.greedy_maximum(draws, 3)
    best = max(draws[:, list(each)].max(1).mean() for each in itertools.combinations(range(8), 3))
    assert sum(gains) == pytest.approx(draws[:, order].max(1).mean())
    assert sum(gains) >= 0.99 * best
    assert gains[1:] == sorted(gains[1:], reverse=True)


def test_regret_of_measured_is_zero_without_noise_and_the_normal_order_statistic_with_noise_alone():
    """m equal candidates measured by pure noise: nothing is lost. m normal ones picked by lot lose E[max]: m = 2, 1 / sqrt(pi)."""
    rng = np.random.default_rng(2)
    draws = rng.normal(size=(200_000, 2))
    assert designs.regret_of_measured(draws, draws, [0, 1]) == 0
    assert designs.regret_of_measured(draws, rng.normal(size=draws.shape), [0, 1]) == pytest.approx(
        1 / math.sqrt(math.pi), abs=0.01
    )


def by_definition(X, correlation, rows) -> float:
    """Mean of x' (X' V^-1 X)^-1 x over all rows."""
    V = correlation[np.ix_(rows, rows)]
    covariance = np.linalg.inv(X[rows].T @ np.linalg.inv(V) @ X[rows])
    return float(np.mean([x @ covariance @ x for x in X]))


def test_each_i_optimal_pick_is_the_best_single_addition():
    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(14), rng.normal(size=(14, 2))])
    correlation = designs.correlation([[i % 5 for i in range(14)], [i % 2 for i in range(14)]], 14)
    order, variances = designs.i_optimal(X, correlation, np.arange(6), np.arange(6, 14), 3)
    inside = list(range(6))
    assert variances[0] == pytest.approx(by_definition(X, correlation, inside))
    for pick, variance in zip(order, variances[1:], strict=True):
        found = {row: by_definition(X, correlation, [*inside, row]) for row in range(6, 14) if row not in inside}
        assert pick == min(found, key=found.__getitem__)
        assert variance == pytest.approx(found[pick])
        inside.append(pick)


def test_without_labels_the_variance_is_that_of_least_squares():
    """One column: the mean of 1/n + (x - mean)^2 / Sxx."""
    x = np.array([0.0, 1, 2, 5, 9])
    X = np.column_stack([np.ones(5), x])
    seen, rows = x[:4], np.arange(4)
    expected = np.mean(1 / 4 + (x - seen.mean()) ** 2 / ((seen - seen.mean()) ** 2).sum())
    assert designs.mean_variance(X, designs.correlation([], 5), rows) == pytest.approx(expected)


def test_correlation_prefers_the_cell_over_the_base():
    found = designs.correlation([["a", "a", "b"], ["m", "m", "m"]], 3)
    assert found.tolist() == [[1, 0.5, 0.2], [0.5, 1, 0.2], [0.2, 0.2, 1]]


def test_farthest_first_starts_in_the_middle_and_takes_the_ends_of_a_line():
    x = np.array([0.0, 0.3, 0.5, 0.8, 1.0])
    distances = designs.gower(x[:, None], [], categorical=False)
    order, radii = designs.farthest_first(distances, np.empty((5, 0)), 3)
    assert order == [2, 0, 4]
    assert radii == pytest.approx([0.5, 0.5, 0.5, 0.2])


def test_farthest_first_keeps_away_from_runs_that_are_there():
    x = np.array([0.0, 0.5, 1.0])
    distances = np.abs(x[:, None] - x)
    assert designs.farthest_first(distances, np.array([[0.0], [0.5], [1.0]]), 2)[0] == [2, 1]


def test_gower_counts_a_label_as_much_as_a_column():
    found = designs.gower(np.array([[0.0], [10.0]]), [["a", "b"], ["m", "m"]], categorical=False)
    assert found[0, 1] == pytest.approx((1 + 1 + 0) / 3)


# -- plans ----------------------------------------------------------------------------------------------------------


def test_best_picks_the_highest_where_the_forecast_is_clear():
    frame = table(noise=0.002)
    found = made(frame, 2)
    candidates = frame.filter(pl.col("y").is_null()).sort("signal", descending=True)["id"].to_list()
    assert found.picks[0].id == candidates[0]
    assert found.worth["p_best_among"] > 0.9
    assert found.worth["expected_regret"] < 0.002
    assert "best with probability" in found.picks[0].reason


def test_regret_falls_with_the_budget_to_nothing():
    regrets = [made(table(), budget).worth["expected_regret"] for budget in (1, 3, 8, 20)]
    assert regrets == sorted(regrets, reverse=True)
    assert regrets[2] == regrets[3] == 0
    assert made(table(), 20).worth["p_best_among"] == pytest.approx(1)
    assert "covers all 8" in " ".join(made(table(), 20).notes)


def test_plans_are_nested_so_that_money_can_be_cut():
    assert [p.id for p in made(table(), 4).picks][:2] == [p.id for p in made(table(), 2).picks]


def test_measuring_noise_costs_regret_that_no_budget_buys_back():
    frame = table(noise=0.05).with_columns(outcome_sampling_variance=pl.lit(0.05**2 / 2))
    found = made(frame, 8)
    assert found.worth["expected_regret"] == 0
    assert 0 < found.worth["expected_regret_measured"] == found.worth["expected_regret_measured_all"]


def test_best_says_when_the_picks_are_as_good_as_lots():
    """Under the mean all candidates are alike: each is the best with probability 1 / 10."""
    found = plan(table(known=12, candidates=10), 3, predictor="mean", outcome="y")
    assert found.worth["p_best_among"] == pytest.approx(0.3, abs=0.03)
    assert any("as many drawn by lot with 0.30" in note for note in found.notes)
    assert any("cannot be told apart" in note for note in found.notes)


def test_best_says_when_the_predictor_is_no_better_than_the_mean():
    """Leave-one-out R^2 of a signal without any relation is below 0, by the hat matrix of least squares."""
    x = np.linspace(0, 1, 12)
    y = 0.5 + 0.1 * np.cos(40 * x)
    X = np.column_stack([np.ones(12), x])
    hat = X @ np.linalg.inv(X.T @ X) @ X.T
    left_out = ((y - hat @ y) / (1 - np.diag(hat))) ** 2
    r2 = 1 - left_out.sum() / (((y - y.mean()) * 12 / 11) ** 2).sum()
    frame = pl.DataFrame({"signal": [*x, 0.2, 0.9], "y": [*y, None, None]})
    assert r2 < 0
    assert any(f"no better than their mean (R^2 {r2:.2f})" in note for note in made(frame, 1).notes)


def test_best_with_too_few_runs_names_the_other_objective():
    with pytest.raises(InputError, match="--objective calibrate"):
        made(table(known=4), 2)


def test_calibrate_takes_the_ends_of_the_line_in_new_cells():
    """Runs in the middle of the signal are there: a line's variance falls most by its two ends."""
    x = [0.45, 0.48, 0.5, 0.52, 0.55, 0.5, 0.0, 0.4, 0.6, 1.0]
    frame = pl.DataFrame({"signal": x, "y": [0.5, 0.52, 0.51, 0.53, 0.52, 0.5, None, None, None, None]})
    found = made(frame, 2, objective="calibrate")
    assert {p.id for p in found.picks} == {"7", "10"}
    assert found.worth["fit_se"] > found.worth["fit_se_after"] > found.worth["fit_se_all"]


def test_calibrate_prefers_a_stranger_to_a_twin():
    """Two candidates of the same signal, one in a cell that was run six times."""
    frame = pl.DataFrame(
        {
            "id": list("abcdefgh"),
            "cell": ["old"] * 6 + ["old", "new"],
            "signal": [0.1, 0.3, 0.5, 0.7, 0.9, 0.4, 0.8, 0.8],
            "y": [0.3, 0.35, 0.5, 0.55, 0.7, 0.4, None, None],
        }
    )
    (pick,) = made(frame, 1, objective="calibrate").picks
    assert pick.id == "h"
    assert "first run of its cell" in pick.reason


def test_calibrate_without_any_run_fills_the_space_and_says_so():
    frame = table(known=0, candidates=12)
    found = made(frame.drop("y"), 4, objective="calibrate")
    assert len({p.id for p in found.picks}) == 4
    picked = frame.filter(pl.col("id").is_in([p.id for p in found.picks]))
    assert picked["base_model"].n_unique() == 2
    assert {frame["signal"].arg_min(), frame["signal"].arg_max()} <= {int(p.id.removeprefix("run")) for p in found.picks}
    assert "no regret can be said" in " ".join(found.notes)


def test_calibrate_spreads_over_labels():
    frame = pl.DataFrame({"length_mix": ["short"] * 5 + ["long"] * 3, "y": [None] * 8}, schema_overrides={"y": pl.Float64})
    found = plan(frame, 2, objective="calibrate", predictor="label(length_mix)", outcome="y")
    assert {frame["length_mix"][int(p.id) - 1] for p in found.picks} == {"short", "long"}


@pytest.mark.parametrize(
    ("frame", "arguments", "error", "words"),
    [
        (table(), {"budget": 0}, UsageError, "--budget expects at least 1"),
        (table(candidates=0), {"budget": 1}, InputError, "every row has an outcome"),
        (
            table().with_columns(signal=pl.when(pl.col("id") == "run14").then(None).otherwise("signal")),
            {"budget": 1},
            InputError,
            "run14",
        ),
        (
            table(known=0).with_columns(signal=pl.when(pl.col("id") == "run3").then(None).otherwise("signal")),
            {"budget": 1, "objective": "calibrate"},
            InputError,
            "run3",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(frame, arguments, error, words):
    with pytest.raises(error, match=words):
        made(frame, **arguments)


# -- samples --------------------------------------------------------------------------------------------------------


def counts(size: int = 150, n: int = 64, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    rate = rng.beta(0.4, 1, size)
    frame = {"problem_id": [f"p{i}" for i in range(size)], "num_samples": [n] * size, "num_correct": rng.binomial(n, rate)}
    return pl.DataFrame(frame), rate


def test_fixed_designs_reach_the_standard_error_on_the_true_rates():
    """Planned from 64 samples a problem: the error that the uniform and two-stage designs have in truth is within 10 % of the wish."""
    frame, rate = counts()
    advice = advise(frame, 0.01, 32, "fixed")
    uniform = next(design for design in advice.designs if design.name == "uniform")
    n = 64 + uniform.new_samples // 150
    assert math.sqrt(sampling_variance(rate, n, 32).mean() / 150) == pytest.approx(0.01, rel=0.1)
    sizes = next(design for design in advice.designs if design.name == "two_stage").allocation
    each = [sampling_variance(rate[[i]], row["most"], 32)[0] for i, row in enumerate(sizes)]
    assert math.sqrt(np.mean(each) / 150) == pytest.approx(0.01, rel=0.1)
    assert min(row["most"] for row in sizes) >= 32
    kept = next(design for design in advice.designs if design.name == "go_on")
    rules = [StopRule(row["batch"], row["enough"] or row["most"] + 1, row["most"], row["at_hand"]) for row in kept.allocation]
    each = [rule.moments(rate[[i]], 32)[1][0] for i, rule in enumerate(rules)]
    assert math.sqrt(np.mean(each) / 150) == pytest.approx(0.01, rel=0.1)
    to_come = [
        rule.still_expected(rate[[i]], int(c))[0] for i, (rule, c) in enumerate(zip(rules, frame["num_correct"], strict=True))
    ]
    assert kept.new_samples == pytest.approx(sum(to_come), rel=0.1)
    assert {row["enough"] for row in sizes} == {None}
    assert [d.new_samples for d in advice.designs] == sorted(d.new_samples for d in advice.designs)


@pytest.mark.slow
def test_the_error_now_is_that_of_the_estimators():
    frame, _ = counts()
    value = 1 - frame["num_correct"].to_numpy() / 64
    assert advise(frame, 0.001, 1, "population").se_now == pytest.approx(stats.sem(value))
    plain = np.sqrt((value * (1 - value) / 63).sum()) / 150
    assert advise(frame, 0.001, 1, "fixed").se_now == pytest.approx(plain)


def test_what_is_reached_already_needs_nothing():
    advice = advise(counts()[0], 0.2, 8, "population")
    assert not advice.designs
    assert "reached already" in advice.words


def test_where_problems_differ_more_samples_do_not_help_and_more_problems_are_counted():
    """Beta(.4, 1) rates, pass@1: the variance between problems is ab / (s^2 (s + 1)); the problems needed are that over S^2."""
    frame, _ = counts(size=600, n=64)
    goal = 0.008
    advice = advise(frame, goal, 1, "population")
    assert [design.name for design in advice.designs] == ["more_problems"]
    between = 0.4 / (1.4**2 * 2.4)
    added = int(advice.words.split()[1])
    new = int(advice.words.split(",")[1].split()[0])
    mean = 0.4 / (1.4 * 2.4)  # of p (1 - p)
    reached = (600 * (between + mean / 64) + added * (between + mean / new)) / (600 + added) ** 2
    assert math.sqrt(reached) == pytest.approx(goal, rel=0.08)


def test_where_samples_are_what_lacks_both_ways_are_offered():
    """All problems alike: no variance between them, and pass@1 from 2 samples each is noise."""
    frame = pl.DataFrame({"problem_id": [str(i) for i in range(100)], "num_samples": [2] * 100, "num_correct": [0, 1, 1, 2] * 25})
    assert {design.name for design in advise(frame, 0.03, 1, "population").designs} == {"more_problems", "more_samples"}


def test_k_beyond_the_samples_is_planned_and_said_to_be_extrapolated():
    advice = advise(counts(n=16)[0], 0.02, 64, "fixed")
    assert advice.se_now is None
    assert any("extrapolated" in note for note in advice.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("num_samples,num_correct\n8,2.5\n", "row 1: expected a whole number"),
        ("num_samples,num_correct\n8,2\n8,\n", "row 2: expected a whole number"),
        ("num_samples,correct\n8,2\n", "did you mean|none of that name"),
        ("num_samples,num_correct\n0,0\n", "num_samples', row 1"),
    ],
)
def test_counts_that_are_none_are_refused(tmp_path, text, words):
    path = tmp_path / "counts.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_counts(path)


def test_impossible_wishes_are_refused():
    frame = counts()[0]
    for se, k in ((0.0, 8), (0.7, 8), (0.01, 0)):
        with pytest.raises(UsageError):
            advise(frame, se, k)
    with pytest.raises(InputError, match="at least 10 problems"):
        advise(frame[:9], 0.01, 8)
    with pytest.raises(InputError, match="num_correct 65 of num_samples 64"):
        advise(frame.with_columns(num_correct=pl.lit(65)), 0.01, 8)


# -- the commands ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    ingest(folder, [LAB])
    return folder


def run(*arguments: str) -> dict:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_plan_of_a_table_is_one_document(tmp_path):
    path = tmp_path / "runs.csv"
    table().write_csv(path)
    found = run("plan", "--budget", "2", "--csv", str(path), "--outcome", "y", "--predictor", "signal")
    assert (found["ok"], found["objective"], len(found["picks"])) == (True, "best", 2)
    assert found["worth"]["expected_regret_measured_all"] <= found["worth"]["expected_regret_measured"]


def test_samples_of_a_checkpoint_in_the_store_equals_its_table(home, tmp_path):
    from predict import store

    row = store.query(home, "SELECT run_id, step FROM checkpoints ORDER BY run_id LIMIT 1").row(0)
    name = f"{row[0]}@{row[1]}"
    path = tmp_path / "counts.csv"
    stored_counts(home, name).write_csv(path)
    shared = ("--se", "0.006", "--k", "32", "--set", "fixed")
    from_store = run("samples", *shared, "--run", name, "--home", str(home))
    assert from_store == run("samples", *shared, "--csv", str(path))
    stopping = next(design for design in from_store["designs"] if design["name"] == "stop_rules")
    assert len(stopping["allocation"]) == from_store["problems"] == 256
    assert stopping["allocation"][0].keys() == {"problem_id", "at_hand", "most", "batch", "enough"}


def test_a_checkpoint_that_is_not_in_the_store_is_refused(home):
    with pytest.raises(InputError, match="no counts of signals"):
        stored_counts(home, "nothing@3")
    with pytest.raises(UsageError, match="run_id"):
        stored_counts(home, "a' OR 1=1")
