"""What comes in damaged, contradictory or twice: one clear error, and nothing half-written."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from test_importers import GOLDEN, asked, bring, files_of, logs  # noqa: F401 (a fixture)

from curate.errors import InputError, UsageError
from predict.imports import reading
from predict.imports.lineage import imported_id
from train.records import Run, RunFolder

COUNTS = "problem_id,num_samples,num_correct\na,4,1\nb,4,3\n"


def table(folder: Path, text: str, name: str = "run.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_counts_of_a_table_become_an_evaluation_of_the_named_run(tmp_path):
    path = table(tmp_path, COUNTS.replace("num_correct", "c").replace("problem_id", "task id"))
    [run] = bring(
        "csv", path, tmp_path / "home", {"columns": {"c": "num_correct", "task id": "problem_id"}}, run="sft-a", step=5
    )["runs"]
    assert (run["run_id"], run["steps"]) == (imported_id("sft-a"), 5)
    assert asked(tmp_path / "home", "SELECT k, value FROM pass_at_k WHERE value IS NOT NULL ORDER BY k") == [
        (1, 0.5),
        (2, 0.75),
        (4, 1.0),
    ]


def test_one_verdict_a_row_is_counted_and_runs_steps_and_benchmarks_are_kept_apart(tmp_path):
    rows = ["run,step,benchmark,problem_id,correct"]
    rows += [
        f"r{run},{step},m,p{problem},{verdict}"
        for run in (1, 2)
        for step in (0, 8)
        for problem, verdict in ((0, 1), (0, 0), (1, run - 1))
    ]
    bring("csv", table(tmp_path, "\n".join(rows) + "\n"), tmp_path / "home")
    assert asked(tmp_path / "home", "SELECT step, value, num_samples FROM pass_at_k WHERE k = 1 ORDER BY value, step") == [
        (0, 0.25, 1),
        (8, 0.25, 1),
        (0, 0.75, 1),
        (8, 0.75, 1),
    ]


def test_curves_in_percent_become_fractions_and_a_mixture_is_refused(tmp_path):
    document = bring("csv", table(tmp_path, "step,eval_acc,loss\n1,20,2.5\n2,40,1.5\n"), tmp_path / "home")
    assert document["notes"]
    assert asked(tmp_path / "home", "SELECT value FROM metrics WHERE name = 'eval_acc' ORDER BY step") == [(0.2,), (0.4,)]
    with pytest.raises(InputError, match="percent"):
        bring("csv", table(tmp_path, "step,eval_acc\n1,0.2\n2,40\n", "mixed.csv"), tmp_path / "home")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (COUNTS + "b,4,3\n", "problem 'b' is there twice"),
        (COUNTS + "c,4,5\n", "came 5 of 4"),
        (COUNTS + "c,4,0.5\n", "num_correct: expected a whole number"),
        (COUNTS + "c,4,NaN\n", "num_correct: expected a whole number"),
        (COUNTS + "c,0,0\n", "num_samples >= 1"),
        (COUNTS + ",4,1\n", "expected a problem_id"),
        ("problem_id,correct\na,0.5\n", "expected a verdict, 0 or 1, came 0.5"),
        ("step,loss\n1,2\n1,3\n", "step 1 is there twice"),
        ("step,loss\n-1,2\n", "whole number from 0 on, came -1"),
        ("step,pass@4\n1,-0.1\n", "shares from 0 on"),
        ("a,b\n1,2\n", "predict score --csv"),
    ],
)
def test_tables_with_impossible_values_are_refused_by_row_and_nothing_is_written(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        bring("csv", table(tmp_path, text), tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_map_of_a_column_that_is_not_there_names_those_that_are(tmp_path):
    with pytest.raises(UsageError, match=r"no such column; it has problem_id, num_samples, num_correct"):
        bring("csv", table(tmp_path, COUNTS), tmp_path / "home", {"columns": {"right": "num_correct"}})


@pytest.mark.parametrize("form", ["lm-eval", "inspect", "trl", "trackio", "prime-rl", "csv"])
def test_the_same_input_again_changes_not_a_byte(logs, tmp_path, form):  # noqa: F811
    paths = {
        "lm-eval": logs / "lm_eval", "inspect": GOLDEN / "inspect.eval", "trl": logs / "trl/grpo-run",
        "trackio": logs / "trackers/trackio", "prime-rl": logs / "prime-run", "csv": table(tmp_path / "t", COUNTS),
    }  # fmt: skip
    bring(form, paths[form], tmp_path / "home")
    before = files_of(tmp_path / "home")
    assert before
    document = bring(form, paths[form], tmp_path / "home")
    assert files_of(tmp_path / "home") == before
    assert not any(item["is_new"] for run in document["runs"] for item in [run, *run["evaluations"]])


def test_other_counts_of_the_same_settings_are_refused_until_they_are_called_further_samples(tmp_path):
    home = tmp_path / "home"
    bring("csv", table(tmp_path, COUNTS), home, run="a")
    before = files_of(home)
    more = table(tmp_path, COUNTS.replace("a,4,1", "a,4,2"))
    with pytest.raises(InputError, match="--sampling-seed N"):
        bring("csv", more, home, run="a")
    assert files_of(home) == before
    bring("csv", more, home, run="a", sampling_seed=1)
    assert asked(home, "SELECT num_samples, value FROM pass_at_k WHERE k = 1") == [(8, (3 / 8 + 6 / 8) / 2)]


def test_a_log_that_went_on_is_taken_up_and_another_runs_log_is_refused(tmp_path):
    home = tmp_path / "home"
    bring("csv", table(tmp_path, "step,loss\n1,2.0\n"), home, run="a")
    bring("csv", table(tmp_path, "step,loss\n1,2.0\n2,1.0\n"), home, run="a")
    assert asked(home, "SELECT step, value FROM metrics ORDER BY step") == [(1, 2.0), (2, 1.0)]
    with pytest.raises(InputError, match="recorded with loss = 2, came 9"):
        bring("csv", table(tmp_path, "step,loss\n1,9.0\n"), home, run="a")


def test_what_a_person_says_against_the_record_is_refused(tmp_path):
    bring("csv", table(tmp_path, COUNTS), tmp_path / "home", run="a", stage="sft")
    with pytest.raises(InputError, match="recorded with stage 'sft', came 'grpo'"):
        bring("csv", table(tmp_path, COUNTS), tmp_path / "home", run="a", stage="grpo")


def test_a_parent_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="import it first"):
        bring("csv", table(tmp_path, COUNTS), tmp_path / "home", parent="nobody")


def test_an_evaluation_of_a_run_of_ours_leaves_its_record_as_it_is(tmp_path):
    identifier = "0123456789abcdef"
    record = RunFolder.of(tmp_path / "home", identifier)
    record.start(Run(run_id=identifier, stage="sft", base_model="b", steps=30))
    record.finish(record.run, "done")
    before = (record.path / "run.json").read_bytes()
    [run] = bring("csv", table(tmp_path, COUNTS), tmp_path / "home", run=identifier)["runs"]
    assert run["evaluations"][0]["step"] == 30
    assert (record.path / "run.json").read_bytes() == before


def test_a_dry_run_checks_and_writes_nothing(tmp_path):
    from predict.imports.found import Choices
    from predict.imports.lineage import Lineage
    from predict.imports.run import import_logs

    document = import_logs("csv", table(tmp_path, COUNTS), tmp_path / "home", Lineage(), Choices(), dry_run=True)
    assert document["runs"][0]["is_new"]
    assert not (tmp_path / "home").exists()


# Damaged archives and oversized files


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_inspect_log_is_one_error(tmp_path, share):
    whole = (GOLDEN / "inspect.eval").read_bytes()
    (tmp_path / "cut.eval").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match="cut short"):
        bring("inspect", tmp_path / "cut.eval", tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_flipped_byte_in_a_sample_is_one_error(tmp_path):
    data = bytearray((GOLDEN / "inspect.eval").read_bytes())
    with zipfile.ZipFile(GOLDEN / "inspect.eval") as archive:
        member = archive.getinfo("samples/p1_epoch_1.json")
    data[member.header_offset + 200] ^= 0xFF
    (tmp_path / "bad.eval").write_bytes(data)
    with pytest.raises(InputError, match=r"samples/p1_epoch_1\.json: "):
        bring("inspect", tmp_path / "bad.eval", tmp_path / "home")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", b" " * (64 << 20))
    with pytest.raises(InputError, match="zip bomb"):
        bring("inspect", tmp_path / "bomb.eval", tmp_path / "home")


def test_a_member_that_lies_about_its_size_is_not_unpacked_further(tmp_path):
    path = tmp_path / "liar.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", b" " * (1 << 20))
    data = path.read_bytes()
    path.write_bytes(data.replace((1 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with pytest.raises(InputError, match="damaged"):
        bring("inspect", path, tmp_path / "home")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_of_older_compressions_are_read_too(tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        archive.writestr("header.json", json.dumps({"a": list(range(1000))}))
    assert reading.Archive(tmp_path / "a.zip").json("header.json") == {"a": list(range(1000))}


@pytest.mark.parametrize("form", ["inspect", "nemo", "trl"])
def test_a_document_of_a_gigabyte_is_refused_by_its_size(tmp_path, form):
    names = {"inspect": "log.json", "nemo": "evaluation_data.json", "trl": "trainer_state.json"}
    with (tmp_path / names[form]).open("wb") as handle:
        handle.truncate(1 << 30)
    with pytest.raises(InputError, match="one JSON document of 1024 MiB"):
        bring(form, tmp_path / names[form], tmp_path / "home")


def test_a_line_of_a_gigabyte_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_DOCUMENT", 1000)
    (tmp_path / "1.jsonl").write_text(json.dumps({"input": "x" * 5000, "score": 1}) + "\n")
    with pytest.raises(InputError, match="the first line has over"):
        bring("verl", tmp_path / "1.jsonl", tmp_path / "home", purpose="other")


@pytest.mark.parametrize(
    ("form", "name", "text", "said"),
    [
        ("lm-eval", "results_x.json", "[]", "expected lm-eval's results"),
        ("lm-eval", "results_x.json", "{", "not valid JSON"),
        (
            "lm-eval",
            "results_x.json",
            '{"results": {"t": {"acc,none": 43.5}}}',
            r"t, acc,none: expected a share in 0\.\.1, came 43.5",
        ),
        ("lm-eval", "results_x.json", '{"results": {"t": {"acc,none": NaN}}}', "came nan"),
        ("lm-eval", "samples_t_x.jsonl", '{"a": 1}\n', "line 1: expected lm-eval's sample"),
        ("trl", "trainer_state.json", '{"log_history": [{"loss": 1}]}', "row 1: expected a step"),
        ("verl", "log.jsonl", '{"step": 1, "loss": 2}\n', "line 1: expected verl's log"),
        ("verl", "3.jsonl", '{"input": "q", "score": NaN}\n', "no scored sample"),
        ("trackio", "lab.db", "no database", "cannot be read as the database"),
        ("mlflow", "mlflow.db", "no database", "cannot be read as the database"),
        ("wandb", "h.csv", "a,b\n1,2\n", "_step"),
        ("lighteval", "details_t_2026-01-01T00.parquet", "no parquet", "not a readable Parquet file"),
        ("nemo", "evaluation_data.json", '{"evaluation_data": [{"prompt": "p", "reward": 0.5}]}', "expected a verdict"),
    ],
)
def test_each_format_says_what_it_expected(tmp_path, form, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        bring(form, tmp_path / name, tmp_path / "home", purpose="other")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "form", ["lm-eval", "lighteval", "inspect", "trl", "verl", "prime-rl", "nemo", "trackio", "mlflow", "wandb"]
)
def test_an_empty_folder_or_a_missing_path_says_what_was_looked_for(tmp_path, form):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected|no such file"):
        bring(form, tmp_path / "empty", tmp_path / "home")
    with pytest.raises(InputError, match="no such file or folder"):
        bring(form, tmp_path / "nowhere", tmp_path / "home")


def test_a_write_that_fails_leaves_no_run_behind(logs, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(
        "train.records.pq.write_table", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        bring("lm-eval", logs / "lm_eval", tmp_path / "home")
    assert not list((tmp_path / "home").rglob("run.json"))
    assert not list((tmp_path / "home").rglob("*.partial"))
    monkeypatch.undo()
    bring("lm-eval", logs / "lm_eval", tmp_path / "home")
    assert asked(tmp_path / "home", "SELECT count(*) FROM evaluations") == [(16,)]


def test_two_sampling_jobs_in_one_folder_with_different_counts_are_refused(logs, tmp_path):  # noqa: F811
    folder = tmp_path / "lm_eval"
    shutil.copytree(logs / "lm_eval", folder)
    first = next(folder.rglob("samples_graph_greedy_*"))
    date = first.stem.rpartition("_")[2]
    for file in list(folder.rglob(f"*{date}*")):
        shutil.copy(file, file.with_name(file.name.replace(date, "2030-01-01T00-00-00")))
    second = next(folder.rglob("samples_graph_greedy_2030*"))
    second.write_text(second.read_text().replace('"exact_match": 1.0', '"exact_match": 0.0'))
    with pytest.raises(InputError, match="each with its own --sampling-seed N"):
        bring("lm-eval", folder, tmp_path / "home")
