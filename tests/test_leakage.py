"""What a score must say of its rows: twins, one run twice, collapsed runs, ties, gains, losses of several sets, the noise ceiling."""

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict

import predict
from curate.errors import InputError
from predict.ceilings import noise_ceiling, outcome_noise, within_and_between
from predict.intervals import clusters_of
from predict.leakage import shared_units


def twins(cells: int = 12, seed: int = 0) -> pl.DataFrame:
    """Two runs a cell; four columns of noise that the twins share, and an outcome that they share too."""
    rng = np.random.default_rng(seed)
    cell = np.repeat(np.arange(cells), 2)
    noise = {f"n{i}": rng.normal(size=cells)[cell] + 0.05 * rng.normal(size=2 * cells) for i in range(4)}
    y = rng.normal(size=cells)[cell] + 0.05 * rng.normal(size=2 * cells)
    return pl.DataFrame({**noise, "cell": [f"c{i}" for i in cell], "base_model": ["a", "b"] * cells, "y": y})


RUNS = twins()
NOISE = "n0+n1+n2+n3"


def said(report: predict.Report, words: str) -> list[str]:
    return [note for note in [*report.notes, *(n for score in report.predictors for n in score.notes)] if words in note]


def test_folds_are_proposed_where_a_table_shares_cells_and_leave_one_out_is_called_optimistic():
    report = predict.score(RUNS, outcome="y", predictors=["mean", NOISE])
    assert report.group is None
    assert report.proposed_groups == ["cell", "base_model"]
    assert said(report, "share cell (12 values), base_model (2 values)")
    assert said(report, "--group cell")
    X, y = RUNS.select(NOISE.split("+")).to_numpy(), RUNS["y"].to_numpy()
    by_cell = cross_val_predict(LinearRegression(), X, y, cv=LeaveOneGroupOut(), groups=RUNS["cell"].to_numpy())
    means = cross_val_predict(LinearRegression(), np.ones((24, 1)), y, cv=LeaveOneGroupOut(), groups=RUNS["cell"].to_numpy())
    logo = 1 - ((y - by_cell) ** 2).sum() / ((y - means) ** 2).sum()
    assert report[NOISE].r2_loo - logo > 0.05
    assert said(report, f"R^2 {report[NOISE].r2_loo:.2f} is optimistic: with each cell left out whole it is {logo:.2f}")


def test_with_the_cells_left_out_whole_leave_one_out_is_still_called_optimistic():
    report = predict.score(RUNS, outcome="y", group="cell", predictors=[NOISE])
    assert said(report, f"is optimistic: with each cell left out whole it is {report[NOISE].r2_logo:.2f}")
    assert not said(report, "--group")


def test_rows_that_share_nothing_get_no_advice():
    report = predict.score(RUNS.drop("cell", "base_model"), outcome="y", predictors=["n0"])
    assert report.proposed_groups == []
    assert not said(report, "share")


def test_units_go_from_fine_to_coarse_and_equal_cuts_count_once():
    frame = RUNS.with_columns(run_id="cell", dataset=pl.lit("one"), base="base_model", model=pl.int_range(24))
    assert shared_units(frame) == {"cell": 12, "base_model": 2}


def test_a_forecast_from_twins_says_so_too():
    fitted = predict.Forecaster("n0", outcome="y").fit(RUNS)
    assert any("--group cell" in note for note in fitted.notes)
    assert not any("--group" in note for note in predict.Forecaster("n0", outcome="y", group="cell").fit(RUNS).notes)


def test_a_run_that_is_there_twice_is_named():
    report = predict.score(pl.concat([RUNS, RUNS[3:4]]).drop("cell", "base_model"), outcome="y", predictors=["n0", "n1"])
    assert said(report, "(first: 4 and 25)")


def test_constant_columns_and_ties_are_named():
    runs = RUNS.with_columns(flat=pl.lit(0.5), coarse=pl.col("n0").round(0))
    report = predict.score(runs, outcome="y", predictors=["n0", "flat", "coarse"])
    assert said(report, "flat is constant (0.5 in all 24 rows)")
    different = runs["coarse"].n_unique()
    assert said(report, f"coarse has ties: {different} different values in 24 rows")
    assert not said(report, "n0 has ties")
    assert report["flat"].spearman.value is None
    assert report["flat"].r2_loo == pytest.approx(0, abs=1e-12)


def test_four_rows_are_refused_and_five_are_called_few():
    with pytest.raises(InputError, match="at least 5 rows"):
        predict.score(RUNS[:4], outcome="y", predictors=["n0"])
    report = predict.score(RUNS[:10:2], outcome="y", predictors=["n0"])
    assert said(report, "5 rows are few")
    assert report["n0"].spearman_fisher.value == report["n0"].spearman.value


