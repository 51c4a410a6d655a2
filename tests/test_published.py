"""Scores of published runs against scikit-learn and scipy, from the same tables read anew with the csv module."""

import contextlib
import csv
import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from scipy import stats
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict

SCRIPT = Path(__file__).parent.parent / "studies/published.py"


def printed(data, *, as_json):
    """What the script prints, in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(SCRIPT))["main"](data, as_json)
    return out.getvalue()


@pytest.fixture(scope="module")
def document(public_data):
    return json.loads(printed(public_data, as_json=True))


@pytest.fixture
def slices(document):
    return {(s["name"].split(":")[0], part["rows"]): part for s in document["sources"] for part in s["scores"]}


@pytest.fixture
def table(public_data):
    """Rows of a table of runs, those that `where` keeps."""

    def rows(name, **where):
        with (public_data / f"runs/{name}.csv").open(newline="") as lines:
            return [row for row in csv.DictReader(lines) if all(row[key] == value for key, value in where.items())]

    return rows


def figures(part, predictor):
    return next(score for score in part["report"]["predictors"] if score["name"] == predictor)


def numbers(rows, column, unit=100):
    return np.array([float(row[column]) / unit for row in rows])


def held_out(x, y, groups=None):
    """R^2 of straight lines on left-out rows or groups against the training fold's mean, and the mean absolute error."""
    X = np.asarray(x).reshape(len(y), -1)
    how = {"cv": LeaveOneOut()} if groups is None else {"cv": LeaveOneGroupOut(), "groups": groups}
    predicted, mean = (cross_val_predict(model, X, y, **how) for model in (LinearRegression(), DummyRegressor()))
    return 1 - ((y - predicted) ** 2).sum() / ((y - mean) ** 2).sum(), np.abs(y - predicted).mean()


def assert_equal(score, x, y, groups):
    assert score["spearman"]["value"] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-10)
    assert score["r2_in_sample"] == pytest.approx(stats.pearsonr(x, y).statistic ** 2, abs=1e-10)
    assert (score["r2_loo"], score["mae_loo"]) == pytest.approx(held_out(x, y), abs=1e-10)
    assert score["r2_logo"] == pytest.approx(held_out(x, y, groups)[0], abs=1e-10)


def test_every_table_is_scored_on_the_rows_that_it_holds(slices):
    """Checkpoints and groups as the data's own page counts them; what is refused is refused by the scorer."""
    counted = {
        key: (part["report"]["n"], part["report"]["n_groups"]) for key, part in slices.items() if part["not_scored"] is None
    }
    assert (
        counted.items()
        >= {
            ("RETU", "both sets"): (18, 2),
            ("RETU", "both sets without easy102K@6120"): (17, 2),
            ("RETU", "within SFT889K"): (12, 12),
            ("RETU", "within easy102K"): (6, 6),
            ("SimpleRL-Zoo", "average of six"): (10, 4),
            ("Sober Reasoning", "mean of six"): (36, 9),
        }.items()
    )
    refused = {key: part["not_scored"] for key, part in slices.items() if key not in counted}
    assert list(refused) == [("OctoThinker", "MATH500")]
    assert "expected at least 5 rows" in refused["OctoThinker", "MATH500"]


def test_baselines_are_in_every_report_and_the_mean_scores_nothing(slices):
    for part in slices.values():
        names = [score["name"] for score in part["report"]["predictors"]] if part["report"] else ["pass_at_1", "mean"]
        assert names[:2] == ["pass_at_1", "mean"]
        assert not part["report"] or figures(part, "mean")["r2_loo"] == 0


@pytest.mark.parametrize(
    ("rows", "target"), [("both sets without easy102K@6120", "post_pass1"), ("both sets, best 5 evaluations", "post_best_ma5")]
)
def test_scores_of_a_shared_loss(slices, table, rows, target):
    """RETU: the loss's fit hangs on one overfitted checkpoint, its rank correlation does not."""
    kept = [row for row in table("retu_qwen7b_sft_dapo", benchmark="overall") if row["sft_step"] != "0"]
    if "without" in rows:
        kept = [row for row in kept if (row["sft_variant"], row["sft_step"]) != ("easy102K", "6120")]
    score = figures(slices["RETU", rows], "gen_loss")
    assert_equal(score, numbers(kept, "gen_loss", 1), numbers(kept, target), [row["sft_variant"] for row in kept])


def test_the_first_evaluation_of_rl_is_joined_to_its_checkpoint(slices, table):
    kept = [row for row in table("retu_qwen7b_sft_dapo", benchmark="overall") if row["sft_step"] != "0"]
    first = {(row["sft_variant"], row["sft_step"]): row for row in table("retu_qwen7b_dapo_curves", rl_index="0")}
    early = numbers([first[row["sft_variant"], row["sft_step"]] for row in kept], "overall")
    score = figures(slices["RETU", "both sets"], "early_acc")
    assert_equal(score, early, numbers(kept, "post_pass1"), [row["sft_variant"] for row in kept])


FAMILIES = {
    r"_fm4p|_mm\.web\.pro": "web pages",
    r"_mmwebpro\.openr1": "long traces",
    r"_mmwebpro\.synqa": "questions",
    r"decay\.omi\.": "omi",
    r"decay\.openr1\.\d+\.omi2": "openr1 and omi",
    r"decay\.openr1\.\d+\.10B": "openr1",
    r"decay\.synthqa": "synthetic questions",
    r"3b_decay_": "branches",
    r"3b_math": "untouched",
}


