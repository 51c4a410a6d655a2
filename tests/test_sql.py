"""The worked queries of docs/sql.md on the packed study, held to the files themselves, and the formats of `predict sql`."""

import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy import stats
from test_store import PACKED, write_forecast

import predict
from predict import store

TEXT = (Path(__file__).parent.parent / "docs/sql.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"\*\*(\d+)\. .*?```sql\n(.*?)```", TEXT, re.DOTALL)
(FORECASTS,) = re.findall(r"`(SELECT predictor.*?)`", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """The packed study, and a forecast of one of its checkpoints."""
    home = tmp_path_factory.mktemp("lab")
    predict.ingest(home, [PACKED])
    run = store.query(
        home, "SELECT run_id || '@' || step AS id FROM checkpoints WHERE outcome_pass_at_1 IS NOT NULL ORDER BY 1"
    ).row(0)[0]
    write_forecast(home, "f", candidates=[{"id": run, "point": 0.0, "low": 0.0, "high": 1.0}])
    predict.ingest(home)
    return home


def answer(lab: Path, number: int) -> pl.DataFrame:
    return store.query(lab, dict(QUERIES)[str(number)])


def test_there_are_ten_worked_queries():
    assert [int(number) for number, _ in QUERIES] == list(range(1, 11))


@pytest.mark.parametrize("number", range(1, 11))
def test_a_worked_query_has_an_answer_without_empty_columns(lab, number):
    rows = answer(lab, number)
    assert len(rows) >= 2
    may_be_empty = {"sd_over_rl_seeds"}  # of a study with one RL seed
    assert {name for name in rows.columns if rows[name].null_count() == len(rows)} <= may_be_empty


def test_the_rank_correlations_of_the_docs_are_those_of_scipy(lab):
    runs = store.query(lab, "SELECT * FROM checkpoints WHERE outcome_pass_at_1 IS NOT NULL")
    rows = answer(lab, 2)
    for signal, value, n in rows.iter_rows():
        assert n == len(runs)
        assert value == pytest.approx(stats.spearmanr(runs[signal], runs["outcome_pass_at_1"]).statistic, abs=5.1e-4)


def test_pass_at_k_before_and_after_rl_of_the_docs_is_that_of_the_files(lab):
    counts = pl.read_parquet(PACKED / "evaluations.parquet").filter(purpose="outcome")
    stages = pl.read_parquet(PACKED / "runs.parquet").select("run_id", "stage")
    for k, before, after in answer(lab, 3).iter_rows():
        each = [1 - math.comb(n - c, k) / math.comb(n, k) for n, c in counts.select("num_samples", "num_correct").iter_rows()]
        mean = counts.with_columns(pl.Series("value", each)).group_by("run_id", "step").agg(pl.col("value").mean())
        expected = dict(mean.join(stages, on="run_id").group_by("stage").agg(pl.col("value").mean()).iter_rows())
        assert (before, after) == pytest.approx((expected["sft"], expected["grpo"]), abs=5.1e-4)


def test_pass_at_24_of_the_docs_is_that_of_the_files(lab):
    rows = answer(lab, 9)
    counts = pl.read_parquet(PACKED / "evaluations.parquet").filter(purpose="signals")
    for run, step, _, value, error in rows.iter_rows():
        mine = counts.filter(run_id=run, step=step).select("num_samples", "num_correct").iter_rows()
        each = [1 - math.comb(n - c, 24) / math.comb(n, 24) for n, c in mine]
        assert (value, error) == pytest.approx((sum(each) / len(each), stats.sem(each)))


def test_the_forecast_query_of_the_docs_scores_what_has_ended(lab):
    [(predictor, ended, coverage, error)] = store.query(lab, FORECASTS).rows()
    assert (predictor, ended, coverage) == ("pass_at_1", 1, 1.0)
    outcome = store.query(lab, "SELECT measured FROM forecasts").row(0)[0]
    assert error == pytest.approx(outcome)


def test_a_materialised_view_is_what_its_definition_says(lab):
    """pass_at_k as kept at ingest against the macro on the counts."""
    query = """SELECT run_id, step, key_id, k, avg(pass_at_k(num_samples, num_correct, k)) AS value FROM counts
               CROSS JOIN unnest([1, 8, 64]) AS ks(k) GROUP BY ALL HAVING min(num_samples) >= k ORDER BY ALL"""
    kept = "SELECT run_id, step, key_id, k, value FROM pass_at_k WHERE k IN (1, 8, 64) AND value IS NOT NULL ORDER BY ALL"
    assert_frame_equal(store.query(lab, query), store.query(lab, kept), check_dtypes=False)


QUERY = "SELECT 1 AS a, 0.123456789::DOUBLE AS b, 'x|y' AS c, [1, 2] AS d, NULL AS e, 'two' || chr(10) || 'lines' AS f"


def printed(lab: Path, form: str) -> bytes:
    command = [sys.executable, "-m", "predict.cli", "sql", QUERY, "--home", str(lab), "--format", form]
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_sql_prints_markdown_csv_json_and_parquet(lab):
    assert printed(lab, "md").decode().splitlines() == [
        "| a | b | c | d | e | f |",
        "| --- | --- | --- | --- | --- | --- |",
        r"| 1 | 0.123457 | x\|y | [1, 2] |  | two<br>lines |",
    ]
    assert printed(lab, "csv").decode() == 'a,b,c,d,e,f\n1,0.123456789,x|y,"[1, 2]",,"two\nlines"\n'
    assert json.loads(printed(lab, "json")) == [{"a": 1, "b": 0.123456789, "c": "x|y", "d": [1, 2], "e": None, "f": "two\nlines"}]
    assert pl.read_parquet(io.BytesIO(printed(lab, "parquet"))).rows() == [(1, 0.123456789, "x|y", [1, 2], None, "two\nlines")]
