"""Sources: every kind of file and every shape of row gives the same examples, or one error that says where and what."""

import csv
import gzip
import json
import math
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curate import arithmetic, formats, readers, sources, word_graph
from curate.answers import Verdict, verify
from curate.errors import InputError, UsageError
from curate.kinds import KINDS
from curate.lengths import TokenCounter
from curate.plain import plain_rows
from curate.rows import examples_of, map_rows, store_rows
from curate.sources import Source, load, load_batches, load_problems

PROMPT, TRACE = "What is 1 + 1? €", "It is 1 + 1.\n#### 2"
USER, ASSISTANT = {"role": "user", "content": PROMPT}, {"role": "assistant", "content": TRACE}
SYSTEM = {"role": "system", "content": "Be brief."}
HUMAN, GPT = {"from": "human", "value": PROMPT}, {"from": "gpt", "value": TRACE}
ROWS = [
    {"prompt": f"What is {n} + 1? €", "completion": f'"It" is, {n + 1}.\n#### {n + 1}', "answer": str(n + 1)} for n in range(40)
]
SHAPES = {
    "gsm8k": {"question": PROMPT, "answer": TRACE},
    "math": {"problem": PROMPT, "solution": TRACE, "answer": "2", "level": "Level 1", "type": "Algebra"},
    "messages": {"messages": [USER, ASSISTANT], "ground_truth": 2},
    "sharegpt": {"conversations": [HUMAN, GPT]},
    "prompt_completion": {"prompt": [USER], "completion": [ASSISTANT], "meta": {"ground_truth": "2"}},
    "prompt_completion, texts": {"prompt": PROMPT, "completion": TRACE, "solution": "$2$ or \\boxed{2}"},
}


