"""Studies: which cells there are, what is run and what is skipped, and what happens to the others when one fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

import predict
from curate.config import check_config
from curate.errors import CheckFailed, InputError, UsageError
from predict import store
from train import checkpoints
from train.cli import main
from train.configs import CONFIGS
from train.datasets import open_dataset, open_problems
from train.identity import grpo_run, sft_run
from train.records import RunFolder
from train.study import run_study
from train.study_plan import StudyConfig, plan

BASE = Path(__file__).parent.parent / "studies/lab/bases/l4-behaved-s0"
RECIPE = {
    "name": "tiny",
    "sources": [{"task": "arithmetic", "size": 24, "operations": [2, 3], "traces": 2}],
    "heldout": {"examples": 4},
    "rl_prompts": {"examples": 4},
    "variants": [
        {"name": "some", "budget": {"examples": 8}},
        {"name": "short", "select": {"length": "short"}, "budget": {"examples": 8}, "epochs": 2},
        {"name": "long", "select": {"length": "long"}, "budget": {"examples": 4}},
    ],
}
STUDY = {
    "name": "tiny",
    "bases": [str(BASE)],
    "sft": {"epochs": "from_variant", "learning_rate": 0.001},
    "evaluate": {
        "signals": {"set": "A", "problems": 3, "num_samples": 4, "operations": [2, 3]},
        "outcome": {"set": "B", "problems": 3, "num_samples": 2, "operations": [2, 3]},
        "heldout": ["shared"],
        "max_tokens": 40,
    },
    "grpo": {"steps": 1, "problems": 2, "group_size": 2, "max_tokens": 40},
    "grid": {"variant": ["some", "short"]},
}


@pytest.fixture
def recipe(tmp_path) -> Path:
    return written(tmp_path / "recipe.yaml", RECIPE)


def written(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def study(recipe: Path, **settings) -> StudyConfig:
    data = {**STUDY, "recipe": str(recipe), "home": str(recipe.parent / "home"), **settings}
    return check_config(data, StudyConfig, origin="test")


def cells(config: StudyConfig) -> list[tuple]:
    return [(cell.variant, *cell.overrides.items(), cell.data_seed, cell.sft_seed) for cell in plan(config)]


def runs(home: Path, stage: str) -> list[RunFolder]:
    folders = [RunFolder(path.parent) for path in sorted(home.glob("runs/*/run.json"))]
    return [folder for folder in folders if folder.run.stage == stage]


def snapshot(home: Path) -> dict[Path, tuple[int, int]]:
    files = [path for path in home.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def command(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """Run the `train` command within this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        main()
    signal.signal(signal.SIGTERM, before)
    printed = capsys.readouterr()
    return ended.value.code or 0, printed.out, printed.err


# --- What is planned


def test_a_plan_is_grid_and_include_less_exclude_times_seeds(recipe):
    config = study(
        recipe,
        grid={"variant": ["some", "long"], "sft.learning_rate": [0.1, 0.2]},
        include=[{"variant": "short", "grpo.group_size": 4}, {"sft.epochs": 3}],
        exclude=[{"variant": "long", "sft.learning_rate": 0.2}],
        seeds={"data": [0, 1], "sft": [5]},
    )
    points = [
        ("some", ("sft.learning_rate", 0.1)),
        ("some", ("sft.learning_rate", 0.2)),
        ("long", ("sft.learning_rate", 0.1)),
        ("short", ("grpo.group_size", 4)),
        ("some", ("sft.epochs", 3)),  # an included cell without a variant takes the recipe's first
    ]
    assert cells(config) == [(*point, data, 5) for data in (0, 1) for point in points]


def test_without_a_grid_every_variant_is_a_cell_and_an_empty_axis_leaves_the_included_alone(recipe):
    assert cells(study(recipe, grid={})) == [("some", 0, 0), ("short", 0, 0), ("long", 0, 0)]
    assert cells(study(recipe, grid={"variant": []}, include=[{"variant": "long"}])) == [("long", 0, 0)]
    assert cells(study(recipe, exclude=[{"variant": "some"}, {"variant": "short"}])) == []


