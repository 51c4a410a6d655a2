"""The scoring of the laboratory's study held to statsmodels and scipy on made-up studies."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import stats

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "studies" / "lab"))

import compare  # noqa: E402
import effects  # noqa: E402
import predictors  # noqa: E402
import prospective  # noqa: E402
import runs_of_study  # noqa: E402
from within import Within, compared  # noqa: E402

import predict  # noqa: E402
from predict import report  # noqa: E402


@pytest.fixture
def study() -> pl.DataFrame:
    """Four bases x two mixes x five checkpoints: `a` carries the outcome within a stratum, `b` only between strata."""
    rng = np.random.default_rng(3)
    base, mix = np.repeat(np.arange(4), 10), np.tile(np.repeat([0, 1], 5), 4)
    level = rng.normal(size=(4, 2))[base, mix]
    a, c = rng.normal(size=(2, 40))
    return pl.DataFrame(
        {
            "run_id": [f"r{number:02d}" for number in range(40)],
            "base_model": [f"base-{number}" for number in base],
            "length_mix": [("short", "long")[number] for number in mix],
            "a": a + level,
            "b": level + 0.1 * rng.normal(size=40),
            "c": c,
            "outcome_pass_at_1": 0.5 * a + 0.2 * c + 3 * level + 0.1 * rng.normal(size=40),
        }
    )


def test_within_is_least_squares_with_a_dummy_a_stratum_on_the_other_bases(study):
    """Frisch, Waugh and Lovell: centring within strata gives the slopes of a fit with the strata's dummies."""
    rows = Within.of(study.sample(fraction=1, shuffle=True, seed=1))
    predicted = rows.predicted(("a", "c"))
    table = rows.frame.to_pandas()
    for base in table["base_model"].unique():
        there = table["base_model"] != base
        dummies = (table["base_model"] + table["length_mix"])[there].str.get_dummies()
        design = np.column_stack([table.loc[there, ["a", "c"]], dummies])
        slopes = sm.OLS(table.loc[there, "outcome_pass_at_1"], design).fit().params.to_numpy()[:2]
        mine = table[~there]
        centred = mine[["a", "c"]] - mine.groupby("length_mix")[["a", "c"]].transform("mean")
        np.testing.assert_allclose(predicted[~there.to_numpy()], centred.to_numpy() @ slopes, atol=1e-10)


def test_within_forgets_what_differs_between_strata_only(study):
    rows = Within.of(study)
    assert rows.r2(()) == 0
    assert rows.r2(("a",)) > 0.7
    assert rows.r2(("b",)) < 0.2
    assert rows.r2(("a", "c")) > rows.r2(("a",))


def test_within_leaves_lone_rows_and_missing_outcomes_aside(study):
    lone = study.head(1).with_columns(length_mix=pl.lit("varying"))
    missing = study.head(1).with_columns(outcome_pass_at_1=pl.lit(None, pl.Float64))
    assert len(Within.of(pl.concat([study, lone, missing])).y) == len(study)