def write(path: Path, rows: list[dict]) -> Path:
    """Rows as a file of the kind that its name says, by the standard library and pyarrow."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    elif kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def examples(path: Path, **settings_) -> list:
    return list(load(Source(path=path, **settings_), seed=0))


def problems(path: Path, **settings_) -> list:
    return [problem for _, problem in load_problems(Source(path=path, **settings_), seed=0)]


def refusal(path: Path, **settings_) -> str:
    """The message that a file ends in; any other error than an InputError fails the test."""
    with pytest.raises(InputError) as caught:
        examples(path, **settings_)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stated", [True, False])
def test_every_shape_gives_the_same_example_detected_or_stated(tmp_path, shape, stated):
    path = write(tmp_path / "rows.jsonl", [SHAPES[shape]])
    (found,) = examples(path, format=shape.partition(",")[0] if stated else None)
    assert (found.problem.prompt, found.completion, found.problem.ground_truth) == (PROMPT, TRACE, "2")
    assert [problem.prompt for problem in problems(path)] == [PROMPT]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.ndjson", "x.json", "x.json.gz", "x.csv", "x.csv.gz", "x.parquet"])
def test_every_kind_of_file_holds_the_same_examples(tmp_path, name):
    found = examples(write(tmp_path / name, ROWS))
    assert [(e.problem.prompt, e.completion, e.problem.ground_truth) for e in found] == [tuple(row.values()) for row in ROWS]
    assert len({e.id for e in found}) == len(ROWS) and all(e.id.startswith("x-") for e in found)


def test_a_byte_order_mark_windows_line_ends_blank_lines_and_json_lines_named_json_are_read(tmp_path):
    lines = [json.dumps(row) for row in ROWS]
    for name, text in (("x.jsonl", "\r\n".join(lines)), ("x.json", "\n\n".join(lines)), ("y.json", f" [{','.join(lines)}] \r\n")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert [found.completion for found in examples(tmp_path / name)] == [row["completion"] for row in ROWS]


def test_a_system_turn_is_refused_with_the_way_out_or_dropped(tmp_path):
    rows = [
        {"messages": [SYSTEM, USER, ASSISTANT]},
        {"conversations": [{"from": "system", "value": "s"}, HUMAN, GPT]},
        {"conversations": [HUMAN, GPT], "system": "s"},
        {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]},
    ]
    for row in rows:
        path = write(tmp_path / "rows.jsonl", [row])
        assert "`system: drop`" in refusal(path)
        (found,) = examples(path, system="drop")
        assert (found.problem.prompt, found.completion) == (PROMPT, TRACE)


def test_reasoning_that_stands_apart_is_written_before_the_answer(tmp_path):
    for name in ("reasoning_content", "thinking"):
        path = write(tmp_path / "rows.jsonl", [{"messages": [USER, {**ASSISTANT, "content": "So 2.\n#### 2", name: "1 + 1\n"}]}])
        assert examples(path)[0].completion == "<think>\n1 + 1\n</think>\n\nSo 2.\n#### 2"


def test_columns_of_other_names_are_mapped(tmp_path):
    path = write(tmp_path / "rows.parquet", [{"Q": PROMPT, "R": TRACE, "Final": 2, "prompt": "another"}])
    columns = {"prompt": "Q", "completion": "R", "ground_truth": "Final"}
    (found,) = examples(path, columns=columns)
    assert (found.problem.prompt, found.completion, found.problem.ground_truth) == (PROMPT, TRACE, "2")
    with pytest.raises(ValidationError, match="columns"):
        Source(path=path, columns={"promt": "Q"})


def test_own_ids_are_kept_numbers_get_the_files_name_and_the_rest_go_by_content(tmp_path):
    row = SHAPES["gsm8k"]
    path = write(
        tmp_path / "train.jsonl", [{**row, "id": "a/1"}, {**row, "id": 0}, {**row, "id": None}, row, {**row, "question": "q"}]
    )
    ids = [found.id for found in examples(path)]
    assert ids[:2] == ["a/1", "train-0"] and ids[2] == ids[3] != ids[4]
    assert [row_id for row_id, _ in load_problems(Source(path=path), 0)] == ids
    assert examples(path, name="mine")[1].id == "mine-0"


def test_several_traces_of_a_problem_share_it(tmp_path):
    rows = [{**SHAPES["gsm8k"], "answer": f"{words} #### 2"} for words in ("short", "a longer way")]
    one, other = examples(write(tmp_path / "x.jsonl", rows))
    assert one.problem == other.problem and one.problem.id == other.problem.id and one.id != other.id


def test_rows_without_a_trace_are_problems_and_no_examples(tmp_path):
    rows = {
        "math": {"problem": PROMPT, "answer": 2},
        "gsm8k": {"question": PROMPT, "answer": "2"},
        "messages": {"messages": [USER], "ground_truth": "2"},
        "prompt_completion": {"prompt": PROMPT, "solution": "2"},
        "verl": {"prompt": [USER], "reward_model": {"ground_truth": "2"}, "data_source": "math_dapo", "extra_info": {"id": "p7"}},
    }
    for shape, row in rows.items():
        path = write(tmp_path / "rows.jsonl", [row])
        (problem,) = problems(path)
        assert (problem.prompt, problem.ground_truth) == (PROMPT, "2")
        assert "name its source under rl_prompts" in refusal(path)
        if shape == "verl":
            assert (problem.id, problem.source) == ("p7", "math_dapo")


def test_examples_without_a_reference_pass_only_where_they_are_allowed(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "Say hello.", "completion": "Hello!"}])
    assert "`reference: optional`" in refusal(path)
    assert examples(path, reference="optional")[0].problem.ground_truth == ""
    assert problems(path, reference="optional")[0].ground_truth == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"messages": [USER, ASSISTANT, USER, ASSISTANT]},
            "expected a user turn, then an assistant turn, came ['user', 'assistant'",
        ),
        ({"messages": "hello"}, "came 'hello'"),
        ({"messages": [{"role": {}, "content": []}]}, "came [{}]"),
        (
            {"messages": [USER, {**ASSISTANT, "content": [{"type": "text", "text": "x"}]}]},
            "messages, assistant turn': expected text",
        ),
        ({"messages": [USER, {**ASSISTANT, "tool_calls": [1]}]}, "came tool calls"),
        ({"messages": [USER, {**ASSISTANT, "thinking": 3}]}, "expected text, came 3"),
        ({"prompt": [USER, ASSISTANT], "completion": "x"}, "field 'prompt': expected a user turn, came ['user', 'assistant']"),
        ({"prompt": PROMPT, "completion": [USER]}, "field 'completion': expected an assistant turn, came ['user']"),
        ({"prompt": PROMPT, "completion": 7}, "field 'completion': expected text, came 7"),
        ({"problem": 5, "solution": TRACE}, "field 'problem': expected text, came 5"),
        ({"problem": PROMPT, "solution": "no box"}, "field 'ground_truth' (or 'answer'): missing"),
        ({**SHAPES["math"], "answer": math.nan}, "field 'answer': expected text or a finite number, came nan"),
        ({**SHAPES["math"], "answer": -math.inf}, "came -inf"),
        ({**SHAPES["math"], "answer": ["2"]}, "field 'answer'"),
        ({**SHAPES["gsm8k"], "id": 1.5}, "field 'id': expected text, came 1.5"),
        ({**SHAPES["gsm8k"], "id": True}, "field 'id'"),
        ({**SHAPES["gsm8k"], "question": "a\0b"}, "came a NUL character at character 2"),
        ({**SHAPES["gsm8k"], "id": "ab\ud800"}, "half of a surrogate pair (\\ud800 at character 3)"),
        ({"prompt": [USER], "reward_model": "2"}, "field 'reward_model': expected an object with ground_truth, came '2'"),
        ({"prompt": [USER], "reward_model": {"ground_truth": [2]}}, "field 'reward_model.ground_truth': expected text or a"),
        ({"prompt": [USER], "reward_model": {"ground_truth": ""}}, "field 'ground_truth' (or 'answer'): missing"),
        ({"\ud800": 1}, "came ['\\ud800']"),
        ({}, "came an empty object"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line_its_field_and_what_came(tmp_path, row, message):
    path = write(tmp_path / "rows.jsonl", [row])
    refused = refusal(path)
    assert refused.startswith(f"{path}, line 1: ") and message in refused
    refused.encode()


def test_a_later_row_of_another_shape_is_refused_with_its_place_in_every_kind_of_file(tmp_path):
    rows = [*ROWS, {**ROWS[0], "prompt": " "}]
    for name, place in (("x.jsonl", "line 41"), ("x.json", "row 41"), ("x.csv", "line 83"), ("x.parquet", "row 41")):
        assert f"{name}, {place}: field 'prompt': expected text" in refusal(write(tmp_path / name, rows))


JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
BAD_FILES = {
    "empty.jsonl": (b"", "the file is empty; expected one JSON object a line"),
    "mark.jsonl": (b"\xef\xbb\xbf\r\n", "the file is empty"),
    "empty.json": (b" ", "the file is empty; expected a JSON array"),
    "none.json": (b"[ ]", "the file is empty"),
    "header.csv": (b"prompt,completion\n", "the file is empty; expected a header, then rows"),
    "cut.jsonl.gz": (gzip.compress(JSONL)[:-9], "the gzip stream is broken or cut off"),
    "no.jsonl.gz": (JSONL, "the gzip stream is broken or cut off"),
    "wrong.csv.gz": (gzip.compress(JSONL)[:40], "the gzip stream is broken or cut off"),
    "latin.jsonl": (
        JSONL + '{"prompt": "é"}\n'.encode("latin-1"),
        "line 41: not UTF-8 text (invalid continuation byte at byte 12",
    ),
    "latin.csv": (b"prompt,completion\na,b\n\xe9,c\n", "not UTF-8 text"),
    "latin.json": (b'[{"prompt": "\xe9"}]', "row 1 or shortly after: not UTF-8 text"),
    "deep.jsonl": (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "line 1: JSON nested too deep to read"),
    "deep.json": (b'[{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]", "row 1: JSON nested too deep to read"),
    "digits.jsonl": (b'{"prompt": ' + b"1" * 5000 + b"}", "line 1: Exceeds the limit"),
    "torn.jsonl": (JSONL[:-3], "line 40: not valid JSON"),
    "torn.json": (b'[{"prompt": "a", "completion": "1"}, {"pro', "row 2: not valid JSON"),
    "open.json": (
        b'[{"prompt": "a", "completion": "1"}',
        "row 2: expected a comma or the end of the array, came 'the end of the file'",
    ),
    "more.json": (b'[{"prompt": "a", "completion": "1"}] {', "row 2: expected nothing after the array, came '{'"),
    "comma.json": (b'[{"prompt": "a", "completion": "1"},]', "row 2: expected a JSON object after the comma, came ']'"),
    "list.json": (b"[[1]]", "row 1: expected a JSON object, came '[1]]'"),
    "list.jsonl": (b"[1]\n", "line 1: expected a JSON object, came list"),
    "ragged.csv": (b"prompt,completion\na\n", "line 2: expected 2 cells, as the header has"),
    "wide.csv": (b"prompt,completion\na,b,c\n", "line 2: expected 2 cells, as the header has"),
    "quote.csv": (b'prompt,completion\n"a,b\nc,d\n', "not valid CSV (unexpected end of data)"),
    "text.parquet": (JSONL, "not a readable Parquet file"),
    "none.parquet": (b"", "not a readable Parquet file"),
    "rows.jsonl.zst": (b"x", "expected a file named .jsonl, .ndjson, .json, .csv, .parquet or"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_broken_file_is_refused_with_its_place(tmp_path, name):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    refused = refusal(tmp_path / name)
    assert refused.startswith(str(tmp_path / name)) and message in refused


def test_a_missing_file_a_folder_and_a_parquet_file_cut_anywhere_are_refused(tmp_path):
    whole = write(tmp_path / "whole.parquet", ROWS).read_bytes()
    for size in (4, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.parquet").write_bytes(whole[:size])
        assert "not a readable Parquet file" in refusal(tmp_path / "cut.parquet")
    for name in ("x.jsonl", "x.json", "x.csv", "x.parquet", "x.jsonl.gz"):
        assert "no such file" in refusal(tmp_path / name)
        (tmp_path / name).mkdir()
        assert "expected a file, came a folder" in refusal(tmp_path / name)


def test_a_row_of_ten_megabytes_is_read_and_one_over_the_limit_is_not(tmp_path, monkeypatch):
    row = {"prompt": "q", "completion": "word " * 2_000_000 + "#### 1"}
    for name in ("x.jsonl", "x.json", "x.csv", "x.parquet"):
        assert len(examples(write(tmp_path / name, [row]))[0].completion) == 10_000_006
    monkeypatch.setattr("curate.files.LARGEST_ROW", 1 << 20)
    assert "line 1: longer than 1 MiB; expected one JSON object a line" in refusal(tmp_path / "x.jsonl")


def test_of_thousands_of_columns_only_the_needed_ones_are_read(tmp_path):
    row = {**{f"column {n}": n for n in range(3000)}, **ROWS[0]}
    ((_, read),) = readers.read_rows(write(tmp_path / "x.parquet", [row]), {"prompt", "completion"})
    assert read == {"prompt": ROWS[0]["prompt"], "completion": ROWS[0]["completion"]}
    assert len(examples(write(tmp_path / "x.jsonl", [row]))) == 1
    assert "came ['column 0', 'column 1'" in refusal(write(tmp_path / "y.parquet", [{f"column {n}": n for n in range(3000)}]))


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json", "x.csv", "x.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    """10 MB in rows of 2 KB. Arrow's memory is its own, so Parquet is also held to what Arrow says it took."""
    rows = [{"prompt": f"question {n}", "completion": f"{'word ' * 400} #### {n}"} for n in range(5000)]
    path = write(tmp_path / name, rows)
    del rows
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        most = max(pa.total_allocated_bytes() - before for _ in load(Source(path=path), 0))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        assert most < 4 << 20
    finally:
        tracemalloc.stop()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.sampled_from(["user", "assistant", "system", "human", "gpt", "#### 3", "\\boxed{4}", "\ud800", "\0", ""])
