"""Forecasts held to statsmodels, scikit-learn, closed forms and simulated coverage."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import integrate, stats
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import predict
from curate.errors import InputError, UsageError
from predict.forecasting import noise_variance
from predict.prediction import cv_plus, left_out
from predict.predictors import parse

FORECAST_KEYS = {"forecast_id", "created_at", "predictor", "fitted_on", "outcome", "target", "candidates", "abstentions", "notes"}
CANDIDATE_KEYS = ["id", "point", "low", "high", "low_50", "high_50", "p_best", "expected_regret", "support", "nearest"]


def simulated(rows: int = 14, seed: int = 2, **more) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    signal, weak = rng.normal(size=rows), rng.normal(size=rows)
    y = 0.5 + 0.1 * signal + 0.02 * weak + 0.05 * rng.normal(size=rows)
    return pl.DataFrame({"id": [f"run{i}" for i in range(rows)], "signal": signal, "weak": weak, "y": y, **more})


RUNS = simulated()
CANDIDATES = pl.DataFrame({"id": ["a", "b", "c"], "signal": [-0.4, 0.3, 0.9], "weak": [0.2, -0.5, 0.1]})


def fitted(name: str = "signal+weak", runs: pl.DataFrame = RUNS, **arguments) -> predict.Forecaster:
    return predict.Forecaster(name, outcome="y", **arguments).fit(runs)


def by_id(forecast: predict.Forecast) -> dict[str, dict]:
    return {candidate["id"]: candidate for candidate in forecast.candidates}


def columns(frame: pl.DataFrame, *names: str) -> np.ndarray:
    return frame.select(names or ("signal", "weak")).to_numpy()


@pytest.mark.parametrize("names", [("signal",), ("signal", "weak")])
def test_intervals_of_few_runs_are_the_t_intervals_of_statsmodels(names):
    fit = sm.OLS(RUNS["y"].to_numpy(), sm.add_constant(columns(RUNS, *names))).fit()
    new = sm.add_constant(columns(CANDIDATES, *names), has_constant="add")
    found = by_id(fitted("+".join(names)).forecast(CANDIDATES))
    for level, low, high in ((0.1, "low", "high"), (0.5, "low_50", "high_50")):
        frame = fit.get_prediction(new).summary_frame(alpha=level)
        for name, (_, row) in zip("abc", frame.iterrows(), strict=True):
            assert found[name][low] == pytest.approx(row["obs_ci_lower"], abs=1e-6)
            assert found[name][high] == pytest.approx(row["obs_ci_upper"], abs=1e-6)


def test_the_interval_of_the_mean_is_students():
    """y mean -+ t s sqrt(1 + 1 / n)."""
    y = RUNS["y"].to_numpy()
    half = stats.t.ppf(0.95, len(y) - 1) * y.std(ddof=1) * np.sqrt(1 + 1 / len(y))
    found = by_id(fitted("mean").forecast(CANDIDATES))["a"]
    assert (found["low"], found["high"]) == pytest.approx((y.mean() - half, y.mean() + half), abs=1e-6)


def test_the_interval_of_the_mean_of_equal_clusters_is_that_of_the_analysis_of_variance():
    """var(u) = (MSB - MSW) / 4; a new run has var(u) (1 + 1/5) + var(e) (1 + 1/20), degrees of freedom by Satterthwaite."""
    values = np.random.default_rng(3).normal(size=(5, 1)) + np.random.default_rng(4).normal(size=(5, 4))
    between, within = 4 * values.mean(axis=1).var(ddof=1), values.var(axis=1, ddof=1).mean()
    assert between / within == pytest.approx(stats.f_oneway(*values).statistic)
    on_between, on_within = 1.2 / 4 * between, (1.05 - 1.2 / 4) * within
    variance = on_between + on_within
    degrees = variance**2 / (on_between**2 / 4 + on_within**2 / 15)
    half = stats.t.ppf(0.95, degrees) * np.sqrt(variance)
    runs = pl.DataFrame({"signal": np.arange(20.0), "y": values.ravel(), "base": np.arange(20) // 4})
    low, high = fitted("mean", runs, group="base").intervals(np.zeros((1, 1)), 0.9)
    assert (low[0], high[0]) == pytest.approx((values.mean() - half, values.mean() + half))


@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        ("signal+weak", LinearRegression()),
        ("ridge(signal,weak)", make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13)))),
    ],
)
def test_points_are_those_of_scikit_learn_and_sorted(name, estimator):
    expected = estimator.fit(columns(RUNS), RUNS["y"]).predict(columns(CANDIDATES))
    forecast = fitted(name).forecast(CANDIDATES)
    assert [by_id(forecast)[name]["point"] for name in "abc"] == pytest.approx(list(expected), abs=1e-6)
    points = [candidate["point"] for candidate in forecast.candidates]
    assert points == sorted(points, reverse=True)


def test_rows_without_an_outcome_are_not_fitted_on():
    more = pl.concat([RUNS, CANDIDATES.with_columns(y=pl.lit(None, pl.Float64))], how="diagonal")
    assert fitted(runs=more).predict(CANDIDATES) == pytest.approx(fitted().predict(CANDIDATES))


def test_runs_that_lack_a_feature_are_left_out_and_said():
    holes = RUNS.with_columns(weak=pl.when(pl.int_range(14) < 2).then(None).otherwise("weak"))
    forecaster = fitted(runs=holes)
    assert forecaster.predict(CANDIDATES) == pytest.approx(fitted(runs=RUNS[2:]).predict(CANDIDATES))
    assert forecaster.notes == ["2 runs with an outcome lack signal or weak and were not fitted on"]


def left_out_interval(runs: pl.DataFrame, groups: np.ndarray, new: np.ndarray, level: Fraction) -> tuple[float, float]:
    """Jackknife+ by definition: order statistics floor(a (n + 1)) and ceil((1 - a)(n + 1)) of prediction -+ residual."""
    X, y, lows, highs = columns(runs, "signal"), runs["y"].to_numpy(), [], []
    for row in range(len(y)):
        model = LinearRegression().fit(X[groups != groups[row]], y[groups != groups[row]])
        residual = abs(y[row] - model.predict(X[[row]])[0])
        lows.append(model.predict(new)[0] - residual)
        highs.append(model.predict(new)[0] + residual)
    alpha, count = 1 - level, len(y)
    return sorted(lows)[int(alpha * (count + 1)) - 1], sorted(highs)[-int(-level * (count + 1) // 1) - 1]


@pytest.mark.parametrize("number", range(5))
def test_jackknife_plus_and_cv_plus_equal_mapie(number):
    """Intervals written down by MAPIE 1.6.0; tests/golden/make_mapie.py made them."""
    case = json.loads((Path(__file__).parent / "golden/mapie.json").read_text())[number]
    predictor = parse("a+b" if case["estimator"] == "linear" else "ridge(a,b)")
    X, y, new = (np.array(case[name]) for name in ("X", "y", "new"))
    at_new, residuals = left_out(predictor, X, y, np.array(case["fold"]), new)
    for level, low, high in zip(case["levels"], case["low"], case["high"], strict=True):
        found = cv_plus(at_new, residuals, level)
        assert found[0] == pytest.approx(np.array(low), abs=1e-10)
        assert found[1] == pytest.approx(np.array(high), abs=1e-10)


def test_a_90_percent_interval_of_eight_left_out_rows_would_be_infinite_and_is_refused():
    with pytest.raises(UsageError, match="more runs than 8"):
        cv_plus(np.zeros((8, 1)), np.ones(8), 0.9)
    assert np.isfinite(cv_plus(np.zeros((9, 1)), np.ones(9), 0.9)).all()


@pytest.mark.parametrize(("clusters", "size"), [(19, 1), (20, 1), (20, 2)])
def test_intervals_of_many_runs_are_those_of_jackknife_plus_with_clusters_left_out(clusters, size):
    """At 19 rows a tenth of n + 1 is exactly 2: the second smallest counts."""
    rows = clusters * size
    runs = simulated(rows, cell=[f"c{i // size}" for i in range(rows)])
    found = fitted("signal", runs, group="cell").forecast(CANDIDATES[:1]).candidates[0]
    groups, new = runs["cell"].to_numpy(), columns(CANDIDATES[:1], "signal")
    assert (found["low"], found["high"]) == pytest.approx(left_out_interval(runs, groups, new, Fraction(9, 10)), abs=1e-6)
    assert (found["low_50"], found["high_50"]) == pytest.approx(left_out_interval(runs, groups, new, Fraction(1, 2)), abs=1e-6)


def coverage(rows: int, noise, *, replicates: int = 150, size: int = 1) -> float:
    """How often the 90 % interval holds the outcome of one more exchangeable run."""
    rng, inside = np.random.default_rng(11), 0
    for _ in range(replicates):
        x = rng.normal(size=rows + 1).repeat(size)
        shared = noise(rng, rows + 1).repeat(size)
        y = 0.4 + 0.1 * x + (shared + 0.1 * noise(rng, len(x)) if size > 1 else shared)
        cells = np.arange(rows + 1).repeat(size)
        runs = pl.DataFrame({"signal": x, "y": y, "cell": cells})[: rows * size]
        low, high = fitted("signal", runs, group="cell").intervals(x[rows * size :][:1, None], 0.9)
        inside += bool(low[0] <= y[rows * size] <= high[0])
    return inside / replicates


@pytest.mark.parametrize(
    ("rows", "size", "noise"),
    [
        (10, 1, lambda rng, n: 0.05 * rng.normal(size=n)),
        (5, 6, lambda rng, n: 0.05 * rng.normal(size=n)),
        (24, 1, lambda rng, n: 0.05 * rng.standard_t(2, size=n)),
        (20, 2, lambda rng, n: 0.05 * rng.normal(size=n)),
    ],
    ids=["t interval", "t interval of five bases", "CV+ with outliers", "CV+ with twins"],
)
def test_90_percent_intervals_cover_90_percent_of_exchangeable_outcomes(rows, size, noise):
    assert 0.83 <= coverage(rows, noise, size=size) <= 0.97


def test_probabilities_of_being_best_sum_to_1_and_regret_is_not_negative():
    for name in ("signal", "signal+weak", "mean", "average(signal,weak)"):
        candidates = fitted(name).forecast(CANDIDATES).candidates
        assert sum(candidate["p_best"] for candidate in candidates) == pytest.approx(1, abs=3e-6)
        assert min(candidate["expected_regret"] for candidate in candidates) >= 0


def test_a_single_candidate_is_best_without_regret():
    candidate = fitted().forecast(CANDIDATES[:1]).candidates[0]
    assert (candidate["p_best"], candidate["expected_regret"]) == (1, 0)


def test_probability_and_regret_of_two_candidates_have_a_closed_form():
    """The difference of two true levels is Student's t: scale s sqrt(d C d + 2), with C the inverse of X'X."""
    X, y = sm.add_constant(columns(RUNS)), RUNS["y"].to_numpy()
    fit = sm.OLS(y, X).fit()
    new = sm.add_constant(columns(CANDIDATES[1:]), has_constant="add")
    step = new[1] - new[0]
    centre, scale = step @ fit.params, np.sqrt(fit.mse_resid * (step @ np.linalg.inv(X.T @ X) @ step + 2))
    difference = stats.t(fit.df_resid, centre, scale)
    found = by_id(fitted().forecast(CANDIDATES[1:]))
    assert found["c"]["p_best"] == pytest.approx(difference.sf(0), abs=0.03)
    regret = integrate.quad(lambda d: d * difference.pdf(d), 0, np.inf)[0]
    assert found["b"]["expected_regret"] == pytest.approx(regret, rel=0.08)


def test_identical_candidates_are_equally_likely_to_be_best():
    same = pl.concat([CANDIDATES[:1]] * 4).with_columns(id=pl.Series(list("abcd")))
    assert [c["p_best"] for c in fitted().forecast(same).candidates] == pytest.approx([0.25] * 4, abs=0.03)


def test_ties_are_split_where_seed_noise_explains_all_misfit():
    """The RL seeds' own spread is more than the residual: no candidate has a level of its own, equal ones tie in every draw."""
    noisy = RUNS.with_columns(outcome_sd=0.5, n_rl_seeds=3)
    same = pl.concat([CANDIDATES[:1]] * 4).with_columns(id=pl.Series(list("abcd")))
    candidates = fitted(runs=noisy).forecast(same).candidates
    assert [c["p_best"] for c in candidates] == [0.25] * 4
    assert [c["expected_regret"] for c in candidates] == [0] * 4


