"""Dataset building: budgets, lengths, disjoint sets, injected behaviours and the account of every row."""

import collections
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import arithmetic, sources
from curate.answers import Verdict, extract_answer, verify
from curate.build import build
from curate.check import check_dataset
from curate.errors import CheckFailed
from curate.examples import Problem
from curate.graphs import parse_statements
from curate.lengths import Budget, within_budget
from curate.recipe import load_recipe
from curate.sources import Source

VARIANTS = ("short", "varying", "long", "unique", "half", "tokens", "bridge")
RECIPE = """
name: laboratory
sources: [{task: arithmetic, size: 400, operations: [2, 6], traces: 2}]
heldout: {examples: 40, seed: 0, sources: [{task: arithmetic, size: 40, operations: [2, 6], traces: 2}]}
rl_prompts: {examples: 60, seed: 0, sources: [{task: arithmetic, size: 80, operations: [3, 8]}]}
variants:
  - {name: short, select: {length: short}, budget: {examples: 150}}
  - {name: varying, budget: {examples: 150}}
  - {name: long, select: {length: long}, budget: {examples: 150}}
  - {name: unique, budget: {examples: 120}}
  - {name: half, budget: {examples: 60}, epochs: 2}
  - {name: tokens, budget: {tokens: 3k}}
  - name: bridge
    budget: {examples: 150}
    inject: {share: 0.5, reflection: 0.3, verification: 0.3, subgoals: 1.0, analysis: [0.5]}
"""
ROWS_READ = 400 * 2 + 40 * 2 + 80
TABLES = {f"{name}.parquet" for name in ("train", "heldout", "heldout_own", "rl", "ledger")}
DATA_FILES = {"train.jsonl", "train_pc.jsonl", *TABLES}
TRAINER_FILES = {"trl.yaml", "verl.yaml", "axolotl.yaml", "llamafactory.yaml", "open-instruct.sh", "dataset_info.json"}
VALUES = r"\d+(?: [+-] \d+)*"
SPANS = {
    "reflection": r"try [a-t] need [a-t] back",
    "analysis": r"given (?P<statement>[a-t] = [a-t\d]+(?: [+-] [a-t\d]+)*)",
    "subgoals": r"-> \d+(?: [+-] \d+)+",
    "verification": rf"(?:Wait [a-t] = (?P<again>{VALUES}) [a-t] (?P<value>\d+)|check (?P<sum>{VALUES}) (?P<result>\d+) ok"
    rf"|[a-t] (?P<slip>\d+) check (?P<redone>{VALUES}) (?P<right>\d+) wrong [a-t] (?P=right))",
}
MARKS = {"reflection": {"try"}, "analysis": {"given"}, "subgoals": {"->"}, "verification": {"check", "Wait"}}
"""The words that a behaviour has and nothing else in a trace has."""