TURN = st.fixed_dictionaries({}, optional=dict.fromkeys(("role", "content", "from", "value", "thinking"), WORDS | JSON))
FIELD = WORDS | JSON | st.lists(TURN | JSON, max_size=3) | st.fixed_dictionaries({}, optional={"ground_truth": WORDS, "id": JSON})
ROW = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("id", "question", "answer", "problem", "solution", "messages", "prompt", "completion"), FIELD)
) | st.fixed_dictionaries({}, optional=dict.fromkeys(("conversations", "prompt", "ground_truth", "meta", "reward_model"), FIELD))


@settings(max_examples=150, deadline=None)
@given(ROW, st.sampled_from(sorted(formats.READERS)), st.booleans())
@example({"messages": [[[[[[[[[[[]]]]]]]]]]]}, "messages", False)
@example({"question": "q", "answer": "#### "}, "gsm8k", False)
def test_any_row_is_read_into_text_that_can_be_written_or_refused(row, shape, drop):
    try:
        found = formats.READERS[shape](row, drop)
    except ValueError as error:
        str(error).encode()
        return
    texts = [
        found.prompt,
        found.completion or "x",
        found.reference or "x",
        str(found.id),
        found.source or "x",
        *found.meta.values(),
    ]
    assert all(text.strip() and "\0" not in text for text in texts)
    "".join(texts).encode()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.dictionaries(st.text(), JSON, max_size=3), min_size=1, max_size=8), st.sampled_from([None, 1]), st.integers(1, 40)
)
def test_a_json_array_is_read_in_pieces_as_a_whole(tmp_path_factory, rows, indent, chunk):
    path = tmp_path_factory.getbasetemp() / "array.json"
    path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "CHUNK", chunk)
        found = [row for _, row in readers.read_rows(path, ())]
    assert json.dumps(found) == json.dumps(rows)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["x.jsonl", "x.jsonl.gz", "x.json", "x.csv", "x.parquet"]), st.integers(0, 2**32))