def test_seed_noise_does_not_count_as_a_difference_between_candidates():
    plain = by_id(fitted().forecast(CANDIDATES))
    noisy = by_id(fitted(runs=RUNS.with_columns(outcome_sd=0.5, n_rl_seeds=3)).forecast(CANDIDATES))
    assert noisy["c"]["p_best"] > plain["c"]["p_best"]
    assert (noisy["c"]["low"], noisy["c"]["high"]) == (plain["c"]["low"], plain["c"]["high"])


def test_a_forecast_says_which_outcome_it_is_of():
    assert fitted().forecast(CANDIDATES).target == "measured outcome"
    assert fitted(runs=RUNS.with_columns(n_rl_seeds=1)).forecast(CANDIDATES).target == "measured outcome"
    assert fitted(runs=RUNS.with_columns(n_rl_seeds=2)).forecast(CANDIDATES).target == "mean over seeds"


def test_a_mean_over_seeds_has_less_noise_to_take_off():
    """A residual of mean outcomes holds a third of one run's noise: more of it is the candidates' own."""
    noisy = RUNS.with_columns(outcome_sd=0.03)
    few, many = (by_id(fitted(runs=noisy.with_columns(n_rl_seeds=seeds)).forecast(CANDIDATES)) for seeds in (2, 30))
    assert many["c"]["p_best"] < few["c"]["p_best"]


