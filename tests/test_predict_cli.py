"""The `predict` command line: its exit codes, messages, JSON and files, and that a failure leaves nothing half-written."""

import contextlib
import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

import predict as library
from curate.commands import run_app
from predict.cli import app
from train.records import Run, RunFolder

ROOT = Path(__file__).parent.parent
PACKED = ROOT / "studies/lab/runs"
PREDICT = str(Path(sys.executable).with_name("predict"))
COMMANDS = ["ingest", "export", "sql", "score", "rank", "forecasts", "report"]
FORECAST_KEYS = {
    *("schema_version", "ok", "forecast_id", "created_at", "predictor", "fitted_on", "outcome", "target", "candidates"),
    *("abstentions", "notes"),
}


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def predict(monkeypatch, capsys, tmp_path) -> Iterator[Callable[..., Result]]:
    """Runs the command in this process, in an empty folder, as its console script would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORERUN_HOME", raising=False)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_app(app)
        captured = capsys.readouterr()
        return Result(end.value.code or 0, captured.out, captured.err)

    yield run
    signal.signal(signal.SIGTERM, handler)


def document(result: Result) -> dict:
    """The one JSON document on stdout, with what every one of them holds."""
    value = json.loads(result.out)
    assert value["schema_version"] == 1
    assert value["ok"] is (result.code == 0)
    if not value["ok"]:
        assert set(value) == {"schema_version", "ok", "code", "message"}
        assert value["code"] == result.code
        assert value["message"] in result.err
    return value


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def small_runs(home: Path) -> None:
    """Twelve SFT checkpoints; RL was run from ten of them."""
    rng = np.random.default_rng(0)
    zero = {"num_no_answer": 0, "num_unparsable": 0, "num_truncated": 0, "mean_tokens": 20.0}

    def run(name: str, right: int, purpose: str, **facts: object) -> None:
        folder = RunFolder.of(home, name)
        folder.start(Run(run_id=name, steps=4, base_model="tiny", **facts))
        rows = [{"problem_id": f"p{i}", "num_samples": 16, "num_correct": min(right + i, 16), **zero} for i in range(3)]
        folder.evaluation(4, {"benchmark": "sums", "split": purpose}, {"num_samples": 16, "seed": 0, "purpose": purpose}, rows)
        folder.finish(folder.run, "done")

    for index in range(12):
        right = int(rng.integers(1, 11))
        run(f"sft{index}", right, "signals", stage="sft", cell=f"c{index}", variant={"name": f"v{index}"}, seconds=1.0)
        if index < 10:
            after = min(right + int(rng.integers(0, 4)), 14)
            start = {"run_id": f"sft{index}", "step": 4}
            run(f"rl{index}", after, "outcome", stage="grpo", parent=start, rl_recipe="r", rl_seed=0, seconds=60.0)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    small_runs(home)
    library.ingest(home)
    return home


@pytest.fixture
def home(workspace, tmp_path) -> Path:
    """A copy of the small workspace, its store made already."""
    return shutil.copytree(workspace, tmp_path / "forerun")


def table(rows: int = 12, known: int = 12, **columns: list) -> list[dict]:
    rng = np.random.default_rng(1)
    before = rng.uniform(0.1, 0.5, rows)
    after = before + 0.2 + 0.05 * rng.normal(size=rows)
    result = [
        {
            "model": f"m{i}",
            "before": round(before[i], 4),
            "gen_loss": round(1 - before[i], 4),
            "after": round(after[i], 4) if i < known else "",
        }
        for i in range(rows)
    ]
    return [row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(result)]


def write_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "ingest"])
def test_without_a_store_a_command_says_how_to_make_one(predict, tmp_path, command):
    output = ["out"] if command == "export" else ["SELECT 1"] if command == "sql" else []
    result = predict(command, *output, "--json")
    assert result.code == 3
    assert "predict ingest" in document(result)["message"]
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_ingest_of_a_path_that_is_not_there_says_so(predict, tmp_path):
    result = predict("ingest", "nowhere", "--json")
    assert result.code == 3
    assert "nowhere" in document(result)["message"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["score", "rank"])
def test_a_table_that_is_not_there_is_named(predict, command):
    result = predict(command, "--csv", "runs.csv", "--predictor", "before", "--json")
    assert result.code == 3
    assert document(result)["message"] == "runs.csv: no such file"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"a,after\n", "header but no rows"),
        (b"a,after\n1,2\n3,4,5\n6,7\n", "line 3: 3 fields, the header has 2"),
        (b"a,b,after\n1,2,3\n4,5\n6,7,8\n", "line 3: 2 fields, the header has 3"),
        (b'a,after\n1,2\n"3,4\n5,6\n', "line 4: 1 fields"),
        (b"a,a\n1,2\n", "line 1: column 'a' is there twice"),
        (b"a,after\n1,2\n\xff,3\n", "line 3: not UTF-8"),
    ],
)
@pytest.mark.parametrize("command", ["score", "rank"])
def test_a_malformed_table_is_refused_with_its_line(predict, tmp_path, command, content, words):
    (tmp_path / "runs.csv").write_bytes(content)
    result = predict(command, "--csv", "runs.csv", "--outcome", "after", "--predictor", "a", "--json")
    assert result.code == 3
    assert words in document(result)["message"]
    assert document(result)["message"].startswith("runs.csv")


def test_a_folder_or_a_broken_parquet_file_is_no_table(predict, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "runs.parquet").write_bytes(b"PAR1 nothing")
    for name in ("folder", "runs.parquet"):
        result = predict("score", "--csv", name, "--predictor", "a")
        assert result.code == 3
        assert result.err.startswith(f"error: {name}")
        assert "Traceback" not in result.err


@pytest.mark.parametrize("command", ["score", "rank"])
@pytest.mark.parametrize("bad", ["NaN", "inf", "high"])
def test_a_cell_that_is_no_finite_number_is_refused_with_its_row(predict, tmp_path, command, bad):
    rows = table(known=11)
    rows[4]["before"] = bad
    write_csv(tmp_path / "runs.csv", rows)
    result = predict(command, "--csv", "runs.csv", "--outcome", "after", "--predictor", "before", "--json")
    assert result.code == 3
    assert "'before', row 5" in document(result)["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "--predictor", "befor"],
        ["rank", "--predictor", "befor"],
        ["score", "--predictor", "before", "--group", "mdel"],
        ["rank", "--predictor", "before", "--group", "mdel"],
        ["rank", "--group", "mdel"],
        ["score", "--predictor", "before", "--percent", "befor"],
        ["rank", "--predictor", "before", "--percent", "befor"],
        ["score", "--predictor", "before", "--direction", "befor=up"],
        ["score", "--predictor", "before", "--outcome", "aftr"],
        ["rank", "--predictor", "before", "--outcome", "aftr"],
        ["rank", "--outcome", "aftr"],
    ],
)
def test_an_unknown_column_is_refused_with_the_nearest_name(predict, tmp_path, arguments):
    write_csv(tmp_path / "runs.csv", table(known=10))
    outcome = [] if "--outcome" in arguments else ["--outcome", "after"]
    result = predict(*arguments, *outcome, "--csv", "runs.csv", "--json")
    assert result.code == 3
    nearest = {"befor": "before", "befor=up": "before", "mdel": "model", "aftr": "after"}[arguments[-1]]
    assert f"did you mean {nearest!r}" in document(result)["message"]
    assert not (tmp_path / "forerun").exists()


@pytest.mark.parametrize("command", ["score", "rank"])
@pytest.mark.parametrize("name", ["before+", "log(before", "sqrt(before)", "mean(before)"])
def test_a_bad_predictor_is_wrong_usage(predict, tmp_path, command, name):
    write_csv(tmp_path / "runs.csv", table(known=10))
    result = predict(command, "--csv", "runs.csv", "--outcome", "after", "--predictor", name, "--json")
    assert result.code == 2
    assert "predictor" in document(result)["message"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "--csv", "runs.csv", "--json"], "--predictor"),
        (["score", "--csv", "runs.csv", "--predictor", "before", "--direction", "before", "--json"], "COL=up"),
        (["score", "--nonsense", "--json"], "--nonsense"),
        (["score", "--seed", "many", "--json"], "--seed"),
        (["nonsense", "--json"], "nonsense"),
        (["export", "--json"], "DIR"),
        (["sql", "SELEC 1", "--json"], "SQL"),
        (["sql", "DROP TABLE runs", "--json"], "read-only"),
        (["score", "--rl-recipe", "other", "--json"], "'other'"),
    ],
)
def test_wrong_usage_is_code_2_and_one_document(predict, home, tmp_path, arguments, words):
    write_csv(tmp_path / "runs.csv", table())
    result = predict(*arguments)
    assert result.code == 2
    assert words in document(result)["message"]


def test_score_of_a_table_needs_no_workspace(predict, tmp_path):
    rows = table()
    write_csv(tmp_path / "runs.csv", rows)
    result = predict(
        "score", "--csv", "runs.csv", "--outcome", "after", "--predictor", "before", "--predictor", "gen_loss", "--json"
    )
    report = document(result)
    assert result.code == 0
    assert [score["name"] for score in report["predictors"]] == ["before", "gen_loss"]
    expected = stats.spearmanr([row["before"] for row in rows], [row["after"] for row in rows]).statistic
    assert report["predictors"][0]["spearman"]["value"] == pytest.approx(expected)
    assert set(report) == {"schema_version", "ok", "n", "n_runs", "n_groups", "outcome", "group", "folds", "predictors", "notes"} | {
        "sst", "strata", "ceiling", "proposed_groups", "collapsed",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["runs.csv"]


def test_a_table_with_the_columns_of_a_store_is_scored_by_single_rows_until_a_group_is_named(predict, tmp_path):
    rows = table(run_id=[f"r{i}" for i in range(12)], cell=[f"c{i // 2}" for i in range(12)])
    write_csv(tmp_path / "runs.csv", rows)
    arguments = ["score", "--csv", "runs.csv", "--outcome", "after", "--predictor", "before", "--json"]
    report = document(predict(*arguments))
    assert (report["group"], report["predictors"][0]["r2_logo"]) == (None, None)
    assert any("--group cell" in note for note in report["notes"])
    assert document(predict(*arguments, "--group", "cell"))["group"] == "cell"


def test_problems_are_resampled_too_where_a_store_has_counts(predict, home, tmp_path):
    crossed = document(predict("score", "--crossed", "--predictor", "pass_at_1", "--json"))["predictors"][0]["spearman_crossed"]
    assert crossed["low"] < crossed["value"] < crossed["high"]
    write_csv(tmp_path / "runs.csv", table())
    refused = predict("score", "--csv", "runs.csv", "--outcome", "after", "--predictor", "before", "--crossed", "--json")
    assert refused.code == 2
    assert "counts by problem" in document(refused)["message"]


def test_score_for_a_person_shows_a_row_a_predictor_and_the_notes(predict, tmp_path):
    write_csv(tmp_path / "runs.csv", table(known=11))
    result = predict("score", "--csv", "runs.csv", "--outcome", "after", "--predictor", "mean", "--predictor", "before")
    assert result.code == 0
    assert result.out.startswith("11 checkpoints")
    assert [line.split()[1] for line in result.out.splitlines() if line.startswith("| ")] == ["predictor", "mean", "before"]
    assert "note: intervals are 90 %" in result.out


def test_spaces_around_the_cells_of_a_table_are_none_of_them(predict, tmp_path):
    rows = table()
    lines = [", ".join(rows[0]), *(" , ".join(str(value) for value in row.values()) for row in rows)]
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    write_csv(tmp_path / "plain.csv", rows)
    arguments = ["--outcome", "after", "--predictor", "before", "--json"]
    assert document(predict("score", "--csv", "runs.csv", *arguments)) == document(
        predict("score", "--csv", "plain.csv", *arguments)
    )


def test_percent_is_noted_a_mixture_refused_and_the_option_overrides(predict, tmp_path):
    rows = [{"pre_acc": 100 * row["before"], "post_acc": 100 * row["after"]} for row in table()]
    write_csv(tmp_path / "percent.csv", rows)
    rows[3]["pre_acc"] = 0.7
    write_csv(tmp_path / "mixed.csv", rows)
    arguments = ["--outcome", "post_acc", "--predictor", "pre_acc", "--json"]
    assert "pre_acc is in percent; read as fractions" in document(predict("score", "--csv", "percent.csv", *arguments))["notes"]
    refused = predict("score", "--csv", "mixed.csv", *arguments)
    assert refused.code == 3
    assert "--percent pre_acc" in document(refused)["message"]
    assert document(predict("score", "--csv", "mixed.csv", *arguments, "--percent", "pre_acc"))["n"] == 12


def test_ingest_export_and_ingest_of_the_export_from_the_command_line(predict, workspace, tmp_path):
    shutil.copytree(workspace / "runs", tmp_path / "forerun/runs")
    counts = document(predict("ingest", "--json"))
    assert (counts["runs"], counts["checkpoints"], counts["stages"]) == (22, 12, {"grpo": 10, "sft": 12})
    assert predict("ingest").out.startswith("22 runs (10 grpo, 12 sft), 12 checkpoints, 0 new")
    assert document(predict("export", "packed", "--json"))["runs"] == 22
    assert document(predict("ingest", "packed", "--home", "second", "--json"))["new_runs"] == 22
    assert json.loads((tmp_path / "second/sources.json").read_text()) == [str(tmp_path / "packed")]
    refused = predict("ingest", "--drop", "pakced", "--home", "second", "--json")
    assert (refused.code, str(tmp_path / "packed") in document(refused)["message"]) == (2, True)
    dropped = predict("ingest", "--drop", "packed", "--home", "second")
    assert dropped.out.startswith(f"dropped {tmp_path / 'packed'}\n0 runs ()")


def test_export_over_something_needs_force_and_leaves_it_as_it_is(predict, home, tmp_path):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/mine.txt").write_text("mine")
    refused = predict("export", "packed", "--json")
    assert refused.code == 5
    assert "--force" in document(refused)["message"]
    assert tree(tmp_path / "packed") == {"mine.txt": b"mine"}
    assert predict("export", "packed", "--force").code == 0
    assert "manifest.json" in tree(tmp_path / "packed")


def test_a_wrong_checksum_is_code_4(predict, home, tmp_path):
    predict("export", "packed")
    (tmp_path / "packed/runs.parquet").write_bytes(b"other")
    result = predict("ingest", "packed", "--json")
    assert result.code == 4
    assert "runs.parquet" in document(result)["message"]


def test_sql_prints_a_bare_array_of_numbers_and_texts_as_json(predict, home):
    query = """SELECT 1.5 AS a, sum(num_samples) AS b, 'x' AS c, NULL AS d, 'nan'::DOUBLE AS e, [1.5, 'inf'::DOUBLE] AS f,
                      {'g': 2.25} AS h FROM evaluations"""
    result = predict("sql", query, "--format", "json")
    assert result.code == 0
    assert json.loads(result.out) == [
        {"a": 1.5, "b": 22 * 3 * 16, "c": "x", "d": None, "e": None, "f": [1.5, None], "h": {"g": 2.25}}
    ]


def test_sql_as_table_csv_and_document(predict, home):
    query = "SELECT run_id, steps FROM runs WHERE stage = 'sft' ORDER BY run_id LIMIT 2"
    assert predict("sql", query, "--format", "csv").out == "run_id,steps\nsft0,4\nsft1,4\n"
    value = document(predict("sql", query, "--json"))
    assert value["columns"] == ["run_id", "steps"]
    assert value["rows"] == [{"run_id": "sft0", "steps": 4}, {"run_id": "sft1", "steps": 4}]
    assert "sft1" in predict("sql", query).out


def test_sql_without_a_query_lists_views_and_columns(predict, home):
    rows = json.loads(predict("sql", "--format", "json").out)
    assert {row["view"] for row in rows} == {"checkpoints", "rl_runs", "pass_at_k", "curves", "lineage", "forecasts"}
    (value,) = (row for row in rows if (row["view"], row["column"]) == ("pass_at_k", "value"))
    assert value["type"] == "DOUBLE"
    assert "estimate of pass@k" in value["comment"]


def test_score_of_a_store_leaves_cells_out(predict, home):
    report = document(predict("score", "--predictor", "pass_at_1", "--predictor", "mean", "--json"))
    assert (report["n"], report["group"], report["folds"]) == (10, "cell", "leave one cell out")
    assert report["predictors"][1]["r2_loo"] == 0


def test_rank_of_a_store_writes_the_forecast_that_it_prints_and_forecasts_shows_it(predict, home):
    printed = document(predict("rank", "--predictor", "pass_at_1", "--json"))
    (file,) = (home / "forecasts").glob("*.json")
    assert json.loads(file.read_text()) == printed
    assert file.stem == printed["forecast_id"]
    assert sorted(candidate["id"] for candidate in printed["candidates"]) == ["sft10@4", "sft11@4"]
    assert set(printed) == FORECAST_KEYS
    predict("ingest")
    rows = document(predict("forecasts", "--json"))["forecasts"]
    assert sorted((row["id"], row["point"]) for row in rows) == sorted((c["id"], c["point"]) for c in printed["candidates"])
    assert "RL has not been run on any of them yet" in predict("forecasts").out


def test_forecasts_of_a_store_without_one_says_how_to_write_one(predict, home):
    assert document(predict("forecasts", "--json"))["forecasts"] == []
    assert "predict rank" in predict("forecasts").out


def test_rank_without_a_predictor_takes_the_best_of_the_runs_so_far(predict, home):
    result = predict("rank", "--json")
    assert result.code == 0
    assert document(result)["predictor"] in {"pass_at_1", "pass_at_8", "identity(pass_at_1)", "mixed_share"}


@pytest.mark.parametrize("more", [{}, {"variant": [f"v{i}" for i in range(12)]}], ids=["plain", "with variants"])
def test_rank_of_a_table_calls_candidates_by_their_row(predict, tmp_path, more):
    rows = table(known=10, **more)
    write_csv(tmp_path / "runs.csv", [rows[11], *rows[:6], rows[10], *rows[6:10]])
    result = predict("rank", "--csv", "runs.csv", "--outcome", "after", "--predictor", "before")
    assert result.code == 0
    (file,) = (tmp_path / "forerun/forecasts").glob("*.json")
    forecast = json.loads(file.read_text())
    assert sorted(candidate["id"] for candidate in forecast["candidates"]) == ["1", "8"]
    assert not {"1", "8"} & {name for candidate in forecast["candidates"] for name in candidate["nearest"]}
    assert f"written to forerun/forecasts/{file.name}" in result.out


@pytest.mark.parametrize("ids", [[f"run {i}" for i in range(12)], list(range(100, 112))], ids=["texts", "numbers"])
def test_rank_of_a_table_calls_candidates_by_its_id_column(predict, tmp_path, ids):
    write_csv(tmp_path / "runs.csv", table(known=10, id=ids, variant=["v"] * 12))
    result = predict("rank", "--csv", "runs.csv", "--outcome", "after", "--predictor", "before", "--home", "here")
    assert result.code == 0
    (file,) = (tmp_path / "here/forecasts").glob("*.json")
    assert sorted(c["id"] for c in json.loads(file.read_text())["candidates"]) == [str(ids[10]), str(ids[11])]


def test_rank_reads_percent_of_runs_and_candidates_alike(predict, tmp_path):
    rows = [{"pre_acc": row["before"], "post_acc": row["after"]} for row in table(known=10)]
    percent = [{name: 100 * value if value != "" else "" for name, value in row.items()} for row in rows]
    points = []
    for name, content in (("fractions", rows), ("percent", percent)):
        write_csv(tmp_path / f"{name}.csv", content)
        result = predict("rank", "--csv", f"{name}.csv", "--outcome", "post_acc", "--predictor", "pre_acc", "--json")
        points.append([candidate["point"] for candidate in document(result)["candidates"]])
    assert points[0] == pytest.approx(points[1], abs=1e-6)


def test_rank_of_runs_that_all_have_an_outcome_is_refused_and_writes_nothing(predict, tmp_path):
    write_csv(tmp_path / "runs.csv", table())
    result = predict("rank", "--csv", "runs.csv", "--outcome", "after", "--predictor", "before", "--json")
    assert result.code == 3
    assert "no candidates" in document(result)["message"]
    assert not (tmp_path / "forerun").exists()


def test_rank_names_the_candidate_that_lacks_a_feature(predict, tmp_path):
    rows = table(known=10)
    rows[11]["before"] = ""
    write_csv(tmp_path / "runs.csv", rows)
    result = predict("rank", "--csv", "runs.csv", "--outcome", "after", "--predictor", "before", "--json")
    assert result.code == 3
    assert "candidate 12 lacks a value of before" in document(result)["message"]


def test_scores_of_published_runs_from_their_table(predict, public_data):
    """Spearman of post-RL accuracy with pre-RL accuracy and with loss, as the data's page states: .69 and -.95 with the base."""
    path = public_data / "runs/retu_qwen7b_sft_dapo.csv"
    rows = list(csv.DictReader(path.open(newline="")))
    kept = [
        row for row in rows if row["benchmark"] == "overall" and not (row["sft_step"] == "0" and row["sft_variant"] != "SFT889K")
    ]
    write_csv(Path("runs.csv"), kept)
    arguments = ["--outcome", "post_pass1", "--predictor", "pre_pass1", "--predictor", "gen_loss", "--json"]
    report = document(predict("score", "--csv", "runs.csv", *arguments))
    assert report["n"] == 19
    assert [round(score["spearman"]["value"], 2) for score in report["predictors"]] == [0.69, -0.95]


