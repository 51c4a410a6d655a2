"""Scores of predictors held to scikit-learn, scipy, statsmodels, brute force and published numbers."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.dummy import DummyRegressor
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import HuberRegressor, LinearRegression, RidgeCV
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import predict
from curate.errors import InputError, UsageError
from predict import regret
from predict.features import Term, filled_columns
from predict.predictors import parse
from predict.scoring import best_predictor

SCORE_KEYS = (
    "name, features, n, spearman, pearson_squared, r2_in_sample, r2_half, r2_loo, spearman_loo, r2_logo, r2_logo_grand, "
    "spearman_logo, spearman_within, mae_loo, pairwise_accuracy, top1_regret, coverage_90, versus_baseline, wrong_signed, notes, "
    "kendall, spearman_fisher, spearman_crossed, r2_within, r2_between, interval_score_90, regret, r2_held_out"
)
REPORT_KEYS = "n, n_runs, n_groups, outcome, group, folds, predictors, notes, sst, strata, ceiling, proposed_groups, collapsed"
NAMED = ["weak", "mean", "signal", "signal+weak"]
ALPHAS = np.logspace(-3, 3, 13)


def simulated(groups: int = 8, size: int = 3, seed: int = 5) -> pl.DataFrame:
    """Runs in groups that share a part of their outcome; `signal` tells more than `weak`."""
    rng = np.random.default_rng(seed)
    rows = groups * size
    group = np.repeat(np.arange(groups), size)
    signal, weak = rng.normal(size=rows), rng.normal(size=rows)
    y = 0.4 + 0.08 * signal + 0.03 * weak + 0.03 * rng.normal(size=groups)[group] + 0.04 * rng.normal(size=rows)
    names = [f"g{number}" for number in group]
    return pl.DataFrame({"family": names, "signal": signal, "weak": weak, "other": rng.normal(size=rows), "y": y})


RUNS = simulated()
Y = RUNS["y"].to_numpy()
GROUPS = RUNS["family"].to_numpy()
ROWS_OF_GROUPS = [np.flatnonzero(group == GROUPS) for group in np.unique(GROUPS)]
LABELS = np.array(["a", "b", "c"] * 7 + ["rare"] * 3)
BANDS = np.array(["low", "middle", "high"])[np.digitize(Y, np.quantile(Y, [0.35, 0.7]))]


def columns(*names: str, frame: pl.DataFrame = RUNS) -> np.ndarray:
    return frame.select(names).to_numpy()


def held_out(estimator, X: np.ndarray, y: np.ndarray = Y, groups: np.ndarray | None = GROUPS) -> np.ndarray:
    """Predictions of scikit-learn, groups left out whole; single rows where `groups` is None."""
    cv = LeaveOneOut() if groups is None else LeaveOneGroupOut()
    return cross_val_predict(estimator, X, y, cv=cv, groups=groups)


def training_means(y: np.ndarray = Y, groups: np.ndarray | None = GROUPS) -> np.ndarray:
    return held_out(DummyRegressor(), np.zeros((len(y), 1)), y, groups)


def r2(predicted: np.ndarray, y: np.ndarray = Y, groups: np.ndarray | None = GROUPS) -> float:
    return 1 - ((y - predicted) ** 2).sum() / ((y - training_means(y, groups)) ** 2).sum()


@pytest.fixture(scope="module")
def report() -> predict.Report:
    return predict.score(RUNS, outcome="y", group="family", predictors=NAMED)


@pytest.mark.parametrize("name", ["weak", "signal", "signal+weak"])
def test_held_out_r2_equals_scikit_learn_against_the_training_folds_mean(report, name):
    X = columns(*name.split("+"))
    score = report[name]
    assert score.r2_logo == pytest.approx(r2(held_out(LinearRegression(), X)))
    assert score.r2_loo == pytest.approx(r2(held_out(LinearRegression(), X, groups=None), groups=None))
    assert score.r2_logo_grand == pytest.approx(r2_score(Y, held_out(LinearRegression(), X)))
    assert score.mae_loo == pytest.approx(mean_absolute_error(Y, held_out(LinearRegression(), X, groups=None)))


def test_held_out_rank_correlations_equal_scipy_on_predictions_less_their_folds_mean(report):
    X = columns("signal", "weak")
    by_row = held_out(LinearRegression(), X, groups=None) - training_means(groups=None)
    by_group = held_out(LinearRegression(), X) - training_means()
    assert report["signal+weak"].spearman_loo == pytest.approx(stats.spearmanr(by_row, Y).statistic)
    assert report["signal+weak"].spearman_logo == pytest.approx(stats.spearmanr(by_group, Y).statistic)
    within = [stats.spearmanr(by_group[rows], Y[rows]).statistic for rows in ROWS_OF_GROUPS]
    assert report["signal+weak"].spearman_within == pytest.approx(np.mean(within))


def test_mean_scores_exactly_0_under_every_scheme(report):
    mean = report["mean"]
    assert [mean.r2_in_sample, mean.r2_loo, mean.r2_logo] == [0.0, 0.0, 0.0]
    assert mean.r2_half == {"mean": 0.0, "sd": 0.0, "median": 0.0, "se": 0.0}
    assert mean.spearman.value is None
    assert mean.pearson_squared is None
    assert mean.pairwise_accuracy == 0.5


def test_mean_against_the_grand_mean_is_below_0_as_in_scikit_learn(report):
    assert report["mean"].r2_logo_grand == pytest.approx(r2_score(Y, training_means()))
    assert report["mean"].r2_logo_grand < 0


def test_spearman_of_one_feature_is_that_of_the_raw_column():
    runs = RUNS.with_columns(gen_loss=-pl.col("signal"))
    score = predict.score(runs, outcome="y", group="family", predictors=["gen_loss"])["gen_loss"]
    assert score.spearman.value == pytest.approx(stats.spearmanr(-RUNS["signal"], Y).statistic)
    assert score.spearman.value < 0
    assert score.pearson_squared == pytest.approx(stats.pearsonr(RUNS["signal"], Y).statistic ** 2)


def test_spearman_of_several_features_is_of_the_fitted_values(report):
    X = columns("signal", "weak")
    fitted = LinearRegression().fit(X, Y).predict(X)
    assert report["signal+weak"].spearman.value == pytest.approx(stats.spearmanr(fitted, Y).statistic)


def test_spearman_shares_ranks_among_ties():
    runs = RUNS.with_columns(signal=pl.col("signal").round(0), y=pl.col("y").round(1))
    score = predict.score(runs, outcome="y", group="family", predictors=["signal"])["signal"]
    assert score.spearman.value == pytest.approx(stats.spearmanr(runs["signal"], runs["y"]).statistic)


@pytest.mark.parametrize("name", ["signal", "signal+weak"])
def test_in_sample_r2_equals_statsmodels(report, name):
    expected = sm.OLS(Y, sm.add_constant(columns(*name.split("+")))).fit().rsquared
    assert report[name].r2_in_sample == pytest.approx(expected)


def test_half_splits_average_to_the_mean_over_all_splits(report):
    """All 70 ways to cut 8 groups in halves; the 200 random ones are drawn from these."""
    names = np.unique(GROUPS)
    values = []
    for chosen in itertools.combinations(names, 4):
        train = np.isin(GROUPS, chosen)
        predicted = LinearRegression().fit(columns("signal")[train], Y[train]).predict(columns("signal")[~train])
        values.append(1 - ((Y[~train] - predicted) ** 2).sum() / ((Y[~train] - Y[train].mean()) ** 2).sum())
    half = report["signal"].r2_half
    assert half["mean"] == pytest.approx(np.mean(values), abs=4 * np.std(values) / math.sqrt(200))
    assert half["sd"] == pytest.approx(np.std(values), rel=0.25)


def test_pairwise_accuracy_by_hand(report):
    """Over pairs from different groups, on held-out predictions."""
    predicted = held_out(LinearRegression(), columns("signal")) - training_means()
    right = [
        (predicted[a] - predicted[b]) * (Y[a] - Y[b]) > 0
        for a, b in itertools.combinations(range(len(Y)), 2)
        if GROUPS[a] != GROUPS[b]
    ]
    assert report["signal"].pairwise_accuracy == pytest.approx(np.mean(right))


def interval_by_parts(x: np.ndarray, y: np.ndarray, groups: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """90 % interval of a new group's runs: variance components from two fits of statsmodels (Henderson's method 3), Satterthwaite's t."""
    X, row = sm.add_constant(x), sm.add_constant(new, has_constant="add")
    line, member = sm.OLS(y, X).fit(), (groups[:, None] == np.unique(groups)).astype(float)
    frame = line.get_prediction(row).summary_frame(alpha=0.1)
    alone = frame["obs_ci_lower"].to_numpy(), frame["obs_ci_upper"].to_numpy()
    if len(y) == member.shape[1]:
        return alone
    both, weights = sm.OLS(y, np.column_stack([member, x])).fit(), row @ np.linalg.pinv(X)
    count = line.df_resid - both.df_resid
    if (line.ssr - both.ssr) / count <= both.mse_resid:
        return alone
    size = np.trace(member.T @ (np.eye(len(y)) - X @ np.linalg.pinv(X)) @ member) / count
    of_group = ((line.ssr - both.ssr) / count - both.mse_resid) / size
    on_group, on_run = 1 + ((weights @ member) ** 2).sum(axis=1), 1 + (weights**2).sum(axis=1)
    variance = on_group * of_group + on_run * both.mse_resid
    between, within = on_group / size * (line.ssr - both.ssr) / count, (on_run - on_group / size) * both.mse_resid
    half = stats.t.ppf(0.95, variance**2 / (between**2 / count + within**2 / both.df_resid)) * np.sqrt(variance)
    return row @ line.params - half, row @ line.params + half