def test_any_damage_to_a_file_gives_examples_or_an_input_error(tmp_path_factory, name, seed):
    rng, path = random.Random(seed), tmp_path_factory.getbasetemp() / name
    data = bytearray(write(path, ROWS).read_bytes())
    for _ in range(rng.choice((1, 2, 8))):
        place = rng.randrange(len(data))
        data[place : place + rng.randrange(4)] = rng.choice(
            (b"", b'"', b"{", b"\0", b"\\ud800", b"\xff", b"\n", b"NaN", rng.randbytes(2))
        )
    path.write_bytes(data)
    try:
        found = examples(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        "".join(e.id + e.problem.prompt + e.completion + e.problem.ground_truth for e in found).encode()


def test_embedded_tasks_are_drawn_as_they_are_and_their_rows_keep_their_ids_as_problems():
    shape = {"size": 20, "operations": (3, 4), "traces": 2}
    for task, module, options in (("arithmetic", arithmetic, {}), ("word_graph", word_graph, {"redundant": (1, 2)})):
        source = Source(task=task, options=options, **shape)
        found = list(load(source, seed=5))
        assert found == list(module.examples(**shape, **options, seed=5)) and len(found) == 40
        assert list(load_problems(source, seed=5)) == [(one.id, one.problem) for one in found]
        assert list(load(Source(task=task, size=3), 0)) == list(module.examples(size=3))
    assert Source(task="arithmetic", size=3).operations == (2, 6)
    shifted = load(Source(task="word_graph", size=3, split="ood"), seed=0)
    assert all(one.problem.meta["operations"] > 8 for one in shifted)


def test_a_task_that_is_not_embedded_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UsageError, match=r"expected arithmetic or word_graph.*pip install 'forerun\[tasks\]'"):
        list(load(Source(task="chain_sum", size=3), seed=0))