def built(folder: Path, text: str, **arguments) -> Path:
    """The folder that a recipe's text builds."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(text)
    build(load_recipe(recipe, **arguments), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory) -> Path:
    return built(tmp_path_factory.mktemp("laboratory"), RECIPE)


def jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def parquet(path: Path) -> list[dict]:
    return pl.read_parquet(path).to_dicts()


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def question(row: dict) -> str:
    return (row.get("messages") or row["prompt"])[0]["content"]


def solution(row: dict) -> str:
    return row["messages"][1]["content"]


def words(row: dict) -> int:
    return len(solution(row).split())


def mean_words(folder: Path) -> float:
    return float(np.mean([words(row) for row in jsonl(folder / "train.jsonl")]))


def renamed(prompt: str) -> str:
    """The problem with its letters replaced by their order of appearance."""
    names: dict[str, str] = {}
    return " ".join(names.setdefault(word, f"x{len(names)}") if word.isalpha() else word for word in prompt.split())


def data_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the manifests, which alone may hold times and paths."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_recipe_writes_the_whole_dataset_folder(laboratory):
    assert {path.name for path in laboratory.iterdir()} == set(VARIANTS)
    for variant in VARIANTS:
        folder = laboratory / variant
        assert {path.name for path in folder.iterdir()} == DATA_FILES | {"manifest.json", "README.md", "trainers"}
        assert {path.name for path in (folder / "trainers").iterdir()} == TRAINER_FILES


def test_rows_are_a_user_turn_then_an_assistant_turn_and_every_copy_agrees(laboratory):
    stated = {problem.prompt: problem.ground_truth for problem in arithmetic.problems(size=400, operations=(2, 6), split="train")}
    for variant in VARIANTS:
        rows = jsonl(laboratory / variant / "train.jsonl")
        assert all(set(row) == {"id", "messages", "meta"} for row in rows)
        lines = (laboratory / variant / "train.jsonl").read_text(encoding="utf-8").split("\n")
        assert lines == [*(json.dumps(row, ensure_ascii=False) for row in rows), ""]
        assert all([turn["role"] for turn in row["messages"]] == ["user", "assistant"] for row in rows)
        assert all(stated[question(row)] == row["meta"]["ground_truth"] for row in rows)
        assert parquet(laboratory / variant / "train.parquet") == rows
        pairs = [{"id": row["id"], "prompt": row["messages"][:1], "completion": row["messages"][1:]} for row in rows]
        assert jsonl(laboratory / variant / "train_pc.jsonl") == pairs


def test_the_datasets_library_reads_the_same_from_jsonl_and_parquet(laboratory, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    read = [
        datasets.load_dataset(kind, data_files=str(laboratory / "bridge" / name), split="train", cache_dir=str(tmp_path))
        for kind, name in (("json", "train.jsonl"), ("parquet", "train.parquet"))
    ]
    assert read[0].features == read[1].features
    assert read[0].to_list() == read[1].to_list()


def test_rl_rows_have_the_columns_of_trl_and_verl(laboratory):
    rows = parquet(laboratory / "short/rl.parquet")
    stated = {p.prompt: p for p in arithmetic.problems(size=80, operations=(3, 8), split="train", seed=2_000_003)}
    assert len(rows) == 60
    for index, row in enumerate(rows):
        assert set(row) == {"prompt", "solution", "data_source", "ability", "reward_model", "extra_info"}
        assert row["solution"] == row["reward_model"]["ground_truth"] == stated[question(row)].ground_truth
        assert [turn["role"] for turn in row["prompt"]] == ["user"]
        assert row["extra_info"]["index"] == index


def test_the_same_recipe_and_seed_give_the_same_bytes_in_another_process(laboratory, tmp_path):
    """In another folder, with another order of Python's sets."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "curate.cli", "build", "recipe.yaml", "-o", "again"]
    environment = {**os.environ, "PYTHONHASHSEED": "3", "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert data_bytes(tmp_path / "again") == data_bytes(laboratory)
    assert len(data_bytes(laboratory)) == len(VARIANTS) * (len(DATA_FILES) + len(TRAINER_FILES) + 1)


def test_another_data_seed_gives_other_rows_but_the_same_heldout_and_rl_sets(laboratory, tmp_path):
    other = built(tmp_path, RECIPE, seed=1)
    for variant in ("short", "bridge"):
        first, second = (jsonl(folder / variant / "train.jsonl") for folder in (laboratory, other))
        assert not {question(row) for row in first} & {question(row) for row in second}
        for name in ("heldout.parquet", "rl.parquet"):
            assert (laboratory / variant / name).read_bytes() == (other / variant / name).read_bytes()
    assert manifest(other / "short")["seed"] == 1


def test_heldout_and_rl_sets_are_one_for_all_variants_and_disjoint_from_every_train_set(laboratory):
    shared = [{(laboratory / variant / name).read_bytes() for variant in VARIANTS} for name in ("heldout.parquet", "rl.parquet")]
    assert [len(copies) for copies in shared] == [1, 1]
    heldout = {question(row) for row in parquet(laboratory / "short/heldout.parquet")}
    rl = {question(row) for row in parquet(laboratory / "short/rl.parquet")}
    train = {question(row) for variant in VARIANTS for row in jsonl(laboratory / variant / "train.jsonl")}
    assert (len(heldout), len(rl)) == (40, 60)
    assert not heldout & rl and not heldout & train and not rl & train


def test_problems_shared_with_the_heldout_and_rl_sources_leave_the_train_set(tmp_path):
    """The three sources are one and the same stream of 60 problems, so all three sets compete for it."""
    problems = arithmetic.problems(size=60, operations=(2, 4), split="train")
    lines = [{"question": p.prompt, "answer": f"</think> #### {p.ground_truth}"} for p in problems]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = "name: x\nsources: [{path: all.jsonl}]\nheldout: {examples: 15, sources: [{path: all.jsonl}]}\n"
    folder = built(tmp_path, text + "rl_prompts: {examples: 20, sources: [{path: all.jsonl}]}\n")
    names = ("train.parquet", "heldout.parquet", "rl.parquet")
    train, heldout, rl = ({question(row) for row in parquet(folder / name)} for name in names)
    assert (len(train), len(heldout), len(rl)) == (25, 15, 20)
    assert train | heldout | rl == {problem.prompt for problem in problems}
    assert manifest(folder)["rows"] == {"read": 180, "train": 25, "copies": 0, "heldout": 15, "rl": 20, "ledger": 120}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_row_read_is_in_train_heldout_rl_or_ledger_once(laboratory, variant):
    """Counted by problem, since an RL row is a problem and no longer an example."""
    styles, folder = {"short": 0.4, "long": 0.4, "full": 0.2}, laboratory / variant
    streams = [(400, (2, 6), 2, 0), (40, (2, 6), 2, 1_000_003), (80, (3, 8), 1, 2_000_003)]
    read = collections.Counter(
        example.problem.id
        for size, operations, traces, seed in streams
        for example in arithmetic.examples(size=size, operations=operations, styles=styles, traces=traces, seed=seed)
    )
    ids = [row["id"] for name in ("train", "heldout", "ledger") for row in parquet(folder / f"{name}.parquet")]
    found = collections.Counter(identity.rpartition("-")[0] for identity in ids)
    found += collections.Counter(row["extra_info"]["id"] for row in parquet(folder / "rl.parquet"))
    assert found == read
    assert found.total() == ROWS_READ == manifest(folder)["rows"]["read"]


def test_check_accepts_every_variant(laboratory):
    for variant in VARIANTS:
        counts = check_dataset(laboratory / variant)
        rows = manifest(laboratory / variant)["rows"]
        assert {name: counts[name] for name in ("train", "heldout", "rl")} == {
            name: rows[name] for name in ("train", "heldout", "rl")
        }


def test_ledger_names_step_reason_and_the_trace_that_was_taken_instead(laboratory):
    for variant in VARIANTS:
        ledger = parquet(laboratory / variant / "ledger.parquet")
        train = {row["id"]: row["meta"]["problem_id"] for row in jsonl(laboratory / variant / "train.jsonl")}
        partners = [row for row in ledger if row["reason"] == "other_trace_selected"]
        assert len(partners) == len(train)
        assert all(train[row["partner_id"]] == row["id"].rpartition("-")[0] for row in partners)
        recount = collections.Counter(f"{row['step']}.{row['reason']}" for row in ledger)
        assert manifest(laboratory / variant)["drop_reasons"] == recount


def test_budgets_are_met_exactly_in_examples_and_within_one_percent_in_tokens(laboratory):
    for variant, examples in {"short": 150, "varying": 150, "long": 150, "unique": 120, "half": 60, "bridge": 150}.items():
        assert len(jsonl(laboratory / variant / "train.jsonl")) == examples
    tokens = sum(words(row) for row in jsonl(laboratory / "tokens/train.jsonl"))
    assert abs(tokens - 3000) <= 30
    assert manifest(laboratory / "tokens")["tokens"] == {"selected": tokens, "train": tokens}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 500), st.integers(500, 1200))