def test_a_common_error_of_the_intercept_changes_no_probability():
    """Outcomes all shifted alike: the same draws, shifted."""
    shifted = fitted(runs=RUNS.with_columns(pl.col("y") + 0.3)).forecast(CANDIDATES).candidates
    for plain, moved in zip(fitted().forecast(CANDIDATES).candidates, shifted, strict=True):
        assert (moved["p_best"], moved["expected_regret"]) == pytest.approx((plain["p_best"], plain["expected_regret"]), abs=1e-6)


def test_a_mixed_model_is_forecast_with_the_effect_of_a_base_that_was_seen():
    bases = ["a", "b", "c"] * 8
    runs = simulated(24, base_model=bases).with_columns(y=pl.col("y") + pl.Series([0.3, 0.0, -0.3] * 8))
    asked = CANDIDATES.with_columns(signal=0.0, base_model=pl.Series(["a", "c", "new"]))
    found = by_id(fitted("mixed(signal|base_model)", runs).forecast(asked))
    assert found["a"]["point"] - found["b"]["point"] == pytest.approx(0.6, abs=0.1)
    assert [found[name]["support"]["inside"] for name in "abc"] == [True, True, False]


@pytest.mark.parametrize("name", ["saturating(signal)", "monotone(signal)", "nested(signal,weak)", "huber(signal)"])
def test_forms_without_a_line_are_forecast_with_jackknife_plus(name, monkeypatch):
    monkeypatch.setattr("predict.forecasting.REFITS", 40)
    found = fitted(name, simulated(20)).forecast(CANDIDATES).candidates
    assert all(one["low"] < one["low_50"] < one["point"] < one["high_50"] < one["high"] for one in found)
    assert sum(one["p_best"] for one in found) == pytest.approx(1, abs=3e-6)


