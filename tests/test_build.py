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
from curate.check import check_dataset
from curate.config import check_config
from curate.errors import CheckFailed, InputError, OutputExists, UsageError
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
    subprocess.run([sys.executable, "-c", SLOW, big / "recipe.yaml", big / "out", "one"], check=False)
    other = load_recipe(big / "recipe.yaml", ["seed=5"])
    build(other, big / "out")
    build(other, big / "clean")
    assert tree(big / "out") == tree(big / "clean")


def test_all_traces_of_a_problem_may_be_kept_and_every_row_is_accounted_for(tmp_path):
    clean = rows(12)
    second = [{**row, "answer": "Once more. " + row["answer"]} for row in clean]
    written(tmp_path / "rows.jsonl", clean + second)
    variants = [
        {"name": "all", "select": {"traces": "all"}},
        {"name": "some", "select": {"traces": "all"}, "budget": {"examples": 7}},
    ]
    build(recipe(tmp_path, heldout={"examples": 2}, variants=variants), tmp_path / "out")
    for name, size in (("all", 20), ("some", 7)):
        counts = {
            part: pl.read_parquet(tmp_path / f"out/{name}/{part}.parquet").height for part in ("train", "heldout", "ledger")
        }
        assert counts["train"] == size and sum(counts.values()) == 24


def test_rl_problems_of_their_own_source_are_decontaminated_too(tmp_path):
    clean = rows(40)
    written(tmp_path / "rows.jsonl", clean[:20])
    written(tmp_path / "rl.jsonl", clean[20:])
    written(tmp_path / "bench.jsonl", clean[25:28])
    own = {"examples": 17, "sources": [{"path": str(tmp_path / "rl.jsonl")}]}
    build(recipe(tmp_path, decontaminate={"against": [str(tmp_path / "bench.jsonl")]}, rl_prompts=own), tmp_path / "out")
    asked = set(pl.read_parquet(tmp_path / "out/rl.parquet")["prompt"].list.first().struct["content"])
    assert asked == {row["question"] for row in clean[20:25] + clean[28:]}
    ledger = pl.read_parquet(tmp_path / "out/ledger.parquet")
    assert ledger.filter(pl.col("step") == "decontaminate")["reason"].to_list() == ["contaminated_ngram"] * 3
    assert manifest(tmp_path / "out")["rows"] == {"read": 40, "train": 20, "copies": 0, "heldout": 0, "rl": 17, "ledger": 3}


@pytest.mark.parametrize(("near", "left"), [(0.8, 36), (None, 38)])
def test_rows_that_repeat_or_nearly_repeat_a_set_of_its_own_source_give_way_to_it(tmp_path, near, left):
    """Of 40 rows one is asked in the held-out set and one in the RL set; two more are asked there with their last words changed."""
    pool = rows(40)
    reworded = [{**row, "question": row["question"].replace("in all?", "altogether?")} for row in pool[:4]]
    written(tmp_path / "rows.jsonl", pool)
    written(tmp_path / "held.jsonl", [pool[0], reworded[1]])
    written(tmp_path / "rl.jsonl", [pool[2], reworded[3]])
    own = {part: {"examples": 2, "sources": [{"path": str(tmp_path / f"{part}.jsonl")}]} for part in ("held", "rl")}
    build(recipe(tmp_path, dedup={"near": near}, heldout=own["held"], rl_prompts=own["rl"]), tmp_path / "out")
    assert manifest(tmp_path / "out")["rows"] == {
        "read": 44,
        "train": left,
        "copies": 0,
        "heldout": 2,
        "rl": 2,
        "ledger": 40 - left,
    }
    dropped = pl.read_parquet(tmp_path / "out/ledger.parquet").filter(pl.col("step") == "disjoint")
    reasons = ["problem_held_out", "problem_in_rl_set", "near_problem_held_out", "near_problem_in_rl_set"]
    assert sorted(dropped["reason"]) == sorted(reasons if near else reasons[:2])
    held = pl.read_parquet(tmp_path / "out/heldout.parquet").select("messages", partner_id="id")
    asked = held.select("partner_id", asked=pl.col("messages").list.get(0).struct.field("content")).join(dropped, on="partner_id")
    own = {reason: row["question"] for reason, row in (("problem_held_out", pool[0]), ("near_problem_held_out", reworded[1]))}
    assert dict(asked.select("reason", "asked").iter_rows()) == {
        reason: own[reason] for reason in own if near or reason in reasons[:2]
    }


