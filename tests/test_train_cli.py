"""The `train` command: exit codes, messages, --json, and what a full disk or a signal may not break."""

import contextlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from curate.build import build
from curate.commands import run_app
from curate.config import check_config
from curate.recipe import Recipe
from train.cli import main
from train.records import RunFolder

BASE = Path(__file__).parent.parent / "studies/lab/bases/l4-behaved-s0"
COMMANDS = ("base", "sft", "grpo", "evaluate", "study")
RECIPE = {
    "name": "tiny",
    "sources": [{"task": "arithmetic", "size": 24, "operations": [2, 3], "traces": 2}],
    "heldout": {"examples": 4},
    "rl_prompts": {"examples": 4},
    "variants": [{"name": "some", "budget": {"examples": 8}, "epochs": 3}, {"name": "few", "budget": {"examples": 2}}],
}
PROBLEMS = {"set": "A", "problems": 2, "num_samples": 2, "operations": [2, 3]}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "tiny"
    build(check_config(RECIPE, Recipe, origin="test"), folder)
    return folder


@pytest.fixture
def settings(data, tmp_path) -> dict[str, dict]:
    """A config of each command that works."""
    recipe = written(tmp_path / "recipe.yaml", RECIPE)
    rollouts = {"steps": 1, "problems": 2, "group_size": 2, "max_tokens": 40}
    start = {"model": str(BASE), "dataset": str(data / "some")}
    return {
        "base": {"layers": 1, "hidden": 32, "tokens": 1000},
        "sft": start,
        "grpo": {**start, **rollouts},
        "evaluate": {"model": str(BASE), "problems": PROBLEMS, "max_tokens": 40},
        "study": {
            "name": "tiny",
            "bases": [str(BASE)],
            "recipe": str(recipe),
            "evaluate": {"signals": PROBLEMS, "outcome": {**PROBLEMS, "set": "B"}, "heldout": ["shared"], "max_tokens": 40},
            "grpo": rollouts,
        },
    }


