"""The `curate` command line: its exit codes, messages and JSON, and that a failure leaves nothing half-written behind."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jsonschema
import polars as pl
import pytest
import yaml

from curate.check import check_dataset
from curate.cli import app
from curate.commands import run_app
from curate.errors import CheckFailed, InputError

CURATE = str(Path(sys.executable).with_name("curate"))
SMALL = """
name: small
sources: [{task: arithmetic, size: 60, traces: 2}]
heldout: {examples: 10}
rl_prompts: {examples: 12}
variants:
  - {name: plain, budget: {examples: 20}}
  - {name: bridge, budget: {examples: 20}, inject: {reflection: 0.3, verification: 0.3}}
"""
LARGE = "name: large\nsources: [{task: arithmetic, size: 20000}]\n"
TURNS = '{"role": "user", "content": "What is 1 + 2?"}, {"role": "assistant", "content": "#### 3"}'


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def curate(monkeypatch, capsys, tmp_path) -> Iterator[Callable[..., Result]]:
    """Runs the command in this process, in an empty folder, as its console script would."""
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["curate", *arguments])
        with pytest.raises(SystemExit) as end:
            run_app(app)
        captured = capsys.readouterr()
        return Result(end.value.code or 0, captured.out, captured.err)

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """What the console script makes of the small recipe: two variants."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "recipe.yaml").write_text(SMALL)
    subprocess.run([CURATE, "build", "recipe.yaml", "-o", "out"], cwd=folder, check=True, capture_output=True)
    return folder / "out"


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file below a folder, hidden ones too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith((".partial", ".old"))]


def one_document(text: str) -> dict:
    """The only JSON document in a text; anything beside it is an error of the JSON reader."""
    document = json.loads(text)
    assert document["schema_version"] == 1
    return document


def recipe_of(rows: str) -> str:
    """Writes rows.jsonl into the current folder, and a recipe that reads it."""
    Path("rows.jsonl").write_text(rows, encoding="utf-8")
    Path("recipe.yaml").write_text("name: x\nsources: [{path: rows.jsonl}]\n")
    return "recipe.yaml"