def test_a_variants_own_heldout_set_is_chosen_as_the_variant_is(tmp_path):
    clean = rows(20)
    longer = [{**row, "answer": "Once more, step by step. " + row["answer"]} for row in clean]
    written(tmp_path / "rows.jsonl", clean + longer)
    variants = [{"name": mix, "select": {"length": mix}} for mix in ("short", "long")]
    build(recipe(tmp_path, heldout={"examples": 8}, variants=variants), tmp_path / "out")
    texts = {
        "short": {row["question"]: row["answer"] for row in clean},
        "long": {row["question"]: row["answer"] for row in longer},
    }
    for mix, answers in texts.items():
        own = pl.read_parquet(tmp_path / f"out/{mix}/heldout_own.parquet")["messages"].to_list()
        assert len(own) == 8
        assert all(turns[1]["content"] == answers[turns[0]["content"]] for turns in own)


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


def prompts_of(folder: Path, part: str) -> set[str]:
    """The prompts of one set, folded."""
    column = "prompt" if part == "rl" else "messages"
    texts = pl.read_parquet(folder / f"{part}.parquet")[column].list.first().struct["content"]
    return {" ".join(text.lower().split()) for text in texts}


def test_prompts_that_differ_in_case_and_white_space_are_one_problem(tmp_path):
    clean = rows(30)
    shouted = [{"question": f"  {row['question'].upper()}\n", "answer": "Well. " + row["answer"]} for row in clean]
    written(tmp_path / "rows.jsonl", clean + shouted)
    build(recipe(tmp_path, heldout={"examples": 10}, rl_prompts={"examples": 10}), tmp_path / "out")
    sets = [prompts_of(tmp_path / "out", part) for part in ("train", "heldout", "rl")]
    assert [len(held) for held in sets] == [10, 10, 10]
    assert len(set.union(*sets)) == 30
    check_dataset(tmp_path / "out")


def test_a_few_second_traces_do_not_turn_a_short_mix_into_a_random_one(tmp_path):
    clean = rows(60)
    second = {**clean[0], "answer": "Slowly now. " * 20 + clean[0]["answer"]}
    written(tmp_path / "rows.jsonl", [*clean, second])
    build(recipe(tmp_path, variants=[{"name": "s", "select": {"length": "short"}, "budget": {"examples": 15}}]), tmp_path / "out")
    shortest = sorted(len(row["answer"].split()) for row in clean)[:15]
    assert manifest(tmp_path / "out/s")["tokens"]["train"] == sum(shortest)
    assert manifest(tmp_path / "out/s")["length_confounded_with_difficulty"] is True


