"""The store of runs: what goes in comes out, nothing is lost, nothing is half-written, nothing else can be done to it."""

import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy import stats

import predict
from curate.errors import CheckFailed, InputError, OutputExists, UsageError
from predict import store
from predict.features import names
from predict.imports.found import Choices
from predict.imports.lineage import Lineage
from predict.imports.run import import_logs
from train.configs import GrpoConfig
from train.records import CheckpointId, Run, RunFolder, run_id

PACKED = Path(__file__).parent.parent / "studies/lab/runs"
CONTRACT = {
    "rl_runs": "run_id rl_seed rl_recipe status post_pass_at_1 post_pass_at_8 post_pass_at_64 post_tokens pass_at_1 gen_loss",
    "checkpoints": "run_id step base_model family dataset variant cell n_examples epochs length_mix behaviors sft_learning_rate "
    "data_seed sft_seed pass_at_1 pass_at_2 pass_at_4 pass_at_8 pass_at_16 pass_at_32 pass_at_64 pass_at_128 pass_at_256 "
    "gen_loss gen_loss_own gen_loss_style_free gen_loss_result entropy_t1 influence co_influence gradient_agreement "
    "mixed_share expected_signal mean_tokens "
    "truncated_share loss_over_min coverage_ratio early_reward_start early_reward_slope outcome_pass_at_1 outcome_sd "
    "n_rl_seeds outcome_pass_at_64 rl_recipe",
    "pass_at_k": "run_id step benchmark k value se",
    "lineage": "run_id",
    "curves": "run_id step name value",
    "forecasts": "forecast_id created_at predictor outcome id point low high p_best measured inside",
}
KEY = {"benchmark": "sums", "split": "A", "temperature": 1.0}
REWARDS = [0.1, 0.3, 0.2, 0.5, 0.4]
OUTCOME = {"benchmark": "sums", "split": "B", "temperature": 1.0}


class Study:
    """A workspace with a base model and what the tests put beside it."""

    def __init__(self, home: Path):
        self.home = home
        self.run("base", stage="base", base_model="tiny")

    def run(self, name: str, *, status: str = "done", **facts) -> RunFolder:
        folder = RunFolder.of(self.home, name)
        run = Run(run_id=name, **facts)
        folder.start(run)
        folder.finish(run, status)
        return folder

    def sft(self, name: str = "sft", **facts) -> RunFolder:
        """An SFT run of 10 steps with its signals: 2 of 8 and 6 of 8 right."""
        facts = {"parent": {"run_id": "base", "step": 0}, "base_model": "tiny", "cell": "c", "steps": 10, **facts}
        folder = self.run(name, stage="sft", **facts)
        measure(folder, 10, KEY, [2, 6], purpose="signals")
        return folder

    def rl(self, name: str, right: list[int], *, start: str = "sft", rl_recipe: str = "r", **facts) -> RunFolder:
        """An RL run of 5 steps with its outcome, `right` of 8 for each problem."""
        facts = {"parent": {"run_id": start, "step": 10}, "base_model": "tiny", "rl_recipe": rl_recipe, "steps": 5, **facts}
        folder = self.run(name, stage="grpo", **facts)
        measure(folder, 5, OUTCOME, right, purpose="outcome")
        return folder

    def sql(self, query: str) -> list[dict]:
        return store.query(self.home, query).to_dicts()

    def checkpoint(self) -> dict:
        """The only row of the checkpoints view after an ingest."""
        predict.ingest(self.home)
        (row,) = self.sql("SELECT * FROM checkpoints")
        return row


def measure(folder: RunFolder, step: int, key: dict, right: list[int], *, purpose: str, seed: int = 0, n: int = 8) -> Path:
    zero = {"num_no_answer": 0, "num_unparsable": 0, "num_truncated": 0, "mean_tokens": 20.0}
    rows = [{"problem_id": f"p{i}", "num_samples": n, "num_correct": c, **zero} for i, c in enumerate(right)]
    return folder.evaluation(step, key, {"num_samples": n, "seed": seed, "purpose": purpose}, rows)


def view(home: Path, name: str) -> pl.DataFrame:
    frame = store.query(home, f"SELECT * FROM {name}")
    return frame.sort(frame.columns)


def views(home: Path, *names: str) -> dict[str, pl.DataFrame]:
    return {name: view(home, name) for name in names}