def test_tasks_of_reasoning_gym_give_problems_with_right_answers_and_no_two_seeds_the_same():
    gym = pytest.importorskip("reasoning_gym")
    source = Source(task="chain_sum", size=50, options={"min_terms": 4, "max_terms": 6})
    drawn = [list(load(source, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 50
    assert not {one.problem.prompt for one in drawn[0]} & {one.problem.prompt for one in drawn[2]}
    for one in drawn[0]:
        question = one.problem.prompt.partition(": ")[2].rstrip("= ")
        assert int(one.problem.ground_truth) == sum(int(term) for term in question.replace(" ", "").replace("-", "+-").split("+"))
        assert verify(one.completion, ground_truth=one.problem.ground_truth) is Verdict.CORRECT
    worked = next(load(Source(task="gsm_symbolic", size=1), seed=0))
    assert len(worked.completion) > 40 and verify(worked.completion, ground_truth=worked.problem.ground_truth) is Verdict.CORRECT
    for wrong in ({"task": "chain_sumx"}, {"task": "rush_hour"}, {"task": "chain_sum", "options": {"min_terms": 99}}):
        with pytest.raises(UsageError, match=wrong["task"]):
            list(load(Source(size=2, **wrong), seed=0))
    assert gym.__name__ == "reasoning_gym"


def test_a_hugging_face_data_set_in_a_folder_is_read_like_its_files(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "sums").mkdir()
    for split, rows in (("train", ROWS), ("test", ROWS[:3])):
        write(tmp_path / f"sums/{split}.jsonl", rows)
    table = datasets.load_dataset(str(tmp_path / "sums"), cache_dir=str(tmp_path / "cache"))
    table.save_to_disk(str(tmp_path / "saved"))
    expected = examples(tmp_path / "sums/test.jsonl", name="sums")
    for folder in ("sums", "saved"):
        source = Source(hf=folder, split="test", name="sums").anchored(tmp_path)
        assert list(load(source, seed=0)) == expected
        with pytest.raises(InputError, match=r"train.*test"):
            list(load(source.model_copy(update={"split": "dev"}), seed=0))


def test_an_unreachable_hub_is_one_clear_error(tmp_path):
    pytest.importorskip("datasets")
    code = "from curate.sources import *\nlist(load(Source(hf='nobody/nothing'), 0))"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "InputError: nobody/nothing: the Hub cannot be reached and the data set is not in the local cache" in end.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "an hf data set, a path or a task"),
        ({"path": "x.jsonl", "hf": "x"}, "an hf data set, a path or a task"),
        ({"task": "chain_sum"}, "a task needs a size"),
        ({"path": "x.jsonl", "size": 3}, "'size' is no setting of a source with path"),
        ({"path": "x.jsonl", "split": "test"}, "'split' is no setting of a source with path"),
        ({"hf": "x", "traces": 2}, "'traces' is no setting of a source with hf"),
        ({"task": "arithmetic", "size": 3, "options": {"a": 1}}, "a: unknown key"),
        ({"task": "word_graph", "size": 3, "options": {"redundan": [1, 2]}}, "did you mean 'redundant'"),
        ({"task": "chain_sum", "size": 3, "operations": [2, 3]}, "reasoning-gym .embedded are arithmetic, word_graph"),
        ({"path": "x.jsonl", "format": "alpaca"}, "format"),
    ],
)
def test_settings_that_a_source_would_not_heed_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        Source(**wrong)