@pytest.mark.parametrize(("groups", "size"), [(8, 3), (16, 1)], ids=["groups of three", "single runs"])
def test_coverage_and_interval_score_are_of_the_intervals_of_statsmodels(groups, size):
    runs = simulated(groups, size)
    x, y, of, inside, scores = columns("signal", frame=runs), runs["y"].to_numpy(), runs["family"].to_numpy(), [], []
    for train, test in LeaveOneGroupOut().split(x, y, of):
        low, high = interval_by_parts(x[train], y[train], of[train], x[test])
        inside += list((low <= y[test]) & (y[test] <= high))
        scores += list(high - low + 20 * (np.maximum(low - y[test], 0) + np.maximum(y[test] - high, 0)))
    assert not all(inside)
    found = predict.score(runs, outcome="y", group="family", predictors=["signal"])["signal"]
    assert found.coverage_90 == pytest.approx(np.mean(inside))
    assert found.interval_score_90 == pytest.approx(np.mean(scores))


def test_regret_of_the_choice_among_all_candidates():
    """Eight runs are one candidate set: the best outcome less that of the run predicted best."""
    runs = RUNS[:8]
    y = runs["y"].to_numpy()
    predicted = held_out(LinearRegression(), columns("weak", frame=runs), y, None) - training_means(y, None)
    score = predict.score(runs, outcome="y", predictors=["weak"])["weak"]
    assert score.top1_regret == pytest.approx(y.max() - y[predicted.argmax()])


