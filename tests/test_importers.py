"""Files that lm-eval, Inspect, TRL, Trackio and MLflow themselves wrote become runs of the store, with their numbers.

`tests/golden/make_*.py` made the fixtures. What those tools say of their own files is what the store is held to.
"""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from curate.errors import InputError, UsageError
from predict import store
from predict.imports.found import Choices
from predict.imports.lineage import Lineage, imported_id
from predict.imports.run import import_logs
from train.passk import pass_at_k

GOLDEN = Path(__file__).parent / "golden"
RESULTS = "lm_eval/studies__lab__bases__l4-behaved-s0"


@pytest.fixture(scope="session")
def logs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    for name in ("lm_eval", "trl", "trackers", "prime_rl"):
        shutil.unpack_archive(GOLDEN / f"{name}.tar.gz", folder)
    (folder / "inspect.json").write_bytes(gzip.decompress((GOLDEN / "inspect.json.gz").read_bytes()))
    return folder


def bring(form: str, path: Path, home: Path, choices: dict | None = None, **lineage) -> dict:
    return import_logs(form, path, home, Lineage(**lineage), Choices(**(choices or {})))


def asked(home: Path, sql: str) -> list[tuple]:
    store.ingest(home)
    return store.query(home, sql).rows()


def files_of(home: Path) -> dict[str, bytes]:
    return {str(file.relative_to(home)): file.read_bytes() for file in home.rglob("*") if file.is_file()}


def results_of_lm_eval(logs: Path) -> dict:
    return json.loads(next((logs / RESULTS).glob("results_*.json")).read_text())["results"]


# lm-eval


@pytest.mark.parametrize("which", ["strict", "flexible"])
def test_one_response_a_problem_gives_lm_evals_own_average(logs, tmp_path, which):
    bring("lm-eval", logs / "lm_eval", tmp_path, {"benchmark": "graph_greedy", "filter": which})
    [(value,)] = asked(tmp_path, "SELECT value FROM pass_at_k WHERE k = 1")
    assert value == results_of_lm_eval(logs)["graph_greedy"][f"exact_match,{which}"]


def test_of_several_responses_lm_eval_scored_the_first_and_all_are_verified_anew(logs, tmp_path):
    document = bring("lm-eval", logs / "lm_eval", tmp_path, {"benchmark": "graph_repeats"})
    samples = [json.loads(line) for line in next((logs / RESULTS).glob("samples_graph_repeats_*")).read_text().splitlines()]
    right = [[text.rpartition("ans ")[2].strip() == sample["target"] for text in sample["resps"][0]] for sample in samples]
    first_only = sum(verdicts[0] for verdicts in right) / len(right)
    assert first_only == results_of_lm_eval(logs)["graph_repeats"]["exact_match,strict"]
    rows = asked(tmp_path, "SELECT num_samples, num_correct FROM evaluations ORDER BY problem_id::INT")
    assert rows == [(4, sum(verdicts)) for verdicts in right]
    assert sum(map(sum, right)) / 32 != first_only
    assert any("scored one of 4 responses" in note for note in document["notes"])