def test_a_token_budget_of_small_pieces_is_met_if_and_only_if_there_are_tokens_enough(seed, pieces, tokens):
    """No piece is longer than one percent of the budget, so the first that reaches it stays within one percent."""
    rows = pl.DataFrame({"id": range(pieces), "tokens": [random.Random(seed + index).randint(1, 5) for index in range(pieces)]})
    try:
        taken = within_budget(rows, Budget(tokens=tokens))
    except CheckFailed:
        assert rows["tokens"].sum() < 0.99 * tokens
    else:
        assert abs(taken["tokens"].sum() - tokens) <= 0.01 * tokens
        assert taken["id"].is_unique().all()


@pytest.mark.parametrize(
    ("lengths", "taken"),
    [([60, 45, 40, 9], [0, 2]), ([60, 41], [0, 1]), ([60, 39], [0, 1]), ([60, 42], None), ([60, 38], None), ([], None)],
)
def test_a_piece_that_would_break_a_token_budget_of_100_is_passed_over(lengths, taken):
    rows = pl.DataFrame({"id": range(len(lengths)), "tokens": lengths}, schema={"id": pl.Int64, "tokens": pl.Int64})
    if taken is None:
        with pytest.raises(CheckFailed, match="100 tokens cannot be met within 1 %"):
            within_budget(rows, Budget(tokens=100))
    else:
        assert within_budget(rows, Budget(tokens=100))["id"].to_list() == taken


