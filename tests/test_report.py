"""The report: what is on the page, that its sentences follow the data, and what it says where something is missing."""

import csv
import io
import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

import predict
from predict import captions, charts, diagnostics, report, results
from predict.rendering import inline, png, svg
from train.records import Run, RunFolder

ZERO = {"num_no_answer": 0, "num_unparsable": 0, "num_truncated": 0, "mean_tokens": 20.0}
SAMPLES = 16


def counts(rate: float, rng: np.random.Generator, problems: int = 24) -> list[dict]:
    """Counts of problems of different difficulty around a rate."""
    odds = np.log(rate / (1 - rate)) + 1.5 * rng.standard_normal(problems)
    right = rng.binomial(SAMPLES, 1 / (1 + np.exp(-odds)))
    return [{"problem_id": f"p{i}", "num_samples": SAMPLES, "num_correct": int(c), **ZERO} for i, c in enumerate(right)]


def record(home: Path, name: str, rates: dict[str, float], rng: np.random.Generator, **facts: object) -> None:
    folder = RunFolder.of(home, name)
    folder.start(Run(run_id=name, steps=4, base_model="tiny", **facts))
    for purpose, rate in rates.items():
        key = {"benchmark": "sums", "split": purpose, "temperature": 1.0}
        folder.evaluation(4, key, {"num_samples": SAMPLES, "seed": 0, "purpose": purpose}, counts(rate, rng))
    folder.finish(folder.run, "done")


def make(
    home: Path, rows: int, done: int, recipes: tuple[str, ...] = ("r",), sft: tuple[str, ...] = ("signals", "outcome")
) -> None:
    """SFT checkpoints of two variants; the first `done` of them were taken through RL, which raises each by about .2."""
    rng = np.random.default_rng(3)
    for index in range(rows):
        level = float(rng.uniform(0.15, 0.6))
        variant = {"name": ("short", "long")[index % 2]}
        record(
            home,
            f"sft{index}",
            dict.fromkeys(sft, level),
            rng,
            stage="sft",
            cell=f"c{index}",
            variant=variant,
            data_seed=index,
            seconds=1.0,
        )
        if index < done:
            for number, recipe in enumerate(recipes):
                after_rl(home, index, level + 0.2 + 0.1 * number, rng, recipe)