def written(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run the `train` command within this process: exit code, stdout, stderr. A mapping becomes a config file."""

    def call(*arguments: object) -> tuple[int, str, str]:
        words = [str(written(tmp_path / "config.yaml", word) if isinstance(word, dict) else word) for word in arguments]
        monkeypatch.setattr(sys, "argv", ["train", *words])
        before = signal.getsignal(signal.SIGTERM)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        signal.signal(signal.SIGTERM, before)
        printed = capfd.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    monkeypatch.setenv("FORERUN_HOME", str(tmp_path / "home"))
    return call


def failure(result: tuple[int, str, str]) -> tuple[int, str]:
    """Code and message of a failed command: one `error:` line on stderr, nothing else there, nothing on stdout."""
    code, out, err = result
    assert out == ""
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.splitlines()[0]]
    return code, err.removeprefix("error: ")


# --- Config files


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_config_file_ends_with_3(run, command):
    code, message = failure(run(command, "gone.yaml"))
    assert (code, message) == (3, "gone.yaml: no such file\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_malformed_yaml_ends_with_2_and_its_line(run, tmp_path, command):
    (tmp_path / "bad.yaml").write_text("seed: 0\nname: [1, 2\nmodel: x\n")
    code, message = failure(run(command, tmp_path / "bad.yaml"))
    assert code == 2
    assert "bad.yaml, line 3: not valid YAML" in message


@pytest.mark.parametrize("command", COMMANDS)
def test_a_config_that_is_no_mapping_or_no_text_is_refused(run, tmp_path, command):
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    code, message = failure(run(command, tmp_path / "list.yaml"))
    assert code == 2
    assert "expected a mapping of settings, came list" in message
    (tmp_path / "binary.yaml").write_bytes(b"name: \xff\xfe")
    code, message = failure(run(command, tmp_path / "binary.yaml"))
    assert code == 3
    assert "not UTF-8" in message
    assert failure(run(command, tmp_path))[0] == 3


MISSPELT = {"base": "tokns", "sft": "lerning_rate", "grpo": "group_sise", "evaluate": "temprature", "study": "recipee"}
MEANT = {"base": "tokens", "sft": "learning_rate", "grpo": "group_size", "evaluate": "temperature", "study": "recipe"}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_key_ends_with_2_and_the_key_that_was_meant(run, settings, command):
    code, message = failure(run(command, {**settings[command], MISSPELT[command]: 1}))
    assert code == 2
    assert f"{MISSPELT[command]}: unknown key; did you mean '{MEANT[command]}'?" in message


NAN = {
    "base": "learning_rate=.nan",
    "sft": "learning_rate=.nan",
    "grpo": "kl_coef=.inf",
    "evaluate": "temperature=.nan",
    "study": "evaluate.temperature=.nan",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_setting_that_is_not_finite_ends_with_2(run, settings, command):
    code, message = failure(run(command, settings[command], "--set", NAN[command]))
    assert code == 2
    assert f"{NAN[command].partition('=')[0]}: Input should be a finite number" in message


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        ("sft", "learning_rate=-1", "learning_rate: Input should be greater than 0, came -1"),
        ("sft", "epochs=0", "epochs: Input should be greater than or equal to 1, came 0"),
        ("grpo", "group_size=1", "group_size: Input should be greater than or equal to 2, came 1"),
        ("grpo", "loss_type=ppo", "loss_type: Input should be 'grpo', 'dr_grpo' or 'dapo', came 'ppo'"),
        ("evaluate", "heldout=[shared]", "heldout losses need the dataset folder"),
        ("evaluate", "problems=null", "nothing to measure: give problems, or heldout with a dataset"),
        ("evaluate", "problems.num_samples=many", "problems.num_samples: Input should be a valid integer"),
        ("base", "hidden=33", "hidden: Input should be a multiple of 32, came 33"),
        ("sft", "learning_rate", "--set expects key=value"),
        ("sft", "model.name=x", "cannot set 'model.name': 'model' is str, not a mapping"),
    ],
)
def test_a_value_out_of_range_ends_with_2_and_says_what_was_expected(run, settings, command, override, message):
    code, said = failure(run(command, settings[command], "--set", override))
    assert code == 2
    assert message in said


# --- Input data


@pytest.mark.parametrize("command", ["sft", "grpo", "evaluate"])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no-such-base", "expected a run id, run_id@step, a model folder or a shipped base"),
        ("0123456789abcdef", "is --home the right workspace?"),
        ("0123456789abcdef@3", "is --home the right workspace?"),
        (".", "expected a Hugging Face folder with *.safetensors and tokenizer.json"),
    ],
)
def test_a_missing_model_ends_with_3_and_what_to_do(run, settings, tmp_path, monkeypatch, command, model, message):
    monkeypatch.chdir(tmp_path)
    code, said = failure(run(command, settings[command], "--set", f"model='{model}'"))
    assert code == 3
    assert message in said


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        ("sft", "dataset=gone", "expected a dataset folder with manifest.json; build it with `curate build`"),
        ("sft", "dataset={data}", "it holds the variants few, some: name one"),
        ("grpo", "dataset=gone.jsonl", "gone.jsonl: no such file"),
        ("grpo", "dataset={data}", "rl.parquet: no such file"),
        ("evaluate", "problems.set=gone.jsonl", "or a file of problems; there is no such file"),
    ],
)
def test_missing_data_end_with_3_and_what_to_do(run, settings, data, command, override, message):
    code, said = failure(run(command, settings[command], "--set", override.format(data=data)))
    assert code == 3
    assert message in said


def test_a_heldout_loss_without_its_set_ends_with_3_and_what_to_do(run, settings, tmp_path):
    recipe = {key: value for key, value in RECIPE.items() if key != "heldout"}
    build(check_config(recipe, Recipe, origin="test"), tmp_path / "bare")
    wanted = {**settings["evaluate"], "heldout": ["shared"], "dataset": str(tmp_path / "bare/some")}
    code, message = failure(run("evaluate", wanted))
    assert code == 3
    assert "the shared held-out set is empty; set heldout.examples in the recipe" in message


@pytest.mark.parametrize(("command", "place"), [("grpo", "dataset"), ("evaluate", "problems.set")])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", None),
        ('{"question": "a 1 ? a", "answer": "1"}\n\n{"question": "a\n', "problems.jsonl, line 3: not valid JSON"),
        ('{"question": "a 1 ? a", "answer": "1"}\n[1]\n', "problems.jsonl, line 2: expected a JSON object, came list"),
        ('{"question": "a 1 ? a"}\n', "problems.jsonl, line 1: not a row of the expected shape (KeyError: 'answer')"),
        ('{"question": "a 1 ? a", "answer": "1"}\n\xff', "problems.jsonl, line 2: not UTF-8 text"),
        ('{"question": "What is 1 + 1?", "answer": "2"}\n' * 2, "the model's tokenizer cannot read"),
    ],
)
def test_problems_that_are_none_end_with_3_and_their_line(run, settings, tmp_path, command, place, content, message):
    file = tmp_path / "problems.jsonl"
    file.write_bytes(content.encode("latin-1"))
    code, said = failure(run(command, settings[command], "--set", f"{place}={file}"))
    assert code == 3
    empty = {"grpo": "the problem set is empty; there is nothing to train on", "evaluate": "2 problems were asked for, it has 0"}
    assert (message or empty[command]) in said


def test_an_empty_rl_set_ends_with_3(run, settings, tmp_path):
    recipe = {key: value for key, value in RECIPE.items() if key != "rl_prompts"}
    build(check_config(recipe, Recipe, origin="test"), tmp_path / "bare")
    code, message = failure(run("grpo", {**settings["grpo"], "dataset": str(tmp_path / "bare/some")}))
    assert code == 3
    assert "the problem set is empty" in message


def test_divergence_ends_with_4_and_a_run_marked_failed(run, settings, tmp_path):
    code, message = failure(run("sft", settings["sft"], "--set", "learning_rate=1e30"))
    assert code == 4
    assert "diverged" in message
    [folder] = [RunFolder(path.parent) for path in tmp_path.glob("home/runs/*/metrics.jsonl")]
    assert folder.run.status == "failed"


def test_a_base_output_that_exists_ends_with_5_untouched(run, settings, tmp_path):
    output = tmp_path / "precious"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    for_weeks = {**settings["base"], "tokens": 10**12}  # it says so before it trains, not after
    code, message = failure(run("base", for_weeks, "--set", f"output={output}"))
    assert code == 5
    assert "precious exists already" in message
    assert [path.read_text() for path in output.iterdir()] == ["years of work"]


def test_a_base_is_written_whole_and_can_be_trained_on(run, settings, tmp_path):
    code, out, _ = run("base", {**settings["base"], "output": str(tmp_path / "made")}, "--json")
    document = json.loads(out)
    assert (code, document["stage"], document["status"]) == (0, "base", "done")
    kept = Path(document["folder"]) / "checkpoints" / str(document["step"])
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (kept / file).read_bytes() == (tmp_path / "made" / file).read_bytes()
    code, out, _ = run("sft", {**settings["sft"], "model": str(tmp_path / "made")}, "--json")
    assert code == 0
    assert RunFolder(Path(json.loads(out)["folder"])).run.parent["run_id"] == document["run_id"]


# --- The command line itself


def only_document(out: str) -> dict:
    """stdout is one JSON object on one line."""
    assert out.endswith("\n")
    assert out.count("\n") == 1
    document = json.loads(out)
    assert document["schema_version"] == 1
    return document


@pytest.mark.parametrize("command", ["sft", "grpo", "evaluate", "study"])
def test_json_on_success_is_one_document_and_stderr_is_silent(run, settings, command):
    options = ["--dry-run"] if command == "study" else []
    code, out, err = run(command, settings[command], "--json", *options)
    document = only_document(out)
    assert (code, document["ok"], err) == (0, True, "")
    if command != "study":
        record = RunFolder(Path(document["folder"]))
        assert (document["run_id"], document["status"]) == (record.run.run_id, record.run.status) == (record.path.name, "done")
        assert document["step"] == record.run.steps


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["sft", "gone.yaml"], 3),
        (["sft", {"model": "x"}], 2),
        (["grpo", {"model": "no-such-base", "dataset": "gone"}], 3),
        (["sft"], 2),
        (["sft", "gone.yaml", "--no-such-option"], 2),
        (["study", "gone.yaml", "--workers", "0"], 2),
        (["no-such-command"], 2),
    ],
    ids=str,
)
def test_json_on_failure_is_one_document_too(run, arguments, code):
    ended, out, _ = run(*arguments, "--json")
    document = only_document(out)
    assert (ended, document["ok"], document["code"]) == (code, False, code)
    assert len(document["message"]) > 10


@pytest.mark.parametrize("arguments", [["sft"], ["sft", "gone.yaml", "--no-such-option"], ["no-such-command"]], ids=str)
def test_wrong_usage_ends_with_2(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err


def test_home_is_the_option_else_the_file_else_the_environment(run, settings, tmp_path):
    for place, options, config in (
        ("option", ["--home", tmp_path / "option"], {"home": str(tmp_path / "file")}),
        ("file", [], {"home": str(tmp_path / "file")}),
        ("home", [], {}),
    ):
        assert run("sft", {**settings["sft"], "max_steps": 1, **config}, *options)[0] == 0
        assert list((tmp_path / place).glob("runs/*/metrics.jsonl"))
    assert len(list(tmp_path.glob("*/runs/*/metrics.jsonl"))) == 3


def test_an_override_beats_the_file_and_is_recorded(run, settings):
    _, out, _ = run("sft", {**settings["sft"], "learning_rate": 0.1, "max_steps": 1}, "--set", "learning_rate=0.0005", "--json")
    assert RunFolder(Path(json.loads(out)["folder"])).run.config["learning_rate"] == 0.0005


@pytest.mark.parametrize("arguments", [(), ("sft",), ("study",)], ids=str)
def test_help_is_quick_and_names_the_commands(arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run([sys.executable, "-m", "train.cli", *arguments, "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0  # of the processor: others may be busy
    for word in COMMANDS if not arguments else ("--set", "--home", "--json"):
        assert word in shown.stdout


# --- Full disks


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own in memory."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        works = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        works = False
    if not works:
        pytest.skip("a full disk needs the right to mount a small tmpfs (root); the file-size limit below needs none")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, leave: int) -> None:
    """Write a file that leaves so many bytes free."""
    (folder / "filler").unlink(missing_ok=True)
    with (folder / "filler").open("wb") as handle:
        handle.write(b"0" * (shutil.disk_usage(folder).free - leave))


def check_nothing_half_written(home: Path) -> None:
    assert not list(home.rglob("*.partial"))
    for file in home.rglob("*.json"):
        json.loads(file.read_text())
    for file in home.rglob("*.parquet"):
        pq.read_table(file)


FULL = {
    "sft state": ("sft", {"save_seconds": 0}),
    "sft checkpoint": ("sft", {}),
    "grpo state": ("grpo", {"save_seconds": 0}),
    "grpo checkpoint": ("grpo", {}),
    "base model": ("base", {}),
}


@pytest.mark.parametrize(("command", "extra"), FULL.values(), ids=FULL)
def test_a_full_disk_ends_with_1_and_the_same_command_goes_on_once_there_is_room(run, settings, tmp_path, command, extra):
    home = tmp_path / "home"
    with mounted(home, "6m"):
        fill(home, leave=40_000)
        code, message = failure(run(command, {**settings[command], **extra}))
        assert code == 1
        assert message.startswith("the disk is full at ")
        assert message.count("\n") == 1
        assert "free some room and run the same command again" in message
        (home / "filler").unlink()
        check_nothing_half_written(home)
        statuses = {RunFolder(path.parent).run.status for path in home.glob("runs/*/metrics.jsonl")}
        assert statuses <= {"running"}
        code, out, _ = run(command, {**settings[command], **extra}, "--json")
        document = only_document(out)
        assert (code, document["status"]) == (0, "done")
        record = RunFolder(Path(document["folder"]))
        assert (record.checkpoint(document["step"]) / "model.safetensors").exists()
        if command != "base":
            assert len(record.metric("learning_rate")) == record.run.steps


def test_an_evaluation_on_a_disk_that_fills_anywhere_leaves_nothing_half_written(run, settings, data, tmp_path):
    """Page by page: wherever the disk is full, the command says so, and the next one starts from whole files."""
    home = tmp_path / "home"
    wanted = {**settings["evaluate"], "heldout": ["shared", "own"], "dataset": str(data / "some"), "purpose": "signals"}
    with mounted(home, "1m"):
        codes = []
        for pages in range(8):
            fill(home, leave=4096 * pages)
            code, out, _ = run("evaluate", wanted, "--json")
            codes.append(code)
            assert only_document(out)["ok"] == (code == 0)
            if code:
                assert "the disk is full" in only_document(out)["message"]
            (home / "filler").unlink()
            check_nothing_half_written(home)
            for file in home.glob("runs/*/evaluations"):
                shutil.rmtree(file)
        assert codes[0] == 1
        assert codes[-1] == 0
        assert 1 in codes[2:]
        assert run("evaluate", wanted)[0] == 0
        [folder] = home.glob("runs/*")
        kinds = {json.loads(line)["kind"] for line in (folder / "losses.jsonl").read_text().splitlines()}
        assert kinds == {"shared", "own"}


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("extra", [{"save_seconds": 0}, {}], ids=["state", "checkpoint"])
def test_a_file_that_may_not_grow_ends_with_1_and_the_same_command_goes_on(run, settings, tmp_path, extra):
    """What a quota or a limit on file sizes does; unlike a full disk it can be had without being root."""
    with files_of_at_most(100_000):
        code, message = failure(run("sft", {**settings["sft"], **extra}))
    assert code == 1
    assert message.startswith("File too large")
    check_nothing_half_written(tmp_path / "home")
    code, out, _ = run("sft", {**settings["sft"], **extra}, "--json")
    assert (code, only_document(out)["status"]) == (0, "done")


# --- Signals and other people's folders


def command_with_output(arguments: list[str], out: str) -> None:
    """The `train` command in a process of its own, its stdout in a file."""
    with Path(out).open("w") as handle:
        os.dup2(handle.fileno(), 1)
    sys.argv = ["train", *arguments]
    main()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["terminated", "interrupted"])
def test_a_signal_ends_with_its_code_and_the_run_goes_on_later(run, settings, tmp_path, number):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.sft", "train.grpo", "train.evaluate"])
    config = written(tmp_path / "long.yaml", {**settings["sft"], "epochs": 30, "home": str(tmp_path / "home")})
    arguments = ["sft", str(config), "--json", "--set", "save_seconds=0"]
    process = context.Process(target=command_with_output, args=(arguments, str(tmp_path / "out")))
    process.start()
    limit = time.monotonic() + 120
    while not list(tmp_path.glob("home/runs/*/metrics.jsonl")):
        assert process.is_alive()
        assert time.monotonic() < limit
        time.sleep(0.005)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 128 + number
    document = only_document((tmp_path / "out").read_text())
    assert (document["ok"], document["code"]) == (False, 128 + number)
    check_nothing_half_written(tmp_path / "home")
    [folder] = [RunFolder(path.parent) for path in tmp_path.glob("home/runs/*/metrics.jsonl")]
    assert folder.run.status == "running"
    assert run(*arguments)[0] == 0
    assert folder.run.status == "done"
    assert len(folder.metric("loss")) == folder.run.steps


class Struck(io.BytesIO):
    """A file in the middle of which SIGTERM arrives."""

    def write(self, data: Any) -> int:
        if self.tell() > 1000:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().write(data)


def test_a_signal_that_a_librarys_clean_up_hides_still_ends_with_its_code(monkeypatch, capsys):
    """torch.save, ended by a signal, raises a RuntimeError of its own about the file that it could not close."""
    monkeypatch.setattr(sys, "argv", ["train", "--json"])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            run_app(lambda standalone_mode: torch.save(torch.zeros(1000), Struck()))
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert end.value.code == 143
    assert only_document(capsys.readouterr().out)["message"] == "terminated"


@pytest.mark.slow
def test_a_train_py_of_the_users_own_does_not_get_in_the_way(settings, tmp_path):
    """The installed command, in a folder whose train.py would be imported in place of the package."""
    command = Path(sys.executable).parent / "train"
    if not command.exists():
        pytest.skip(f"the console script is not installed beside {sys.executable}")
    (tmp_path / "train.py").write_text("raise SystemExit('the wrong train was imported')\n")
    file = written(tmp_path / "study.yaml", {**settings["study"], "grid": {"variant": ["few"]}, "stages": ["build", "sft"]})
    line = [str(command), "study", str(file), "--home", "home", "--json"]
    ended = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert only_document(ended.stdout)["failed"] == 0
    assert [RunFolder(path.parent).run.status for path in tmp_path.glob("home/runs/*/metrics.jsonl")] == ["done"]
