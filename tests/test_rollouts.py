"""Quality against rollouts: thinned counts are what a cheaper measurement draws, and every price is what was spent."""

import json
import sys
from math import comb
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

import predict
from curate.commands import run_app
from predict import captions
from predict.ceilings import within_and_between
from predict.cli import app
from predict.folds import held_out
from predict.predictors import parse
from predict.rollouts import by_price, duels, rollout_curve
from predict.sample import Sample
from predict.thinning import Layout, Measured, by_count
from train.passk import pass_at_k
from train.records import Run, RunFolder

PROBLEMS, SAMPLES, STEPS, RL_PROBLEMS, GROUP_SIZE = 32, 32, 20, 4, 8
ZERO = {"num_no_answer": 0, "num_unparsable": 0, "num_truncated": 0, "mean_tokens": 20.0}
COLUMNS = ("pass_at_1", "pass_at_8", "mixed_share", "expected_signal")


def rows_of(correct: np.ndarray, samples: int) -> list[dict]:
    return [{"problem_id": f"p{i:02}", "num_samples": samples, "num_correct": int(c), **ZERO} for i, c in enumerate(correct)]


def record(home: Path, name: str, counts: dict[str, list[dict]], **facts: object) -> RunFolder:
    folder = RunFolder.of(home, name)
    folder.start(Run(run_id=name, steps=STEPS, base_model=f"b{int(name[3:5]) % 3}", **facts))
    for purpose, rows in counts.items():
        key = {"benchmark": "sums", "split": purpose, "temperature": 1.0}
        folder.evaluation(STEPS, key, {"num_samples": rows[0]["num_samples"], "seed": 0, "purpose": purpose}, rows)
    return folder


def make(home: Path, *, curves: bool = True, odd: bool = False, seeds: int = 1) -> Path:
    """Fifteen checkpoints that solve a problem always or never, so that pass@1 of all of them is an oracle of the outcome."""
    rng = np.random.default_rng(0)
    for index in range(15):
        solved = np.arange(PROBLEMS) < 4 + 2 * ((7 * index) % 13)
        level = float(solved.mean())
        signals = rows_of(solved * SAMPLES, SAMPLES)
        if odd and index == 3:
            signals[0]["problem_id"] = "other"
        start = record(
            home, f"sft{index:02}", {"signals": signals}, stage="sft", cell=f"c{index}", variant={"length_mix": "short"}
        )
        loss = {"heldout": "h", "heldout_hash": "h", "nats_per_token": 1.0, "tokens": 10, "examples": 2}
        start.loss(STEPS, {**loss, "kind": "style_free", "nats_per_example": float(rng.uniform(1, 2))})
        start.loss(STEPS, {**loss, "kind": "shared", "nats_per_token": 3 - level, "nats_per_example": 1.0})
        start.finish(start.run, "done")
        for seed in range(seeds):
            after = rows_of(np.full(20, round(100 * (0.2 + 0.6 * level))), 100)
            facts = {"parent": {"run_id": f"sft{index:02}", "step": STEPS}, "rl_recipe": "r", "rl_seed": seed, "stage": "grpo"}
            run = record(
                home,
                f"rl{seed}{index:02}",
                {"outcome": after},
                config={"problems": RL_PROBLEMS, "group_size": GROUP_SIZE},
                **facts,
            )
            for step in range(1, STEPS + 1) if curves else ():
                run.log(step, {"reward_mean": 0.5 * level + 0.02 * level * step + 0.02 * float(rng.standard_normal())})
            run.finish(run.run, "done")
    predict.ingest(home)
    return home


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("home"), seeds=2)


@pytest.fixture(scope="module")
def curve(home) -> pl.DataFrame:
    return predict.rollout_curve(home, draws=6)


def measured(correct: np.ndarray, samples: int, benchmark: np.ndarray | None = None) -> Measured:
    number = np.zeros(correct.shape[1], dtype=int) if benchmark is None else benchmark
    return Measured(np.full(correct.shape, samples), correct, number)


def test_thinned_counts_are_hypergeometric():
    many = 20_000
    for samples, correct, kept in ((12, 5, 4), (128, 3, 64), (128, 100, 16), (10, 0, 3), (10, 10, 3)):
        drawn = measured(np.full((many, 1), correct), samples).thin(kept, np.random.default_rng(1))
        share = np.bincount(drawn.ravel(), minlength=kept + 1) / many
        expected = stats.hypergeom.pmf(np.arange(kept + 1), samples, correct, kept)
        assert np.abs(share - expected).max() < 4.5 * np.sqrt(0.25 / many)
        assert (share[expected == 0] == 0).all()