def test_averages_without_samples_are_scalars_under_their_own_name_and_never_pass_at_k(logs, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(next((logs / RESULTS).glob("results_*.json")), alone)
    bring("lm-eval", alone, tmp_path / "home")
    rows = dict(asked(tmp_path / "home", "SELECT name, value FROM signals"))
    assert rows["graph_greedy/exact_match,strict"] == results_of_lm_eval(logs)["graph_greedy"]["exact_match,strict"]
    [(method,)] = store.query(tmp_path / "home", "SELECT method FROM signals WHERE name LIKE 'graph_repeats/%'").rows()
    assert "of one of 4 responses" in method
    assert store.query(tmp_path / "home", "SELECT * FROM pass_at_k").is_empty()


def test_a_line_that_lm_eval_appended_twice_counts_once_and_another_of_its_id_is_an_error(logs, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(logs / RESULTS, folder)
    samples = next(folder.glob("samples_graph_greedy_*"))
    lines = samples.read_text().splitlines()
    samples.write_text("\n".join([*lines, lines[0]]) + "\n")
    [run] = bring("lm-eval", samples, tmp_path / "home")["runs"]
    assert run["evaluations"][0]["num_samples"] == 8
    samples.write_text("\n".join([*lines, lines[0].replace('"exact_match": 1.0', '"exact_match": 0.0')]) + "\n")
    with pytest.raises(InputError, match=r"line 17: doc 0 is there twice with different content"):
        bring("lm-eval", samples, tmp_path / "other")


# Inspect


@pytest.mark.parametrize("suffix", ["eval", "json"])
def test_epochs_are_counted_and_agree_with_inspects_reducers(logs, tmp_path, suffix):
    bring("inspect", GOLDEN / "inspect.eval" if suffix == "eval" else logs / "inspect.json", tmp_path)
    log = json.loads((logs / "inspect.json").read_text())
    theirs = {score["reducer"]: score["metrics"]["accuracy"]["value"] for score in log["results"]["scores"]}
    ours = dict(asked(tmp_path, "SELECT k, value FROM pass_at_k WHERE value IS NOT NULL"))
    assert ours == {1: pytest.approx(theirs["mean"], abs=1e-12), 2: pytest.approx(theirs["pass_at_2"], abs=1e-12)}


def test_the_two_forms_of_one_inspect_log_are_one_evaluation(logs, tmp_path):
    bring("inspect", GOLDEN / "inspect.eval", tmp_path)
    before = files_of(tmp_path)
    [run] = bring("inspect", logs / "inspect.json", tmp_path)["runs"]
    assert not run["evaluations"][0]["is_new"]
    assert files_of(tmp_path) == before


def test_a_failed_epoch_is_not_a_wrong_answer(logs, tmp_path):
    document = bring("inspect", GOLDEN / "inspect.eval", tmp_path)
    assert dict(asked(tmp_path, "SELECT problem_id, num_samples FROM evaluations")) == {
        **dict.fromkeys(("p0", "p1", "p3", "p4", "p5"), 4),
        "p2": 3,
    }
    assert any("without a score" in note for note in document["notes"])


def test_inspect_texts_verified_anew_give_the_same_counts_on_this_task(logs, tmp_path):
    bring("inspect", logs / "inspect.json", tmp_path / "theirs")
    bring("inspect", logs / "inspect.json", tmp_path / "ours", {"reverify": True})
    sql = "SELECT problem_id, num_samples, num_correct FROM evaluations ORDER BY problem_id"
    assert asked(tmp_path / "theirs", sql) == asked(tmp_path / "ours", sql)


@pytest.mark.parametrize(("field", "value", "said"), [("status", "cancelled", "--partial"), ("invalidated", True, "invalidated")])
def test_an_unsuccessful_or_invalidated_log_is_refused(logs, tmp_path, field, value, said):
    log = json.loads((logs / "inspect.json").read_text())
    (tmp_path / "log.json").write_text(json.dumps({**log, field: value}))
    with pytest.raises(InputError, match=said):
        bring("inspect", tmp_path / "log.json", tmp_path / "home")


@pytest.mark.parametrize(
    ("value", "expected"), [("C", 1), ("I", 0), ("N", 0), ("P", 0.5), (True, 1), ("0.25", 0.25), (float("nan"), None)]
)
def test_scores_are_read_as_inspect_reads_them(value, expected):
    from predict.imports.inspect_ai import as_number

    assert as_number(value, "here") == expected


# TRL


def test_sft_and_grpo_of_trl_become_one_lineage_with_its_losses_and_curves(logs, tmp_path):
    bring("trl", logs / "trl/sft-run", tmp_path, heldout="math-heldout", base_model="tiny", seed=3)
    bring("trl", logs / "trl/grpo-run", tmp_path, parent="sft-run", seed=5)
    sft, grpo = imported_id("sft-run"), imported_id("grpo-run")
    state = json.loads((logs / "trl/sft-run/checkpoint-6/trainer_state.json").read_text())
    losses = [(row["step"], row["eval_loss"]) for row in state["log_history"] if "eval_loss" in row]
    assert asked(tmp_path, "SELECT step, gen_loss FROM checkpoints ORDER BY step") == losses
    assert store.query(tmp_path, "SELECT run_id, ancestor FROM lineage").rows() == [(grpo, sft)]
    [row] = store.query(
        tmp_path, "SELECT parent_step, base_model, sft_seed, rl_seed, steps FROM runs WHERE stage = 'grpo'"
    ).rows()
    assert row == (6, "tiny", 3, 5, 4)
    history = json.loads((logs / "trl/grpo-run/checkpoint-4/trainer_state.json").read_text())["log_history"]
    curve = store.query(tmp_path, "SELECT value FROM curves WHERE stage = 'grpo' AND name = 'reward_mean' ORDER BY step")
    assert curve["value"].to_list() == [row["reward"] for row in history if "reward" in row]


def test_trl_rollouts_are_counted_per_prompt_and_agree_with_the_logged_reward(logs, tmp_path):
    bring("trl", logs / "trl/grpo-run", tmp_path, purpose="outcome")
    history = json.loads((logs / "trl/grpo-run/checkpoint-4/trainer_state.json").read_text())["log_history"]
    logged = [(row["step"], row["rewards/accuracy_reward/mean"]) for row in history if "reward" in row]
    assert asked(tmp_path, "SELECT step, value FROM pass_at_k WHERE k = 1 ORDER BY step") == logged
    rows = store.query(
        tmp_path, "SELECT DISTINCT num_samples, purpose FROM evaluations JOIN evaluation_jobs USING (run_id, step, key_id, seed)"
    )
    assert rows.rows() == [(4, "other")]  # rollouts of training are no outcome, whatever is said


def test_a_shaped_reward_is_no_verdict_without_a_threshold(logs, tmp_path):
    with pytest.raises(InputError, match=r"brevity_reward: expected a verdict, 0 or 1, came -0.*--threshold"):
        bring("trl", logs / "trl/grpo-run", tmp_path, {"metric": "brevity_reward"})
    [run] = bring("trl", logs / "trl/grpo-run", tmp_path, {"metric": "brevity_reward", "threshold": -0.03})["runs"]
    frame = pl.read_parquet(sorted((logs / "trl/grpo-run/completions").glob("*.parquet"))[0])
    assert run["evaluations"][0]["num_correct"] == (frame["brevity_reward"] >= -0.03).sum()


def test_what_is_not_finite_in_a_trainer_state_is_named_and_the_last_row_of_a_step_counts(tmp_path):
    rows = [{"step": 1, "loss": 2.0, "kl": 0.1}, {"step": 2, "loss": 1.0, "kl": float("nan")}, {"step": 1, "loss": 1.5}]
    state = {"global_step": 2, "max_steps": 4, "log_history": rows}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/trainer_state.json").write_text(json.dumps(state))
    document = bring("trl", tmp_path / "run", tmp_path / "home")
    assert document["notes"] == [
        "run: stopped at step 2 of 4; if the run failed, say --status failed",
        "run: kl is not finite at step 2; these points are left out",
    ]
    assert asked(tmp_path / "home", "SELECT step, name, value FROM metrics ORDER BY step, name") == [
        (1, "kl", 0.1),
        (1, "loss", 1.5),
        (2, "loss", 1.0),
    ]


# Trackers


@pytest.mark.parametrize("store_path", ["trackio/lab.db", "mlflow/mlflow.db", "mlflow/mlruns"])
def test_trackers_give_the_curves_that_were_logged(logs, tmp_path, store_path):
    document = bring(store_path.split("/")[0], logs / "trackers" / store_path, tmp_path)
    assert {(run["name"], run["stage"], run["steps"]) for run in document["runs"]} == {
        ("grpo-a", "grpo", 6),
        ("grpo-b", "grpo", 3),
    }
    assert "grpo-b: kl is not finite at step 1, 2, 3; these points are left out" in document["notes"]
    rows = asked(tmp_path, f"SELECT value FROM metrics WHERE run_id = '{imported_id('grpo-a')}' AND name = 'loss' ORDER BY step")
    assert [value for (value,) in rows] == [pytest.approx(0.01 * step) for step in range(1, 7)]
    assert store.query(tmp_path, "SELECT DISTINCT (config->>'learning_rate')::DOUBLE AS rate FROM runs").rows() == [(1e-5,)]


def test_a_name_for_several_runs_of_a_tracker_is_refused_and_one_can_be_picked(logs, tmp_path):
    with pytest.raises(UsageError, match=r"holds 2 \(grpo-a, grpo-b\): choose one with --pick"):
        bring("trackio", logs / "trackers/trackio", tmp_path, run="mine")
    [run] = bring("trackio", logs / "trackers/trackio", tmp_path, {"pick": "grpo-b"}, run="mine")["runs"]
    assert (run["name"], run["steps"]) == ("mine", 3)


def test_a_wandb_history_and_a_charts_export_give_the_same_curve(tmp_path):
    (tmp_path / "grpo-a").mkdir()
    (tmp_path / "grpo-a/history.csv").write_text("_step,_timestamp,train/reward\n1,1700000001.5,0.25\n2,1700000002.5,0.5\n")
    (tmp_path / "grpo-a/config.yaml").write_text("learning_rate:\n  value: 0.001\n_wandb:\n  value: {}\n")
    (tmp_path / "chart.csv").write_text(
        "Step,grpo-a - train/reward,grpo-a - train/reward__MIN,grpo-b - train/reward\n1,0.25,0.25,\n2,0.5,0.5,0.1\n"
    )
    for number, path in enumerate(["grpo-a/history.csv", "chart.csv"]):
        bring("wandb", tmp_path / path, tmp_path / f"home{number}")
        rows = asked(
            tmp_path / f"home{number}",
            f"SELECT step, value FROM curves WHERE run_id = '{imported_id('grpo-a')}' AND name = 'train/reward'",
        )
        assert sorted(rows) == [(1, 0.25), (2, 0.5)]
    assert store.query(tmp_path / "home0", "SELECT config->>'learning_rate' AS rate FROM runs").rows() == [("0.001",)]


def test_a_downloaded_history_artifact_of_wandb_is_the_curve_of_its_run(tmp_path):
    """A folder named after the artifact with one Parquet file, rows as of scan_history: docs.wandb.ai, 'missing steps in a CSV export'."""
    folder = tmp_path / "3k2j9x-history:v0"
    folder.mkdir()
    rows = {"_step": [1, 2, 3], "_timestamp": [1700000001.5, 1700000002.5, 1700000003.5], "train/reward": [0.25, None, 0.5]}
    pl.DataFrame(rows).write_parquet(folder / "0000.parquet")
    [run] = bring("wandb", folder, tmp_path / "home")["runs"]
    assert (run["name"], run["run_id"], run["stage"]) == ("3k2j9x", imported_id("3k2j9x"), "grpo")
    found = asked(tmp_path / "home", "SELECT step, value FROM curves WHERE name = 'train/reward' ORDER BY step")
    assert found == [(1, 0.25), (3, 0.5)]
    (folder / "0001.parquet").write_bytes((folder / "0000.parquet").read_bytes())
    with pytest.raises(InputError, match="expected one Parquet file"):
        bring("wandb", folder, tmp_path / "home")


def test_wandbs_binary_log_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "run-1.wandb").write_bytes(b"\x00")
    with pytest.raises(InputError, match="scan_history"):
        bring("wandb", tmp_path / "run-1.wandb", tmp_path / "home")


# Trainers that need a GPU: fixtures after their source


def test_prime_rl_counts_episodes_and_puts_the_two_writers_of_a_step_together(logs, tmp_path):
    bring("prime-rl", logs / "prime-run", tmp_path)
    rows = asked(tmp_path, "SELECT step, value FROM pass_at_k WHERE benchmark = 'math' AND k = 2 ORDER BY step")
    expected = [pass_at_k(4, counts, 2).mean() for counts in ([1, 0, 3], [3, 1, 4])]
    assert rows == [(0, pytest.approx(expected[0])), (4, pytest.approx(expected[1]))]
    names = store.query(tmp_path, "SELECT DISTINCT name FROM metrics WHERE step = 1")["name"].to_list()
    assert {"optim/grad_norm", "time/step", "reward_mean"} <= set(names)
    assert store.query(tmp_path, "SELECT post_pass_at_1 FROM rl_runs").rows() == [(pytest.approx(8 / 12),)]


def verl_rows(step: int, verdicts: dict[str, list[float]], **extra) -> str:
    """verl/trainer/ppo/ray_trainer.py, `_dump_generations` (commit b178a3c)."""
    rows = [
        {"input": problem, "output": f"\\boxed{{{'7' if score > 0 else '8'}}}", "gts": "7", "score": score, "step": step, **extra}
        for problem, scores in verdicts.items()
        for score in scores
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_verl_dumps_need_a_purpose_and_a_threshold_where_the_score_is_no_verdict(tmp_path):
    dumps = tmp_path / "val"
    dumps.mkdir()
    for step, verdicts in ((0, {"a": [1, -1], "b": [-1, -1]}), (10, {"a": [1, 1], "b": [1, -1]})):
        (dumps / f"{step}.jsonl").write_text(verl_rows(step, verdicts))
    with pytest.raises(InputError, match=r"score: expected a verdict, 0 or 1, came -1"):
        bring("verl", dumps, tmp_path / "home", purpose="outcome")
    with pytest.raises(UsageError, match="--purpose other"):
        bring("verl", dumps, tmp_path / "home", {"threshold": 1})
    assert not (tmp_path / "home").exists()
    bring("verl", dumps, tmp_path / "home", {"threshold": 1}, purpose="outcome")
    assert asked(tmp_path / "home", "SELECT step, value FROM pass_at_k WHERE k = 1 ORDER BY step") == [(0, 0.25), (10, 0.75)]
    bring("verl", dumps, tmp_path / "anew", {"reverify": True}, purpose="outcome")
    assert asked(tmp_path / "anew", "SELECT step, value FROM pass_at_k WHERE k = 1 ORDER BY step") == [(0, 0.25), (10, 0.75)]


def test_verls_log_keeps_its_names_so_that_best_at_n_is_not_taken_for_pass_at_n(tmp_path):
    lines = [
        {"step": step, "data": {"critic/score/mean": 0.1 * step, "val-core/gsm8k/acc/best@4/mean": 0.684}} for step in (1, 2)
    ]
    (tmp_path / "grpo-x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "da')
    bring("verl", tmp_path / "grpo-x.jsonl", tmp_path / "home")
    assert asked(
        tmp_path / "home", "SELECT step, value FROM metrics WHERE name = 'val-core/gsm8k/acc/best@4/mean' ORDER BY step"
    ) == [
        (1, 0.684),
        (2, 0.684),
    ]
    assert store.query(tmp_path / "home", "SELECT * FROM pass_at_k").is_empty()


def lighteval_details(folder: Path, texts: list[list[str]], asked_for: int) -> Path:
    """lighteval/logging/evaluation_tracker.py, `save_details` (commit 3fd1526)."""
    rows = [
        {
            "doc": {"id": str(number), "query": f"q{number}", "choices": ["7"], "gold_index": 0, "num_samples": asked_for},
            "metric": {f"pass@k:k=1&n={asked_for}": 0.0},
            "model_response": {"text": given, "output_tokens": [[1, 2]] * len(given)},
        }
        for number, given in enumerate(texts)
    ]
    path = folder / "details/org/model/2026-05-05T10-00-00.0/details_aime24|0_2026-05-05T10-00-00.0.parquet"
    path.parent.mkdir(parents=True)
    pl.DataFrame(rows).write_parquet(path)
    return path


def test_lighteval_texts_are_verified_and_the_true_number_of_samples_counts(tmp_path):
    lighteval_details(tmp_path, [["\\boxed{7}", "\\boxed{8}"], ["none", "\\boxed{7}"]], asked_for=8)
    document = bring("lighteval", tmp_path, tmp_path / "home")
    assert document["runs"][0]["name"] == "org/model"
    assert any("8 samples a problem were asked for, 2 are there" in note for note in document["notes"])
    assert asked(
        tmp_path / "home", "SELECT num_samples, num_correct, num_no_answer, mean_tokens FROM evaluations ORDER BY problem_id"
    ) == [
        (2, 1, 0, 2.0),
        (2, 1, 1, 2.0),
    ]


def nemo_evaluation(folder: Path, rewards: dict[str, list[float]], tests: int) -> None:
    """nemo_rl/evals/eval.py, `_save_evaluation_data_to_json` (commit 7ea279a)."""
    folder.mkdir()
    data = [
        {"prompt": prompt, "response": "r", "reward": reward, "message_log": "[]"}
        for prompt, given in rewards.items()
        for reward in given
    ]
    (folder / "evaluation_data.json").write_text(json.dumps({"evaluation_data": data}))
    config = {
        "model_name": "results/grpo/step_40",
        "dataset_name": "aime",
        "num_tests_per_prompt": tests,
        "temperature": 1.0,
        "top_p": 1.0,
    }
    (folder / "config.json").write_text(json.dumps(config))


def test_nemo_evaluations_count_per_prompt_and_a_cut_one_is_refused(tmp_path):
    nemo_evaluation(tmp_path / "whole", {"a": [1.0, 0.0], "b": [0.0, 0.0]}, 2)
    [run] = bring("nemo", tmp_path / "whole", tmp_path / "home")["runs"]
    assert (run["name"], run["evaluations"][0]["step"], run["evaluations"][0]["num_correct"]) == ("grpo", 40, 1)
    nemo_evaluation(tmp_path / "cut", {"a": [1.0, 0.0], "b": [0.0]}, 2)
    with pytest.raises(InputError, match="cut short"):
        bring("nemo", tmp_path / "cut", tmp_path / "home")


def test_the_curves_of_a_trainer_state_alone_are_read_without_the_rollouts_beside_it(logs, tmp_path):
    state = logs / "trl/grpo-run/checkpoint-4/trainer_state.json"
    [run] = bring("trl", state, tmp_path, {"metric": "brevity_reward"})["runs"]
    assert (run["name"], run["metric_steps"], run["evaluations"]) == ("grpo-run", 4, [])


# The command


def test_the_command_answers_in_one_json_document_and_by_exit_codes(logs, tmp_path):
    def predict(*arguments: object) -> tuple[int, dict]:
        command = [sys.executable, "-m", "predict.cli", "import", *map(str, arguments), "--home", str(tmp_path), "--json"]
        ended = subprocess.run(command, capture_output=True, text=True)
        return ended.returncode, json.loads(ended.stdout)

    code, document = predict("inspect", GOLDEN / "inspect.eval", "--run", "start", "--stage", "base", "--dry-run")
    assert (code, document["ok"], document["schema_version"], document["dry_run"]) == (0, True, 1, True)
    assert document["runs"][0]["name"] == "start"
    assert predict("inspect", GOLDEN / "mapie.json")[0] == 3
    assert predict("csv", GOLDEN / "mapie.json", "--map", "nothing")[0] == 2
    code, document = predict("verl", tmp_path / "nowhere")
    assert (code, document["ok"]) == (3, False)
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_format_quickly():
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "predict.cli", "import", "--help"], capture_output=True, text=True
    )
    assert all(form in ended.stdout.replace("\n", "") for form in ("lm-eval", "lighteval", "inspect", "wandb", "csv"))
    assert not any(heavy in ended.stderr for heavy in ("polars", "pyarrow", "duckdb", "sqlite3"))


def test_a_study_of_other_peoples_files_alone_can_be_scored(tmp_path):
    """Signals and outcomes as counts, the lineage by --run and --parent: what `predict score` needs."""
    from predict.features import load
    from predict.scoring import score

    def counts(right: list[int]) -> Path:
        path = tmp_path / "counts.csv"
        path.write_text("problem_id,num_samples,num_correct\n" + "".join(f"p{i},4,{c}\n" for i, c in enumerate(right)))
        return path

    before = [[0, 1], [1, 1], [1, 2], [2, 2], [3, 2], [3, 3]]
    after = [[1, 1], [1, 2], [2, 2], [3, 2], [3, 3], [4, 3]]
    for number, (signals, outcome) in enumerate(zip(before, after, strict=True)):
        bring("csv", counts(signals), tmp_path, {"benchmark": "A"}, run=f"sft-{number}", stage="sft", step=100, base_model="m")
        bring(
            "csv",
            counts(outcome),
            tmp_path,
            {"benchmark": "B"},
            run=f"rl-{number}",
            stage="grpo",
            step=50,
            parent=f"sft-{number}",
            seed=0,
        )
    store.ingest(tmp_path)
    runs = load(tmp_path)
    assert runs.sort("variant")["pass_at_1"].to_list() == [sum(row) / 8 for row in before]
    assert runs.sort("variant")["outcome_pass_at_1"].to_list() == [sum(row) / 8 for row in after]
    assert score(runs, outcome="outcome_pass_at_1", predictors=["pass_at_1"])["pass_at_1"].spearman.value == pytest.approx(1.0)


def test_a_run_known_by_its_evaluation_alone_has_no_engine_and_no_start_until_its_log_comes(logs, tmp_path):
    bring("inspect", GOLDEN / "inspect.eval", tmp_path, run="grpo-run", stage="grpo", step=4)
    sql = "SELECT engine, status, rl_recipe, steps, created_at, json_extract_string(config, '$.max_steps') FROM runs"
    assert asked(tmp_path, sql) == [("", "done", "imported", 4, "", None)]
    bring("trl", logs / "trl/grpo-run", tmp_path, started="2026-11-25T18:00:00")
    assert asked(tmp_path, sql) == [("trl", "done", "imported", 4, "2026-11-25T18:00:00+00:00", "4")]


def test_tokens_and_cut_completions_are_null_where_one_of_two_sampling_jobs_does_not_tell_them(tmp_path):
    (tmp_path / "c.csv").write_text("problem_id,num_samples,num_correct\na,4,1\nb,4,2\n")
    bring("csv", tmp_path / "c.csv", tmp_path / "home", run="a")
    sql = "SELECT num_samples, num_truncated, mean_tokens FROM counts ORDER BY problem_id"
    assert asked(tmp_path / "home", sql) == [(4, None, None), (4, None, None)]
    assert store.query(tmp_path / "home", "SELECT truncated_share, mean_tokens, pass_at_1 FROM checkpoints").rows() == [
        (None, None, 0.375)
    ]