def test_noise_variance_pools_the_seeds_by_their_degrees_of_freedom():
    runs = pl.DataFrame({"outcome_sd": [0.1, 0.2, None], "n_rl_seeds": [2, 4, 1], "outcome_sampling_variance": [9.0, 9.0, 9.0]})
    assert noise_variance(runs) == pytest.approx((0.1**2 * 1 + 0.2**2 * 3) / 4)
    assert noise_variance(runs.with_columns(outcome_sd=pl.lit(None, pl.Float64))) == pytest.approx(9)
    assert noise_variance(runs.select("n_rl_seeds")) == 0


def test_leverage_is_that_of_the_hat_matrix():
    forecaster = fitted()
    hat = sm.OLS(RUNS["y"].to_numpy(), sm.add_constant(columns(RUNS))).fit().get_influence().hat_matrix_diag
    seen = by_id(forecaster.forecast(RUNS.drop("y")))
    assert [seen[f"run{i}"]["support"]["leverage"] for i in range(14)] == pytest.approx(list(hat), abs=1e-6)
    assert seen["run0"]["support"]["leverage_max"] == pytest.approx(hat.max(), abs=1e-6)
    assert all(candidate["support"]["inside"] for candidate in seen.values())


def test_a_candidate_outside_of_the_runs_is_called_an_extrapolation():
    far = CANDIDATES[:1].with_columns(signal=9.0)
    candidate = fitted().forecast(far).candidates[0]
    assert not candidate["support"]["inside"]
    assert "extrapolation" in candidate["support"]["words"]
    assert candidate["support"]["gower_share"] == 0


def test_an_unusual_combination_of_usual_values_is_an_extrapolation():
    """Two features that rise together in the runs; the candidate has one high and one low, each within its range."""
    runs = RUNS.with_columns(weak=pl.col("signal") + 0.01 * pl.col("weak"))
    low, high = runs["signal"].min(), runs["signal"].max()
    candidate = CANDIDATES[:1].with_columns(signal=0.8 * low, weak=0.8 * high)
    assert not fitted(runs=runs).forecast(candidate).candidates[0]["support"]["inside"]