def halves_of(y: np.ndarray, noise: np.ndarray) -> dict[str, np.ndarray]:
    return {"outcome_pass_at_1": y, "outcome_half_1": y + noise, "outcome_half_2": y - noise}


def test_regret_picks_the_best_on_one_half_of_the_problems_and_values_it_on_the_other():
    runs = RUNS[:8]
    noise = np.array([0.3, -0.2, 0.1, -0.3, 0.2, 0.0, -0.1, 0.25])
    y = runs["y"].to_numpy()
    one, two = y + noise, y - noise
    score = predict.score(runs.with_columns(**halves_of(y, noise)), predictors=["identity(y)"])["identity(y)"]
    choice = y.argmax()
    expected = ((two[one.argmax()] - two[choice]) + (one[two.argmax()] - one[choice])) / 2
    assert score.top1_regret == pytest.approx(expected)


def test_regret_of_another_outcome_is_not_valued_on_the_halves_of_pass_at_1():
    runs = RUNS[:8].with_columns(**halves_of(np.linspace(0, 1, 8), np.zeros(8)))
    score = predict.score(runs, outcome="y", predictors=["identity(y)"])["identity(y)"]
    assert score.top1_regret == 0


def test_an_oracle_has_no_regret_within_noisy_halves(monkeypatch):
    """The level itself as predictor: what it loses to the better of two noisy halves averages to about 0."""
    monkeypatch.setattr(regret, "CANDIDATE_SETS", 400)
    rng = np.random.default_rng(1)
    level, noise = rng.normal(0.5, 0.05, 60), rng.normal(0, 0.05, 60)
    runs = pl.DataFrame({"level": level, **halves_of(level, noise)})
    assert predict.score(runs, predictors=["identity(level)"])["identity(level)"].top1_regret < 0.005


def test_regret_of_three_runs_is_that_of_the_best_of_them_and_has_an_interval(report):
    runs = RUNS[:8]
    y = runs["y"].to_numpy()
    predicted = held_out(LinearRegression(), columns("weak", frame=runs), y, None) - training_means(y, None)
    found = predict.score(runs, outcome="y", predictors=["weak"])["weak"].regret
    assert found["top3"].value == pytest.approx(y.max() - y[np.argsort(-predicted)[:3]].max())
    assert found["top1"].low is None  # every set is all eight rows: none is without a block
    both = report["weak"].regret
    assert both["top1"].low < both["top1"].value < both["top1"].high
    assert both["top3"].value < both["top1"].value == report["weak"].top1_regret


def test_the_regret_of_ten_thousand_sets_is_the_mean_over_all_sets_of_eight(monkeypatch):
    """Ten runs: all 45 sets by hand."""
    monkeypatch.setattr(regret, "CANDIDATE_SETS", 10000)
    runs = RUNS[:10]
    y = runs["y"].to_numpy()
    predicted = held_out(LinearRegression(), columns("weak", frame=runs), y, None) - training_means(y, None)
    sets = [np.array(rows) for rows in itertools.combinations(range(10), 8)]
    expected = np.mean([y[rows].max() - y[rows[predicted[rows].argmax()]] for rows in sets])
    assert predict.score(runs, outcome="y", predictors=["weak"])["weak"].top1_regret == pytest.approx(expected, rel=0.05)


def label_means() -> Iterator[float]:
    for rows in ROWS_OF_GROUPS:
        train = np.setdiff1d(np.arange(len(Y)), rows)
        for row in rows:
            same = train[LABELS[train] == LABELS[row]]
            yield Y[same if len(same) else train].mean()