def test_several_bases_each_get_every_cell(recipe):
    config = study(recipe, bases=["one", "two"])
    assert [(cell.base, cell.variant) for cell in plan(config)] == [
        ("one", "some"),
        ("one", "short"),
        ("two", "some"),
        ("two", "short"),
    ]


def test_a_dry_run_prints_cells_and_counts_and_runs_nothing(recipe, monkeypatch, capsys):
    settings = {**STUDY, "recipe": str(recipe), "seeds": {"data": [0, 1], "rl": [0, 1, 2]}}
    file, home = written(recipe.parent / "study.yaml", settings), recipe.parent / "home"
    code, out, err = command(monkeypatch, capsys, "study", str(file), "--dry-run", "--home", str(home))
    assert (code, out) == (0, "")
    assert "4 checkpoints; 2 build, 4 sft, 4 signals, 12 grpo, 12 outcome" in err
    assert [line.split()[0] for line in err.splitlines()[1:]] == ["some", "short"] * 2
    assert not (home / "datasets").exists()
    assert not runs(home, "sft")
    code, out, err = command(monkeypatch, capsys, "study", str(file), "--dry-run", "--json", "--home", str(home))
    document = json.loads(out)
    assert (code, err, document["ok"], document["dry_run"]) == (0, "", True, True)
    # a cell is a variant with its settings, whatever the seeds
    assert (document["cells"], document["checkpoints"], document["grpo"]) == (2, 4, 12)


def test_shards_are_disjoint_and_together_the_whole_study(recipe, monkeypatch, capsys):
    settings = {**STUDY, "recipe": str(recipe), "grid": {}, "seeds": {"data": [0, 1, 2]}}
    file, home = written(recipe.parent / "study.yaml", settings), recipe.parent / "home"

    def shown(*options: str) -> list[str]:
        return command(monkeypatch, capsys, "study", str(file), "--dry-run", "--home", str(home), *options)[2].splitlines()[1:]

    parts = [shown("--shard", f"{index}/4") for index in range(4)]
    assert sorted(line for part in parts for line in part) == sorted(shown())
    assert len(set(shown())) == 9
    assert {len(part) for part in parts} == {2, 3}


@pytest.mark.parametrize("shard", ["4/4", "1", "a/b", "-1/2", "1/0"])
def test_a_shard_that_is_none_is_a_usage_error(recipe, shard):
    with pytest.raises(UsageError, match=r"--shard: expected I/N with 0 <= I < N"):
        run_study(study(recipe), shard=shard, dry_run=True, silent=True)


# --- What is refused before anything is run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": {"variant": ["shrot"]}}, r"variant 'shrot': the recipe .* has some, short, long"),
        ({"include": [{"variant": "none"}]}, r"variant 'none'"),
        ({"grid": {"learning_rate": [0.1]}}, r"'learning_rate': expected variant, sft.<setting> or grpo.<setting>"),
        ({"grid": {"sft.lerning_rate": [0.1]}}, r"'sft.lerning_rate'.*did you mean 'sft.learning_rate'\?"),
        ({"exclude": [{"sft.lerning_rate": 0.1}]}, r"'sft.lerning_rate'.*did you mean 'sft.learning_rate'\?"),
        ({"include": [{"grpo.group": 4}]}, r"'grpo.group'"),
        ({"sft": {"lerning_rate": 0.1}}, r"lerning_rate: unknown key; did you mean 'learning_rate'\?"),
        ({"grpo": {"stepz": 1}}, r"stepz: unknown key; did you mean 'steps'\?"),
        ({"grid": {"sft.learning_rate": [0.1, -1.0]}}, r"learning_rate: Input should be greater than 0, came -1.0"),
        ({"sft": {"learning_rate": float("nan")}}, r"learning_rate: Input should be a finite number"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_run(recipe, settings, message):
    with pytest.raises(UsageError, match=message):
        run_study(study(recipe, **settings), silent=True)
    home = recipe.parent / "home"
    assert not (home / "datasets").exists()
    assert not list(home.glob("runs/*/evaluations"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"stages": ["build", "train"]},
            r"stages.1: Input should be 'build', 'sft', 'signals', 'grpo' or 'outcome', came 'train'",
        ),
        ({"recip": 1}, r"recip: unknown key; did you mean 'recipe'\?"),
        ({"evaluate": {**STUDY["evaluate"], "temperature": -1}}, r"evaluate.temperature"),
        ({"bases": []}, r"bases"),
    ],
)
def test_a_wrong_key_of_the_study_is_refused(recipe, settings, message):
    with pytest.raises(UsageError, match=message):
        study(recipe, **settings)


