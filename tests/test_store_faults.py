"""The store under bad input, many writers, kills and contradictions: what is wrong is named, nothing is lost or half-visible."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from test_store import KEY, PACKED, Study, assert_equal_views, digest, measure, views, write_forecast

import predict
from curate.errors import InputError, OutputExists, UsageError
from predict import store
from predict.features import load
from predict.forecasting import Forecaster
from train.records import RunFolder

ALL = (
    "checkpoints",
    "rl_runs",
    "pass_at_k",
    "curves",
    "lineage",
    "runs",
    "evaluations",
    "losses",
    "signals",
    "counts",
    "benchmark_counts",
)
SHIPPED = len(pl.read_parquet(PACKED / "runs.parquet"))
LOSS = {"heldout": "h", "heldout_hash": "x", "kind": "shared", "nats_per_token": 0.5}
WRITER = """
import sys
from pathlib import Path
from train.records import Run, RunFolder
home, writer, runs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
zero = {"num_no_answer": 0, "num_unparsable": 0, "num_truncated": 0, "mean_tokens": 9.0}
for i in range(runs):
    folder = RunFolder.of(home, f"{writer}-{i}")
    run = Run(folder.path.name, "sft", steps=4, base_model="tiny")
    folder.start(run)
    for step in range(1, 5):
        folder.log(step, {"loss": 1.0 / step})
    rows = [{"problem_id": f"p{p}", "num_samples": 4, "num_correct": p % 5, **zero} for p in range(20)]
    folder.evaluation(4, {"benchmark": "b", "temperature": 1.0}, {"seed": 0, "purpose": "signals"}, rows)
    folder.finish(run, "done")
"""
INGEST = """
import sys
from pathlib import Path
from predict import store
home, stop = Path(sys.argv[1]), Path(sys.argv[1]) / "stop"
while True:
    is_last = stop.exists()
    store.ingest(home)
    if is_last:
        break
"""
HALF = """
SELECT count(*) AS runs, count(*) FILTER (stage = 'sft' AND status = 'done' AND (counts IS DISTINCT FROM 20 OR points IS DISTINCT FROM 4)) AS half
FROM runs LEFT JOIN (SELECT run_id, count(*) AS counts FROM evaluations GROUP BY run_id) USING (run_id)
LEFT JOIN (SELECT run_id, count(*) AS points FROM metrics GROUP BY run_id) USING (run_id)"""
READER = f"""
import sys
from pathlib import Path
from predict import store
home, stop, seen, reads = Path(sys.argv[1]), Path(sys.argv[1]) / "stop", 0, 0
while not stop.exists() or not reads:
    runs, half = store.query(home, {HALF!r}).row(0)
    assert runs >= seen, f"{{seen}} runs, then {{runs}}"
    assert not half, f"{{half}} runs are half there"
    seen, reads = runs, reads + 1