def test_help_is_quick_and_names_every_command():
    """In processor time, the best of three, so that other work on the machine does not count."""
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        shown = subprocess.run([CURATE, "--help"], check=True, capture_output=True, text=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < 1.0
    assert all(command in shown for command in ("build", "check", "stats", "sources", "schema"))


def test_a_missing_recipe_is_an_input_error_and_one_json_document(tmp_path):
    end = subprocess.run([CURATE, "build", "none.yaml", "--json"], cwd=tmp_path, capture_output=True, text=True)
    document = one_document(end.stdout)
    assert (end.returncode, document["code"], document["ok"]) == (3, 3, False)
    assert document["message"] == "none.yaml: no such file"
    assert end.stderr == "error: none.yaml: no such file\n"


def test_malformed_yaml_is_refused_with_its_line(curate):
    Path("recipe.yaml").write_text("name: x\nsources:\n  - {task: arithmetic, size: 3}\n  -{task: arithmetic\n")
    end = curate("build", "recipe.yaml", "-o", "out")
    assert end.code == 2
    assert "recipe.yaml, line 4: not valid YAML" in end.err


@pytest.mark.parametrize(
    ("setting", "suggestion"),
    [
        ("varaints: []", "varaints: unknown key; did you mean 'variants'?"),
        ("filters: {max_token: 9}", "filters.max_token: unknown key; did you mean 'max_tokens'?"),
        (
            "variants: [{name: v, inject: {reflexion: 0.1}}]",
            "variants.0.inject.reflexion: unknown key; did you mean 'reflection'?",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(curate, setting, suggestion):
    Path("recipe.yaml").write_text(f"name: x\nsources: [{{task: arithmetic, size: 3}}]\n{setting}\n")
    end = curate("build", "recipe.yaml", "-o", "out")
    assert end.code == 2
    assert suggestion in end.err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("seed=.nan", "seed"),
        ("seed=nan", "seed"),
        ("sources=[{task: arithmetic, size: .inf}]", "size"),
        ("sources=[{task: arithmetic, size: 1e400}]", "size"),
        ("sources=[{task: arithmetic, size: 1.5}]", "size"),
        ("sources=[{task: arithmetic, size: '2.5'}]", "size"),
        ("sources=[{task: arithmetic, size: -3}]", "size"),
        ("sources=[{task: arithmetic}]", "size"),
        ("sources=[{task: arithmetic, size: 3, path: x.jsonl}]", "path or a task"),
        ("sources=[{task: arithmetic, size: 3, styles: {short: .nan}}]", "styles"),
        ("sources=[{task: arithmetic, size: 3, styles: {short: .inf}}]", "styles"),
        ("sources=[{task: arithmetic, size: 3, styles: {short: 1, long: -1}}]", "styles"),
        ("sources=[{task: arithmetic, size: 3, traces: 4}]", "traces"),
        ("sources=[{task: arithmetic, size: 3, operations: [6, 2]}]", "operations"),
        ("sources=[]", "sources"),
        ("variants=[{name: v, inject: {reflection: .nan}}]", "reflection"),
        ("variants=[{name: v, inject: {analysis: [0.1, .inf]}}]", "analysis"),
        ("variants=[{name: v, inject: {verification: 1.01}}]", "verification"),
        ("variants=[{name: v, budget: {tokens: 9, examples: 9}}]", "tokens or examples"),
        ("filters={min_tokens: 100, max_tokens: 10}", "min_tokens is above max_tokens"),
        ("variants=[{name: v}, {name: v}]", "'v' appears twice"),
        ("variants=[{name: ../escape}]", "name"),
        ("no equals sign", "key=value"),
    ],
)
def test_settings_out_of_range_are_usage_errors_that_name_the_setting(curate, override, names):
    Path("recipe.yaml").write_text("name: x\nsources: [{task: arithmetic, size: 3}]\n")
    end = curate("build", "recipe.yaml", "-o", "out", "--set", override)
    assert end.code == 2
    assert names in end.err
    assert "Traceback" not in end.err
    assert sorted(path.name for path in Path().iterdir()) == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [', "not valid JSON"),
        ("[1, 2]", "expected a JSON object, came list"),
        ('{"messages": NaN}', "field 'messages': expected a user turn, then an assistant turn, came nan"),
        ('{"question": "q", "answer": "#### 1"}', "field 'messages'"),
        (f'{{"messages": [{{"role": "system", "content": "s"}}, {TURNS}]}}', "came ['system', 'user', 'assistant']"),
        (f'{{"messages": ["a word", {TURNS}]}}', "came ['a word', 'user', 'assistant']"),
        ('{"messages": [{"role": "user", "content": NaN}, {"role": "assistant", "content": "1"}]}', "expected text, came nan"),
        ('{"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "1"}]}', "expected text, came ' '"),
        (f'{{"messages": [{TURNS}], "ground_truth": NaN}}', "field 'ground_truth': expected text or a finite number, came nan"),
        (f'{{"messages": [{TURNS}], "ground_truth": [3]}}', "field 'ground_truth'"),
        ('{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "hm"}]}', "no final answer"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "#### 1"}]}', "utf-8"),
    ],
)
def test_a_row_of_another_shape_is_an_input_error_with_its_line_number(curate, line, message):
    end = curate("build", recipe_of(f'{{"messages": [{TURNS}]}}\n\n{line}\n'), "-o", "out")
    assert end.code == 3
    assert "rows.jsonl, line 3: " in end.err and message in end.err
    assert "Traceback" not in end.err
    assert not Path("out").exists() and not left_over(Path())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "rows.jsonl: the file is empty; expected one JSON object a line"),
        ("\n  \n", "rows.jsonl: the file is empty"),
        ('{"prompt": "q", "answer": "1"}\n', "line 1: field 'completion': missing"),
        ('{"text": "q"}\n', "and answer (gsm8k); came ['text']"),
        ('{"question": "q", "answer": "no mark"}\n', "line 1: field 'answer': expected the reference answer after ####"),
        (f'{{"messages": [{TURNS}], "ground_truth": 4}}\n', "no example is left of 1; dropped were verify.incorrect 1"),
    ],
)
def test_a_source_that_holds_nothing_usable_is_an_input_error_that_says_what_is_there(curate, rows, message):
    end = curate("build", recipe_of(rows), "-o", "out")
    assert end.code == 3
    assert message in end.err
    assert not Path("out").exists()