def assert_equal_views(home: Path, expected: dict[str, pl.DataFrame]) -> None:
    for name, frame in expected.items():
        assert_frame_equal(view(home, name), frame, rel_tol=1e-12)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left_beside(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir() if path.name not in ("runs", "runs.duckdb", "sources.json", "forecasts"))


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path / "home")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Study:
    """A study that is only read: repeated and torn lines, a good, a failed and an unfinished RL run, forecasts."""
    study = Study(tmp_path_factory.mktemp("small"))
    folder = study.sft()
    study.sft("untouched")
    for step, loss in ((1, 3.0), (2, 2.0), (3, 1.5), (2, 1.75)):
        folder.log(step, {"loss": loss})
    for value in (0.5, 0.75, 0.5):
        folder.signal(10, "entropy_t1", value, "m")
        folder.loss(10, {"heldout": "h", "heldout_hash": "x", "kind": "shared", "nats_per_token": 2 * value})
    for name in ("metrics", "losses", "signals"):
        with (folder.path / f"{name}.jsonl").open("a") as handle:
            handle.write('{"step": 4, "lo')
    candidates = [
        {"id": "sft@10", "point": 0.6, "low": 0.2, "high": 0.7},
        {"id": "untouched@10", "point": 0.4, "low": 0.3, "high": 0.5},
    ]
    for name in ("outcome_pass_at_1", "outcome_pass_at_64", "another"):
        write_forecast(study.home, name, outcome=name, candidates=candidates)
    good = study.rl("rl", [8, 4], rl_seed=0)
    measure(good, 2, OUTCOME, [0, 0], purpose="outcome")
    measure(good, 5, OUTCOME, [64, 0], purpose="outcome", seed=1, n=64)
    for step, reward in enumerate([*REWARDS, 9.0], start=1):
        good.log(step, {"reward_mean": reward})
    study.rl("bad", [0, 0], rl_seed=1, status="failed")
    study.rl("going", [0, 0], rl_seed=2, status="running")
    predict.ingest(study.home)
    return study


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("lab")
    predict.ingest(home, [PACKED])
    return home


def test_the_packed_study_holds_at_least_40_finished_rl_runs_with_an_outcome(lab):
    runs = store.query(lab, "SELECT * FROM rl_runs WHERE status = 'done' AND post_pass_at_1 IS NOT NULL")
    assert len(runs) >= 40
    assert runs["post_pass_at_1"].is_between(0, 1).all()
    signals = store.query(lab, "SELECT gen_loss, pass_at_64, entropy_t1, mixed_share FROM checkpoints")
    assert sum(signals.null_count().row(0)) == 0


def test_runs_that_were_published_keep_their_ids():
    published = pl.read_parquet(PACKED / "runs.parquet").filter(pl.col("stage") == "grpo").to_dicts()
    for run in published:
        config = GrpoConfig(model="start", dataset="data", **json.loads(run["config"]))
        parent = CheckpointId(run["parent_run_id"], run["parent_step"])
        assert run_id("grpo", config.science(), run["dataset_hash"], parent, run["rl_seed"]) == run["run_id"]


def test_the_packed_study_and_its_bases_are_small_and_name_no_folder_of_a_machine():
    files = [path for folder in (PACKED, PACKED.parent / "bases") for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix in (".json", ".jsonl", ".yaml", ".md")]
    for path in PACKED.glob("*.parquet"):
        frame = pl.read_parquet(path)
        texts += [text for name in frame.columns if frame[name].dtype == pl.String for text in frame[name].drop_nulls().unique()]
    assert len(texts) > 100
    machine = re.compile(r"(?:^|[\s\"'=:(])/(?:home|root|work|tmp|mnt|data|opt|usr|Users|workspace)/|[A-Z]:\\\\")
    assert [text[:200] for text in texts if machine.search(text)] == []


def test_signals_and_outcome_of_the_packed_study_are_on_disjoint_problems(lab):
    query = "SELECT DISTINCT problem_id FROM counts WHERE purpose = '{}'"
    signals, outcome = (set(store.query(lab, query.format(purpose))["problem_id"]) for purpose in ("signals", "outcome"))
    assert signals
    assert outcome
    assert not signals & outcome


def test_pass_at_1_of_the_packed_study_is_right_over_samples(lab):
    """Recomputed from the files, without the store."""
    counts = pl.read_parquet(PACKED / "evaluations.parquet").filter(pl.col("purpose") == "signals")
    share = (pl.col("num_correct") / pl.col("num_samples")).mean().alias("expected")
    both = view(lab, "checkpoints").join(counts.group_by("run_id", "step").agg(share), on=["run_id", "step"])
    assert len(both) >= 40
    assert both["pass_at_1"].to_list() == pytest.approx(both["expected"].to_list())