def test_what_a_count_adds_to_a_column_is_the_closed_form():
    n = 24
    for c in range(n + 1):
        groups = [comb(c, j) * comb(n - c, 16 - j) / comb(n, 16) for j in range(17)]
        assert by_count("mixed_share", n)[c] == pytest.approx(1 - groups[0] - groups[16], abs=1e-12)
        assert by_count("expected_signal", n)[c] == pytest.approx(
            sum(g * (j / 16 * (1 - j / 16)) ** 0.5 for j, g in enumerate(groups))
        )
        for k in (1, 8, 24):
            assert by_count(f"pass_at_{k}", n)[c] == pytest.approx(pass_at_k(n, c, k).item(), abs=1e-12)


@pytest.mark.parametrize("column", COLUMNS)
def test_thinning_is_unbiased(column):
    """The mean over all thinned counts, by their exact probabilities, is the value of the full count."""
    for kept in (16, 20, 33):
        chances = stats.hypergeom.pmf(np.arange(kept + 1), 40, np.arange(41)[:, None], kept)
        assert chances @ by_count(column, kept) == pytest.approx(by_count(column, 40), abs=1e-10)


def test_signals_average_to_those_of_all_counts():
    rng = np.random.default_rng(2)
    full = rng.binomial(40, rng.beta(0.5, 1.5, (5, 24)))
    found = measured(full, 40).signals([Layout(16, 10), Layout(40, 24)], dict.fromkeys(COLUMNS, 1), 3000, rng)
    for column in COLUMNS:
        expected = by_count(column, 40)[full].mean(axis=1)
        assert found[column, Layout(40, 24)] == pytest.approx(np.tile(expected, (3000, 1)))
        drawn = found[column, Layout(16, 10)]
        error = drawn.std(axis=0) / 3000**0.5
        assert (np.abs(drawn.mean(axis=0) - expected) < 4 * error).all() and (error > 0).all()


def test_one_draw_of_problems_serves_all_checkpoints():
    hard = np.arange(32) % 2 * 8
    drawn = measured(np.stack([hard, hard, 8 - hard]), 8).signals([Layout(2, 9)], {"pass_at_1": 1}, 40, np.random.default_rng(0))
    first, second, other = drawn["pass_at_1", Layout(2, 9)].T
    assert (first == second).all() and first + other == pytest.approx(1) and first.std() > 0.05


def test_problems_are_drawn_within_benchmarks_and_a_mean_is_of_the_benchmarks_means():
    number = np.repeat([0, 1], [10, 30])
    counts = measured(np.zeros((1, 40), dtype=int), 4, number)
    rng, sizes = np.random.default_rng(0), [8, 20, 40]
    many = np.stack([counts.weights(sizes, rng) for _ in range(3000)])
    assert many.sum(axis=1) == pytest.approx(1)
    assert many[:, :10].sum(axis=1) == pytest.approx(0.5)
    assert ((many > 0).sum(axis=1) == sizes).all()
    assert set((many[..., 1] > 0)[:, :10].sum(axis=1)) <= {4, 5, 6}
    assert ((many[..., 0] > 0) <= (many[..., 1] > 0)).all()
    assert many.mean(axis=0) == pytest.approx(np.repeat([0.05, 0.5 / 30], [10, 30])[:, None].repeat(3, 1), abs=0.006)


def test_a_budget_is_never_exceeded_and_equal_for_every_layout():
    counts = measured(np.zeros((2, 100), dtype=int), 48)
    assert counts.budgets() == [64, 128, 256, 512, 1024, 2048, 4096, 4800]
    for budget in [*counts.budgets(), 70, 1000]:
        found = counts.layouts(budget)
        assert [layout.samples for layout in found] == sorted({layout.samples for layout in found})
        for layout in found:
            assert layout.rollouts <= budget and 8 <= layout.problems <= 100 and layout.samples <= 48
            assert budget - layout.rollouts < max(layout.samples, 100)
    assert counts.layouts(1000)[0] == Layout(10, 100)
    assert counts.layouts(4800) == [Layout(48, 100)]
    for wrong in (7, 4900 + 100):
        with pytest.raises(ValueError, match=rf"budget {wrong}: expected 8 to 4800 rollouts"):
            counts.layouts(wrong)