def test_a_missing_source_and_one_that_is_not_text_are_input_errors(curate):
    recipe = recipe_of("")
    Path("rows.jsonl").write_bytes(b'{"question": "\xff"}\n')
    assert "rows.jsonl, line 1: not UTF-8 text" in curate("build", recipe).err
    Path("rows.jsonl").unlink()
    end = curate("build", recipe)
    assert end.code == 3
    assert "rows.jsonl: no such file" in end.err


def test_behaviours_cannot_be_injected_into_foreign_traces(curate):
    recipe = recipe_of(f'{{"messages": [{TURNS}]}}\n')
    end = curate("build", recipe, "--set", "variants=[{name: v, inject: {analysis: [1.0]}}]")
    assert end.code == 3
    assert "no example could be injected (kept_without_graph 1)" in end.err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "variants=[{name: big, budget: {examples: 500}}]",
            "variant big: a budget of 500 examples cannot be met: 38 are reachable",
        ),
        ("variants=[{name: big, budget: {tokens: 1M}}]", "variant big: a budget of 1000000 tokens cannot be met within 1 %"),
        ("heldout.examples=60", "heldout: 60 problems were asked for, 60 are there in all"),
        ("rl_prompts.examples=51", "rl_prompts: 51 problems were asked for, 50 are reachable"),
    ],
)
def test_what_the_data_cannot_meet_is_a_failed_check_and_nothing_is_written(curate, override, message):
    Path("recipe.yaml").write_text(SMALL)
    end = curate("build", "recipe.yaml", "-o", "out", "--set", override)
    assert end.code == 4
    assert message in end.err
    assert sorted(path.name for path in Path().iterdir()) == ["recipe.yaml"]


def test_an_output_that_exists_is_left_alone_without_force(curate, dataset):
    shutil.copytree(dataset, "out")
    Path("out/notes.txt").write_text("mine")
    before = snapshot(Path("out"))
    Path("recipe.yaml").write_text(SMALL)
    end = curate("build", "recipe.yaml", "-o", "out", "--seed", "1")
    assert end.code == 5
    assert "out exists already" in end.err and "--force" in end.err
    assert snapshot(Path("out")) == before


def test_force_replaces_the_whole_output(curate, dataset):
    shutil.copytree(dataset, "out")
    Path("out/notes.txt").write_text("of an older build")
    Path("recipe.yaml").write_text(SMALL)
    end = curate("build", "recipe.yaml", "-o", "out", "--seed", "1", "--force")
    assert end.code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["bridge", "plain"]
    assert json.loads(Path("out/plain/manifest.json").read_text())["seed"] == 1
    assert Path("out/plain/train.jsonl").read_bytes() != (dataset / "plain/train.jsonl").read_bytes()
    assert not left_over(Path())


def test_a_failed_build_with_force_keeps_the_old_output(curate, dataset):
    shutil.copytree(dataset, "out")
    before = snapshot(Path("out"))
    Path("recipe.yaml").write_text(SMALL)
    assert curate("build", "recipe.yaml", "-o", "out", "--force", "--set", "heldout.examples=999").code == 4
    assert snapshot(Path("out")) == before
    assert not left_over(Path())