def after_rl(home: Path, index: int, rate: float, rng: np.random.Generator, recipe: str = "r") -> None:
    start = {"run_id": f"sft{index}", "step": 4}
    record(
        home, f"{recipe}{index}", {"outcome": rate}, rng, stage="grpo", parent=start, rl_recipe=recipe, rl_seed=0, seconds=60.0
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Sixteen checkpoints, RL from fourteen; the last two of those were forecast before."""
    home = tmp_path_factory.mktemp("home")
    make(home, 16, 12)
    predict.ingest(home)
    runs = predict.load(home)
    forecast = predict.Forecaster("pass_at_1").fit(runs).forecast(runs.filter(pl.col("outcome_pass_at_1").is_null()))
    document = {"schema_version": 1, "ok": True, **forecast.to_dict()}
    (home / "forecasts").mkdir()
    (home / "forecasts" / f"{document['forecast_id']}.json").write_text(json.dumps(document))
    rng = np.random.default_rng(5)
    for index in (12, 13):
        after_rl(home, index, 0.6, rng)
    predict.ingest(home)
    return home


@pytest.fixture(scope="module")
def written(home, tmp_path_factory) -> tuple[dict, Path, str]:
    folder = tmp_path_factory.mktemp("out") / "report"
    facts = report.write(home, folder)
    return facts, folder, (folder / "index.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Elements of a page, its addresses, and that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.links, self.labels, self.tags = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[name] for name in ("href", "src", "xlink:href") if found.get(name)]
        self.labels += [found["aria-label"]] if tag == "svg" else []
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


EXPECTED = {
    *("forecasts", "predictors", "outcome-pass_at_1", "outcome-pass_at_8", "outcome-mixed_share", "rank-by-k", "pass-at-k"),
    *("residuals", "calibration-intervals", "calibration-best", "rollouts"),
}


def test_every_figure_is_there_with_its_files_its_table_and_its_alt_text(written):
    facts, folder, text = written
    assert set(facts["figures"]) == EXPECTED
    assert facts["missing"] == {} and (facts["runs"], facts["checkpoints"]) == (14, 16)
    page = Page(text)
    assert page.open == [] and len(page.labels) == len(EXPECTED) and page.tags.count("details") == len(EXPECTED)
    assert len(page.ids) == len(set(page.ids)), "two drawings share an id"
    for name in EXPECTED:
        assert (folder / f"figures/{name}.svg").read_text(encoding="utf-8").startswith("<svg")
        table = list(csv.reader(io.StringIO((folder / f"figures/{name}.csv").read_text(encoding="utf-8"))))
        assert len(table) > 1 and f"Data: {len(table) - 1} rows" in text
    sentences = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert len(sentences) == len(set(sentences)) == len(EXPECTED)
    assert all(any(sentence in label for label in text.split('aria-label="')) for sentence in sentences)


def test_the_page_needs_nothing_from_elsewhere(written):
    _, folder, text = written
    page = Page(text)
    assert "script" not in page.tags and "link" not in page.tags and "@import" not in text and "url(http" not in text
    for link in page.links:
        assert link[1:] in page.ids if link.startswith("#") else (folder / link).is_file()


def test_figures_are_at_300_dots_an_inch(written):
    _, folder, _ = written
    drawn = (folder / "figures/residuals.svg").read_text(encoding="utf-8")
    width = float(re.search(r'width="([\d.]+)"', drawn)[1])
    data = (folder / "figures/residuals.png").read_bytes()
    assert struct.unpack(">I", data[16:20])[0] == pytest.approx(width * 300 / 72, abs=1)
    place = data.index(b"pHYs") + 4
    across, _, unit = struct.unpack(">IIB", data[place : place + 9])
    assert unit == 1 and across == pytest.approx(300 / 0.0254, abs=1)


def test_the_numbers_on_the_page_are_those_of_the_library(home, written):
    text = written[2]
    runs = predict.load(home)
    scores = predict.score(runs)
    one = scores["pass_at_1"]
    value, low, high = one.r2_held_out.value, one.r2_held_out.low, one.r2_held_out.high
    assert value == one.r2_logo and low < value < high <= 1
    assert f"pass@1 after SFT explains held-out R² {value:.2f} ({low:.2f} to {high:.2f}) over 14 checkpoints" in text
    known = predict.query(home, "SELECT * FROM forecasts WHERE measured IS NOT NULL")
    error = float(np.mean(np.abs(known["measured"].to_numpy() - known["point"].to_numpy())))
    assert f"Mean absolute error {error:.3f} over 2 forecasts (2 more wait for RL)" in text


def test_few_runs_say_what_is_missing(tmp_path):
    make(tmp_path, 4, 3)
    predict.ingest(tmp_path)
    facts = report.write(tmp_path, tmp_path / "report")
    text = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert {"outcome-pass_at_1", "pass-at-k"} <= set(facts["figures"])
    assert set(facts["missing"]) == {"forecasts", "predictors", "rollouts", "pass-at-k", "trust"}
    assert "expected at least 5 rows" in text and "3 checkpoints have both, too few for a line" in text
    assert "No forecast has been written yet" in text
    assert Page(text).open == []


def test_predictors_of_more_columns_than_the_runs_allow_are_left_to_a_larger_store():
    names = [
        "pass_at_1",
        "pass_at_8",
        "pass_at_64",
        "mixed_share",
        "gen_loss",
        "gen_loss_style_free",
        "entropy_t1",
        "mean_tokens",
    ]
    rng = np.random.default_rng(0)
    runs = pl.DataFrame({name: rng.uniform(0.1, 0.9, 20) for name in [*names, "outcome_pass_at_1"]})
    few, many = ([one.name for one in predict.score(runs[:n]).predictors] for n in (8, 20))
    assert [name for name in many if name.startswith("ridge")] and not [name for name in few if name.startswith("ridge")]
    assert "gen_loss+pass_at_64" in few


def test_without_an_outcome_the_page_says_so(tmp_path):
    make(tmp_path, 6, 0)
    predict.ingest(tmp_path)
    facts = report.write(tmp_path, tmp_path / "report")
    assert facts["figures"] == [] and facts["runs"] == 0
    assert "no RL run has ended" in (tmp_path / "report/index.html").read_text(encoding="utf-8")


def test_without_counts_before_rl_on_the_outcome_problems_only_that_figure_is_missing(tmp_path):
    make(tmp_path, 8, 8, sft=("signals",))
    predict.ingest(tmp_path)
    facts = report.write(tmp_path, tmp_path / "report")
    assert "pass-at-k" not in facts["figures"] and "both before and after RL" in facts["missing"]["pass-at-k"][0]
    assert "predictors" in facts["figures"]


def test_recipes_are_never_pooled(tmp_path):
    make(tmp_path, 6, 6, recipes=("a", "b"))
    predict.ingest(tmp_path)
    with pytest.raises(ValueError, match="2 RL recipes"):
        report.write(tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists()
    gains = {}
    for recipe in ("a", "b"):
        runs = predict.load(tmp_path, recipe)
        pairs = results.pass_pairs(tmp_path, runs)
        assert len(pairs.filter(pl.col("k") == 1)) == 6
        expected = (runs["outcome_pass_at_1"] - runs["start_pass_at_1"]).mean()
        gains[recipe] = results.pass_gains(pairs)[0]
        assert gains[recipe].mean == pytest.approx(expected) and gains[recipe].n == 6
    assert gains["b"].mean > gains["a"].mean
    report.write(tmp_path, tmp_path / "report", rl_recipe="b")
    assert f"pass@1 by {gains['b'].mean:+.3f} on average" in (tmp_path / "report/index.html").read_text(encoding="utf-8")


def table(n: int = 30, noise: float = 0.03, *, wide_k: bool = True) -> pl.DataFrame:
    """Runs whose outcome follows pass@64 (or pass@1) and not the other."""
    rng = np.random.default_rng(1)
    one, many = rng.uniform(0.1, 0.4, n), rng.uniform(0.4, 0.9, n)
    y = (many if wide_k else one) * 0.5 + 0.2 + noise * rng.standard_normal(n)
    return pl.DataFrame({"id": [f"m{i}" for i in range(n)], "pass_at_1": one, "pass_at_64": many, "outcome_pass_at_1": y})


def test_rank_by_k_is_scipys_spearman_and_its_sentence_follows_the_data():
    for wide_k in (True, False):
        runs = table(wide_k=wide_k)
        rows = diagnostics.rank_by_k(runs)
        for k, value in rows.select("k", "spearman").iter_rows():
            assert value == pytest.approx(stats.spearmanr(runs[f"pass_at_{k}"], runs["outcome_pass_at_1"]).statistic)
        assert rows["lead"].to_list() == pytest.approx((rows["spearman"] - rows["spearman"][0]).to_list())
        assert (rows["low"] < rows["spearman"]).all() and (rows["spearman"] < rows["high"]).all()
        sentence = captions.ranks(rows)
        assert sentence.startswith("pass@64 ranks the runs best" if wide_k else "No larger k ranks the runs better than pass@1")


def test_residuals_are_those_of_refits_by_hand():
    runs = table()
    found = diagnostics.residuals(runs, "pass_at_64")
    x, y = runs["pass_at_64"].to_numpy(), runs["outcome_pass_at_1"].to_numpy()
    expected = []
    for row in range(len(x)):
        line = stats.linregress(np.delete(x, row), np.delete(y, row))
        expected.append(y[row] - line.intercept - line.slope * x[row])
    assert found.frame["residual"].to_numpy() == pytest.approx(np.array(expected), abs=1e-12)
    assert found.mae == pytest.approx(np.abs(expected).mean()) and found.mean == pytest.approx(np.mean(expected))
    trend = stats.spearmanr(found.frame["predicted"], np.abs(expected)).statistic
    assert found.spread_trend.value == pytest.approx(trend)


def test_a_spread_that_grows_is_said_and_one_that_does_not_is_not():
    runs = table(60)
    rng = np.random.default_rng(0)
    fan = pl.Series(runs["pass_at_64"].to_numpy() * 0.5 + 0.2 * (runs["pass_at_64"].to_numpy() - 0.39) * rng.standard_normal(60))
    said = [
        captions.missed(diagnostics.residuals(r, "pass_at_64"), "pass_at_64", {})
        for r in (runs.with_columns(outcome_pass_at_1=fan), runs)
    ]
    assert "their size grows with the prediction" in said[0]
    assert "no sure trend" in said[1]


def test_coverage_counts_the_forecasters_intervals_and_the_band_is_binomial():
    runs = table(40)
    rows = diagnostics.coverage(runs, "pass_at_64")
    assert rows["nominal"].to_list() == list(diagnostics.LEVELS)
    assert rows["realised"][-1] == predict.score(runs, predictors=["pass_at_64"])["pass_at_64"].coverage_90
    low, high = stats.binom.interval(0.9, 40, 0.5)
    middle = rows.filter(pl.col("nominal") == 0.5)
    assert (middle["expected_low"][0], middle["expected_high"][0]) == pytest.approx((low / 40, high / 40))
    assert "within what chance allows at every level" in captions.covered(rows, None)
    narrow = rows.with_columns(realised=pl.lit(0.02))
    assert "outside of what chance allows at 10%, 20%" in captions.covered(narrow, None)


def test_coverage_of_recorded_forecasts():
    rows = pl.DataFrame(
        {"low": [0.0] * 4, "high": [1.0] * 4, "low_50": [0.4] * 4, "high_50": [0.6] * 4, "measured": [0.5, 0.7, 2.0, None]}
    )
    found = diagnostics.forecast_coverage(rows)
    assert found.select("nominal", "inside", "n").rows() == [(0.5, 1, 3), (0.9, 2, 3)]
    assert "of the recorded forecasts 2 of 3 results lay inside" in captions.covered(
        diagnostics.coverage(table(), "pass_at_64"), found
    )
    with pytest.raises(ValueError, match="no forecast has a result"):
        diagnostics.forecast_coverage(rows[3:])


def test_p_best_is_reliable_on_runs_of_the_model_and_its_sets_share_no_run():
    found = diagnostics.best_reliability(table(80, 0.05), "pass_at_64")
    assert found.sets == 60 and found.frame["n"].sum() == 4 * 60
    assert (found.frame["share"] * found.frame["n"]).sum() == pytest.approx(60), "one winner a set"
    assert found.favourite_won > 0.4
    off = (found.frame["share"] - found.frame["probability"]).abs() / found.frame["error"]
    assert off.max() < 3.5
    blind = diagnostics.best_reliability(table(80, wide_k=True).drop("pass_at_64"), "pass_at_1")
    assert blind.favourite_won < found.favourite_won


def test_p_best_needs_enough_runs_of_one_base():
    with pytest.raises(ValueError, match="4 runs of one base model"):
        diagnostics.best_reliability(
            table(12).with_columns(base_model=pl.Series([f"b{i // 3}" for i in range(12)])), "pass_at_64"
        )


def test_captions_of_two_studies_differ():
    said = []
    for wide_k in (True, False):
        runs = table(wide_k=wide_k)
        curve = predict.Forecaster("pass_at_1").fit(runs).response(runs.head(1), "pass_at_1")
        scores = predict.score(runs, predictors=["pass_at_1", "pass_at_64", "mean"])
        best = "pass_at_64" if wide_k else "pass_at_1"
        said.append((captions.signal("pass_at_1", scores["pass_at_1"], curve), captions.compared(scores, best)))
    assert "tells no more than the mean of the runs" in said[0][0] and "explains" in said[1][0]
    assert said[0][1].startswith("pass_at_64 forecasts best") and said[1][1].startswith("pass_at_1 forecasts best")


def test_whether_the_gain_shrinks_with_k_is_said_only_where_it_is_sure():
    rng = np.random.default_rng(0)
    noise = 0.02 * rng.standard_normal(10)

    def said(small: float, large: float) -> str:
        rows = [
            {"id": str(i), "k": k, "before": 0.2, "after": 0.2 + gain + noise[i] * (k > 1)}
            for i in range(10)
            for k, gain in ((1, small), (8, large))
        ]
        pairs = pl.DataFrame(rows)
        lost = results.gain_lost(pairs, 1, 8)
        expected = stats.ttest_1samp(small - large - noise, 0).confidence_interval(0.9)
        assert (lost.low, lost.high) == pytest.approx((expected.low, expected.high))
        return captions.gains(results.pass_gains(pairs), lost)

    assert "pass@1 by +0.200 on average (up in 10 of 10 checkpoints)" in said(0.2, 0.05)
    assert "the gain shrinks with k" in said(0.2, 0.05)
    assert "the gain grows with k" in said(0.1, 0.3)
    assert "no sure change of the gain" in said(0.2, 0.199)


def test_a_drawing_in_a_page_takes_its_ink_from_the_page_and_keeps_its_ids_to_itself():
    drawn = svg(charts.outcome_against(table(), "pass_at_64", colour=None))
    some = table().with_columns(length_mix=pl.when(pl.int_range(pl.len()) > 2).then(pl.lit("short")))
    assert ">none<" in svg(charts.outcome_against(some, "pass_at_64", colour="length_mix"))
    assert png(drawn).startswith(b"\x89PNG") and charts.INK in drawn
    placed = inline(drawn, "mine", 'over "x" & <y>')
    assert charts.INK not in placed and 'fill="white"' not in placed and "currentColor" in placed
    assert 'role="img" aria-label="over &quot;x&quot; &amp; &lt;y&gt;"' in placed
    assert all(
        name.startswith("mine-") for name in re.findall(r'\bid="([^"]+)"', placed) + re.findall(r"url\(#([^)]+)\)", placed)
    )


def test_useless_predictors_are_drawn_at_the_edge_with_their_number_and_no_colour_is_missing():
    from predict.score_charts import predictors_compared

    rows = pl.DataFrame({"predictor": ["a", "b"], "r2": [0.5, -6.4], "low": [0.2, -9.0], "high": [0.7, -4.0]})
    drawn = svg(predictors_compared(rows, 0.9))
    assert "-6.40" in drawn and "noise ceiling" in drawn
    assert "noise ceiling" not in svg(predictors_compared(rows, None))
    assert "ceiling of the evaluation" in svg(predictors_compared(rows, 0.9, "ceiling of the evaluation"))
    assert len(charts.SHAPES) == len(charts.PALETTE) + 1