def mixed_predictions() -> np.ndarray:
    """statsmodels' MixedLM without each group: the fixed part and, for labels that were there, their effect."""
    X, predicted = sm.add_constant(columns("signal")), np.empty(len(Y))
    for rows in ROWS_OF_GROUPS:
        train = np.setdiff1d(np.arange(len(Y)), rows)
        fit = sm.MixedLM(Y[train], X[train], groups=BANDS[train]).fit(reml=True, method=["lbfgs", "powell"])
        effects = {label: float(effect.iloc[0]) for label, effect in fit.random_effects.items()}
        predicted[rows] = X[rows] @ fit.fe_params + [effects.get(label, 0.0) for label in BANDS[rows]]
    return predicted


def nested_predictions() -> np.ndarray:
    """The column with the least leave-one-out error among the training rows, by scikit-learn."""
    predicted = np.empty(len(Y))
    for rows in ROWS_OF_GROUPS:
        train = np.setdiff1d(np.arange(len(Y)), rows)
        inner = {n: held_out(LinearRegression(), columns(n)[train], Y[train], None) for n in ("signal", "weak")}
        chosen = min(inner, key=lambda name: ((Y[train] - inner[name]) ** 2).mean())
        predicted[rows] = LinearRegression().fit(columns(chosen)[train], Y[train]).predict(columns(chosen)[rows])
    return predicted


@pytest.mark.filterwarnings("ignore::statsmodels.tools.sm_exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("name", "predicted"),
    [
        ("identity(signal)", lambda: columns("signal")[:, 0]),
        ("label(mix)", lambda: np.array(list(label_means()))),
        (
            "average(signal,weak)",
            lambda: (held_out(LinearRegression(), columns("signal")) + held_out(LinearRegression(), columns("weak"))) / 2,
        ),
        (
            "ridge(signal,weak,other)",
            lambda: held_out(make_pipeline(StandardScaler(), RidgeCV(alphas=ALPHAS)), columns("signal", "weak", "other")),
        ),
        (
            "huber(signal,weak)",
            lambda: held_out(make_pipeline(StandardScaler(), HuberRegressor(max_iter=1000)), columns("signal", "weak")),
        ),
        ("mixed(signal|band)", mixed_predictions),
        ("nested(signal,weak)", nested_predictions),
        ("monotone(signal)", lambda: held_out(IsotonicRegression(out_of_bounds="clip"), columns("signal"))),
        ("log(raised)", lambda: held_out(LinearRegression(), columns("signal"))),
        ("logit(share)", lambda: held_out(LinearRegression(), columns("weak"))),
    ],
)
def test_every_kind_of_predictor_equals_its_definition(name, predicted, monkeypatch):
    monkeypatch.setattr("predict.folds.HALF_SPLITS", 5)
    runs = RUNS.with_columns(
        raised=pl.col("signal").exp(), share=1 / (1 + (-pl.col("weak")).exp()), mix=pl.Series(LABELS), band=pl.Series(BANDS)
    )
    score = predict.score(runs, outcome="y", group="family", predictors=[name])[name]
    assert score.r2_logo == pytest.approx(r2(predicted()), abs=1e-5)


def test_an_estimator_of_ones_own_is_scored_like_the_others():
    own = predict.Predictor("neighbours", (Term("signal"), Term("weak")), KNeighborsRegressor(3))
    score = predict.score(RUNS, outcome="y", group="family", predictors=["signal", own])["neighbours"]
    assert score.features == ["signal", "weak"]
    assert score.r2_logo == pytest.approx(r2(held_out(KNeighborsRegressor(3), columns("signal", "weak"))))
    assert score.versus_baseline["name"] == "signal"


def squared_errors(name: str) -> np.ndarray:
    return (Y - held_out(LinearRegression(), columns(*name.split("+")))) ** 2


def test_the_difference_to_the_baseline_is_tested_by_flipping_signs_of_groups(report):
    """p equals scipy's exact permutation test of the group means of the difference of squared errors."""
    difference = squared_errors("signal+weak") - squared_errors("weak")
    per_group = np.array([difference[rows].mean() for rows in ROWS_OF_GROUPS])
    exact = stats.permutation_test((per_group,), np.mean, permutation_type="samples", n_resamples=np.inf)
    versus = report["signal+weak"].versus_baseline
    assert versus["p_value"] == pytest.approx(exact.pvalue)
    assert versus["delta_r2"]["value"] == pytest.approx(report["signal+weak"].r2_logo - report["weak"].r2_logo)
    assert report["weak"].versus_baseline is None


def test_p_values_over_all_predictors_are_adjusted_and_added_columns_are_tested(report):
    versus = {name: report[name].versus_baseline for name in NAMED[1:]}
    assert all(found["p_value_adjusted"] >= found["p_value"] for found in versus.values())
    assert versus["signal+weak"]["p_value_added"] < 0.05
    assert (
        versus["mean"]["p_value_added"] is versus["signal"]["p_value_added"] is None
    )  # neither has the baseline's column and more
    small, large = (sm.OLS(Y, sm.add_constant(columns(*names))).fit() for names in (("weak",), ("weak", "signal")))
    assert large.compare_f_test(small)[1] < 0.001