def test_the_output_goes_to_the_workspace_and_a_flag_wins_over_set_over_the_file(curate, monkeypatch):
    Path("recipe.yaml").write_text(f"seed: 1\n{SMALL}")
    monkeypatch.setenv("FORERUN_HOME", "from-environment")
    assert curate("build", "recipe.yaml", "--set", "seed=2").code == 0
    assert curate("build", "recipe.yaml", "--set", "seed=2", "--seed", "3", "--home", "from-flag").code == 0
    seeds = [json.loads(path.read_text())["seed"] for path in sorted(Path().glob("from-*/datasets/small/plain/manifest.json"))]
    assert seeds == [2, 3]


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


@pytest.mark.parametrize("kilobytes", [16, 120])
def test_a_full_disk_is_one_clear_message_and_leaves_the_disk_as_it_was(tmp_path, kilobytes):
    """With 16 kB the first file does not fit, with 120 kB a later one."""
    (tmp_path / "recipe.yaml").write_text("name: x\nsources: [{task: arithmetic, size: 200}]\n")
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        (disk / "old").mkdir()
        (disk / "old/kept.txt").write_text("kept")
        (disk / "old/manifest.json").write_text("{}")
        before = snapshot(disk)
        command = [CURATE, "build", "recipe.yaml", "-o", "disk/old", "--force", "--json"]
        end = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert end.returncode == 1
        message = one_document(end.stdout)["message"]
        assert "the disk is full at disk/" in message and "free some room" in message
        assert end.stderr == f"error: {message}\n"
        assert snapshot(disk) == before
        assert [path.name for path in disk.iterdir()] == ["old"]