def test_columns_that_lack_values_are_named_with_how_many():
    holes = RUNS.with_columns(n1=pl.when(pl.int_range(24) < 5).then(None).otherwise("n1"), n2=pl.lit(None, pl.Float64))
    assert said(predict.score(holes, outcome="y", predictors=["n0", "n1"]), "5 rows with an outcome lack n1 (5)")
    with pytest.raises(InputError, match=r"of 24 rows with an outcome some lack n2 \(24\), n1 \(5\)"):
        predict.score(holes, outcome="y", predictors=["n1", "n2"])


def levels(n: int = 20, seed: int = 1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    before = rng.uniform(0.2, 0.5, n)
    return pl.DataFrame(
        {"id": [f"r{i}" for i in range(n)], "pre_pass1": before, "post": before + 0.2 + 0.03 * rng.normal(size=n)}
    )


def test_collapsed_runs_count_are_named_and_the_score_without_them_is_said():
    runs = levels().with_columns(post=pl.when(pl.col("id") == "r7").then(0.01).otherwise("post"))
    report = predict.score(runs, outcome="post", predictors=["pre_pass1"])
    assert (report.n, report.collapsed) == (20, ["r7"])
    kept = runs.filter(pl.col("id") != "r7")
    X, y = kept.select("pre_pass1").to_numpy(), kept["post"].to_numpy()
    held = cross_val_predict(LinearRegression(), X, y, cv=LeaveOneOut())
    without = 1 - ((y - held) ** 2).sum() / ((y - (y.sum() - y) / 18) ** 2).sum()
    assert said(
        report,
        f"1 collapsed runs count (flagged, or post under three quarters of pre_pass1): held-out R^2 {report['pre_pass1'].r2_loo:.2f} with them, {without:.2f} without",
    )


def test_a_start_in_percent_beside_an_outcome_in_fractions_collapses_nobody():
    runs = levels().with_columns(pl.col("pre_pass1") * 100, gen_loss=1 - pl.col("pre_pass1"))
    assert predict.score(runs, outcome="post", predictors=["gen_loss"]).collapsed == []


def test_a_run_flagged_as_collapsed_is_one_whatever_its_outcome():
    flagged = levels().with_columns(collapsed=pl.col("id") == "r3")
    assert predict.score(flagged, outcome="post", predictors=["pre_pass1"]).collapsed == ["r3"]
    assert predict.score(levels(), outcome="post", predictors=["pre_pass1"]).collapsed == []


def test_a_gain_predicted_from_its_own_start_is_named():
    runs = levels().with_columns(gain=pl.col("post") - pl.col("pre_pass1"))
    report = predict.score(runs, outcome="gain", predictors=["pre_pass1"])
    assert said(report, "gain is post - pre_pass1, and pre_pass1 is a predictor")
    assert said(report, "predict post with pre_pass1 beside the signal")
    assert not said(predict.score(runs, outcome="post", predictors=["pre_pass1"]), "its error is in both")


@pytest.mark.parametrize("column", ["heldout_hash", "heldout", "heldout_set"])
@pytest.mark.parametrize("loss", ["gen_loss", "val_loss", "eval_nll", "ppl"])
def test_losses_of_two_held_out_sets_are_refused_with_the_way_out(column, loss):
    runs = levels().with_columns(pl.col("pre_pass1").alias(loss), pl.Series(column, ["s1", "s2"] * 10))
    with pytest.raises(
        InputError, match=f"{loss} was measured on 2 different held-out sets .s1, s2.*filter the rows to one {column}"
    ):
        predict.score(runs, outcome="post", predictors=[loss])
    assert predict.score(runs.with_columns(pl.lit("s1").alias(column)), outcome="post", predictors=[loss]).n == 20


def test_own_set_losses_are_not_refused_but_called_style():
    runs = levels().with_columns(
        gen_loss_own="pre_pass1", heldout_hash=pl.Series(["s1", "s2"] * 10), length_mix=pl.Series(["a", "b"] * 10)
    )
    assert said(predict.score(runs, outcome="post", predictors=["gen_loss_own"]), "mostly the style's entropy")


def replicated(rng: np.random.Generator, n: int = 400, seeds: int = 3) -> tuple[pl.DataFrame, np.ndarray]:
    """Checkpoints of four mixes with a level each, and the mean and sd of their runs."""
    mix = np.arange(n) % 4
    level = 0.5 + 0.1 * mix + 0.05 * rng.normal(size=n)
    runs = level + 0.04 * rng.normal(size=(seeds, n))
    frame = pl.DataFrame({"level": level, "outcome_pass_at_1": runs.mean(axis=0), "outcome_sd": runs.std(axis=0, ddof=1), "n_rl_seeds": seeds, "length_mix": [f"m{i}" for i in mix]})  # fmt: skip
    return frame, mix


def test_an_oracle_scores_the_noise_ceiling_in_total_and_within():
    frame, _ = replicated(np.random.default_rng(0))
    report = predict.score(frame, predictors=["level", "label(length_mix)"])
    oracle, ceiling = report["level"], report.ceiling
    assert ceiling.noise_variance == pytest.approx(0.04**2, rel=0.1)
    assert ceiling.freedom == 800
    assert (ceiling.r2, ceiling.r2_within) == (pytest.approx(oracle.r2_loo, abs=0.01), pytest.approx(oracle.r2_within, abs=0.05))
    assert ceiling.spearman == pytest.approx(oracle.spearman.value, abs=0.02)
    assert ceiling.r2 == pytest.approx(1 - 0.04**2 / 3 / frame["outcome_pass_at_1"].var(), abs=0.01)
    assert report["label(length_mix)"].r2_within == pytest.approx(0, abs=0.03)
    assert oracle.r2_between > 0.99
    assert said(report, "noise ceiling: R^2")


def test_without_replicates_the_ceiling_is_that_of_the_evaluation_and_called_too_high():
    frame, _ = replicated(np.random.default_rng(0))
    plain = frame.drop("outcome_sd", "n_rl_seeds").with_columns(outcome_sampling_variance=0.0001)
    report = predict.score(plain, predictors=["level"])
    assert (report.ceiling.freedom, report.ceiling.noise_variance) == (0, pytest.approx(0.0001))
    assert said(report, "the evaluation's sampling alone, so too high")
    assert predict.score(plain.drop("outcome_sampling_variance"), predictors=["level"]).ceiling is None


def test_the_noise_of_an_outcome_in_percent_is_in_percent_too():
    frame, _ = replicated(np.random.default_rng(0), n=60)
    percent = frame.with_columns(pl.col("outcome_pass_at_1", "outcome_sd") * 100)
    plain, scaled = (predict.score(runs, predictors=["level"]).ceiling for runs in (frame, percent))
    assert scaled.r2 == pytest.approx(plain.r2)
    fitted = [predict.Forecaster("level").fit(runs).true_levels(np.array([[0.6]])).std() for runs in (frame, percent)]
    assert fitted[0] == pytest.approx(fitted[1])


def test_noise_above_all_variance_leaves_no_signal():
    y = np.random.default_rng(0).normal(size=20)
    frame = pl.DataFrame({"outcome_pass_at_1": y, "outcome_sd": np.full(20, 9.0), "n_rl_seeds": np.full(20, 2)})
    found = noise_ceiling(y, outcome_noise(frame), [np.arange(20)], np.random.default_rng(0))
    assert (found.r2, found.spearman) == (None, None)


def test_noise_of_the_stores_first_outcome_is_none_of_another():
    frame, _ = replicated(np.random.default_rng(0))
    assert outcome_noise(frame, "outcome_pass_at_64") is None
    assert outcome_noise(frame, "after").variance == outcome_noise(frame).variance


def test_r2_within_and_between_are_those_of_scikit_learn_on_what_is_left_and_on_the_means():
    rng = np.random.default_rng(2)
    strata = clusters_of(np.arange(30) % 3)
    y = rng.normal(size=30) + np.arange(30) % 3
    predicted = y + 0.5 * rng.normal(size=30)
    left = [np.concatenate([v[rows] - v[rows].mean() for rows in strata]) for v in (y, predicted)]
    within, between = within_and_between(y, predicted, np.full(30, y.mean()), strata)
    assert within == pytest.approx(r2_score(*left))
    means = [np.array([v[rows].mean() for rows in strata]) for v in (y, predicted)]
    assert between == pytest.approx(r2_score(*means))
    assert within_and_between(y, predicted, y, [np.arange(30)]) == (None, None)


def test_the_spearman_ceiling_is_near_that_of_normal_levels():
    """Levels and noise of one size: Pearson sqrt(.5), Spearman 6 / pi asin(r / 2)."""
    rng = np.random.default_rng(0)
    level = rng.normal(size=2000)
    y = level + rng.normal(size=2000)
    frame = pl.DataFrame({"outcome_pass_at_1": y, "outcome_sampling_variance": np.ones(2000)})
    found = noise_ceiling(y, outcome_noise(frame), [np.arange(2000)], rng)
    assert found.spearman == pytest.approx(6 / np.pi * np.arcsin(np.sqrt(0.5) / 2), abs=0.02)
    assert found.spearman == pytest.approx(stats.spearmanr(level, y).statistic, abs=0.03)