def test_length_mixes_choose_traces_of_the_same_problems(laboratory):
    """Against all traces of the source, generated again: the shortest of a problem, the longest, either one."""
    traces = collections.defaultdict(list)
    for example in arithmetic.examples(size=400, operations=(2, 6), traces=2):
        traces[example.problem.prompt].append(len(example.completion.split()))
    read = {mix: jsonl(laboratory / mix / "train.jsonl") for mix in ("short", "varying", "long")}
    rows = {mix: {question(row): words(row) for row in read[mix]} for mix in read}
    assert rows["short"].keys() == rows["varying"].keys() == rows["long"].keys()
    for prompt, length in rows["varying"].items():
        assert (rows["short"][prompt], rows["long"][prompt]) == (min(traces[prompt]), max(traces[prompt]))
        assert length in traces[prompt]
    assert mean_words(laboratory / "short") < mean_words(laboratory / "varying") < mean_words(laboratory / "long")


def test_matched_share_is_the_share_of_problems_that_every_variant_holds(laboratory):
    held = {variant: {question(row) for row in jsonl(laboratory / variant / "train.jsonl")} for variant in VARIANTS}
    common = set.intersection(*held.values())
    assert common == held["half"]  # the smallest budget, and the same problems come first at every budget
    for variant in VARIANTS:
        facts = manifest(laboratory / variant)
        assert facts["matched_problem_share"] == pytest.approx(60 / len(held[variant]))
        assert not facts["length_confounded_with_difficulty"]


def test_with_one_trace_a_problem_lengths_differ_and_the_manifest_says_confounded(tmp_path):
    mixes = ("short", "varying", "long")
    variants = [f"  - {{name: {mix}, select: {{length: {mix}}}, budget: {{examples: 30}}}}\n" for mix in mixes]
    folder = built(tmp_path, "name: x\nsources: [{task: arithmetic, size: 90}]\nvariants:\n" + "".join(variants))
    rows = {mix: jsonl(folder / mix / "train.jsonl") for mix in mixes}
    lengths = sorted(len(example.completion.split()) for example in arithmetic.examples(size=90))
    assert sorted(map(words, rows["short"])) == lengths[:30]
    assert sorted(map(words, rows["long"])) == lengths[-30:]
    assert mean_words(folder / "short") < mean_words(folder / "varying") < mean_words(folder / "long")
    assert [manifest(folder / mix)["length_confounded_with_difficulty"] for mix in mixes] == [True, False, True]
    assert manifest(folder / "short")["matched_problem_share"] == 0