def test_a_limit_on_file_sizes_is_one_message_and_nothing_is_left(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x\nsources: [{task: arithmetic, size: 200}]\n")
    end = subprocess.run(
        [CURATE, "build", "recipe.yaml", "-o", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert end.returncode == 1
    assert end.stderr.startswith("error: File too large at ") and end.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["sources"], ["sources", "--json"], ["schema"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_stdout_is_one_message(arguments, unbuffered):
    with Path("/dev/full").open("w") as full:
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        end = subprocess.run([CURATE, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert end.returncode == 1
    assert end.stderr.startswith("error: the disk is full") and end.stderr.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["sources", "schema"])
def test_a_reader_that_stops_early_is_no_error_message(command, unbuffered):
    """The first prints less than a buffer, the second more."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    pipe = subprocess.PIPE
    with subprocess.Popen([CURATE, command], stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_build_with_its_code_and_the_next_one_goes_on(tmp_path, number, code):
    (tmp_path / "recipe.yaml").write_text(LARGE)
    command = [CURATE, "build", "recipe.yaml", "-o", "out", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not left_over(tmp_path) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert left_over(tmp_path)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    document = one_document(out)
    assert (process.returncode, document["code"], document["ok"]) == (code, code, False)
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.work", "recipe.yaml"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "recipe.yaml"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["build", "recipe.yaml", "-o", "made"], 0),
        (["check", "out/plain"], 0),
        (["stats", "out/plain"], 0),
        (["sources"], 0),
        (["build"], 2),
        (["build", "recipe.yaml", "--bogus"], 2),
        (["bogus"], 2),
        (["check", "out/plain", "--max-length", "many"], 2),
        (["check", "out/plain", "--max-length", "0"], 2),
        (["check", "none"], 3),
        (["stats", "none"], 3),
        (["check", "out/plain", "--max-length", "20"], 4),
        (["build", "recipe.yaml", "-o", "out"], 5),
    ],
)
def test_under_json_stdout_is_exactly_one_document_on_success_and_failure(curate, dataset, arguments, code):
    shutil.copytree(dataset, "out")
    Path("recipe.yaml").write_text(SMALL)
    end = curate(*arguments, "--json")
    document = one_document(end.out)
    assert (end.code, document["ok"]) == (code, code == 0)
    if code:
        assert document["code"] == code
        assert end.err == f"error: {document['message']}\n"
    else:
        assert end.err == ""


def test_wrong_usage_without_json_leaves_stdout_empty(curate):
    end = curate("build", "--bogus")
    assert (end.code, end.out) == (2, "")
    assert "No such option: --bogus" in end.err


def test_check_and_stats_count_what_is_there(curate, dataset):
    rows = [json.loads(line) for line in (dataset / "bridge/train.jsonl").read_text().splitlines()]
    counts = {name: len(pl.read_parquet(dataset / f"bridge/{name}.parquet")) for name in ("train", "heldout", "rl", "ledger")}
    checked = one_document(curate("check", str(dataset / "bridge"), "--json").out)
    assert {name: checked[name] for name in ("train", "heldout", "rl")} == {"train": 20, "heldout": 10, "rl": 12}
    shown = one_document(curate("stats", str(dataset / "bridge"), "--json").out)
    assert shown["rows"] == {"read": 120, "copies": 0, **counts} and sum(counts.values()) == 120
    assert shown["tokens"]["train"] == sum(len(row["messages"][1]["content"].split()) for row in rows)
    recorded = [row for row in shown["behaviors_measured"] if row["recorded"]]
    assert recorded and all((row["precision"], row["recall"]) == (1.0, 1.0) for row in recorded)


def test_stats_reads_a_file_of_other_names_by_a_sources_settings(curate, dataset):
    Path("foreign.json").write_text(json.dumps([{"instruction": "What is 1 + 2?", "response": "Let me check: 1 + 2 = 3."}] * 3))
    names = ("--set", "columns.prompt=instruction", "--set", "columns.completion=response")
    shown = one_document(curate("stats", "foreign.json", *names, "--json").out)
    assert shown["rows"] == {"read": 3, "problems": 1} and shown["tokens"] == {"words": 24}
    assert "expected the fields" in curate("stats", "foreign.json").err
    assert "did you mean 'columns'" in curate("stats", "foreign.json", "--set", "column.prompt=x").err
    assert curate("stats", str(dataset / "plain"), *names).code == 2


def test_a_folder_in_place_of_a_manifest_is_an_input_error(curate, dataset):
    end = curate("build", "--from", str(dataset), "-o", "again")
    assert end.code == 3
    assert "expected a JSON file, came a folder" in end.err


@pytest.mark.parametrize("command", ["check", "stats"])
def test_a_folder_that_is_no_dataset_is_an_input_error_that_says_what_to_do(curate, dataset, command):
    missing = curate(command, "none")
    assert missing.code == 3
    assert "none: expected a dataset folder with manifest.json, found none; write one with `curate build`" in missing.err
    above = curate(command, str(dataset))
    assert above.code == 3
    assert "it holds the variants bridge, plain: name one" in above.err


def rewrite(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    change(pl.read_parquet(path)).write_parquet(path)


def set_manifest(folder: Path, **facts) -> None:
    stated = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**stated, **facts}))


DAMAGE: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "a changed digit in train.jsonl": (
        lambda d: (d / "train.jsonl").write_text((d / "train.jsonl").read_text().replace("ans 1", "ans 2", 1)),
        4,
        "train.jsonl is not the file that the manifest describes",
    ),
    "a torn last line": (
        lambda d: os.truncate(d / "train.jsonl", (d / "train.jsonl").stat().st_size - 9),
        3,
        "line 20: not valid",
    ),
    "a NaN in a row": (
        lambda d: (d / "train.jsonl").write_text(
            (d / "train.jsonl").read_text().replace('"operations": ', '"operations": NaN, "x": ', 1)
        ),
        3,
        "train.jsonl, line 1: not a row of the expected shape",
    ),
    "other rows in train.parquet": (
        lambda d: rewrite(d / "train.parquet", lambda t: t.reverse()),
        4,
        "train.parquet and train.jsonl",
    ),
    "the other variant's train_pc.jsonl": (lambda d: shutil.copy(d / "../bridge/train_pc.jsonl", d), 4, "train_pc.jsonl"),
    "a row short of the held-out set": (
        lambda d: rewrite(d / "heldout.parquet", lambda t: t.head(9)),
        4,
        "heldout.parquet is not",
    ),
    "another order of RL problems": (lambda d: rewrite(d / "rl.parquet", lambda t: t.reverse()), 4, "rl.parquet is not"),
    "a row short of the ledger": (lambda d: rewrite(d / "ledger.parquet", lambda t: t.slice(1)), 4, "accounts for the rows"),
    "a missing ledger": (lambda d: (d / "ledger.parquet").unlink(), 3, "ledger.parquet: no such file"),
    "a cut Parquet file": (lambda d: os.truncate(d / "rl.parquet", 100), 3, "rl.parquet: not a readable Parquet file"),
    "held-out rows of another kind": (
        lambda d: shutil.copy(d / "rl.parquet", d / "heldout.parquet"),
        3,
        "heldout.parquet, line 1",
    ),
    "another number of epochs": (lambda d: set_manifest(d, epochs=3), 4, "manifest describes"),
    "an empty manifest": (lambda d: (d / "manifest.json").write_text("{}"), 3, "manifest.json: expected 'content_hash'"),
    "a manifest that is a list": (lambda d: (d / "manifest.json").write_text("[]"), 3, "manifest.json: expected"),
    "a manifest that is not JSON": (
        lambda d: (d / "manifest.json").write_text("{\n1}"),
        3,
        "manifest.json, line 2: not valid JSON",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_check_finds_a_damaged_folder_and_names_the_file(curate, dataset, damage):
    shutil.copytree(dataset, "out")
    harm, code, message = DAMAGE[damage]
    harm(Path("out/plain"))
    end = curate("check", "out/plain")
    assert end.code == code
    assert message in end.err
    assert "Traceback" not in end.err
    assert curate("check", "out/bridge").code == 0


def test_no_changed_byte_of_train_jsonl_gets_past_the_check(dataset, tmp_path):
    """A sample of places; white space between JSON tokens is left out, since it changes nothing."""
    folder = tmp_path / "copy"
    shutil.copytree(dataset / "plain", folder)
    original = (folder / "train.jsonl").read_bytes()
    rng = random.Random(0)
    places = [place for place in range(len(original)) if original[place : place + 1].strip()]
    for place in rng.sample(places, 80):
        other = rng.choice([byte for byte in b'x7" \xff{' if byte != original[place]])
        (folder / "train.jsonl").write_bytes(original[:place] + bytes([other]) + original[place + 1 :])
        with pytest.raises((CheckFailed, InputError)):
            check_dataset(folder)
    (folder / "train.jsonl").write_bytes(original)
    assert check_dataset(folder)["train"] == 20


def test_check_finds_a_problem_that_stands_in_two_sets(curate, dataset):
    """The whole folder is made anew from rows with a leak, so that every hash fits and only the leak is wrong."""
    from curate.examples import example_row, read_examples
    from curate.files import content_hash

    shutil.copytree(dataset / "plain", "out")
    train = pl.read_parquet("out/train.parquet")
    rewrite(Path("out/heldout.parquet"), lambda table: pl.concat([table.head(9), train.head(1)]))
    leaked = [example_row(example) for example in read_examples(Path("out/heldout.parquet"))]
    set_manifest(Path("out"), heldout_hash=content_hash(leaked))
    end = curate("check", "out")
    assert end.code == 4
    assert "1 problems stand in both train and heldout" in end.err


def test_the_printed_schema_accepts_the_shipped_recipe_and_refuses_an_unknown_key(curate):
    schema = json.loads(curate("schema").out)
    recipe = yaml.safe_load((Path(__file__).parent.parent / "studies/lab/recipe.yaml").read_text())
    jsonschema.validate(recipe, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**recipe, "varaints": []}, schema)