def test_an_unknown_stage_on_the_command_line_is_refused(recipe):
    with pytest.raises(UsageError, match=r"--stages: expected some of build, sft, signals, grpo, outcome, came 'rl'"):
        run_study(study(recipe), stages="sft,rl", silent=True)


def test_a_missing_base_or_recipe_is_an_input_error(recipe):
    with pytest.raises(InputError, match=r"model 'nowhere'.*there is no such"):
        run_study(study(recipe, bases=["nowhere"]), silent=True)
    with pytest.raises(InputError, match=r"gone.yaml: no such file"):
        run_study(study(recipe.parent / "gone.yaml"), silent=True)


# --- What is run


def test_stages_are_run_as_asked_and_not_again(recipe):
    config, home = study(recipe), recipe.parent / "home"
    summary = run_study(config, stages="build,sft", silent=True)
    assert (summary["checkpoints"], summary["sft"], summary["failed"]) == (2, 2, 0)
    assert {path.name for path in (home / "datasets/tiny-seed0").iterdir()} == {"some", "short", "long"}
    assert {folder.run.variant["name"]: folder.run.variant["epochs"] for folder in runs(home, "sft")} == {"some": 1, "short": 2}
    assert not list(home.glob("runs/*/evaluations/*"))
    assert not runs(home, "grpo")
    before = snapshot(home)
    run_study(config, stages="build,sft", silent=True)
    assert snapshot(home) == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> StudyConfig:
    """A study of one cell, first trained, then taken through all its stages."""
    config = study(written(tmp_path_factory.mktemp("study") / "recipe.yaml", RECIPE), grid={"variant": ["short"]})
    run_study(config, stages="build,sft", silent=True)
    trained = snapshot(config.home / "runs")
    run_study(config, workers=2, silent=True)
    assert trained.items() <= snapshot(config.home / "runs").items()  # what was there has not been touched
    return config


def test_every_checkpoint_is_measured_before_and_after_rl(finished):
    [base], [tuned], [trained] = (runs(finished.home, stage) for stage in ("base", "sft", "grpo"))
    assert trained.run.parent == {"run_id": tuned.run.run_id, "step": tuned.run.steps}
    assert tuned.run.parent["run_id"] == base.run.run_id
    for folder, purposes in ((base, ["signals"]), (tuned, ["outcome", "signals"]), (trained, ["outcome"])):
        assert sorted(purpose(path) for path in folder.path.glob("evaluations/*.json")) == purposes
    assert [json.loads(line)["kind"] for line in (tuned.path / "losses.jsonl").read_text().splitlines()] == ["shared"]
    [file] = trained.path.glob("evaluations/*.parquet")
    assert pq.read_table(file)["num_samples"].to_pylist() == [2, 2, 2]


def purpose(sidecar: Path) -> str:
    return json.loads(sidecar.read_text())["provenance"]["purpose"]


def test_a_study_that_is_done_is_not_run_again(finished):
    before = snapshot(finished.home)
    run_study(finished, silent=True)
    assert snapshot(finished.home) == before


def test_an_evaluation_that_has_been_deleted_is_made_again(finished):
    [file] = runs(finished.home, "grpo")[0].path.glob("evaluations/*.parquet")
    counts = pq.read_table(file).to_pydict()
    file.unlink()
    run_study(finished, stages="outcome", silent=True)
    assert pq.read_table(file).to_pydict() == counts