def test_another_value_of_what_never_varied_is_an_extrapolation():
    runs = RUNS.with_columns(weak=0.25)
    found = by_id(fitted("average(signal,weak)", runs).forecast(CANDIDATES.with_columns(weak=pl.Series([0.25, 0.2, 0.25]))))
    assert [found[name]["support"]["inside"] for name in "abc"] == [True, False, True]


def test_nearest_runs_are_those_of_the_smallest_gower_distance():
    X = columns(RUNS)
    distance = np.mean(np.abs(X - columns(CANDIDATES)[1]) / np.ptp(X, axis=0), axis=1)
    expected = [f"run{i}" for i in distance.argsort()[:3]]
    assert by_id(fitted().forecast(CANDIDATES))["b"]["nearest"] == expected


def test_equal_candidates_are_abstained_from_by_name():
    same = CANDIDATES.with_columns(signal=0.3, weak=0.1)
    runs = RUNS.with_columns(rl_seconds=60.0)
    abstentions = fitted(runs=runs).forecast(same).abstentions
    assert [(entry["a"], entry["b"]) for entry in abstentions] == [("a", "b"), ("a", "c")]
    assert "cannot be told apart" in abstentions[0]["words"]
    assert "60 s" in abstentions[0]["cost"]


def test_candidates_far_apart_are_told_apart():
    assert fitted().forecast(CANDIDATES.with_columns(signal=pl.Series([-9.0, 0.0, 9.0]))).abstentions == []


def test_a_candidate_without_a_feature_is_refused_by_its_id():
    hole = CANDIDATES.with_columns(weak=pl.Series([0.1, None, 0.2]))
    with pytest.raises(InputError, match="candidate b lacks"):
        fitted().forecast(hole)


def test_a_candidate_without_a_value_below_a_logarithm_is_refused_by_its_id():
    runs = RUNS.with_columns(gen_loss=pl.col("signal").exp())
    hole = CANDIDATES.with_columns(gen_loss=pl.Series([0.1, 0.2, None]))
    with pytest.raises(InputError, match="candidate c lacks"):
        fitted("log(gen_loss)", runs).forecast(hole)


def test_no_candidates_are_refused():
    with pytest.raises(InputError, match="no candidates"):
        fitted().forecast(CANDIDATES[:0])


def test_too_few_runs_are_refused():
    with pytest.raises(InputError, match="at least 6 runs"):
        fitted(runs=RUNS[:5])


def test_an_interval_without_a_linear_model_needs_ten_runs():
    with pytest.raises(UsageError, match="at least 10"):
        fitted("huber(signal)", RUNS[:9])


def test_a_candidates_loss_on_another_held_out_set_is_refused():
    runs = RUNS.with_columns(gen_loss="signal", heldout_hash=pl.lit("aaaa"))
    other = CANDIDATES.with_columns(gen_loss="signal", heldout_hash=pl.lit("bbbb"))
    with pytest.raises(InputError, match="2 different held-out sets"):
        fitted("gen_loss", runs).forecast(other)


def test_an_unknown_group_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'weak'"):
        fitted(group="weakk")


def test_the_mean_outcome_of_a_label_is_forecast_whichever_labels_the_candidates_have():
    mixes = ["long", "mixed", "short"] * 4
    runs = simulated(12, mix=mixes)
    mean = {mix: runs.filter(pl.col("mix") == mix)["y"].mean() for mix in ("long", "mixed", "short")}
    found = by_id(fitted("label(mix)", runs).forecast(CANDIDATES.with_columns(mix=pl.Series(["short", "mixed", "new"]))))
    assert found["a"]["point"] == pytest.approx(mean["short"], abs=1e-6)
    assert found["b"]["point"] == pytest.approx(mean["mixed"], abs=1e-6)
    assert found["c"]["point"] == pytest.approx(runs["y"].mean(), abs=1e-6)
    assert [found[name]["support"]["inside"] for name in "abc"] == [True, True, False]
    assert {runs["mix"][int(name.removeprefix("run"))] for name in found["a"]["nearest"]} == {"short"}