def test_ingest_is_idempotent(lab):
    before = views(lab, "checkpoints")
    assert predict.ingest(lab, [PACKED])["new_runs"] == 0
    assert_equal_views(lab, before)


def test_deleting_the_store_loses_nothing(small, tmp_path):
    home = shutil.copytree(small.home, tmp_path / "home")
    (home / "runs.duckdb").unlink()
    assert predict.ingest(home)["new_runs"] == 6
    assert_equal_views(home, views(small.home, "checkpoints", "rl_runs", "curves", "forecasts"))


@pytest.mark.slow
def test_the_same_runs_give_the_same_numbers_to_the_last_bit(tmp_path):
    """Half a million counts, which several threads would add up in another order each time."""
    homes = [tmp_path / name for name in "abc"]
    for home in homes:
        predict.ingest(home, [PACKED.with_name("study")])
    read = [predict.query(home, "SELECT * FROM checkpoints ORDER BY ALL").write_json() for home in homes for _ in range(4)]
    assert len(set(read)) == 1


def test_export_and_ingest_give_the_same_views(lab, tmp_path):
    facts = predict.export(lab, tmp_path / "packed")
    assert facts["bytes"] == sum(path.stat().st_size for path in (tmp_path / "packed").iterdir())
    predict.ingest(tmp_path / "home", [tmp_path / "packed"])
    assert_equal_views(tmp_path / "home", views(lab, "checkpoints", "pass_at_k", "curves", "lineage"))


def test_export_names_the_checksum_of_every_file(lab, tmp_path):
    predict.export(lab, tmp_path / "packed")
    manifest = json.loads((tmp_path / "packed/manifest.json").read_text())
    files = {path.name: digest(path) for path in (tmp_path / "packed").glob("*.parquet")}
    assert manifest["sha256"] == files
    assert set(files) == {f"{name}.parquet" for name in ("runs", "evaluations", "losses", "signals", "metrics", "forecasts")}


def test_export_over_a_folder_that_exists_is_refused_and_leaves_it(study, tmp_path):
    predict.ingest(study.home)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/mine.txt").write_text("mine")
    with pytest.raises(OutputExists):
        predict.export(study.home, tmp_path / "packed")
    assert (tmp_path / "packed/mine.txt").read_text() == "mine"
    predict.export(study.home, tmp_path / "packed", force=True)
    assert (tmp_path / "packed/manifest.json").exists()


def test_every_view_has_the_columns_of_the_contract(small):
    described = store.describe(small.home)
    assert set(described["view"]) == set(store.VIEWS) == set(CONTRACT)
    for name, expected in CONTRACT.items():
        assert set(expected.split()) - set(described.filter(pl.col("view") == name)["column"]) == set()


def test_export_and_ingest_keep_losses_measured_anew_and_forecasts(study, tmp_path):
    folder = study.sft()
    for step, loss in ((10, 0.5), (10, 0.25), (10, 0.4), (10, 0.25)):
        folder.loss(step, {"heldout": "h", "heldout_hash": "x", "kind": "shared", "nats_per_token": loss})
    write_forecast(study.home, "f1", candidates=[{"id": "sft@10", "point": 0.5, "low": 0.1, "high": 0.9}])
    predict.ingest(study.home)
    predict.export(study.home, tmp_path / "packed")
    before = views(study.home, "checkpoint_losses", "forecast_files")
    assert before["checkpoint_losses"]["gen_loss"].to_list() == [0.25]
    predict.ingest(tmp_path / "other", [tmp_path / "packed"])
    assert_equal_views(tmp_path / "other", before)
    assert predict.ingest(study.home, [tmp_path / "packed"])["forecast_files"] == 1
    assert_equal_views(study.home, before)


def corrupted(tmp_path: Path, name: str) -> Path:
    folder = shutil.copytree(PACKED, tmp_path / "corrupted")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    return folder