def test_saved_configs_run_by_hand_would_be_the_same_runs(finished):
    """The YAML that a study writes down for each stage names, given to `train sft` or `train grpo`, the run that is there."""
    for stage in ("sft", "grpo"):
        [file] = finished.home.glob(f"studies/tiny/configs/{stage}-*.yaml")
        config = check_config(yaml.safe_load(file.read_text()), CONFIGS[stage], origin="test")
        start = checkpoints.resolve(config.model, finished.home)
        name, data = (sft_run, open_dataset) if stage == "sft" else (grpo_run, open_problems)
        assert [name(config, start, data(config.dataset)).run_id] == [folder.run.run_id for folder in runs(finished.home, stage)]


def test_a_failed_cell_is_named_and_the_others_are_finished(recipe):
    config = study(
        recipe,
        grid={"variant": ["some"], "sft.learning_rate": [1e30, 0.001]},
        include=[{"variant": "short", "sft.max_length": 5}],
        sft={"epochs": 3},
    )
    with pytest.raises(CheckFailed) as raised:
        run_study(config, stages="build,sft,signals", silent=True)
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("2 of 3 checkpoints failed")
    assert "learning_rate=1e+30" in lines[1] + lines[2]
    assert "diverged" in str(raised.value)
    assert "short max_length=5" in str(raised.value)
    assert "more than max_length 5" in str(raised.value)
    home = recipe.parent / "home"
    done = [folder for folder in runs(home, "sft") if folder.run.status == "done"]
    assert [folder.run.config["learning_rate"] for folder in done] == [0.001]
    assert list(done[0].path.glob("evaluations/*.parquet"))
    assert sorted(folder.run.status for folder in runs(home, "sft")) == ["done", "failed"]


def test_a_failed_study_ends_with_exit_code_4(recipe, monkeypatch, capsys):
    settings = {
        **STUDY,
        "recipe": str(recipe),
        "sft": {"max_length": 5},
        "grid": {"variant": ["some"]},
        "stages": ["build", "sft"],
    }
    file = written(recipe.parent / "study.yaml", settings)
    code, out, _ = command(monkeypatch, capsys, "study", str(file), "--json", "--home", str(recipe.parent / "home"))
    document = json.loads(out)
    assert (code, document["ok"], document["code"]) == (4, False, 4)
    assert "1 of 1 checkpoints failed" in document["message"]


def test_cells_that_differ_in_rl_alone_share_one_sft_run(recipe):
    """With a worker for each, the checkpoint is still trained once."""
    home = recipe.parent / "home"
    config = study(recipe, grid={"variant": ["some"], "grpo.learning_rate": [0.001, 0.002]}, sft={"epochs": 4})
    run_study(config, workers=2, stages="build,sft,grpo", silent=True)
    [trained] = runs(home, "sft")
    steps = [json.loads(line)["step"] for line in (trained.path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, trained.run.steps + 1))
    assert sorted(folder.run.config["learning_rate"] for folder in runs(home, "grpo")) == [0.001, 0.002]


def test_datasets_of_a_recipe_that_has_changed_since_are_not_trained_on(recipe):
    config = study(recipe)
    run_study(config, stages="build", silent=True)
    run_study(config, stages="build", silent=True)
    written(recipe, {**RECIPE, "heldout": {"examples": 5}})
    with pytest.raises(InputError, match=r"tiny-seed0 was built before .*recipe.yaml changed; remove it or rename the study"):
        run_study(config, silent=True)