def test_half_times_two_epochs_has_the_budget_of_unique_times_one(laboratory):
    unique, half = (jsonl(laboratory / variant / "train.jsonl") for variant in ("unique", "half"))
    assert [row["id"] for row in half] == [row["id"] for row in unique[: len(unique) // 2]]
    facts = {variant: manifest(laboratory / variant) for variant in ("unique", "half")}
    assert [facts[v]["epochs"] * facts[v]["rows"]["train"] for v in facts] == [120, 120]
    stub = yaml.safe_load((laboratory / "half/trainers/trl.yaml").read_text())
    assert stub["num_train_epochs"] == 2


def test_injected_traces_verify_and_leave_the_questions_alone(laboratory):
    plain = {row["id"]: row for row in jsonl(laboratory / "varying/train.jsonl")}
    injected = jsonl(laboratory / "bridge/train.jsonl")
    assert [row["id"] for row in injected] == list(plain)
    for row in injected:
        assert verify(solution(row), ground_truth=row["meta"]["ground_truth"]) is Verdict.CORRECT
        assert row["messages"][0] == plain[row["id"]]["messages"][0]
        assert row["meta"]["spans"] or row == plain[row["id"]]
    touched = sum(bool(row["meta"]["spans"]) for row in injected)
    assert abs(touched - 75) < 5 * (150 * 0.25) ** 0.5  # a share of one half, within five standard errors


def test_recorded_spans_are_whole_behaviours_and_nothing_else_in_a_trace_is_one(laboratory):
    seen = set()
    for row in jsonl(laboratory / "bridge/train.jsonl"):
        tokens, inside = solution(row).split(), set()
        statements = re.findall(r"[a-t] = [a-t\d]+(?: [+-] [a-t\d]+)*(?= [a-t?])", question(row))
        for span in row["meta"]["spans"]:
            text = " ".join(tokens[span["start"] : span["end"]])
            found = re.fullmatch(SPANS[span["behavior"]], text)
            assert found, text
            parts = {name: part for name, part in found.groupdict().items() if part}
            assert parts.get("statement") in (None, *statements)
            for expression, result in (("again", "value"), ("sum", "result"), ("redone", "right")):
                assert expression not in parts or eval(parts[expression]) == int(parts[result])
            assert "slip" not in parts or parts["slip"] != parts["right"]
            assert not inside & set(range(span["start"], span["end"]))
            inside |= set(range(span["start"], span["end"]))
            seen.add(span["behavior"])
        outside = {token for index, token in enumerate(tokens) if index not in inside}
        assert not outside & set().union(*MARKS.values())
    assert seen == set(MARKS)


def test_behaviour_rates_in_the_manifest_equal_a_recount_of_the_text(laboratory):
    counts = [collections.Counter(solution(row).split()) for row in jsonl(laboratory / "bridge/train.jsonl")]
    rates = manifest(laboratory / "bridge")["behavior_rates"]
    assert set(rates) == set(MARKS)
    for behavior, marks in MARKS.items():
        each = [sum(count[mark] for mark in marks) for count in counts]
        assert rates[behavior]["per_example"] == pytest.approx(np.mean(each))
        assert rates[behavior]["share"] == pytest.approx(np.mean(np.array(each) > 0))
    assert manifest(laboratory / "varying")["behavior_rates"] == {}


def test_length_facts_in_the_manifest_equal_a_recount(laboratory):
    pool = [len(e.completion.split()) for e in arithmetic.examples(size=400, operations=(2, 6), traces=2)]
    for variant in ("short", "long", "bridge"):
        facts, rows = manifest(laboratory / variant), jsonl(laboratory / variant / "train.jsonl")
        lengths = [words(row) for row in rows]
        assert facts["lengths"]["counts"] == np.histogram(lengths, bins=facts["lengths"]["edges"])[0].tolist()
        assert sum(facts["lengths"]["counts"]) == len(rows)
        assert facts["lengths"]["mean"] == pytest.approx(np.mean(lengths))
        texts = [question(row) + " " + solution(row) for row in rows]
        assert facts["longest"] == {
            "prompt": max(len(question(row).split()) for row in rows),
            "completion": max(lengths),
            "row": max(len(text.split()) for text in texts),
            "row_bytes": max(len(text.encode()) - 1 for text in texts),
        }
        below = [np.array([np.mean(np.array(sample) <= x) for x in range(max(pool + lengths))]) for sample in (lengths, pool)]
        assert facts["distance_to_pool"]["wasserstein_tokens"] == pytest.approx(np.abs(below[0] - below[1]).sum(), rel=0.02)
        assert facts["distance_to_pool"]["kolmogorov_smirnov"] == pytest.approx(np.abs(below[0] - below[1]).max(), abs=0.01)


def test_each_dropped_row_has_the_reason_that_was_planted(tmp_path):
    def row(prompt: str, completion: str, **more) -> dict:
        return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}], **more}

    planted = [
        row("What is 1 + 1?", "It is 1 + 1.\n#### 2", ground_truth="2"),
        row("what is  1 + 1?", "it is 1 + 1.\n\n#### 2", ground_truth="2"),  # the same after folding case and space
        row("What is 2 + 2?", "So #### 5", ground_truth=4),
        row("What is 0 + 0?", "So #### 1", ground_truth=0, meta={"ground_truth": "1"}),  # zero is a reference
        row("What is 3 + 3?", "I do not know", meta={"ground_truth": "6"}),
        row("What is 4 + 4?", "#### 8", ground_truth="8"),
        row("What is 5 + 5?", "well " * 30 + "#### 10", ground_truth="10"),
        row("What is 6 + 6?", "So it is #### 12"),  # the reference is read off the answer itself
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in planted))
    folder = built(tmp_path, "name: x\nsources: [{path: rows.jsonl}]\nfilters: {min_tokens: 3, max_tokens: 20}\n")
    assert {question(line) for line in jsonl(folder / "train.jsonl")} <= {"What is 1 + 1?", "what is  1 + 1?", "What is 6 + 6?"}
    assert manifest(folder)["rows"] == {"read": 8, "train": 2, "copies": 0, "heldout": 0, "rl": 0, "ledger": 6}
    assert manifest(folder)["drop_reasons"] == {
        "dedup.exact_duplicate": 1,
        "filters.too_long": 1,
        "filters.too_short": 1,
        "verify.incorrect": 2,
        "verify.no_answer": 1,
    }