print(reads)
"""


@pytest.fixture
def study(tmp_path) -> Study:
    study = Study(tmp_path / "home")
    study.sft().log(1, {"loss": 2.0})
    study.rl("rl", [8, 4])
    return study


def start(program: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@contextlib.contextmanager
def ingest_caught_in_the_middle(home: Path, *paths: Path) -> Iterator[subprocess.Popen]:
    """`predict ingest` as a process, once it has begun to write its database."""
    command = [sys.executable, "-m", "predict.cli", "ingest", *map(str, paths), "--home", str(home)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 120
        while not list(home.glob(".runs.duckdb.*.partial")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < until
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        assert list(home.glob(".runs.duckdb.*.partial"))
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("metrics.jsonl", '{"step": 1, "loss": NaN}', r"metrics\.jsonl, line 1, step 1.*loss = nan"),
        ("metrics.jsonl", '{"step": 1, "loss": true}', "loss = True"),
        ("metrics.jsonl", '{"loss": 1.0}', "whole number, came step = None"),
        ("losses.jsonl", json.dumps({"step": 10, **LOSS, "nats_per_token": -0.1}), "losses of run sft, step 10.*>= 0, came nats_per_token = -0.1"),
        ("losses.jsonl", json.dumps({"step": 10, **LOSS, "nats_per_token": float("nan")}), "nats_per_token to be finite, came .*nan"),
        ("losses.jsonl", json.dumps({"step": 10, **LOSS, "nats_per_token": "0.5"}), "line 1: expected a number, came nats_per_token = '0.5'"),
        ("losses.jsonl", json.dumps({"step": 10.5, **LOSS}), "line 1: expected a whole number, came step = 10.5"),
        ("signals.jsonl", '{"step": 10, "name": "entropy_t1", "value": Infinity}', "signals of run sft, step 10.*finite, came value = inf"),
        ("run.json", '{"project": "mine", "run_id": 7}', "run.json: expected schema_version 1, came None"),
        ("run.json", '{"schema_version": 1, "run_id": "sft", "stage": "sft", "status": "ok"}', "expected one of running.*status = ok"),
        ("run.json", '{"schema_version": 1, "run_id": "sft", "stage": "sft", "status": "done", "steps": -1}', "steps >= 0, came steps = -1"),
        ("run.json", '{"schema_version": 1, "run_id": "sft", "stage": "sft", "status": "done", "parent": "base"}', "parent: expected an object"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused_with_place_and_field(study, file, line, words):
    predict.ingest(study.home)
    before = digest(study.home / "runs.duckdb")
    (study.home / "runs/sft" / file).write_text(line + "\n")
    with pytest.raises(InputError, match=words):
        predict.ingest(study.home)
    assert digest(study.home / "runs.duckdb") == before


def rewritten(file: Path, change: pl.Expr) -> None:
    facts = json.dumps(json.loads(file.with_suffix(".json").read_text()))
    frame = pl.read_parquet(file).with_columns(change)
    frame.write_parquet(file, metadata={"forerun": facts})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            pl.col("num_correct") + 7,
            r"sft: evaluations of run sft, step 10, .*p0: expected num_correct <= num_samples, came num_correct = 9",
        ),
        (pl.col("num_correct") - 3, "num_correct >= 0, came num_correct = -1"),
        (pl.lit(0).alias("num_samples"), "num_samples >= 1, came num_samples = 0"),
        (pl.lit(None, pl.Int64).alias("num_correct"), "num_correct to be there"),
        (pl.lit(float("nan")).alias("mean_tokens"), "mean_tokens to be finite"),
        (pl.lit("p0").alias("problem_id"), "problem p0 is there twice"),
        (pl.lit("other").alias("run_id"), "expected rows of run_id sft, came other"),
        (pl.lit(9).alias("step"), "expected rows of step 10, came 9"),
        (pl.lit("x").alias("num_correct"), "not an evaluation"),
    ],
)
def test_counts_that_cannot_be_are_refused_with_run_and_problem(study, change, words):
    (file,) = (study.home / "runs/sft/evaluations").glob("*.parquet")
    rewritten(file, change)
    with pytest.raises(InputError, match=words):
        predict.ingest(study.home)


def test_an_evaluation_of_narrower_types_is_read_beside_others(study):
    (file,) = (study.home / "runs/sft/evaluations").glob("*.parquet")
    rewritten(file, pl.col("num_correct").cast(pl.Int16))
    predict.ingest(study.home)
    assert study.sql("SELECT num_correct FROM counts WHERE run_id = 'sft' ORDER BY problem_id") == [
        {"num_correct": 2},
        {"num_correct": 6},
    ]


def test_a_missing_sidecar_is_no_loss_and_one_that_disagrees_is_refused(study):
    (sidecar,) = (study.home / "runs/sft/evaluations").glob("*.json")
    facts = json.loads(sidecar.read_text())
    sidecar.unlink()
    assert study.checkpoint()["pass_at_1"] == 0.5
    sidecar.write_text(json.dumps({**facts, "key": {**facts["key"], "temperature": 0.6}}))
    with pytest.raises(InputError, match="differ from those inside"):
        predict.ingest(study.home)


def test_past_the_samples_pass_at_k_is_null_and_impossible_counts_are_an_error(study):
    predict.ingest(study.home)
    assert study.sql("SELECT k FROM pass_at_k WHERE run_id = 'sft' AND value IS NOT NULL ORDER BY k") == [
        {"k": k} for k in (1, 2, 4, 8)
    ]
    assert study.sql("SELECT pass_at_k(4, 1, 5) AS a, pass_at_k(4, 1, 4) AS b") == [{"a": None, "b": 1.0}]
    for impossible in ("4, 5, 1", "4, -1, 1", "4, 1, 0"):
        with pytest.raises(UsageError, match="expected 0 <= c <= n and k >= 1"):
            study.sql(f"SELECT pass_at_k({impossible})")


def test_a_folder_without_run_json_is_named_and_an_unfinished_run_is_there(study):
    (study.home / "runs/begun/evaluations").mkdir(parents=True)
    study.run("going", stage="sft", status="running").log(1, {"loss": 1.0})
    with (study.home / "runs/going/metrics.jsonl").open("a") as handle:
        handle.write('{"step": 2, "lo')
    counts = predict.ingest(study.home)
    assert [Path(folder).name for folder in counts["without_run_json"]] == ["begun"]
    assert study.sql(
        "SELECT status, count(m.step) AS points FROM runs JOIN metrics m USING (run_id) WHERE run_id = 'going' GROUP BY 1"
    ) == [{"status": "running", "points": 1}]


def test_only_what_changed_is_read_and_the_rest_is_as_if_it_had_been(study, tmp_path):
    first, second = predict.ingest(study.home), predict.ingest(study.home)
    assert [first[name] for name in ("read", "unchanged", "new_runs")] == [3, 0, 3]
    assert [second[name] for name in ("read", "unchanged", "new_runs")] == [0, 3, 0]
    measure(RunFolder.of(study.home, "sft"), 10, KEY, [8, 8], purpose="signals", seed=1)
    RunFolder.of(study.home, "rl").log(1, {"reward_mean": 0.5})
    study.sft("second")
    counts = predict.ingest(study.home)
    assert [counts[name] for name in ("read", "unchanged", "new_runs", "runs")] == [3, 1, 1, 4]
    anew = shutil.copytree(study.home, tmp_path / "anew", ignore=shutil.ignore_patterns("runs.duckdb"))
    assert predict.ingest(anew)["read"] == 4
    moved = views(study.home, *ALL)
    moved["runs"] = moved["runs"].with_columns(pl.col("source").str.replace(str(study.home), str(anew), literal=True))
    assert_equal_views(anew, moved)


def test_a_run_whose_folder_went_is_no_longer_there(study):
    predict.ingest(study.home)
    shutil.rmtree(study.home / "runs/rl")
    counts = predict.ingest(study.home)
    assert (counts["runs"], counts["read"]) == (2, 0)
    assert study.sql("SELECT count(*) AS n FROM pass_at_k WHERE run_id = 'rl'") == [{"n": 0}]


def test_a_damaged_store_is_made_anew_from_the_files(tmp_path):
    predict.ingest(tmp_path / "home", [PACKED])
    before = views(tmp_path / "home", "checkpoints", "counts")
    path = tmp_path / "home/runs.duckdb"
    content = bytearray(path.read_bytes())
    content[len(content) // 8 :] = os.urandom(len(content) - len(content) // 8)
    path.write_bytes(content)
    write_forecast(tmp_path / "home", "f", candidates=[])
    predict.ingest(tmp_path / "home")
    assert_equal_views(tmp_path / "home", before)


@pytest.mark.slow
def test_a_folder_of_several_packed_studies_is_one_source(study, tmp_path):
    other = Study(tmp_path / "other")
    other.sft("more")
    for name, home in (("a", study.home), ("deep/b", other.home)):
        predict.ingest(home)
        predict.export(home, tmp_path / "packed" / name)
    counts = predict.ingest(tmp_path / "both", [tmp_path / "packed"])
    assert (counts["stages"], counts["read"]) == ({"base": 1, "grpo": 1, "sft": 2}, 2)
    assert json.loads((tmp_path / "both/sources.json").read_text()) == [str(tmp_path / "packed")]
    whole = predict.ingest(tmp_path / "again", [PACKED.parent])
    one_by_one = predict.ingest(tmp_path / "one", [path.parent for path in PACKED.parent.glob("*/manifest.json")])
    assert whole["stages"] == one_by_one["stages"]


def test_a_base_run_recorded_on_two_machines_is_one_run(study, tmp_path):
    """Its id is a hash of its weights; when and where it was recorded is provenance."""
    other = Study(tmp_path / "other")
    other.sft("elsewhere")
    assert predict.ingest(study.home, [other.home])["stages"] == {"base": 1, "grpo": 1, "sft": 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: measure(folder, 10, KEY, [2, 7], purpose="signals"), "evaluation_jobs 10, .*counts differs"),
        (lambda folder: folder.log(1, {"loss": 9.0}), r"metrics 1, loss: value differs \(2.0 and 9.0\)"),
        (lambda folder: folder.write(_failed(folder)), r"runs status differs \(done and failed\)"),
    ],
)
def test_one_run_with_two_contents_is_named_with_both_places(study, tmp_path, change, words):
    other = RunFolder(Path(shutil.copytree(study.home / "runs/sft", tmp_path / "other/sft")))
    predict.ingest(study.home, [other.path])
    before = views(study.home, "checkpoints")
    change(other)
    with pytest.raises(InputError, match=f"run sft: .*home/runs/sft and .*other/sft hold it.*{words}"):
        predict.ingest(study.home)
    assert_equal_views(study.home, before)


def elsewhere(folder: RunFolder) -> None:
    """As if the run had been made on another machine, at another time."""
    run = folder.run
    run.hardware, run.created_at = {**run.hardware, "vectors": "other"}, "2020-01-01T00:00:00+00:00"
    folder.write(run)


def test_a_run_made_again_on_another_machine_counts_with_this_workspaces_numbers(study, tmp_path):
    """Another machine rounds otherwise: samples and losses differ a little, and nobody can act on it."""
    predict.ingest(study.home)
    before = views(study.home, *ALL)
    other = RunFolder(Path(shutil.copytree(study.home / "runs/sft", tmp_path / "other/sft")))
    elsewhere(other)
    measure(other, 10, KEY, [2, 7], purpose="signals")
    other.log(1, {"loss": 9.0})
    measure(other, 10, {**KEY, "benchmark": "more"}, [1, 1], purpose="other")
    counts = predict.ingest(study.home, [other.path])
    assert counts["made_again"] == ["sft"]
    assert predict.ingest(study.home)["made_again"] == ["sft"]
    for name, frame in before.items():
        added = views(study.home, name)[name].join(frame, on=frame.columns, how="anti", nulls_equal=True)
        assert set(added.get_column("benchmark").to_list() if "benchmark" in added.columns else []) <= {"more"}, name
    assert study.sql("SELECT DISTINCT benchmark FROM evaluation_jobs WHERE run_id = 'sft' AND purpose = 'other'") == [
        {"benchmark": "more"}
    ]


def test_a_base_model_that_two_machines_wrote_down_was_not_made_again(study, tmp_path):
    other = RunFolder(Path(shutil.copytree(study.home / "runs/base", tmp_path / "other/base")))
    elsewhere(other)
    assert predict.ingest(study.home, [other.path])["made_again"] == []


@pytest.mark.parametrize("source", ["run folder", "packed"])
def test_a_run_broken_off_in_one_place_is_the_run_that_ended_in_another(study, tmp_path, source):
    """A study packed while it ran, and then run again where nothing was left of it."""
    predict.ingest(study.home)
    before = views(study.home, *ALL)
    home = shutil.copytree(study.home, tmp_path / "broken")
    broken = RunFolder.of(home, "rl")
    run = broken.run
    run.status, run.steps, run.finished_at, run.created_at = "running", 0, None, "2020-01-01T00:00:00+00:00"
    broken.write(run)
    broken.log(1, {"reward_mean": 0.9})
    place = broken.path
    if source == "packed":
        predict.ingest(home)
        predict.export(home, place := tmp_path / "packed")
    assert predict.ingest(study.home, [place])["made_again"] == []
    assert_equal_views(study.home, before)


def test_of_two_packed_studies_of_different_machines_the_first_counts(study, tmp_path):
    predict.ingest(study.home)
    predict.export(study.home, tmp_path / "first")
    elsewhere(RunFolder.of(study.home, "sft"))
    RunFolder.of(study.home, "sft").log(1, {"loss": 9.0})
    predict.ingest(study.home)
    predict.export(study.home, tmp_path / "second")
    for number, order in enumerate((("first", "second"), ("second", "first"))):
        home = tmp_path / f"home{number}"
        assert predict.ingest(home, [tmp_path / name for name in order])["made_again"] == ["sft"]
        [row] = predict.query(home, "SELECT value FROM metrics WHERE run_id = 'sft' AND step = 1 AND name = 'loss'").to_dicts()
        assert row["value"] == (2.0, 9.0)[number]


def test_other_settings_are_another_run_on_any_machine(study, tmp_path):
    predict.ingest(study.home)
    other = RunFolder(Path(shutil.copytree(study.home / "runs/sft", tmp_path / "other/sft")))
    elsewhere(other)
    run = other.run
    run.config = {**run.config, "learning_rate": 0.7}
    other.write(run)
    with pytest.raises(InputError, match=r"run sft: .* settings differs"):
        predict.ingest(study.home, [other.path])


def _failed(folder: RunFolder):
    run = folder.run
    run.status = "failed"
    return run


def test_a_packed_study_is_an_older_copy_of_a_run_that_went_on(study, tmp_path):
    going = study.run("going", stage="sft", status="running", steps=1)
    going.loss(1, LOSS)
    predict.ingest(study.home)
    predict.export(study.home, tmp_path / "packed")
    run = going.run
    run.steps = 2
    going.finish(run, "done")
    going.loss(1, {**LOSS, "nats_per_token": 0.25})
    going.log(2, {"loss": 1.0})
    predict.ingest(study.home, [tmp_path / "packed"])
    query = "SELECT status, steps, gen_loss FROM runs JOIN checkpoint_losses USING (run_id) WHERE run_id = 'going'"
    assert study.sql(query) == [{"status": "done", "steps": 2, "gen_loss": 0.25}]


def test_export_over_a_recorded_source_replaces_it_and_ingest_goes_on(study, tmp_path):
    predict.ingest(study.home)
    predict.export(study.home, tmp_path / "packed")
    predict.ingest(study.home, [tmp_path / "packed"])
    study.sft("later")
    measure(RunFolder.of(study.home, "sft"), 10, KEY, [1, 1], purpose="signals", seed=1)
    predict.ingest(study.home)
    before = views(study.home, *ALL)
    predict.export(study.home, tmp_path / "packed", force=True)
    assert predict.ingest(study.home)["new_runs"] == 0
    assert_equal_views(study.home, before)
    shutil.rmtree(study.home / "runs")
    predict.ingest(study.home)
    assert_equal_views(study.home, {name: frame for name, frame in before.items() if name != "runs"})


def test_export_replaces_neither_run_folders_nor_runs_that_the_store_lacks(study, tmp_path):
    predict.ingest(study.home)
    for place in (study.home, study.home / "runs", study.home / "runs/sft"):
        with pytest.raises(OutputExists, match="holds run folders"):
            predict.export(study.home, place, force=True)
    predict.export(study.home, tmp_path / "packed")
    small = Study(tmp_path / "small")
    predict.ingest(small.home)
    with pytest.raises(OutputExists, match=r"holds 2 run\(s\) that the store lacks, such as rl"):
        predict.export(small.home, tmp_path / "packed", force=True)
    assert len(pl.read_parquet(tmp_path / "packed/runs.parquet")) == 3


def test_exporting_an_ingested_study_gives_equal_files(tmp_path):
    predict.ingest(tmp_path / "home", [PACKED])
    predict.export(tmp_path / "home", tmp_path / "packed")
    for file in PACKED.glob("*.parquet"):
        expected, found = pl.read_parquet(file), pl.read_parquet(tmp_path / "packed" / file.name)
        assert found.columns == expected.columns
        assert_frame_equal(found.sort(found.columns), expected.sort(expected.columns))


def test_a_packed_study_with_rows_of_an_unknown_run_is_refused(study, tmp_path):
    predict.ingest(study.home)
    predict.export(study.home, tmp_path / "packed")
    file = tmp_path / "packed/runs.parquet"
    pl.read_parquet(file).filter(pl.col("run_id") != "sft").write_parquet(file)
    manifest = json.loads((tmp_path / "packed/manifest.json").read_text())
    manifest["sha256"]["runs.parquet"] = digest(file)
    (tmp_path / "packed/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"rows of run sft, which runs\.parquet does not hold"):
        predict.ingest(tmp_path / "other", [tmp_path / "packed"])


def test_a_forecast_is_compared_under_the_recipe_that_it_was_fitted_on(study):
    study.rl("other", [0, 4], rl_recipe="s")
    candidates = [{"id": "sft@10", "point": 0.7, "low": 0.6, "high": 0.9}]
    for name, recipe in (("f", "r"), ("g", "s"), ("h", None), ("i", "t")):
        write_forecast(study.home, name, candidates=candidates, fitted_on={"n": 9, "source": "x", "rl_recipe": recipe})
    predict.ingest(study.home)
    rows = study.sql("SELECT forecast_id, rl_recipe, measured, inside FROM forecasts ORDER BY 1")
    assert [tuple(row.values()) for row in rows] == [
        ("f", "r", pytest.approx(0.75), True), ("g", "s", pytest.approx(0.25), False), ("h", None, None, None), ("i", "t", None, None),
    ]  # fmt: skip


def test_a_forecast_of_a_store_names_its_recipe(tmp_path):
    predict.ingest(tmp_path, [PACKED])
    runs = load(tmp_path)
    forecast = Forecaster("pass_at_1").fit(runs).forecast(runs.head(2))
    assert forecast.fitted_on["rl_recipe"] == runs["rl_recipe"].drop_nulls()[0]


def test_parents_in_a_circle_end(study):
    for name, parent in (("x", "y"), ("y", "x")):
        study.run(name, stage="sft", parent={"run_id": parent, "step": 1})
    predict.ingest(study.home)
    assert study.sql("SELECT max(depth) AS depth FROM lineage WHERE run_id = 'x'") == [{"depth": 100}]


def test_datasets_are_followed_through_sft_to_rl(study):
    study.sft("named", dataset={"name": "mix/long", "hash": "d"})
    study.rl("after", [8, 8], start="named", dataset={"name": "rl", "hash": "e"})
    predict.ingest(study.home)
    rows = study.sql(
        "SELECT dataset, ancestor_stage, ancestor_dataset, ancestor_step, depth FROM lineage WHERE run_id = 'after' ORDER BY depth"
    )
    assert [tuple(row.values()) for row in rows] == [("rl", "sft", "mix/long", 10, 1), ("rl", "base", None, 0, 2)]


def test_a_macro_mean_weighs_benchmarks_equally_whatever_their_size(study):
    folder = RunFolder.of(study.home, "sft")
    measure(folder, 10, {**KEY, "benchmark": "products"}, [16, 0, 0, 0], purpose="signals", n=16)
    measure(folder, 10, KEY, [8, 8], purpose="signals", seed=1)
    assert study.checkpoint()["pass_at_1"] == pytest.approx((1 / 4 + (10 / 16 + 14 / 16) / 2) / 2)
    assert study.checkpoint()["expected_signal"] == pytest.approx((0 + (15 / 64 + 7 / 64) ** 0.5 * 0 + _signal(10, 14)) / 2)


def _signal(*right: int) -> float:
    return sum((c / 16 * (1 - c / 16)) ** 0.5 for c in right) / len(right)


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT count(*) FROM range(1000000000) a, range(1000000000) b", "stopped after 0.5 seconds"),
        ("SELECT list(a.range || repeat('x', 1000)) FROM range(100000000) a", "memory|stopped"),
        ("SELECT * FROM secret", "secret"),
        ("SELECT * FROM glob('/*')", "SQL"),
        ("SELECT * FROM read_blob('/etc/hostname')", "SQL"),
        ("SELECT * FROM query('DROP TABLE runs')", "SQL"),
        ("LOAD httpfs", "expected one SELECT"),
        ("PRAGMA enable_profiling", "expected one SELECT"),
    ],
)
def test_a_query_that_runs_away_or_looks_elsewhere_is_refused(study, sql, words):
    predict.ingest(study.home)
    secret = pl.DataFrame({"a": [1]})
    with pytest.raises(UsageError, match=words):
        store.query(study.home, sql, seconds=0.5)
    assert len(secret) == study.sql("SELECT count(*) AS n FROM runs WHERE run_id = 'rl'")[0]["n"]


def test_every_table_view_and_column_says_what_it_means(study):
    predict.ingest(study.home)
    assert store.describe(study.home).filter(pl.col("comment").is_null()).is_empty()
    query = "SELECT table_name FROM duckdb_columns() WHERE schema_name = 'main' AND NOT internal AND comment IS NULL"
    assert {row["table_name"] for row in study.sql(query)} <= {
        f"stored_{name}" for name in ("tallies", "pass_at_k", "benchmark_counts")
    }


def test_a_killed_ingest_leaves_the_old_store_and_the_next_one_cleans_up(study):
    predict.ingest(study.home)
    before = views(study.home, "runs", "pass_at_k")
    with ingest_caught_in_the_middle(study.home, PACKED) as process:
        process.kill()
        process.wait()
        assert list(study.home.glob(".runs.duckdb.*"))
        assert_equal_views(study.home, before)
        assert json.loads((study.home / "sources.json").read_text()) == []
    assert predict.ingest(study.home, [PACKED])["runs"] == SHIPPED + 3
    assert [path.name for path in study.home.iterdir() if path.name.startswith(".")] == []


def test_two_ingests_at_once_take_turns_and_both_sources_are_kept(study, tmp_path):
    other = Study(tmp_path / "other")
    other.sft("more")
    with ingest_caught_in_the_middle(study.home, PACKED) as first:
        second = start("import sys; from predict.cli import main; main()", "ingest", other.home, "--home", study.home)
        assert "waiting for another ingest" in second.stderr.readline()
        first.send_signal(signal.SIGCONT)
        assert f"{SHIPPED + 3} runs" in ended(first)
        assert f"{SHIPPED + 4} runs" in ended(second)
    assert json.loads((study.home / "sources.json").read_text()) == [str(PACKED), str(other.home)]


def assert_nothing_is_lost_while_live(home: Path, writers: int, readers: int, runs: int) -> None:
    """Writers append runs while ingest and readers loop; at the end every run is there, once and whole."""
    Study(home)
    store.ingest(home)
    loops = [start(INGEST, home), *(start(READER, home) for _ in range(readers))]
    writing = [start(WRITER, home, f"w{i}", runs) for i in range(writers)]
    for process in writing:
        ended(process)
    (home / "stop").touch()
    for process in loops:
        ended(process)
    found, half = store.query(home, HALF).row(0)
    assert (found, half) == (1 + writers * runs, 0)
    names = store.query(home, "SELECT run_id FROM runs WHERE stage = 'sft'")["run_id"]
    assert set(names) == {f"w{i}-{j}" for i in range(writers) for j in range(runs)}
    assert [path.name for path in home.iterdir() if path.name.startswith(".")] == []


def test_runs_written_while_ingest_and_readers_go_on_are_there_once_and_whole(tmp_path):
    assert_nothing_is_lost_while_live(tmp_path / "home", writers=3, readers=1, runs=8)


@pytest.mark.slow
def test_sixteen_writers_four_readers_and_ingest_for_a_minute(tmp_path):
    began = time.monotonic()
    while time.monotonic() - began < 60:
        assert_nothing_is_lost_while_live(tmp_path / f"home{time.monotonic()}", writers=16, readers=4, runs=60)