def test_an_oracle_scores_one_at_its_price(curve):
    """The shared loss is the outcome turned round; pass@1 is it on all problems, and fewer samples of a sure answer lose nothing."""
    loss = curve.row(by_predicate=pl.col("predictor") == "gen_loss", named=True)
    assert (loss["rollouts"], loss["kind"]) == (0, "free")
    assert (loss["r2"], loss["spearman"]) == pytest.approx((1, 1), abs=1e-3)
    ones = curve.filter(pl.col("predictor") == "pass_at_1")
    whole = ones.filter(pl.col("problems") == PROBLEMS)
    assert set(whole["samples"]) == {2, 4, 8, 16, 32} and whole["r2"].to_numpy() == pytest.approx(1, abs=1e-3)
    assert (whole["r2_sd"] < 1e-12).all()
    part = ones.filter(pl.col("problems") == 8)
    assert (part["r2"] < 0.97).all() and (part["r2_sd"] > 0.001).all()


def test_useless_predictors_and_the_mean_score_as_they_must(curve):
    free = {row["predictor"]: row for row in curve.filter(pl.col("kind") == "free").iter_rows(named=True)}
    assert free["mean"]["r2"] == 0 and free["mean"]["spearman"] is None
    assert free["gen_loss_style_free"]["r2"] < 0.2


def test_prices_are_problems_times_samples_and_what_the_config_says_a_step_costs(curve):
    signal, early = curve.filter(pl.col("kind") == "signal"), curve.filter(pl.col("kind") == "early_rl")
    assert (signal["rollouts"] == signal["problems"] * signal["samples"]).all() and (signal["rollouts"] <= signal["budget"]).all()
    assert (early["rollouts"] == early["steps"] * RL_PROBLEMS * GROUP_SIZE).all()
    assert early["rollouts"].max() == STEPS * RL_PROBLEMS * GROUP_SIZE
    tenth = early.row(by_predicate=pl.col("predictor") == "early_reward_extrapolated", named=True)
    assert tenth["steps"] == 2
    widest = signal.filter("widest")
    assert len(widest) == len(widest.unique(["predictor", "budget"]))
    best = signal.group_by("predictor", "budget").agg(pl.col("problems").max())
    assert widest.join(best, on=["predictor", "budget", "problems"], how="semi").equals(widest)


def test_at_the_full_price_a_signal_scores_what_predict_score_says(home):
    runs, names = predict.load(home), ["pass_at_8", "gen_loss_style_free+mixed_share"]
    report = predict.score(runs, predictors=names, group="base_model")
    full = predict.rollout_curve(home, names, group="base_model", budgets=[PROBLEMS * SAMPLES], draws=2)
    for name in names:
        row = full.row(by_predicate=pl.col("predictor") == name, named=True)
        assert row["r2"] == pytest.approx(report[name].r2_logo) and row["spearman"] == pytest.approx(report[name].spearman_logo)
        assert row["r2_within"] == pytest.approx(report[name].r2_within)


def test_early_rl_is_read_from_one_run_and_scored_as_the_stores_columns_are(tmp_path, curve):
    single = make(tmp_path, seeds=1)
    name = "early_reward_start+early_reward_slope"
    expected = predict.score(predict.load(single), predictors=[name])[name].r2_logo
    five = (pl.col("predictor") == name) & (pl.col("steps") == 5)
    assert rollout_curve(single, ["mean"]).row(by_predicate=five, named=True)["r2"] == pytest.approx(expected)
    rewards = predict.query(single, "SELECT run_id, list(value ORDER BY step) AS r FROM metrics GROUP BY run_id ORDER BY run_id")
    level = np.array(rewards["r"].to_list())[:, 5:10].mean(axis=1)
    runs = predict.load(single).sort("run_id").with_columns(pl.Series("level", level))
    ten = (pl.col("predictor") == "early_reward_level") & (pl.col("steps") == 10)
    found = rollout_curve(single, ["mean"]).row(by_predicate=ten, named=True)
    assert found["r2"] == pytest.approx(predict.score(runs, predictors=["level"])["level"].r2_logo)
    assert curve.row(by_predicate=five, named=True)["rollouts"] == 5 * RL_PROBLEMS * GROUP_SIZE, "one seed's price, of two"