def test_the_sum_of_squares_and_kendalls_tau_stand_beside(report):
    assert report.sst == pytest.approx(((Y - Y.mean()) ** 2).sum())
    assert report["signal"].kendall == pytest.approx(stats.kendalltau(RUNS["signal"], Y).statistic)


def test_the_interval_of_a_difference_is_the_jackknife_over_groups_with_every_fold_refitted(report):
    values = []
    for group in np.unique(GROUPS):
        kept = group != GROUPS
        part = {"y": Y[kept], "groups": GROUPS[kept]}
        both = [r2(held_out(LinearRegression(), columns(*names)[kept], **part), **part) for names in (("signal",), ("weak",))]
        values.append(both[0] - both[1])
    count = len(values)
    error = math.sqrt((count - 1) ** 2 / count * np.var(values, ddof=1))
    delta = report["signal"].versus_baseline["delta_r2"]
    assert delta["high"] - delta["value"] == pytest.approx(stats.t.ppf(0.95, count - 1) * error)
    assert delta["value"] - delta["low"] == pytest.approx(delta["high"] - delta["value"])


def test_the_interval_of_spearman_comes_from_resampled_groups(report):
    """Close to scipy's percentile bootstrap over the groups."""
    signal = columns("signal")[:, 0]

    def statistic(picked: np.ndarray) -> float:
        drawn = np.concatenate([ROWS_OF_GROUPS[index] for index in picked])
        return stats.spearmanr(signal[drawn], Y[drawn]).statistic

    theirs = stats.bootstrap(
        (np.arange(8),), statistic, confidence_level=0.9, method="percentile", vectorized=False, n_resamples=1000,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    ours = report["signal"].spearman
    assert ours.low == pytest.approx(theirs.low, abs=0.05)
    assert ours.high == pytest.approx(theirs.high, abs=0.03)


def test_few_groups_print_every_fold_and_give_no_interval():
    runs = simulated(groups=4, size=4)
    y, groups = runs["y"].to_numpy(), runs["family"].to_numpy()
    score = predict.score(runs, outcome="y", group="family", predictors=["signal"])["signal"]
    assert (score.spearman.low, score.spearman.high) == (None, None)
    errors = (y - held_out(LinearRegression(), columns("signal", frame=runs), y, groups)) ** 2
    shown = ", ".join(f"{errors[groups == group].mean():.4g}" for group in np.unique(groups))
    assert any(shown in note for note in score.notes)


def test_a_set_of_pure_noise_scores_no_more_than_0_held_out():
    """Five columns of noise on 14 cells of twins: leaving rows out and leaving cells out, mean over simulations."""
    loo, logo = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        cells = np.repeat(np.arange(14), 2)
        frame = {f"noise{i}": rng.normal(size=14)[cells] + 0.1 * rng.normal(size=28) for i in range(5)}
        runs = pl.DataFrame({**frame, "cell": cells, "y": rng.normal(size=14)[cells] + 0.1 * rng.normal(size=28)})
        score = predict.score(runs, outcome="y", group="cell", predictors=["+".join(frame)])["+".join(frame)]
        loo.append(score.r2_loo)
        logo.append(score.r2_logo)
    assert np.mean(logo) <= 0
    assert np.mean(loo) > np.mean(logo)


@pytest.mark.parametrize(
    ("column", "sign", "direction", "wrong"),
    [
        ("pass_at_64", 1, None, False),
        ("pass_at_64", -1, None, True),
        ("gen_loss", -1, None, False),
        ("gen_loss", 1, None, True),
        ("eval_nll", 1, None, True),
        ("perplexity", 1, None, True),
        ("coverage_ratio", -1, None, True),
        ("early_reward_start", -1, None, True),
        ("entropy_t1", 1, None, None),
        ("entropy_t1", 1, "down", True),
        ("entropy_t1", -1, "down", False),
        ("gen_loss", 1, "up", False),
    ],
)
def test_a_signal_against_its_direction_is_called_wrong_signed(column, sign, direction, wrong):
    runs = RUNS[:9].with_columns((sign * pl.col("y")).exp().alias(column) / 10)
    directions = {column: direction} if direction else None
    score = predict.score(runs, outcome="y", predictors=[column], directions=directions)[column]
    assert score.wrong_signed is wrong
    if wrong:
        assert any("wrong-signed, Spearman" in note for note in score.notes)
    if wrong is None:
        assert any(f"--direction {column}=up|down" in note for note in score.notes)


def test_a_transformed_signal_keeps_its_direction_and_several_have_none():
    runs = RUNS[:9].with_columns(gen_loss=pl.col("y").exp())
    report = predict.score(runs, outcome="y", predictors=["log(gen_loss)", "gen_loss+weak", "mean"])
    assert [score.wrong_signed for score in report.predictors] == [True, None, None]


def shares(scale: float) -> pl.DataFrame:
    rng = np.random.default_rng(4)
    before = rng.uniform(0.05, 0.6, 12)
    after = np.clip(before + 0.1 + 0.05 * rng.normal(size=12), 0.02, 1)
    return pl.DataFrame({"pre_pass1": scale * before, "post_pass1": scale * after})


def test_percent_is_read_as_fractions_and_said():
    percent = predict.score(shares(100), outcome="post_pass1", predictors=["pre_pass1"])
    fractions = predict.score(shares(1), outcome="post_pass1", predictors=["pre_pass1"])
    assert percent["pre_pass1"].mae_loo == pytest.approx(fractions["pre_pass1"].mae_loo)
    assert [note for note in percent.notes if "percent" in note] == [
        "pre_pass1 is in percent; read as fractions",
        "post_pass1 is in percent; read as fractions",
    ]
    assert not [note for note in fractions.notes if "percent" in note]


def test_a_mixture_of_percent_and_fractions_is_refused_unless_called_percent():
    mixed = shares(100).with_columns(pre_pass1=pl.when(pl.int_range(12) == 3).then(0.5).otherwise("pre_pass1"))
    with pytest.raises(InputError, match=r"pre_pass1.*mixes percent.*--percent pre_pass1"):
        predict.score(mixed, outcome="post_pass1", predictors=["pre_pass1"])
    allowed = predict.score(mixed, outcome="post_pass1", predictors=["pre_pass1"], percent=["pre_pass1"])
    as_fractions = predict.score(mixed / 100, outcome="post_pass1", predictors=["pre_pass1"])
    assert allowed["pre_pass1"].r2_loo == pytest.approx(as_fractions["pre_pass1"].r2_loo)
    assert allowed["pre_pass1"].mae_loo == pytest.approx(as_fractions["pre_pass1"].mae_loo)


def test_a_share_beyond_100_is_refused():
    with pytest.raises(InputError, match=r"0\.\.100"):
        predict.score(shares(300), outcome="post_pass1", predictors=["pre_pass1"])


def test_a_loss_beyond_1_is_no_percentage():
    runs = RUNS[:8].with_columns(gen_loss=pl.col("y") + 2)
    assert not any("percent" in note for note in predict.score(runs, outcome="y", predictors=["gen_loss"]).notes)


def test_rows_without_an_outcome_are_left_aside():
    candidates = RUNS[:5].with_columns(y=pl.lit(None, pl.Float64), signal=pl.lit(99.0))
    both = predict.score(pl.concat([candidates, RUNS]), outcome="y", group="family", predictors=["signal"])
    assert both.to_dict() == predict.score(RUNS, outcome="y", group="family", predictors=["signal"]).to_dict()


def test_rows_that_lack_a_column_of_one_predictor_are_left_out_for_all_and_said():
    holes = RUNS[:10].with_columns(weak=pl.when(pl.int_range(10) < 3).then(None).otherwise("weak"))
    report = predict.score(holes, outcome="y", predictors=["signal", "weak"])
    assert report.n == 7
    assert any(note.startswith("3 rows with an outcome lack weak (3)") for note in report.notes)
    alone = predict.score(RUNS[3:10], outcome="y", predictors=["signal"])
    assert report["signal"].r2_loo == alone["signal"].r2_loo


def test_an_empty_cell_below_a_logarithm_is_a_hole_too():
    holes = RUNS[:10].with_columns(raised=pl.when(pl.int_range(10) < 3).then(None).otherwise(pl.col("signal").exp()))
    score = predict.score(holes, outcome="y", predictors=["log(raised)"])["log(raised)"]
    assert score.n == 7
    assert score.r2_in_sample == pytest.approx(stats.pearsonr(RUNS["signal"][3:10], Y[3:10]).statistic ** 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", ["signal", "y"])
def test_a_number_that_is_not_finite_is_refused_with_its_row(column, bad):
    runs = RUNS.with_columns(pl.when(pl.int_range(len(RUNS)) == 6).then(bad).otherwise(column).alias(column))
    with pytest.raises(InputError, match=f"'{column}', row 7"):
        predict.score(runs, outcome="y", predictors=["signal"])


def test_a_value_outside_of_a_transforms_domain_is_refused_with_its_row_of_the_table():
    runs = RUNS.with_columns(y=pl.when(pl.int_range(len(RUNS)) == 0).then(None).otherwise("y"))
    runs = runs.with_columns(loss=pl.when(pl.int_range(len(RUNS)) == 6).then(0.0).otherwise(1.5))
    with pytest.raises(InputError, match=r"log\(loss\): row 7 holds 0"):
        predict.score(runs, outcome="y", predictors=["log(loss)"])


def test_losses_on_different_held_out_sets_are_not_one_feature():
    runs = RUNS.with_columns(gen_loss="signal", heldout_hash=pl.Series(["aaaa", "bbbb"] * 12))
    with pytest.raises(InputError, match="2 different held-out sets"):
        predict.score(runs, outcome="y", predictors=["gen_loss"])
    assert predict.score(runs, outcome="y", group="family", predictors=["weak"]).n == 24


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"predictors": ["signl"]}, "did you mean 'signal'"),
        ({"predictors": ["family"]}, "expected numbers, came 'g0'"),
        ({"predictors": ["label(famly)"]}, "did you mean 'family'"),
        ({"predictors": ["signal"], "group": "famly"}, "did you mean 'family'"),
        ({"predictors": ["signal"], "outcome": "yy"}, "none of that name"),
    ],
)
def test_columns_that_are_not_there_or_not_numbers_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        predict.score(RUNS, **{"outcome": "y", **arguments})