def test_one_wrong_byte_is_found_and_the_old_store_stays(study, tmp_path):
    predict.ingest(study.home)
    before = digest(study.home / "runs.duckdb")
    for name in ("evaluations.parquet", "metrics.parquet"):
        with pytest.raises(CheckFailed, match=f"{name}: its checksum"):
            predict.ingest(study.home, [corrupted(tmp_path / name, name)])
    assert digest(study.home / "runs.duckdb") == before
    assert json.loads((study.home / "sources.json").read_text()) == []
    assert left_beside(study.home) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "expected schema_version 1"),
        ('{"schema_version": 2, "sha256": {}}', "schema_version 1, came 2"),
        ('{"schema_version": 1}', "no checksum of evaluations.parquet"),
        ('{"schema_version": 1, "sha256": {}}', "no checksum of evaluations.parquet"),
        ('{"schema_version"', "line 1: not valid JSON"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(study, tmp_path, content, words):
    folder = shutil.copytree(PACKED, tmp_path / "packed")
    (folder / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=words):
        predict.ingest(study.home, [folder])


def test_a_file_that_the_manifest_names_must_be_there(study, tmp_path):
    folder = shutil.copytree(PACKED, tmp_path / "packed")
    (folder / "losses.parquet").unlink()
    with pytest.raises(InputError, match=r"losses\.parquet is missing"):
        predict.ingest(study.home, [folder])


def test_a_recorded_source_that_went_missing_is_named_and_the_old_store_stays(study, tmp_path):
    other = Study(tmp_path / "other")
    other.sft("more")
    predict.ingest(study.home, [other.home])
    before = digest(study.home / "runs.duckdb")
    shutil.rmtree(other.home)
    with pytest.raises(InputError, match=f"{re.escape(str(other.home))}.*not there"):
        predict.ingest(study.home)
    assert digest(study.home / "runs.duckdb") == before
    assert study.sql("SELECT count(*) AS n FROM runs WHERE run_id = 'more'") == [{"n": 1}]


def test_recorded_sources_are_read_again_each_time(study, tmp_path):
    other = Study(tmp_path / "other")
    predict.ingest(study.home, [other.home])
    other.sft("later")
    counts = predict.ingest(study.home)
    assert counts["new_runs"] == 1
    assert json.loads((study.home / "sources.json").read_text()) == [str(other.home)]


def recorded(home: Path) -> list[str]:
    return json.loads((home / "sources.json").read_text())


def test_a_dropped_source_is_forgotten_and_its_files_stay(study, tmp_path, monkeypatch):
    wrong, right = Study(tmp_path / "wrong"), Study(tmp_path / "right")
    kept = wrong.sft("mistake").path / "run.json"
    right.sft("meant")
    predict.ingest(study.home, [wrong.home])
    monkeypatch.chdir(tmp_path)
    counts = predict.ingest(study.home, [right.home], drop=["wrong"])
    assert (counts["dropped"], counts["stages"]) == ([str(wrong.home)], {"base": 1, "sft": 1})
    assert study.sql("SELECT run_id FROM runs WHERE stage = 'sft'") == [{"run_id": "meant"}]
    assert kept.exists()
    assert recorded(study.home) == [str(right.home)]
    assert predict.ingest(study.home)["runs"] == 2


def test_a_source_that_went_missing_can_be_dropped(study, tmp_path):
    other = Study(tmp_path / "other")
    other.sft("more")
    predict.ingest(study.home, [other.home])
    shutil.rmtree(other.home)
    with pytest.raises(InputError, match="ingest --drop"):
        predict.ingest(study.home)
    assert predict.ingest(study.home, drop=[str(other.home)])["runs"] == 1


def imported(home: Path, folder: Path, name: str, right: str) -> str:
    """The id of a run made of one file of verdicts."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.csv").write_text(f"problem_id,correct\na,{right}\nb,1\n")
    return import_logs("csv", folder / f"{name}.csv", home, Lineage(run=name), Choices())["runs"][0]["run_id"]


@pytest.mark.parametrize("by", ["name", "id"])
def test_an_imported_run_is_dropped_by_name_or_id_and_can_be_imported_anew(study, tmp_path, by):
    identifier = imported(study.home, tmp_path / "logs", "mine", "0")
    predict.ingest(study.home)
    predict.ingest(study.home, drop=["mine" if by == "name" else identifier])
    assert study.sql("SELECT run_id FROM runs") == [{"run_id": "base"}]
    assert sorted(path.name for path in (study.home / "runs").iterdir()) == ["base"]
    imported(study.home, tmp_path / "logs", "mine", "1")
    predict.ingest(study.home)
    assert study.sql("SELECT sum(num_correct)::INT AS n FROM evaluations") == [{"n": 2}]


def test_what_is_to_be_dropped_stays_where_the_ingest_fails(study, tmp_path):
    identifier = imported(study.home, tmp_path / "logs", "mine", "0")
    other = Study(tmp_path / "other")
    predict.ingest(study.home, [other.home])
    before, files = digest(study.home / "runs.duckdb"), sorted((study.home / "runs" / identifier).rglob("*"))
    with pytest.raises(InputError, match="nowhere"):
        predict.ingest(study.home, [tmp_path / "nowhere"], drop=["mine", str(other.home)])
    assert digest(study.home / "runs.duckdb") == before
    assert sorted((study.home / "runs" / identifier).rglob("*")) == files
    assert recorded(study.home) == [str(other.home)]
    assert left_beside(study.home) == []


def test_a_run_that_a_killed_ingest_was_dropping_goes_with_the_next_one(study, tmp_path):
    folder = study.home / "runs" / imported(study.home, tmp_path / "logs", "mine", "0")
    folder.rename(folder.with_name(f".{folder.name}.dropped"))
    assert predict.ingest(study.home)["runs"] == 1
    assert [path.name for path in (study.home / "runs").iterdir()] == ["base"]


def test_only_a_recorded_source_or_an_imported_run_can_be_dropped(study, tmp_path):
    other = Study(tmp_path / "other")
    predict.ingest(study.home, [other.home])
    with pytest.raises(UsageError, match=f"typo.*{re.escape(str(other.home))}"):
        predict.ingest(study.home, drop=["typo"])
    identifier = run_id("sft", {}, None, None, 0)
    study.run(identifier, stage="sft")
    with pytest.raises(UsageError, match="trained here"):
        predict.ingest(study.home, drop=[identifier])
    assert predict.ingest(study.home)["runs"] == 2


def test_a_single_run_folder_and_a_folder_of_run_folders_are_sources(study, tmp_path):
    other = Study(tmp_path / "other")
    single = other.sft("alone").path
    assert predict.ingest(study.home, [single])["stages"] == {"base": 1, "sft": 1}
    assert predict.ingest(tmp_path / "third", [other.home / "runs"])["stages"] == {"base": 1, "sft": 1}


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_source_without_runs_is_refused_and_not_recorded(study, tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=name):
        predict.ingest(study.home, [tmp_path / name])
    assert not (study.home / "sources.json").exists()


def test_a_run_held_by_two_sources_is_counted_once(study, tmp_path):
    study.sft()
    study.rl("rl", [8, 4]).log(1, {"reward_mean": 0.5})
    predict.ingest(study.home)
    before = views(study.home, "runs", "evaluations", "pass_at_k", "curves")
    predict.export(study.home, tmp_path / "packed")
    predict.ingest(study.home, [tmp_path / "packed", study.home / "runs/rl"])
    assert_equal_views(study.home, before)


def test_the_latest_figures_of_influence_are_columns_of_the_checkpoint(study):
    folder = study.sft()
    for name, value in (("influence", 1.0), ("co_influence", 9.0), ("gradient_agreement", 0.25), ("influence", 2.0)):
        folder.signal(10, name, value, "m")
    row = study.checkpoint()
    assert [row[name] for name in ("influence", "co_influence", "gradient_agreement")] == [2.0, 9.0, 0.25]


def test_a_torn_last_line_is_forgiven_and_the_last_row_of_a_repeated_step_counts(small):
    (row,) = small.sql("SELECT entropy_t1, gen_loss FROM checkpoints WHERE run_id = 'sft'")
    assert (row["entropy_t1"], row["gen_loss"]) == (0.5, 1.0)
    curve = small.sql("SELECT step, value FROM curves WHERE name = 'loss' ORDER BY step")
    assert [(point["step"], point["value"]) for point in curve] == [(1, 3.0), (2, 1.75), (3, 1.5)]


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("metrics.jsonl", '{"step": 1, "loss": 3.0}\n{"step": 2,\n{"step": 3, "loss": 1.0}\n', "line 2"),
        ("metrics.jsonl", '{"step": 1, "loss": "high"}\n', "loss = 'high'"),
        ("losses.jsonl", '{"step": 10, "heldout": "h", "heldout_hash": "x", "nats_per_token": 1.0}\n', "losses"),
        ("run.json", '{"schema_version": 1, "run_id": "sft"}', "stage"),
        ("run.json", '{"schema_version": 9, "run_id": "sft", "stage": "sft", "status": "done"}', "schema_version 1, came 9"),
        ("run.json", "[1]", "not a run.json"),
    ],
)
def test_malformed_files_of_a_run_are_refused_by_name_and_the_old_store_stays(study, name, line, words):
    folder = study.sft()
    (study.home / "runs.duckdb").write_text("the old store")
    (folder.path / name).write_text(line)
    with pytest.raises(InputError, match=words):
        predict.ingest(study.home)
    assert (study.home / "runs.duckdb").read_text() == "the old store"
    assert left_beside(study.home) == []


def test_a_broken_evaluation_is_refused_by_name(study):
    folder = study.sft()
    file = measure(folder, 10, KEY, [1, 1], purpose="signals", seed=5)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=file.name):
        predict.ingest(study.home)
    file.write_bytes(whole)
    file.with_suffix(".json").write_text('{"key": {}, "provenance": {}}')
    with pytest.raises(InputError, match=file.name):
        predict.ingest(study.home)


def test_more_right_than_samples_is_refused(study):
    measure(study.sft(), 10, KEY, [9, 1], purpose="signals", seed=5)
    with pytest.raises(InputError, match="num_correct"):
        predict.ingest(study.home)


def test_the_outcome_is_that_of_the_final_step_of_the_finished_runs(small):
    """The good run has 72 samples a problem, all and 4 right; what the failed and the unfinished run counted is not used."""
    (row,) = small.sql("SELECT * FROM checkpoints WHERE run_id = 'sft'")
    assert (row["n_rl_seeds"], row["collapsed"], row["outcome_tokens"]) == (1, False, 20)
    assert row["outcome_pass_at_1"] == pytest.approx((1 + 4 / 72) / 2)
    assert row["outcome_sampling_variance"] == pytest.approx(4 / 72 * 68 / 72 / 71 / 4)
    others = small.sql("SELECT post_pass_at_1, half_1, half_2, post_tokens FROM rl_runs WHERE run_id IN ('bad', 'going')")
    assert others == [{"post_pass_at_1": None, "half_1": None, "half_2": None, "post_tokens": None}] * 2


def test_the_mean_of_the_last_5_evaluations_stands_beside_the_outcome_of_the_final_step(study):
    """Of steps 0 to 6 the last five are 2 to 6; what was measured for another purpose or past the end counts nowhere."""
    study.sft()
    for name, first in (("long", 0), ("other", 1)):
        folder = study.rl(name, [8, 8], steps=6, rl_seed=first)
        for step in (0, 1, 2, 3, 4, 6, 9):
            measure(folder, step, OUTCOME, [step + first, step + first] if step < 9 else [0, 0], purpose="outcome")
        measure(folder, 4, {**OUTCOME, "split": "C"}, [8, 8], purpose="other")
    row = study.checkpoint()
    long, other = (2 + 3 + 4 + 8 + 6) / 5 / 8, (3 + 4 + 5 + 8 + 7) / 5 / 8
    assert row["outcome_last5_pass_at_1"] == pytest.approx((long + other) / 2)
    assert row["outcome_pass_at_1"] == pytest.approx((6 / 8 + 7 / 8) / 2)
    write_forecast(study.home, "late", outcome="outcome_last5_pass_at_1", candidates=[{"id": "sft@10", "point": 0.5}])
    predict.ingest(study.home)
    assert study.sql("SELECT measured FROM forecasts") == [{"measured": pytest.approx((long + other) / 2)}]


def test_of_fewer_than_5_evaluations_no_mean_is_made(study):
    study.sft()
    folder = study.rl("short", [4, 4], steps=5)
    for step in (0, 1, 2, 3):
        measure(folder, step, OUTCOME, [8, 8], purpose="outcome")
    assert study.checkpoint()["outcome_last5_pass_at_1"] is None


def test_a_collapsed_run_counts_and_is_flagged(study):
    study.sft()
    study.rl("good", [8, 4], rl_seed=0)
    study.rl("fell", [0, 2], rl_seed=1, status="collapsed")
    row = study.checkpoint()
    assert (row["n_rl_seeds"], row["collapsed"]) == (2, True)
    assert row["outcome_pass_at_1"] == pytest.approx((0.75 + 0.125) / 2)
    assert row["outcome_sd"] == pytest.approx((0.75 - 0.125) / 2**0.5)


def test_a_checkpoint_whose_only_rl_run_failed_is_a_candidate(study):
    study.sft()
    study.rl("bad", [4, 4], status="failed")
    assert study.checkpoint()["outcome_pass_at_1"] is None


def test_two_rl_recipes_must_be_chosen_between(study):
    study.sft()
    study.rl("short", [4, 4], rl_recipe="aaa")
    study.rl("long", [8, 8], rl_recipe="bbb")
    predict.ingest(study.home)
    with pytest.raises(UsageError, match="aaa, bbb"):
        predict.load(study.home)
    assert predict.load(study.home, "aaa")["outcome_pass_at_1"].to_list() == pytest.approx([0.5])
    with pytest.raises(UsageError, match="'ccc'"):
        predict.load(study.home, "ccc")


def test_counts_of_equal_key_and_another_seed_add_up(study):
    folder = study.sft()
    measure(folder, 10, KEY, [8, 0], purpose="signals", seed=1)
    assert study.checkpoint()["pass_at_1"] == pytest.approx((10 / 16 + 6 / 16) / 2)
    (row,) = study.sql("SELECT value, num_samples FROM pass_at_k WHERE run_id = 'sft' AND k = 16")
    assert (row["value"], row["num_samples"]) == (1, 16)


def test_counts_of_different_keys_are_neither_added_nor_averaged(study):
    folder = study.sft()
    measure(folder, 10, {**KEY, "temperature": 0.6}, [8, 8], purpose="signals")
    assert study.checkpoint()["pass_at_1"] == 0.5
    rows = study.sql("SELECT value, num_samples FROM pass_at_k WHERE run_id = 'sft' AND k = 1 ORDER BY value")
    assert [(row["value"], row["num_samples"]) for row in rows] == [(0.5, 8), (1.0, 8)]


def test_checkpoints_measured_with_different_keys_are_not_compared(study):
    study.sft()
    measure(study.run("other", stage="sft", steps=10), 10, {**KEY, "max_tokens": 9}, [8, 8], purpose="signals")
    predict.ingest(study.home)
    assert study.sql("SELECT pass_at_1 FROM checkpoint_signals WHERE pass_at_1 IS NOT NULL") == []
    assert len(study.sql("SELECT * FROM pass_at_k WHERE k = 1")) == 2


def test_a_benchmark_that_some_checkpoints_lack_stays_out_of_the_mean(study):
    folder = study.sft()
    measure(folder, 10, {**KEY, "benchmark": "products"}, [8, 8], purpose="signals")
    assert study.checkpoint()["pass_at_1"] == pytest.approx((0.5 + 1) / 2)
    study.sft("second")
    predict.ingest(study.home)
    assert study.sql("SELECT DISTINCT pass_at_1 FROM checkpoints") == [{"pass_at_1": 0.5}]


def test_early_rewards_are_the_least_squares_line_of_the_first_5_steps(small):
    (row,) = small.sql("SELECT early_reward_start, early_reward_slope FROM rl_runs WHERE run_id = 'rl'")
    line = stats.linregress(range(5), REWARDS)
    assert (row["early_reward_start"], row["early_reward_slope"]) == pytest.approx((line.intercept, line.slope))


def test_loss_over_the_minimum_and_coverage_against_the_base(study):
    measure(RunFolder.of(study.home, "base"), 0, KEY, [16, 48], purpose="signals", n=64)
    for name, right, loss in (("sft", [32, 64], 0.5), ("second", [0, 64], 0.75)):
        folder = study.run(name, stage="sft", base_model="tiny", steps=10)
        measure(folder, 10, KEY, right, purpose="signals", n=64)
        folder.loss(10, {"heldout": "h", "heldout_hash": "x", "kind": "shared", "nats_per_token": loss})
    predict.ingest(study.home)
    rows = study.sql("SELECT run_id, loss_over_min, coverage_ratio FROM checkpoints ORDER BY run_id DESC")
    assert [(r["run_id"], r["loss_over_min"], r["coverage_ratio"]) for r in rows] == [("sft", 0, 1), ("second", 0.25, 0.5)]


def test_a_start_from_the_base_is_a_row_of_stage_base(study):
    measure(RunFolder.of(study.home, "base"), 0, KEY, [1, 3], purpose="signals")
    predict.ingest(study.home)
    assert study.sql("SELECT * FROM checkpoints") == []
    folder = study.run("rl", stage="grpo", parent={"run_id": "base", "step": 0}, rl_recipe="r", steps=5)
    measure(folder, 5, OUTCOME, [4, 8], purpose="outcome")
    row = study.checkpoint()
    assert row["stage"] == "base"
    assert (row["pass_at_1"], row["outcome_pass_at_1"]) == pytest.approx((0.25, 0.75))


def test_lineage_leads_from_an_rl_run_to_the_base(small):
    assert store.query(small.home, "SELECT ancestor, depth FROM lineage WHERE run_id = 'rl' ORDER BY depth").rows() == [
        ("sft", 1),
        ("base", 2),
    ]


def write_forecast(home: Path, name: str, **facts) -> None:
    document = {
        "schema_version": 1, "ok": True, "forecast_id": name, "created_at": "2020-01-01T00:00:00+00:00", "predictor": "pass_at_1",
        "fitted_on": {"n": 9, "source": "x"}, "outcome": "outcome_pass_at_1", "target": "measured outcome",
        "abstentions": [], **facts,
    }  # fmt: skip
    (home / "forecasts").mkdir(exist_ok=True, parents=True)
    (home / "forecasts" / f"{name}.json").write_text(json.dumps(document))


def test_forecasts_are_put_beside_what_happened(small):
    rows = small.sql("SELECT id, measured, inside, before_rl FROM forecasts WHERE outcome = 'outcome_pass_at_1' ORDER BY id")
    assert rows[0] == {"id": "sft@10", "measured": pytest.approx((1 + 4 / 72) / 2), "inside": True, "before_rl": True}
    assert rows[1] == {"id": "untouched@10", "measured": None, "inside": None, "before_rl": None}


def test_a_forecast_is_compared_with_the_outcome_that_it_forecast(small):
    rows = small.sql("SELECT outcome, measured, inside FROM forecasts WHERE id = 'sft@10' ORDER BY outcome")
    at_64 = (1 + 1 - math.comb(68, 64) / math.comb(72, 64)) / 2
    assert [row["measured"] for row in rows] == [None, pytest.approx((1 + 4 / 72) / 2), pytest.approx(at_64)]
    assert [row["inside"] for row in rows] == [None, True, False]


def test_a_file_that_is_no_forecast_is_refused(study):
    (study.home / "forecasts").mkdir()
    (study.home / "forecasts/x.json").write_text("{}")
    with pytest.raises(InputError, match=r"x\.json: not a forecast"):
        predict.ingest(study.home)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO metrics VALUES ('x', 1, 'loss', 0)",
        "DELETE FROM runs",
        "UPDATE runs SET status = 'done'",
        "DROP VIEW checkpoints",
        "CREATE TABLE t (a INT)",
        "COPY runs TO '{out}'",
        "COPY (SELECT 1) TO '{out}'",
        "EXPORT DATABASE '{out}'",
        "ATTACH '{out}' AS other",
        "SET memory_limit = '1GB'",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE runs",
        "SELECT * FROM read_text('{inside}')",
        "SELECT * FROM '{inside}'",
        "EXPLAIN ANALYZE DELETE FROM runs",
        "SELEC 1",
        "",
    ],
)
def test_nothing_but_one_select_over_the_store_is_done(small, tmp_path, sql):
    before = digest(small.home / "runs.duckdb")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(UsageError, match="SQL"):
        store.query(small.home, sql.format(out=tmp_path / "out", inside=tmp_path / "secret.csv"))
    assert digest(small.home / "runs.duckdb") == before
    assert not (tmp_path / "out").exists()


def test_a_select_and_its_plan_are_shown(small):
    assert store.query(small.home, "WITH a AS (SELECT 2 AS x) SELECT x + 1 AS y FROM a").rows() == [(3,)]
    assert len(store.query(small.home, "EXPLAIN SELECT * FROM runs"))


def test_a_store_that_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match="predict ingest"):
        store.query(tmp_path, "SELECT 1")


def test_a_file_that_is_no_store_is_named_and_replaced_by_the_next_ingest(study):
    study.sft()
    (study.home / "runs.duckdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(InputError, match=r"runs\.duckdb.*predict ingest"):
        store.query(study.home, "SELECT 1")
    assert predict.ingest(study.home)["runs"] == 2
    assert len(study.sql("SELECT * FROM checkpoints")) == 1


def test_checkpoints_of_several_bases_are_called_by_their_base_too(lab):
    called = names(predict.load(lab))
    assert len(set(called.values())) == len(called)
    one = predict.load(lab).filter(base_model="l4-behaved-s0")
    assert not any("l4-behaved-s0" in name for name in names(one).values())