def test_within_figures_are_those_of_scipy_and_of_the_scores(home):
    runs = predict.load(home)
    sample = Sample.of(runs, [parse("gen_loss_style_free")], "outcome_pass_at_1", "cell", 0)
    held = held_out(
        parse("gen_loss_style_free"), sample.frame["gen_loss_style_free"].to_numpy()[:, None], sample.y, sample.clusters
    )
    row = rollout_curve(home, ["gen_loss_style_free"]).row(0, named=True)
    ranks = [stats.spearmanr(held.ranked[rows], sample.y[rows]).statistic for rows in sample.strata]
    assert len(ranks) == 3 and row["spearman_within"] == pytest.approx(np.mean(ranks))
    assert row["r2_within"] == pytest.approx(within_and_between(sample.y, held.predicted, held.training_mean, sample.strata)[0])
    assert row["spearman"] == pytest.approx(stats.spearmanr(held.ranked, sample.y).statistic)


def test_without_rl_curves_there_is_no_early_rl_and_the_sentence_says_so(tmp_path):
    bare = rollout_curve(make(tmp_path, curves=False), ["pass_at_1", "gen_loss"], budgets=[64], draws=2)
    assert set(bare["kind"]) == {"signal", "free"} and duels(bare) == []
    assert "no RL curve with a known price" in captions.rollouts(bare)
    assert len(by_price(bare)[1]) == 0


def test_a_predictor_that_reads_more_than_counts_is_scored_at_the_full_price(home):
    found = rollout_curve(home, ["pass_at_1+mean_tokens", "pass_at_1"], budgets=[64], draws=2)
    assert found.filter(pl.col("predictor") == "pass_at_1+mean_tokens")["rollouts"].to_list() == [PROBLEMS * SAMPLES]


def test_what_cannot_be_priced_is_refused(home, tmp_path):
    with pytest.raises(ValueError, match="'start_pass_at_1' has no known price"):
        rollout_curve(home, ["start_pass_at_1"])
    with pytest.raises(ValueError, match="did you mean 'gen_loss'"):
        rollout_curve(home, ["gen_los"])
    with pytest.raises(ValueError, match="draws 0"):
        rollout_curve(home, ["pass_at_1"], draws=0)
    with pytest.raises(ValueError, match="sft03@20 was measured on other problems than sft00@20"):
        rollout_curve(make(tmp_path, odd=True), ["pass_at_1"])


def point(predictor: str, kind: str, rollouts: int, r2: float, steps: int | None = None) -> dict:
    return {"predictor": predictor, "kind": kind, "rollouts": rollouts, "r2": r2, "steps": steps, "widest": True}


def test_the_sentence_says_from_which_step_rl_itself_forecasts_better():
    forecasts = [
        point("gen_loss", "free", 0, 0.3),
        point("pass_at_8", "signal", 500, 0.5),
        point("pass_at_64", "signal", 9000, 0.6),
    ]
    early = [point("early", "early_rl", 400 * step, r2, step) for step, r2 in ((1, 0.35), (2, 0.4), (8, 0.55), (32, 0.9))]
    said = captions.rollouts(pl.DataFrame([*forecasts, *early], infer_schema_length=None))
    assert "from step 8 on: after 2 steps (800 rollouts) 0.40 against 0.50 of pass_at_8 for 500, after 8" in said
    assert said.startswith("The best forecast is pass_at_64, held-out R² 0.60 for 9,000") and "the whole run costs 12,800" in said
    weak = [{**one, "r2": one["r2"] / 4} for one in early]
    assert "never forecast better" in captions.rollouts(pl.DataFrame([*forecasts, *weak], infer_schema_length=None))


def test_the_command_prints_the_curve_and_its_json_holds_every_layout(home, monkeypatch, capsys):
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["predict", "score", "--rollouts", "--predictor", "pass_at_1", *arguments])
        with pytest.raises(SystemExit) as end:
            run_app(app)
        return end.value.code or 0, capsys.readouterr().out

    code, out = run("--home", str(home), "--json")
    document = json.loads(out)
    assert code == 0 and document["predictors"][0]["name"] == "pass_at_1"
    expected = rollout_curve(home, ["pass_at_1"])
    assert [row["r2"] for row in document["rollouts"]] == pytest.approx(expected["r2"].to_list())
    code, out = run("--home", str(home))
    assert code == 0 and "RL's own first rewards" in out and "The best forecast is pass_at_1" in out
    assert run("--csv", "runs.csv", "--json")[0] == 2