@pytest.mark.parametrize("arguments", [{"directions": {"signl": "up"}}, {"percent": ["signl"]}])
def test_settings_of_a_column_that_is_not_there_are_refused(arguments):
    with pytest.raises(InputError, match="did you mean 'signal'"):
        predict.score(RUNS, outcome="y", predictors=["signal"], **arguments)


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        (RUNS[:4], "at least 5 rows"),
        (RUNS.with_columns(y=0.5), "all 24 values are equal"),
        (RUNS.with_columns(family=pl.lit("a")), "1 different value"),
    ],
)
def test_runs_that_cannot_be_scored_are_refused(runs, words):
    with pytest.raises(InputError, match=words):
        predict.score(runs, outcome="y", group="family", predictors=["signal"])


def test_more_columns_than_the_runs_can_bear_are_refused():
    runs = RUNS[:6].with_columns(fourth=pl.col("y") ** 2)
    with pytest.raises(InputError, match="4 columns need at least 7"):
        predict.score(runs, outcome="y", predictors=["signal+weak+other+fourth"])


def test_the_json_of_a_report_has_the_keys_of_the_contract_and_the_order_of_the_predictors(report):
    document = report.to_dict()
    assert ", ".join(document) == REPORT_KEYS
    assert [score["name"] for score in document["predictors"]] == NAMED
    for score in document["predictors"]:
        assert ", ".join(score) == SCORE_KEYS
        assert list(score["spearman"]) == ["value", "low", "high"]
        assert list(score["r2_half"]) == ["mean", "sd", "median", "se"]
    versus = document["predictors"][1]["versus_baseline"]
    assert list(versus) == ["name", "delta_r2", "p_value", "p_value_adjusted", "p_value_added"]
    assert list(versus["delta_r2"]) == ["value", "low", "high"]
    assert [document[name] for name in ("n", "n_groups", "group")] == [24, 8, "family"]
    assert document["folds"] == "leave one family out"