def of_the_file(name: str) -> bool:
    """The ledger keeps the file's order, and the card names the file's hash."""
    return "ledger" in name or "README" in name


def test_the_order_of_the_source_file_does_not_matter(tmp_path):
    lines = [
        json.dumps({"question": f"{p.prompt} ", "answer": f"#### {p.ground_truth}"}) + "\n"
        for p in arithmetic.problems(size=80, operations=(2, 3), split="train")
    ]
    text = "name: x\nsources: [{path: rows.jsonl}]\nheldout: {examples: 9}\nrl_prompts: {examples: 9}\n"
    text += "variants: [{name: a, budget: {examples: 30}}, {name: b, select: {length: long}, budget: {examples: 20}}]\n"
    copies = []
    for seed in (0, 1):
        random.Random(seed).shuffle(lines)
        (tmp_path / "rows.jsonl").write_text("".join(lines))
        copies.append({name: data for name, data in data_bytes(built(tmp_path, text)).items() if not of_the_file(name)})
        shutil.rmtree(tmp_path / "out")
    assert copies[0] == copies[1]


def test_budgets_count_tokens_of_the_recipes_tokenizer(tmp_path):
    """A tokenizer of single characters, made with the tokenizers library: tokens are characters."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    alphabet = sorted({*"?=+-<>/", *map(str, range(10)), *"abcdefghijklmnopqrstuvwxyz ", "[UNK]"})
    model = tokenizers.models.WordLevel({token: index for index, token in enumerate(alphabet)}, unk_token="[UNK]")
    characters = tokenizers.Tokenizer(model)
    characters.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=characters, unk_token="[UNK]").save_pretrained(tmp_path / "tokenizer")
    text = f"name: x\ntokenizer: {tmp_path / 'tokenizer'}\nsources: [{{task: arithmetic, size: 120}}]\n"
    folder = built(tmp_path, text + "variants: [{name: v, budget: {tokens: 5000}}]\n") / "v"
    spent = sum(len(solution(row)) for row in jsonl(folder / "train.jsonl"))
    assert abs(spent - 5000) <= 50
    assert manifest(folder)["tokens"]["train"] == spent
    assert manifest(folder)["longest"]["row"] == max(len(question(row) + solution(row)) for row in jsonl(folder / "train.jsonl"))


@pytest.fixture(scope="module")
def kept_apart() -> dict[str, list[Problem]]:
    """Problems of the tuning, signal and outcome splits, in the ranges of operations that the laboratory uses."""
    return {
        split: [
            problem
            for size, span in ((240, (3, 9)), (60, (2, 6)))
            for problem in arithmetic.problems(size=size, operations=span, split=split)
        ]
        for split in ("dev", "A", "B")
    }


def test_the_best_constant_answer_scores_near_chance(kept_apart):
    """Chance is 1/256 for two values and 1/4096 for three; a cheap constant would make every score meaningless."""
    problems = [problem for split in kept_apart.values() for problem in split]
    best = collections.Counter(problem.ground_truth for problem in problems).most_common(1)[0][0]
    verdicts = [verify(f"<think> </think> ans {best}", ground_truth=problem.ground_truth) for problem in problems]
    assert len(problems) == 3 * 300
    assert 0 < verdicts.count(Verdict.CORRECT) / len(problems) < 0.015


def test_no_problem_of_a_dataset_is_one_of_the_tuning_signal_or_outcome_problems(laboratory, kept_apart):
    """Up to renaming of the letters; and never will be, since each split draws from hash buckets of its own."""
    train = [question(row) for variant in VARIANTS for row in jsonl(laboratory / variant / "train.jsonl")]
    aside = [question(row) for name in ("heldout", "rl") for row in parquet(laboratory / f"short/{name}.parquet")]
    sets = {"dataset": {renamed(prompt) for prompt in train + aside}}
    sets |= {split: {renamed(problem.prompt) for problem in problems} for split, problems in kept_apart.items()}
    assert all(len(found) > 200 for found in sets.values())
    buckets = [bucket for span in arithmetic.SPLITS.values() for bucket in span]
    assert sorted(buckets) == list(range(arithmetic.BUCKETS))
    for split, problems in kept_apart.items():
        assert all(arithmetic.bucket(parse_statements(problem.prompt)) in arithmetic.SPLITS[split] for problem in problems)
    names = list(sets)
    assert not any(sets[one] & sets[other] for index, one in enumerate(names) for other in names[index + 1 :])


def test_the_reference_of_a_gsm8k_row_follows_its_last_hashes(tmp_path):
    answer = "First I wrote #### 3, but 2 + 2 = <<2+2=4>>4.\n#### 4"
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "What is 2 + 2?", "answer": answer}) + "\n")
    folder = built(tmp_path, "name: x\nsources: [{path: rows.jsonl}]\n")
    (row,) = jsonl(folder / "train.jsonl")
    assert (question(row), solution(row), row["meta"]["ground_truth"]) == ("What is 2 + 2?", answer, "4")


@pytest.mark.parametrize(("file", "count"), [("gsm8k/train.jsonl", 7473), ("gsm8k/test.jsonl", 1319)])
def test_gsm8k_answers_are_the_text_after_the_hashes_in_every_row(public_data, file, count):
    rows = jsonl(public_data / file)
    examples = list(sources.load(Source(path=public_data / file), seed=0))
    assert len(examples) == len(rows) == count
    for row, example in zip(rows, examples, strict=True):
        expected = re.fullmatch(r".*#### *([^\n]+?) *", row["answer"], re.DOTALL)[1]
        assert (example.problem.prompt, example.completion) == (row["question"], row["answer"])
        assert example.problem.ground_truth == extract_answer(row["answer"]) == expected


def test_gsm8k_builds_into_variants_with_the_official_test_set_held_out(public_data, tmp_path):
    text = f"""