def test_the_comparison_is_scipys_sign_flip_of_the_bases_differences(study):
    rows = Within.of(study)
    found = compared(rows, ("c",), ("c", "a"))
    flipped = stats.permutation_test((found.large - found.small,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found.p == pytest.approx(flipped.pvalue)
    assert found.cut == pytest.approx(1 - found.large.mean() / found.small.mean())


def test_paired_differences_are_scipys_t_interval_over_the_bases(study):
    first = study.with_columns(twin=pl.int_range(pl.len()).over("base_model"))
    second = first.with_columns(pl.col("a") - 0.3 - 0.1 * pl.col("c"))
    [(_, table)] = effects.contrast("", first, second, ["twin"], ("a",))
    [row] = table.to_dicts()
    by_base = (0.3 + 0.1 * study.group_by("base_model").agg(pl.col("c").mean())["c"]).to_numpy()
    interval = stats.ttest_1samp(by_base, 0).confidence_interval(0.9)
    assert (row["pairs"], row["bases"]) == (40, 4)
    np.testing.assert_allclose([row["difference"], row["low 90"], row["high 90"]], [by_base.mean(), *interval])


def test_permuted_outcomes_stay_in_their_stratum_and_tell_nothing(study):
    permuted = effects._permuted(study, np.random.default_rng(0))
    for frame in (study, permuted):
        assert frame.height == 40
    key = ["base_model", "length_mix"]
    before, after = (frame.group_by(key).agg(pl.col("outcome_pass_at_1").sort()).sort(key) for frame in (study, permuted))
    assert before.equals(after)
    assert Within.of(permuted).r2(("a",)) < 0.3


def test_the_twins_signals_are_those_of_the_other_data_seed_of_the_cell():
    names = ("pass_at_1", "gen_loss_style_free", "pass_at_64")
    frame = pl.DataFrame(
        {
            "cell": ["u", "u", "v"],
            "data_seed": [1, 2, 1],
            "outcome_pass_at_1": [0.1, 0.2, 0.3],
            **{name: [1.0, 2.0, 3.0] for name in names},
        }
    )
    swapped = effects._with_twins_signals(frame).sort("data_seed")
    assert swapped["outcome_pass_at_1"].to_list() == [0.1, 0.2]  # v has no twin
    assert [swapped[name].to_list() for name in names] == [[2.0, 1.0]] * 3


def test_the_validated_choice_is_the_column_that_forecasts_other_groups():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(6.0), 5)
    good, y = rng.normal(size=(2, 30))
    y = good + 0.1 * y
    within_one = np.where(group == 0, y, 0.0)
    chooser = predictors.Validated(((0,), (1,))).fit(np.column_stack([within_one, good, group]), y)
    assert chooser.columns_ == [1]
    slope, intercept = np.polyfit(good, y, 1)
    new = np.array([[0.0, 0.7, 9.0]])
    assert chooser.predict(new)[0] == pytest.approx(0.7 * slope + intercept)


def test_a_forecasts_summary_by_hand():
    rows = pl.DataFrame(
        {
            "predictor": ["p"] * 4, "base_model": ["x", "x", "x", "y"], "measured": [0.2, 0.4, 0.5, 0.3], "point": [0.1, 0.6, 0.5, 0.3],
            "low": [0.0, 0.5, 0.4, 0.2], "high": [0.3, 0.7, 0.6, 0.4], "low_50": [0.0, 0.55, 0.45, 0.31], "high_50": [0.15, 0.65, 0.55, 0.35],
            "inside": [True, False, True, True], "before_rl": [True] * 4, "pass_at_1": [0.1, 0.2, 0.3, 0.1],
        }
    )  # fmt: skip
    found = prospective._summary(rows)
    assert found["MAE"] == pytest.approx(0.3 / 4)
    assert found["bias"] == pytest.approx(-0.1 / 4)
    assert (found["inside 50"], found["inside 90"]) == (0.25, 0.75)
    assert found["regret within base"] == pytest.approx(0.1)  # base x: .6 was forecast best, .5 was


PARTS = {  # stage, data seed, behaviours, examples, epochs, learning rate: as protocol.sh names them
    "starts": ("base", None, None, None, None, None),
    "first": ("sft", 0, "{}", 768, 2, 0.002),
    "core": ("sft", 1, "{}", 96, 16, 0.003),
    "twins": ("sft", 2, "{}", 1536, 4, 0.006),
    "doses": ("sft", 1, "{}", 3072, 1, 0.002),
    "behaviors": ("sft", 1, '{"reflection": 0.5}', 384, 4, 0.002),
    "prospective": ("sft", 1, "{}", 256, 8, 0.001),
    "other": ("sft", 3, "{}", 384, 8, 0.001),
}


def test_each_checkpoint_is_of_the_part_it_was_made_for():
    columns = ["stage", "data_seed", "behaviors", "n_examples", "epochs", "sft_learning_rate"]
    frame = pl.DataFrame(list(PARTS.values()), schema=columns, orient="row", infer_schema_length=None)
    found = runs_of_study.with_parts(frame)
    assert found["part"].to_list() == list(PARTS)
    assert found["setting"].to_list() == [None, "gentle", "few examples", "long and hot", None, None, None, None]


def test_checkpoints_are_those_of_the_frozen_recipe_with_the_outcome_of_rl_seed_0():
    frame = runs_of_study.checkpoints()
    packed = [pl.read_parquet(path) for path in (ROOT / "studies/lab").glob("*/runs.parquet")]
    rl = pl.concat([runs.filter(pl.col("stage") == "grpo") for runs in packed], how="vertical_relaxed")
    frozen = rl.filter(
        pl.col("rl_seed") == 0,
        pl.col("config").str.json_path_match("$.steps") == "48",
        pl.col("config").str.json_path_match("$.group_size") == "16",
    )
    measured = pl.concat(
        [pl.read_parquet(path).filter(purpose="outcome") for path in (ROOT / "studies/lab").glob("*/evaluations.parquet")]
    )
    ended = frozen.filter(pl.col("run_id").is_in(measured["run_id"].implode()))
    assert set(frame["run_id"]) == set(ended["parent_run_id"])
    single = frame.filter(pl.col("n_rl_seeds") == 1)
    np.testing.assert_allclose(single["outcome_seed_0"], single["outcome_pass_at_1"])
    assert runs_of_study.checkpoints(steps=7).is_empty()


def test_nothing_is_scored_before_all_of_it_is_there(monkeypatch, study):
    """Six bases with twelve core checkpoints each, and a seventh with fewer; then one is taken from the sixth."""
    rows = pl.concat([study] * 5, how="vertical").head(75)
    core = rows.with_columns(part=pl.lit("core"), base_model=pl.int_range(pl.len()) // 12)
    monkeypatch.setattr(runs_of_study, "checkpoints", lambda: core)
    assert runs_of_study.whole("core", "twins") is None
    assert len(runs_of_study.whole("core")) == 75
    monkeypatch.setattr(runs_of_study, "checkpoints", lambda: core[1:])
    assert runs_of_study.whole("core") is None


def test_the_sections_print_what_there_is():
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"
    }  # a study in this process sets it
    shown = subprocess.run(
        [sys.executable, "studies/lab/results.py", "runs"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    packed = pl.read_parquet(ROOT / "studies/lab/runs/runs.parquet")
    first = len(packed.filter(pl.col("stage") == "sft"))
    assert f"| first | {first} |" in shown


PAIR = {
    "base_model": "b", "variant": "v", "run_id": "r", "platform": "here", "platform_shipped": "here",
    **{name: 0.25 for one in ("gen_loss", "pass_at_1", "pass_at_64", "outcome_pass_at_1") for name in (one, f"{one}_shipped")},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "agrees"),
    [
        ({}, True),
        ({"gen_loss": 0.25 + 1e-9}, False),
        ({"pass_at_64": 0.26}, False),
        ({"platform": "there", "gen_loss": 0.25 + 9e-5, "pass_at_64": 0.26}, True),
        ({"platform": "there", "gen_loss": 0.25 + 2e-4}, False),
        ({"platform": "there", "pass_at_1_shipped": 0.25 - 4.1 * (0.25 * 0.75 / 256) ** 0.5}, False),
        ({"outcome_pass_at_1": 0.25 + 2.9 * 2**0.5 * 0.0113}, True),
        ({"outcome_pass_at_1": 0.25 - 3.1 * 2**0.5 * 0.0113}, False),
        ({"outcome_pass_at_1": None}, True),
    ],
)
def test_a_rerun_agrees_bit_for_bit_on_the_same_machine_and_within_the_noise_elsewhere(changes, agrees):
    assert compare.judge({**PAIR, **changes})[0] is agrees


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def same_row(printed: str, kept: str) -> bool:
    """Equal but for the last shown digits of a number, which another processor may round otherwise."""
    numbers = [[float(value) for value in NUMBER.findall(row)] for row in (printed, kept)]
    return NUMBER.sub("", printed) == NUMBER.sub("", kept) and np.allclose(*numbers, rtol=0.02, atol=2e-3)


@pytest.mark.slow
def test_every_table_of_the_document_is_what_its_command_prints():
    text = (ROOT / "docs/results.md").read_text()
    told = dict(re.findall(r"^`python studies/lab/results\.py ([a-z-]+)`$(.*?)(?=^`python|\Z)", text, re.DOTALL | re.MULTILINE))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "studies/lab/results.py"]
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    printed = dict(re.findall(r"^## ([a-z-]+)$(.*?)(?=^## |\Z)", shown, re.DOTALL | re.MULTILINE))
    assert set(told) == set(printed)
    for section, output in printed.items():
        rows, kept = ([line for line in part.splitlines() if line.startswith("|")] for part in (output, told[section]))
        assert len(rows) == len(kept), section
        assert [row for row, old in zip(rows, kept, strict=True) if not same_row(row, old)] == [], section


@pytest.mark.slow
def test_every_figure_of_the_document_is_what_its_command_draws(tmp_path):
    text = (ROOT / "docs/results.md").read_text()
    recipe = re.search(r"--rl-recipe (\w+)`", text)[1]
    names = re.findall(r"\(figures/([\w-]+\.svg)\)", text)
    assert sorted(names) == sorted(path.name for path in (ROOT / "docs/figures").iterdir())
    predict.ingest(tmp_path, [ROOT / "studies/lab/study", ROOT / "studies/lab/runs"])
    report.write(tmp_path, tmp_path / "report", rl_recipe=recipe)
    for name in names:
        drawn, kept = (folder / name for folder in (tmp_path / "report/figures", ROOT / "docs/figures"))
        assert same_row(drawn.read_text(), kept.read_text()), name