def test_report_writes_a_page_and_its_figures(predict, home):
    predict("rank", "--predictor", "pass_at_1")
    predict("ingest")
    result = predict("report", "--json")
    facts = document(result)
    assert result.code == 0
    folder = home / "report"
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert facts["runs"] == 10
    assert page.count("<svg") == len(facts["figures"])
    for name in facts["figures"]:
        assert (folder / f"figures/{name}.svg").read_text().startswith("<svg")
        assert (folder / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert {"forecasts", "outcome-pass_at_1"} <= set(facts["figures"])
    assert "pass_at_1" in page
    assert [path.name for path in home.iterdir() if path.name.startswith(".")] == []


def test_report_over_a_folder_of_the_users_needs_force_and_its_own_folder_does_not(predict, home, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    assert predict("report", "-o", "mine").code == 5
    assert tree(tmp_path / "mine") == {"notes.txt": b"mine"}
    assert [predict("report").code, predict("report").code] == [0, 0]
    assert predict("report", "-o", "mine", "--force").code == 0
    assert (tmp_path / "mine/index.html").exists()


@contextlib.contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """A file system with little room; skips where none may be mounted."""
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    if not mount or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def assert_full(result: Result) -> None:
    assert result.code == 1
    assert document(result)["message"].startswith("the disk is full")
    assert result.err == f"error: {document(result)['message']}\n"


@pytest.mark.parametrize("kilobytes", [64, 4096])
def test_a_full_disk_during_ingest_is_one_message_and_the_old_store_stays(predict, tmp_path, kilobytes):
    """The new store does not fit, be it at its first table or at a later one."""
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        if kilobytes > 2048:
            (disk / "filler").write_bytes(bytes(1024 * (kilobytes - 2048)))
        (disk / "runs.duckdb").write_bytes(b"the old store")
        (disk / "sources.json").write_text("[]")
        before = tree(disk)
        assert_full(predict("ingest", PACKED, "--home", disk, "--json"))
        assert tree(disk) == before


def test_a_full_disk_during_export_and_rank_leaves_nothing(predict, home, tmp_path):
    with small_disk(tmp_path / "disk", 64) as disk:
        (disk / "filler").write_bytes(bytes(60 * 1024))
        before = tree(disk)
        assert_full(predict("export", disk / "packed", "--json"))
        write_csv(tmp_path / "runs.csv", table(known=10))
        (disk / "rest").write_bytes(bytes(4 * 1024))
        assert_full(predict("rank", "--csv", "runs.csv", "--outcome", "after", "--predictor", "before", "--home", disk, "--json"))
        assert set(tree(disk)) == {*before, "rest"}


def test_a_limit_on_file_sizes_during_ingest_is_one_message_and_nothing_is_left(tmp_path):
    end = subprocess.run(
        [PREDICT, "ingest", str(PACKED), "--home", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)),
    )
    assert end.returncode == 1
    message = document(Result(end.returncode, end.stdout, end.stderr))["message"]
    assert message.startswith("File too large at ")
    assert end.stderr == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_importing_predict_is_quick_and_loads_no_heavy_library():
    program = (
        "import time, sys; began = time.perf_counter(); import predict; took = time.perf_counter() - began; "
        "print(took, *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    took, *modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert float(took) < 0.5
    assert not {"torch", "transformers", "sklearn", "statsmodels", "scipy", "altair", "duckdb"} & set(modules)


def test_help_is_quick_and_names_every_command():
    """By the processor's time: the machine may be busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    end = subprocess.run([PREDICT, "--help"], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert end.returncode == 0
    assert [command for command in COMMANDS if command not in end.stdout] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(predict, command):
    result = predict(command, "--help")
    assert result.code == 0
    assert "--json" in result.out