def test_labels_may_be_words_in_a_column_whose_name_sounds_like_a_share():
    runs = simulated(12, accent=["x", "y"] * 6)
    found = fitted("label(accent)", runs).forecast(CANDIDATES.with_columns(accent=pl.lit("x"))).candidates[0]
    assert found["point"] == pytest.approx(runs["y"][::2].mean(), abs=1e-6)


def test_a_candidate_without_its_label_is_refused():
    with pytest.raises(InputError, match="candidate b lacks a value of mix"):
        fitted("label(mix)", simulated(12, mix=["x", "y"] * 6)).forecast(CANDIDATES.with_columns(mix=pl.Series(["x", None, "y"])))


def in_percent(frame: pl.DataFrame, *names: str) -> pl.DataFrame:
    return frame.with_columns(pl.col(*names) * 100)


def test_percent_of_runs_and_candidates_is_read_alike():
    shares = RUNS.with_columns(pass_at_1=pl.col("y") / 2 + 0.1 + 0.02 * pl.col("weak"), outcome_pass_at_1="y")
    candidates = pl.DataFrame({"id": ["a", "b"], "pass_at_1": [0.3, 0.4]})
    plain = predict.Forecaster("pass_at_1").fit(shares)
    percent = predict.Forecaster("pass_at_1").fit(in_percent(shares, "pass_at_1", "outcome_pass_at_1"))
    assert percent.predict(in_percent(candidates, "pass_at_1")) == pytest.approx(plain.predict(candidates))
    assert percent.forecast(in_percent(candidates, "pass_at_1")).notes == [
        "pass_at_1 is in percent; read as fractions",
        "outcome_pass_at_1 is in percent; read as fractions",
    ]


def test_a_candidate_that_looks_like_a_fraction_among_percent_is_refused():
    shares = RUNS.with_columns(pass_at_1=pl.col("y") / 2 + 0.1)
    forecaster = fitted("pass_at_1", in_percent(shares, "pass_at_1"))
    with pytest.raises(InputError, match="mixes percent"):
        forecaster.forecast(pl.DataFrame({"id": ["a"], "pass_at_1": [0.8]}))


def test_a_forecast_document_has_the_keys_of_the_contract_and_is_json():
    forecast = fitted().forecast(CANDIDATES)
    document = json.loads(json.dumps(forecast.to_dict(), allow_nan=False))
    assert set(document) == FORECAST_KEYS
    assert list(document["candidates"][0]) == CANDIDATE_KEYS
    assert {"leverage", "gower_share", "inside", "words"} <= set(document["candidates"][0]["support"])
    assert set(document["fitted_on"]) == {"n", "source"}
    assert document["fitted_on"]["n"] == 14
    assert document["target"] in ("measured outcome", "mean over seeds")
    assert set(fitted().forecast(CANDIDATES.with_columns(signal=0.3, weak=0.1)).abstentions[0]) == {"a", "b", "words", "cost"}


def test_the_hash_of_the_source_tells_runs_apart():
    source = fitted().forecast(CANDIDATES).fitted_on["source"]
    assert fitted().forecast(CANDIDATES).fitted_on["source"] == source
    assert fitted(runs=RUNS.with_columns(pl.col("y") + 0.001)).forecast(CANDIDATES).fitted_on["source"] != source


def test_the_same_seed_draws_the_same_probabilities():
    first, second, other = (fitted(seed=seed).forecast(CANDIDATES).candidates for seed in (3, 3, 4))
    assert first == second
    assert [c["p_best"] for c in first] != [c["p_best"] for c in other]


def test_candidates_without_ids_are_called_by_their_row():
    forecast = fitted("signal", RUNS.drop("id")).forecast(CANDIDATES.drop("id"))
    assert sorted(by_id(forecast)) == ["1", "2", "3"]


def test_a_response_holds_the_other_features_and_runs_over_the_observed_range():
    forecaster = fitted()
    curve = forecaster.response(CANDIDATES[:1], "signal", points=5)
    assert curve["signal"].to_list() == pytest.approx(np.linspace(RUNS["signal"].min(), RUNS["signal"].max(), 5).tolist())
    asked = by_id(forecaster.forecast(CANDIDATES[:1].with_columns(signal=curve["signal"][3])))["a"]
    for name in ("point", "low", "high"):
        assert curve[name][3] == pytest.approx(asked[name], abs=1e-6)


def test_a_frame_of_a_forecast_has_one_row_a_candidate():
    forecast = fitted().forecast(CANDIDATES)
    assert forecast.frame()["id"].to_list() == [candidate["id"] for candidate in forecast.candidates]