@pytest.mark.slow
def test_a_terminated_study_stops_its_stages_and_goes_on_when_run_again(recipe):
    settings = {**STUDY, "recipe": str(recipe), "sft": {"epochs": 400, "save_seconds": 0}, "grid": {"variant": ["some"]}}
    file, home = written(recipe.parent / "study.yaml", settings), recipe.parent / "home"
    line = [sys.executable, "-m", "train.cli", "study", str(file), "--home", str(home), "--stages", "build,sft", "--json"]
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    limit = time.monotonic() + 120
    while not list(home.glob("runs/*/metrics.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert json.loads(out)["code"] == 143
    [metrics] = home.glob("runs/*/metrics.jsonl")
    logged = metrics.read_text()
    time.sleep(1)
    assert metrics.read_text() == logged  # nobody goes on writing
    assert runs(home, "sft")[0].run.status == "running"
    finished = subprocess.run(line, capture_output=True, text=True)
    assert finished.returncode == 0
    [record] = runs(home, "sft")
    assert record.run.status == "done"
    assert len(record.metric("loss")) == record.run.steps


def counts_of(folder: RunFolder) -> dict[tuple[str, int], tuple[int, int, float]]:
    """(purpose, step) -> problems, samples a problem, share correct."""
    found = {}
    for file in sorted((folder.path / "evaluations").glob("*.json")):
        rows = pq.read_table(file.with_suffix(".parquet")).to_pylist()
        share = sum(row["num_correct"] for row in rows) / sum(row["num_samples"] for row in rows)
        purpose = json.loads(file.read_text())["provenance"]["purpose"]
        found[purpose, rows[0]["step"]] = (len(rows), rows[0]["num_samples"], share)
    return found


def test_rl_problems_a_shifted_set_and_kept_steps_are_measured_and_reach_the_store(recipe):
    wanted = {
        **STUDY["evaluate"],
        "rl_signals": {"problems": 2, "num_samples": 32},
        "shifted": {"set": "shifted", "problems": 2, "num_samples": 2, "operations": [8, 8]},
        "heldout": ["shared", "rl_style_free", "rl_result_tokens"],
    }
    config = study(recipe, evaluate=wanted, grid={"variant": ["some"]}, grpo={**STUDY["grpo"], "steps": 2, "keep_steps": [1]})
    run_study(config, silent=True)
    home = recipe.parent / "home"
    [tuned], [trained] = runs(home, "sft"), runs(home, "grpo")
    before, after = counts_of(tuned), counts_of(trained)
    step = tuned.run.steps
    assert {key: value[:2] for key, value in before.items()} == {
        ("signals", step): (3, 4),
        ("rl_signals", step): (2, 32),
        ("outcome", step): (3, 2),
    }
    assert {key: value[:2] for key, value in after.items()} == {
        ("outcome", 1): (3, 2),
        ("outcome", 2): (3, 2),
        ("outcome_shifted", 2): (2, 2),
    }
    store.ingest(home)
    row = predict.load(home).filter(run_id=tuned.run.run_id).to_dicts()[0]
    assert row["rl_pass_at_1"] == pytest.approx(before["rl_signals", step][2])
    assert row["pass_at_1"] == pytest.approx(before["signals", step][2])
    assert row["outcome_shifted_pass_at_1"] == pytest.approx(after["outcome_shifted", 2][2])
    assert row["outcome_pass_at_1"] == pytest.approx(after["outcome", 2][2])
    losses = {loss["kind"]: loss for loss in map(json.loads, (tuned.path / "losses.jsonl").read_text().splitlines())}
    assert row["rl_loss_style_free"] == losses["rl_style_free"]["nats_per_example"]
    assert row["rl_loss_result"] == losses["rl_result_tokens"]["nats_per_token"]
    assert losses["rl_style_free"]["examples"] == len(open_problems(next(home.glob("datasets/*/some"))).rows)
    assert row["rl_mixed_share"] is not None and row["rl_expected_signal"] is not None


def test_rl_may_start_from_the_base_without_sft(recipe):
    data = {**STUDY, "recipe": str(recipe), "home": str(recipe.parent / "home"), "grid": {"variant": ["base"]}}
    run_study(check_config(data, StudyConfig, origin="study"), silent=True)
    predict.ingest(home=recipe.parent / "home")
    (row,) = predict.load(recipe.parent / "home").to_dicts()
    assert row["run_id"] == checkpoints.resolve(str(BASE), recipe.parent / "home").id.run_id
    assert row["stage"] == "base" and row["outcome_pass_at_1"] is not None and row["gen_loss"] > 0


def test_sft_settings_of_a_start_without_sft_are_refused(recipe):
    data = {**STUDY, "recipe": str(recipe), "include": [{"variant": "base", "sft.epochs": 2}]}
    with pytest.raises(UsageError, match=r"sft\.epochs.*has no SFT"):
        run_study(check_config(data, StudyConfig, origin="study"), dry_run=True, silent=True)