def family(run):
    """The mid-training data of an OctoThinker run, from its name: the groups of the script come from the folders of the curves."""
    return next(label for pattern, label in FAMILIES.items() if re.search(pattern, run))


@pytest.fixture
def mid_trained(table):
    """OctoThinker's runs that have a few-shot accuracy and reach step 100 on MATH500, and their few-shot accuracies elsewhere."""
    rows = table("octothinker_grpo")
    kept = [row for row in rows if row["benchmark"] == "MATH500" and row["pre_fewshot_acc"] and row["post_at100"]]
    other = [
        fmean(float(o["pre_fewshot_acc"]) / 100 for o in rows if o["model"] == row["model"] and o["benchmark"] != "MATH500")
        for row in kept
    ]
    return kept, np.array(other)


def test_scores_of_few_shot_accuracy_with_kinds_of_mid_training_left_out(slices, mid_trained):
    kept, other = mid_trained
    part, groups = slices["OctoThinker", "MATH500, step 100"], [family(row["model"]) for row in kept]
    y = numbers(kept, "post_at100", 1)
    assert (part["report"]["n"], part["report"]["n_groups"]) == (len(kept), len(set(groups))) == (29, 9)
    assert_equal(figures(part, "few_shot_acc"), numbers(kept, "pre_fewshot_acc"), y, groups)
    assert_equal(figures(part, "few_shot_acc_other"), other, y, groups)
    assert_equal(figures(part, "pass_at_1"), numbers(kept, "pre_pass1", 1), y, groups)
    assert any("lack few_shot_acc" in note for note in part["report"]["notes"])


def test_scores_of_base_models_with_families_left_out(slices, table):
    kept = table("simplerl_zoo_base_to_rl", benchmark="avg")
    x, y = numbers(kept, "pre_pass1"), numbers(kept, "post_pass1")
    families = [next(name for name in ("Mistral", "Llama", "DeepSeek", "Qwen") if name in row["model"]) for row in kept]
    part = slices["SimpleRL-Zoo", "average of six"]
    assert_equal(figures(part, "pass_at_1"), x, y, families)
    assert round(figures(part, "pass_at_1")["spearman"]["value"], 2) == 0.93, "the data's own page"
    sizes = np.log([float(row["model"].split("-")[-1].rstrip("B")) if "Small" not in row["model"] else 24 for row in kept])
    both = np.column_stack([x, sizes])
    assert figures(part, "pass_at_1+log(parameters)")["r2_logo"] == pytest.approx(held_out(both, y, families)[0], abs=1e-10)


def test_scores_of_released_models_with_bases_left_out(slices, table):
    """Four bases are spelled in two ways: left apart, a base would be trained on itself."""
    rows = table("sober_reasoning_pairs", rl_algo="RL")
    models = list(dict.fromkeys(row["model"] for row in rows))
    mine = [[row for row in rows if row["model"] == model] for model in models]
    x, y = (np.array([fmean(numbers(six, name)) for six in mine]) for name in ("pre_pass1", "post_pass1"))
    bases = ["".join(re.findall(r"[a-z0-9.]", six[0]["base"].lower())) for six in mine]
    part = slices["Sober Reasoning", "mean of six"]
    assert_equal(figures(part, "pass_at_1"), x, y, bases)
    means = {base: fmean(value for value, of in zip(y, bases, strict=True) if of == base) for base in bases}
    residual = y - [means[base] for base in bases]
    expected = 1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum()
    assert figures(part, "label(base_model)")["r2_in_sample"] == pytest.approx(expected, abs=1e-10)


def test_small_tables_have_too_few_starts_to_be_scored(document, table):
    found = {row["source"]: row for row in document["sources"][-1]["table"]}
    starts = {}
    for row in table("misc_small_pairs"):
        if row["post_pass1"]:
            starts.setdefault((re.split("@| issue", row["source"])[0], row["benchmark"]), set()).add(row["pre_pass1"])
    for source, row in found.items():
        most = max((len(values) for (name, _), values in starts.items() if name == source), default=0)
        assert row["most starts on one benchmark"] == most < 5
        assert row["of them with a loss"] == 0
    assert sum(row["rows"] for row in found.values()) == 102


def test_the_markdown_has_a_table_a_source_and_names_its_origin(document, public_data):
    parts = printed(public_data, as_json=False).split("\n### ")[1:]
    assert [part.split("\n")[0] for part in parts] == [source["name"] for source in document["sources"]]
    for part in parts:
        assert ("| --- |" in part) != part.startswith("OctoThinker: pass@k")
        assert "**Source**: " in part
    assert "| within SFT889K | gen_loss | 12 | - | -0.92 [" in parts[0]
    assert "2 groups are too few for an interval" in parts[0]


def test_a_folder_without_the_tables_is_refused_in_one_line(tmp_path):
    ended = subprocess.run([sys.executable, str(SCRIPT), "--data", str(tmp_path)], capture_output=True, text=True)
    assert ended.returncode == 3
    assert ended.stderr.startswith("error: ")
    assert "no such file" in ended.stderr
    assert ended.stdout == ""