name: gsm8k
sources: [{{path: {public_data}/gsm8k/train.jsonl}}]
heldout: {{examples: 100, sources: [{{path: {public_data}/gsm8k/test.jsonl}}]}}
rl_prompts: {{examples: 200}}
variants:
  - {{name: short, select: {{length: short}}, budget: {{examples: 300}}}}
  - {{name: varying, budget: {{tokens: 20k}}}}
  - {{name: long, select: {{length: long}}, budget: {{examples: 300}}}}
"""
    folder = built(tmp_path, text)
    answers = {row["question"]: row["answer"] for row in jsonl(public_data / "gsm8k/train.jsonl")}
    tests = {row["question"] for row in jsonl(public_data / "gsm8k/test.jsonl")}
    for variant in ("short", "varying", "long"):
        facts = manifest(folder / variant)
        assert all(answers[question(row)] == solution(row) for row in jsonl(folder / variant / "train.jsonl"))
        assert sum(facts["rows"][part] for part in ("train", "heldout", "rl", "ledger")) == facts["rows"]["read"] == 7473 + 1319
        assert not any(reason.startswith("verify") for reason in facts["drop_reasons"])
        for source in facts["sources"]:
            assert source["sha256"] == hashlib.sha256(Path(source["path"]).read_bytes()).hexdigest()
        assert [Path(source["path"]).name for source in facts["sources"]] == ["train.jsonl", "test.jsonl"]
    assert {question(row) for row in parquet(folder / "short/heldout.parquet")} <= tests
    assert {question(row) for row in parquet(folder / "short/rl.parquet")} <= answers.keys()
    assert mean_words(folder / "short") < mean_words(folder / "varying") < mean_words(folder / "long")
    assert abs(sum(words(row) for row in jsonl(folder / "varying/train.jsonl")) - 20_000) <= 200