def test_every_kind_that_is_listed_has_an_example_that_can_be_used_and_every_format_is_listed():
    kinds = {kind: Source(**yaml.safe_load(facts["example"])) for kind, facts in KINDS.items()}
    assert {source.format for source in kinds.values()} - {None} == set(formats.READERS)
    assert {"hf", "arithmetic", "word_graph", "reasoning-gym"} <= kinds.keys()
    assert all(Source.model_validate(source.model_dump(mode="json")) == source for source in kinds.values())


def test_math_solutions_are_examples_and_their_boxes_agree_with_the_stated_answers(public_data, tmp_path):
    path = public_data / "math500/test.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = examples(path)
    assert [(e.problem.prompt, e.completion, e.problem.ground_truth) for e in found] == [
        (row["problem"], row["solution"], row["answer"]) for row in rows
    ]
    assert found[0].problem.meta == {"level": "2", "subject": "Precalculus"}
    unstated = write(tmp_path / "math.jsonl", [{key: row[key] for key in ("problem", "solution")} for row in rows])
    same = sum(one.problem.ground_truth == row["answer"] for one, row in zip(examples(unstated), rows, strict=True))
    assert same >= 490  # the published answers are tidied in a few rows


def test_public_files_of_problems_are_read_whole(public_data):
    def lines(name: str) -> list[dict]:
        return [json.loads(line) for line in (public_data / name).read_text(encoding="utf-8").splitlines()]

    path = public_data / "one_shot_rlvr/dsr_sub.jsonl"
    with pytest.raises(InputError, match="line 266: field 'ground_truth'"):  # the file has no answer there
        problems(path)
    assert [(p.prompt, p.ground_truth) for p in problems(path, reference="optional")] == [
        (row["prompt"][0]["content"], row["reward_model"]["ground_truth"].strip()) for row in lines("one_shot_rlvr/dsr_sub.jsonl")
    ]
    path = public_data / "math_train_prompts/math.8k.json"
    with pytest.raises(InputError, match="row 5055: field 'ground_truth'"):  # nor has this one
        problems(path)
    assert [(p.id, p.prompt) for p in problems(path, reference="optional")] == [
        (row["id"], row["prompt"]) for row in json.loads(path.read_text(encoding="utf-8"))
    ]
    for name in ("olymmath/EN-EASY.jsonl", "olymmath/EN-HARD.jsonl"):
        found = problems(public_data / name, columns={"id": "unique_id"})
        assert [(p.id, p.ground_truth) for p in found] == [(row["unique_id"], row["answer"]) for row in lines(name)]
    traces = json.loads((public_data / "marco_o1_cot/CoT_demo.json").read_text(encoding="utf-8"))
    columns = {"prompt": "instruction", "completion": "response"}
    found = examples(public_data / "marco_o1_cot/CoT_demo.json", columns=columns, reference="optional")
    assert [(e.problem.prompt, e.completion) for e in found] == [(row["instruction"], row["response"]) for row in traces]