def test_without_groups_rows_are_left_out_and_the_figures_of_groups_are_empty():
    report = predict.score(RUNS[:10].drop("family"), outcome="y", predictors=["weak", "signal"])
    score = report["signal"]
    assert (report.group, report.folds, report.n_groups) == (None, "leave one row out", 10)
    assert [score.r2_logo, score.r2_logo_grand, score.spearman_logo, score.spearman_within] == [None] * 4
    assert score.versus_baseline["delta_r2"]["value"] == pytest.approx(score.r2_loo - report["weak"].r2_loo)


def test_cells_of_a_store_are_left_out_whole_by_default():
    """Rows with run ids are a store's; any other table is scored by single rows unless a group is named."""
    table = RUNS.rename({"family": "cell"})
    assert predict.score(table, outcome="y", predictors=["signal"]).group is None
    runs = table.with_columns(run_id=pl.int_range(24).cast(pl.String))
    assert predict.score(runs, outcome="y", predictors=["signal"], group="none").group is None
    report = predict.score(runs, outcome="y", predictors=["signal"])
    assert report.group == "cell"
    assert report["signal"].r2_logo == pytest.approx(r2(held_out(LinearRegression(), columns("signal"))))


def test_the_same_seed_gives_the_same_report():
    arguments = {"outcome": "y", "group": "family", "predictors": ["weak", "signal"]}
    assert predict.score(RUNS[:12], seed=7, **arguments).to_dict() == predict.score(RUNS[:12], seed=7, **arguments).to_dict()


def test_a_frame_of_scores_has_one_row_a_predictor(report):
    frame = report.frame()
    assert frame["predictor"].to_list() == NAMED
    assert frame.row(by_predicate=pl.col("predictor") == "mean", named=True)["r2_logo"] == 0


def test_the_best_predictor_is_the_one_whose_column_holds_the_outcome():
    rng = np.random.default_rng(0)
    runs = RUNS.select("y").with_columns(pass_at_1=pl.Series(rng.uniform(size=24)), gen_loss=2 - 1.5 * pl.col("y"))
    assert best_predictor(runs, outcome="y") == "gen_loss"


def test_the_best_predictor_over_unknown_groups_is_refused():
    with pytest.raises(InputError, match="did you mean 'family'"):
        best_predictor(RUNS.with_columns(pass_at_1=0.5 + 0.1 * pl.col("weak")), outcome="y", group="famly")


@pytest.mark.parametrize(
    "name",
    ["", " ", "A+", "+A", "A++B", "log(A", "log A)", "log()", "mean(A)", "ridge()", "ridge( , )", "identity(A,B)", "label(A,B)",
     "ridge(A)+B", "sqrt(A)", "log(log(A))", "ridge(huber(A))", "ridge(A,,B)", "mixed(A)", "mixed(A|)", "mixed(|G)", "monotone(A,B)",
     "saturating(A,B)", "nested(p_1..q_8)", "nested(p_3..p_8)", "nested(p_8..p_1)"],
)  # fmt: skip
def test_names_outside_of_the_grammar_are_refused(name):
    with pytest.raises(UsageError, match="predictor"):
        parse(name)


