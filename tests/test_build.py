"""The pipeline as a whole: every row is accounted for, killed builds go on, manifests replay, repeats and benchmarks go."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.build import build
from curate.config import check_config
from curate.errors import CheckFailed, InputError, UsageError
from curate.manifest import check_replayed, recipe_of
from curate.recipe import Recipe, load_recipe
from curate.work import work_beside

NAMES = ["Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gia", "Hugo"]
THINGS = ["apples", "books", "coins", "drums", "eggs", "flags", "gems", "hats"]
VERBS = ["buys", "finds", "sells", "paints", "counts", "washes", "wraps", "sends"]


def rows(count: int, seed: int = 0) -> list[dict]:
    """GSM8K-shaped problems whose wording differs, each with its answer."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        name, other, thing, verb = rng.choice(NAMES), rng.choice(NAMES), rng.choice(THINGS), rng.choice(VERBS)
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        extra = " ".join(rng.choices(NAMES + THINGS + VERBS, k=8))
        question = (
            f"Case {number}: {name} {verb} {a} {thing} while {other} {verb} {b} {thing} near {extra}. How many {thing} in all?"
        )
        steps = " ".join(f"Then {rng.choice(VERBS)}." for _ in range(rng.randint(0, 12)))
        made.append({"question": question, "answer": f"{steps} {a} + {b} = <<{a}+{b}={a + b}>>{a + b}\n#### {a + b}"})
    return made