@pytest.mark.parametrize("part", ["pool", "heldout", "rl_prompts"])
def test_an_id_that_names_two_rows_is_refused(tmp_path, part):
    named = [{**row, "id": f"i{number // 2}"} for number, row in enumerate(rows(8))]
    written(tmp_path / "twice.jsonl", named)
    written(tmp_path / "rows.jsonl", [{**row, "id": "same"} for row in rows(1)] * 2 + rows(20, seed=1))
    source = {"path": str(tmp_path / "twice.jsonl")}
    own = {"sources": [source]} if part == "pool" else {part: {"examples": 2, "sources": [source]}}
    with pytest.raises(InputError, match=r"id 'i0' names 2 rows that differ \(4 such ids in all\).*columns: \{id: NAME\}"):
        build(recipe(tmp_path, **own), tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
    by_content = {"sources": [{**source, "columns": {"id": "none"}}]}
    build(recipe(tmp_path, **by_content), tmp_path / "out")
    assert manifest(tmp_path / "out")["rows"]["train"] == 8


@pytest.mark.parametrize("mix", ["short", "long", "varying", "uniform"])
def test_a_token_budget_counts_the_injected_traces(tmp_path, mix):
    written(tmp_path / "rows.jsonl", rows(600))
    variant = {"name": "v", "select": {"length": mix}, "budget": {"tokens": 4000}, "inject": {"filler": 0.9}}
    build(recipe(tmp_path, variants=[variant]), tmp_path / "out")
    lines = (tmp_path / "out/v/train.jsonl").read_text().splitlines()
    words = sum(len(json.loads(line)["messages"][1]["content"].split()) for line in lines)
    made = manifest(tmp_path / "out/v")
    assert abs(words - 4000) <= 40
    assert made["tokens"]["train"] == words > made["tokens"]["selected"]
    with pytest.raises(CheckFailed, match=r"a budget of 1000000 tokens cannot be met within 1 %: [0-9]+ are reachable"):
        build(recipe(tmp_path, variants=[{**variant, "budget": {"tokens": 1_000_000}}]), tmp_path / "more")


def test_a_set_with_nothing_left_to_train_on_is_refused(tmp_path):
    written(tmp_path / "rows.jsonl", rows(20))
    with pytest.raises(CheckFailed, match="no example is left to train on"):
        build(recipe(tmp_path, rl_prompts={"examples": 20}), tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_heldout_questions_may_be_permuted_and_stay_held_out(tmp_path):
    parts = {"sources": [{"task": "word_graph", "size": 40}], "heldout": {"examples": 8}}
    variant = {"name": "v", "inject": {"method": "permute_premises", "copies": 3}}
    summary = build(recipe(tmp_path, **parts, variants=[variant]), tmp_path / "out")
    counts = check_dataset(tmp_path / "out/v")
    assert summary["variants"]["v"]["examples"] == counts["train"] > 32


def test_heldout_examples_need_not_take_an_injection(tmp_path):
    """A held-out set of two may have no other order of steps although the training set has some."""
    one_order = {"question": "Ann has 2 eggs and gets 3. How many?", "answer": "She has 2 + 3 = <<2+3=5>>5.\n#### 5"}
    written(tmp_path / "held.jsonl", [one_order])
    free = (
        "The red cost 2 * 3 = <<2*3=6>>6. {}\nThe blue cost 4 * 5 = <<4*5=20>>20.\nIn all it is 6 + 20 = <<6+20=26>>26.\n#### 26"
    )
    question = "Case {}: 2 red pens cost 3 each and 4 blue pens cost 5 each. What is the sum?"
    written(tmp_path / "rows.jsonl", [{"question": question.format(n), "answer": free.format(n)} for n in range(6)])
    parts = {"heldout": {"examples": 1, "sources": [{"path": str(tmp_path / "held.jsonl")}]}}
    build(recipe(tmp_path, **parts, variants=[{"name": "v", "inject": {"method": "chain"}}]), tmp_path / "out")
    assert manifest(tmp_path / "out/v")["injection"]["injected"] == 6


def test_force_replaces_datasets_and_nothing_else(tmp_path):
    written(tmp_path / "rows.jsonl", rows(10))
    (tmp_path / "home/thesis").mkdir(parents=True)
    for _ in range(2):
        build(recipe(tmp_path), tmp_path / "out", force=True)
    with pytest.raises(OutputExists, match="holds no datasets"):
        build(recipe(tmp_path), tmp_path / "home", force=True)
    assert (tmp_path / "home/thesis").is_dir()
    with pytest.raises(UsageError, match="expected the name of a new folder"):
        build(recipe(tmp_path), Path(), force=True)


def test_what_a_kill_left_half_written_is_swept_away(tmp_path):
    with pytest.raises(KeyboardInterrupt), work_beside(tmp_path / "out", "one") as work:
        (work.folder / ".read-pool-0.1234.partial").mkdir()
        (work.folder / "out/a").mkdir(parents=True)
        (work.folder / "out/.b.1234.partial").write_text("half")
        raise KeyboardInterrupt
    with work_beside(tmp_path / "out", "one") as work:
        assert sorted(path.name for path in work.folder.rglob("*")) == ["a", "out"]


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