def test_names_of_the_grammar_are_read():
    assert parse(" log(gen_loss) + pass@64 ").terms == (Term("gen_loss", "log"), Term("pass@64"))
    assert parse("ridge(logit(a), b)").terms == (Term("a", "logit"), Term("b"))
    assert parse("mean").terms == ()
    assert parse("length mix").terms == (Term("length mix"),)
    assert parse("nested(pass_at_4..pass_at_32, gen_loss)").features == [
        "pass_at_4",
        "pass_at_8",
        "pass_at_16",
        "pass_at_32",
        "gen_loss",
    ]
    mixed = parse("mixed(log(gen_loss), pass_at_1 | base_model)")
    assert (mixed.features, mixed.numeric) == (["gen_loss", "pass_at_1", "base_model"], ["gen_loss", "pass_at_1"])


@pytest.fixture(scope="module")
def published(public_data) -> pl.DataFrame:
    """18 SFT checkpoints of Qwen2.5-7B, each with a DAPO run (RETU, arXiv 2512.11470); the base rows left out."""
    runs = predict.read_table(public_data / "runs/retu_qwen7b_sft_dapo.csv")
    return runs.filter((pl.col("benchmark") == "overall") & (pl.col("sft_step") > 0))


@pytest.mark.parametrize(
    ("subset", "outcome", "passed", "loss"),
    [(None, "post_pass1", 0.65, -0.95), (None, "post_best_ma5", 0.66, -0.95), ("SFT889K", "post_pass1", 0.74, -0.92)],
)
def test_rank_correlations_of_published_runs(published, subset, outcome, passed, loss):
    """The figures that the data's own page states, computed there by another program."""
    runs = published.filter(pl.col("sft_variant") == subset) if subset else published
    report = predict.score(runs, outcome=outcome, predictors=["pre_pass1", "gen_loss"])
    assert round(report["pre_pass1"].spearman.value, 2) == passed
    assert round(report["gen_loss"].spearman.value, 2) == loss
    assert [score.wrong_signed for score in report.predictors] == [False, False]
    assert any(note.startswith(outcome) for note in report.notes)


@pytest.mark.parametrize("name", ["pre_pass1", "gen_loss", "pre_pass1+gen_loss"])
def test_scores_of_published_runs_equal_scikit_learn_and_scipy(published, name):
    """RETU, one of its two SFT sets left out at a time."""
    report = predict.score(published, outcome="post_pass1", group="sft_variant", predictors=["mean", name])
    score, names = report[name], name.split("+")
    X, y = published.select(names).to_numpy().astype(float), published["post_pass1"].to_numpy() / 100
    groups = published["sft_variant"].to_numpy()
    by_row = held_out(LinearRegression(), X, y, None)
    by_group = held_out(LinearRegression(), X, y, groups)
    assert (report.n, report.n_groups) == (18, 2)
    assert score.r2_in_sample == pytest.approx(sm.OLS(y, sm.add_constant(X)).fit().rsquared, abs=1e-10)
    assert score.r2_loo == pytest.approx(r2(by_row, y, None), abs=1e-10)
    assert score.r2_logo == pytest.approx(r2(by_group, y, groups), abs=1e-10)
    assert score.r2_logo_grand == pytest.approx(r2_score(y, by_group), abs=1e-10)
    fold_means = training_means(y, groups)
    assert score.spearman_logo == pytest.approx(stats.spearmanr((by_group - fold_means).round(12), y).statistic, abs=1e-10)
    assert report["mean"].r2_loo == report["mean"].r2_logo == 0
    assert any("2 groups are too few for an interval" in note for note in score.notes)


def test_groups_of_one_row_each_score_as_single_rows_do():
    report = predict.score(RUNS.with_row_index("single"), outcome="y", predictors=["weak", "signal"], group="single")
    for score in report.predictors:
        assert (score.r2_logo, score.spearman_logo) == (score.r2_loo, score.spearman_loo)
        assert score.spearman_within is None


def test_filled_columns_have_nine_tenths_of_the_rows_with_an_outcome():
    tenths = {f"missing_{count}": [None] * count + [0.5] * (20 - count) for count in (0, 2, 3, 20)}
    runs = pl.DataFrame({**tenths, "outcome_pass_at_1": [0.5] * 20}, schema_overrides=dict.fromkeys(tenths, pl.Float64))
    assert filled_columns(runs) == {"missing_0", "missing_2", "outcome_pass_at_1"}
    candidates = runs.with_columns(pl.lit(None, pl.Float64).alias(name) for name in ("missing_0", "outcome_pass_at_1"))
    assert filled_columns(pl.concat([candidates, runs])) == {"missing_0", "missing_2", "outcome_pass_at_1"}
    assert filled_columns(runs.head(0)) == set()