def conversation(number: int, **more) -> dict:
    """A plain row."""
    turns = [{"role": "user", "content": f"What is {number} + 1? €"}, {"role": "assistant", "content": f"So {number + 1}."}]
    return {"id": f"row {number}", "messages": turns, "ground_truth": f" {number + 1} ", "note": {"any": [number]}, **more}


def turns(**more) -> list[dict]:
    return [USER, {**ASSISTANT, **more}]


ODD = {
    "number id": {"id": 7},
    "null id": {"id": None},
    "blank id": {"id": "\x1c "},
    "empty id": {"id": ""},
    "number truth": {"ground_truth": 2},
    "blank truth": {"ground_truth": " "},
    "empty truth": {"ground_truth": ""},
    "truth in meta": {"ground_truth": None, "meta": {"ground_truth": "2"}},
    "truth of two": {"ground_truth": "2", "meta": {"ground_truth": "3"}, "answer": "4"},
    "truth and answer": {"ground_truth": "2", "answer": "4"},
    "no truth in meta": {"ground_truth": None, "meta": {"level": 3}},
    "text for meta": {"meta": "none"},
    "answer": {"ground_truth": None, "answer": "2"},
    "solution": {"ground_truth": None, "solution": "It is \\boxed{2}."},
    "no truth anywhere": {"ground_truth": None, "messages": [USER, {"role": "assistant", "content": "Who knows?"}]},
    "system turn": {"messages": [SYSTEM, *turns()]},
    "thinking": {"messages": turns(thinking="One more is two.")},
    "reasoning": {"messages": turns(reasoning_content="One more is two.")},
    "tools": {"messages": turns(tool_calls=[{"name": "sum"}])},
    "no tools": {"messages": turns(tool_calls=[])},
    "other field of a turn": {"messages": turns(weight=1)},
    "sharegpt turns": {"messages": [{"from": "human", "value": PROMPT}, {"from": "gpt", "value": TRACE}]},
    "mixed names": {"messages": [{"role": "human", "content": PROMPT}, ASSISTANT]},
    "roles exchanged": {"messages": [ASSISTANT, USER]},
    "three turns": {"messages": [USER, ASSISTANT, USER]},
    "one turn": {"messages": [USER]},
    "null turn": {"messages": [USER, None]},
    "no turns": {"messages": []},
    "null turns": {"messages": None},
    "text for turns": {"messages": "none"},
    "number content": {"messages": turns(content=2)},
    "null content": {"messages": turns(content=None)},
    "blank content": {"messages": turns(content="\x1f\u2003\x85")},
    "NUL": {"messages": turns(content="a\0b")},
    "half a pair": {"messages": turns(content="a\udc00")},
    "other half": {"messages": turns(content="a\ud83d")},
    "a pair": {"messages": turns(content="\U0001f600")},
}
ODD_LINES = {
    "blank line": b"\n",
    "repeated key": b'{"id": "a", "id": "b", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "1"}]}\n',
    "two objects in a line": json.dumps(conversation(1)).encode() * 2 + b"\n",
    "object over two lines": json.dumps(conversation(1)).replace(", ", ",\n", 1).encode() + b"\n",
    "one over two, two in one": json.dumps(conversation(1), indent=0).encode() + json.dumps(conversation(2)).encode() + b"\n",
    "not UTF-8": json.dumps(conversation(1, note="?")).encode().replace(b"?", b"\xe9") + b"\n",
    "control character": json.dumps(conversation(1, note="?")).encode().replace(b"?", b"\x01") + b"\n",
    "Windows line end": json.dumps(conversation(1)).encode() + b"\r\n",
    "list": b"[1]\n",
    "cut off": json.dumps(conversation(1)).encode()[:-9] + b"\n",
    **{name: json.dumps(conversation(50) | odd).encode() + b"\n" for name, odd in ODD.items()},
}