def written(path: Path, content: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def recipe(folder: Path, **parts) -> Recipe:
    data = {"name": "r", "sources": [{"path": str(folder / "rows.jsonl")}], **parts}
    return check_config(data, Recipe, origin="test")


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


MUTATIONS = {
    "repeat": lambda row: row,
    "case": lambda row: {**row, "question": row["question"].upper()},
    "wrong": lambda row: {**row, "answer": row["answer"].replace("####", "so 1\n####") + "1"},
    "empty": lambda row: {**row, "answer": "#### 5"},
    "reworded": lambda row: {**row, "question": row["question"].replace("How many", "How many of the")},
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    st.integers(30, 60),
    st.lists(st.tuples(st.integers(0, 29), st.sampled_from(sorted(MUTATIONS))), max_size=20),
    st.sampled_from(["short", "varying", "short+long", "uniform"]),
    st.booleans(),
    st.integers(0, 5),
)
def test_every_row_read_is_in_one_place(tmp_path_factory, count, mutations, mix, near, seed):
    folder = tmp_path_factory.mktemp("rows")
    clean = rows(count)
    written(folder / "rows.jsonl", clean + [MUTATIONS[kind](clean[place]) for place, kind in mutations])
    parts = {
        "seed": seed,
        "dedup": {"near": 0.8} if near else {},
        "filters": {"min_tokens": 3, "max_tokens": 30},
        "heldout": {"examples": 4},
        "rl_prompts": {"examples": 4},
        "variants": [{"name": "a", "select": {"length": mix}, "budget": {"examples": 5}}, {"name": "b"}],
    }
    build(recipe(folder, **parts), folder / "out")
    for name in "ab":
        made = folder / "out" / name
        counts = {part: pl.read_parquet(made / f"{part}.parquet").height for part in ("train", "heldout", "rl", "ledger")}
        assert sum(counts.values()) == count + len(mutations) == manifest(made)["rows"]["read"]
        ids = [*pl.read_parquet(made / "train.parquet")["id"], *pl.read_parquet(made / "heldout.parquet")["id"]]
        gone = pl.read_parquet(made / "ledger.parquet")
        assert not set(ids) & set(gone.filter(pl.col("reason") != "exact_duplicate")["id"])
        prompts = [
            set(pl.read_parquet(made / f"{part}.parquet")["messages"].list.first().struct["content"])
            for part in ("train", "heldout")
        ]
        prompts.append(set(pl.read_parquet(made / "rl.parquet")["prompt"].list.first().struct["content"]))
        assert sum(map(len, prompts)) == len(set.union(*prompts))


SLOW = """
import os, signal, sys
from pathlib import Path
import curate.work, curate.build
from curate.recipe import load_recipe
step = sys.argv[3]
def kill(name):
    if name == step:
        os.kill(os.getpid(), signal.SIGKILL)
import contextlib, curate.files
real = curate.files.os.replace
def replace(source, target):
    real(source, target)
    kill(Path(target).name)
curate.files.os.replace = replace
curate.build.build(load_recipe(Path(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.fixture
def big(tmp_path) -> Path:
    written(tmp_path / "rows.jsonl", rows(80) + rows(5))
    written(tmp_path / "benchmark.jsonl", rows(80)[7:9])
    text = {
        "name": "big",
        "sources": [{"path": "rows.jsonl"}],
        "dedup": {"near": 0.8},
        "decontaminate": {"against": ["benchmark.jsonl"]},
        "heldout": {"examples": 5},
        "rl_prompts": {"examples": 5},
        "variants": [{"name": "one", "budget": {"examples": 30}}, {"name": "two", "select": {"length": "long"}}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(text))
    return tmp_path


@pytest.mark.parametrize("step", ["read-pool-0", "verify.parquet", "decontaminate.parquet", "one", "two"])
def test_a_build_that_is_killed_goes_on_and_ends_with_the_same_bytes(big, step):
    build(load_recipe(big / "recipe.yaml"), big / "whole")
    killed = subprocess.run([sys.executable, "-c", SLOW, big / "recipe.yaml", big / "out", step], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (big / "out").exists()
    (done,) = big.glob(f".out.work/*/**/{step}")
    made = done.stat().st_ino, done.stat().st_mtime_ns
    seen = []
    replace = os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curate.files.os.replace", lambda source, target: (seen.append(Path(target).name), replace(source, target)))
        build(load_recipe(big / "recipe.yaml"), big / "out")
    assert step not in seen, "a finished step was made again"
    assert "out" in seen
    assert made is not None
    assert tree(big / "out") == tree(big / "whole")
    assert not list(big.glob(".*"))


def test_steps_of_another_recipe_are_not_taken_over(big):
    subprocess.run([sys.executable, "-c", SLOW, big / "recipe.yaml", big / "out", "verify.parquet"], check=False)
    other = load_recipe(big / "recipe.yaml", ["seed=5"])
    build(other, big / "out")
    build(other, big / "clean")
    assert tree(big / "out") == tree(big / "clean")


def test_two_builds_of_one_output_do_not_meet(big):
    with work_beside(big / "out", "one"), pytest.raises(UsageError, match="another build is writing"):
        build(load_recipe(big / "recipe.yaml"), big / "out")


def test_a_manifest_makes_the_dataset_again(big):
    build(load_recipe(big / "recipe.yaml"), big / "out")
    record = big / "out/one/manifest.json"
    build(recipe_of(record), big / "again")
    check_replayed(record, big / "again")
    assert tree(big / "out") == tree(big / "again")
    changed = manifest(big / "out/one") | {"content_hash": "0" * 16}
    record.write_text(json.dumps(changed))
    with pytest.raises(CheckFailed, match="content_hash"):
        check_replayed(record, big / "again")


@pytest.mark.parametrize("name", ["rows.jsonl", "benchmark.jsonl"])
def test_a_manifest_is_not_replayed_on_other_files(big, name):
    build(load_recipe(big / "recipe.yaml"), big / "out")
    with (big / name).open("a") as handle:
        handle.write("\n")
    with pytest.raises(InputError, match=f"{name}.*changed since"):
        recipe_of(big / "out/one/manifest.json")
    (big / name).unlink()
    with pytest.raises(InputError, match=f"{name}.*not there any more"):
        recipe_of(big / "out/one/manifest.json")


def test_repeats_benchmarks_and_conflicts_go_with_their_reasons(tmp_path):
    clean = rows(40)
    near = {**clean[3], "question": clean[3]["question"].replace("How many", "How many of the")}
    conflict = {**clean[4], "question": clean[4]["question"].replace("while", "whilst"), "answer": "It is 7.\n#### 7"}
    settled = {"role": "user", "content": clean[5]["question"].replace("while", "whilst")}
    wrong = {"role": "assistant", "content": "Let me see.\n#### 8"}
    written(tmp_path / "rows.jsonl", [*clean, clean[0], near, conflict])
    written(tmp_path / "more.jsonl", [{"messages": [settled, wrong], "ground_truth": "9"}])
    written(tmp_path / "bench.jsonl", [clean[10], clean[11]])
    written(tmp_path / "known.jsonl", [clean[20]])
    parts = {
        "sources": [{"path": str(tmp_path / name)} for name in ("rows.jsonl", "more.jsonl")],
        "dedup": {"near": 0.7, "against": [str(tmp_path / "known.jsonl")]},
        "decontaminate": {"against": [str(tmp_path / "bench.jsonl")]},
    }
    build(recipe(tmp_path, **parts), tmp_path / "out")
    ledger = pl.read_parquet(tmp_path / "out/ledger.parquet")
    reasons = {reason: ledger.filter(pl.col("reason") == reason) for reason in ledger["reason"].unique()}
    assert {reason: len(found) for reason, found in reasons.items()} == {
        "exact_duplicate": 1,
        "near_duplicate": 1,
        "repeats_reference": 1,
        "conflicting_answer": 3,
        "contaminated_ngram": 2,
    }
    assert "more" in "".join(reasons["conflicting_answer"]["id"])
    evidence = pl.read_parquet(tmp_path / "out/contamination.parquet").filter("drop")
    assert sorted(evidence["id"]) == sorted(reasons["contaminated_ngram"]["id"])
    assert manifest(tmp_path / "out")["contamination"][0]["dropped"] == 2


@pytest.mark.slow
def test_a_million_rows_of_2_kb_fit_4_gb(tmp_path):
    """By what memory grows from 20,000 rows to 60,000."""
    filler = " ".join(["word"] * 400)
    sizes = (20_000, 60_000)
    for size in sizes:
        with (tmp_path / f"{size}.jsonl").open("w") as handle:
            for number in range(size):
                question = f"What is {number} plus {number} of the {number * 7919 % 104729} things?"
                handle.write(json.dumps({"question": question, "answer": f"{filler}\n#### {2 * number}"}) + "\n")
    few, many = (peak_memory(tmp_path, f"{size}.jsonl") for size in sizes)
    growth = (many - few) / (sizes[1] - sizes[0])
    assert few + growth * 1e6 < 4e9, f"{growth:.0f} bytes a row"


def peak_memory(folder: Path, name: str) -> int:
    script = (
        "import resource, sys; from pathlib import Path; from curate.build import build; from curate.recipe import Recipe\n"
        "r = Recipe(name='r', sources=[{'path': sys.argv[1]}], verify=None, dedup={'near': 0.8}, variants=[{'name': 'v'}])\n"
        "build(r, Path(sys.argv[2])); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, folder / name, folder / f"{name}.out"], check=True, capture_output=True, text=True
    )
    return int(out.stdout)