def outcome(read) -> list | str:
    """The examples that a way of reading gives, or the message that it ends in."""
    try:
        return list(read())
    except InputError as error:
        return str(error)


@pytest.mark.parametrize(
    "settings_", [{}, {"reference": "optional", "system": "drop", "name": "mine"}], ids=["strict", "lenient"]
)
@pytest.mark.parametrize("block", [1, 400, 1 << 20])
def test_plain_rows_read_in_columns_are_those_read_one_by_one_whatever_stands_among_them(tmp_path, monkeypatch, block, settings_):
    monkeypatch.setattr(sources, "BLOCK", block)
    for name, odd in ODD_LINES.items():
        plain = [json.dumps(conversation(number), ensure_ascii=number % 2 == 0).encode() + b"\n" for number in range(6)]
        assert len(plain_rows(b"".join(plain))) == 6
        for place in (0, 4):
            path = tmp_path / f"{name} {place}.jsonl"
            path.write_bytes(b"".join([*plain[:place], odd, *plain[place:]]))
            source, folder = Source(path=path, **settings_), tmp_path / f"{name} {place}"

            def in_columns(source=source, folder=folder):
                store_rows(load_batches(source, 0), TokenCounter("words"), folder)
                return examples_of(map_rows([folder]))

            assert outcome(in_columns) == outcome(lambda source=source: load(source, 0)), name


def test_only_plain_rows_are_read_in_columns():
    line = json.dumps(conversation(1)).encode()
    assert plain_rows(line).rows() == [("row 1", "What is 1 + 1? €", "So 2.", "2")]
    unread = {name for name in ODD if plain_rows(json.dumps(conversation(50) | ODD[name]).encode()) is None}
    assert set(ODD) - unread == {
        "null id", "empty truth", "truth and answer", "no truth in meta", "no truth anywhere", "other field of a turn", "a pair"
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf\r\n"])
def test_a_file_without_rows_is_refused_by_a_build_too(tmp_path, content):
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(InputError, match="the file is empty"):
        list(load_batches(Source(path=tmp_path / "x.jsonl"), 0))
