"""The row types, a Problem (what is asked, the right answer) and an Example (a problem with one worked trace), and their files."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from curate.errors import InputError
from curate.files import atomic_file, read_jsonl


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its reference answer."""

    id: str
    """Unique within a source; stable under reordering of the source."""
    prompt: str
    """The question, verbatim: becomes the user turn."""
    ground_truth: str
    """The correct answer as text, as the verifier compares it."""
    source: str
    """Name of where it came from."""
    meta: dict[str, Any] = field(default_factory=dict, compare=False)
    """JSON-able facts about the problem (operations, level, ...)."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where an injected behaviour stands: tokens [start, end) of the completion split on white space."""

    behavior: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Example:
    """A problem with one worked solution: a row for supervised training."""

    id: str
    problem: Problem
    completion: str
    """The assistant turn, thinking included."""
    meta: dict[str, Any] = field(default_factory=dict, compare=False)
    """JSON-able facts about the trace (style, behaviours, ...)."""
    spans: tuple[Span, ...] = ()


def text_id(text: str, length: int = 16) -> str:
    """A stable id from a text: first `length` hex digits of its sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def example_row(example: Example) -> dict[str, Any]:
    """The row of train.jsonl: the same keys and types in every row, whatever the source."""
    problem = example.problem
    return {
        "id": example.id,
        "messages": [
            {"role": "user", "content": problem.prompt},
            {"role": "assistant", "content": example.completion},
        ],
        "meta": {
            "problem_id": problem.id,
            "ground_truth": problem.ground_truth,
            "source": problem.source,
            "operations": int(problem.meta.get("operations", 0)),
            "style": str(example.meta.get("style", "")),
            "spans": [{"behavior": span.behavior, "start": span.start, "end": span.end} for span in example.spans],
        },
    }


def prompt_completion_row(example: Example) -> dict[str, Any]:
    """The row of train_pc.jsonl: TRL's `prompt` and `completion`."""
    user, assistant = example_row(example)["messages"]
    return {"id": example.id, "prompt": [user], "completion": [assistant]}


def _example(row: dict[str, Any]) -> Example:
    meta, (user, assistant) = row["meta"], row["messages"]
    if (user["role"], assistant["role"]) != ("user", "assistant"):
        raise ValueError(f"expected a user turn, then an assistant turn, came {user['role']}, {assistant['role']}")
    facts = {"operations": int(meta["operations"])}
    problem = Problem(meta["problem_id"], user["content"], meta["ground_truth"], meta["source"], facts)
    spans = tuple(Span(**span) for span in meta["spans"])
    behaviors = sorted({span.behavior for span in spans})
    return Example(row["id"], problem, assistant["content"], {"style": meta["style"], "behaviors": behaviors}, spans)


def problem_row(problem: Problem, index: int) -> dict[str, Any]:
    """The row of rl.parquet: TRL's `prompt` and `solution`, and verl's columns."""
    return {
        "prompt": [{"role": "user", "content": problem.prompt}],
        "solution": problem.ground_truth,
        "data_source": problem.source,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": problem.ground_truth},
        "extra_info": {
            "split": "train",
            "index": index,
            "id": problem.id,
            "operations": int(problem.meta.get("operations", 0)),
        },
    }


def _problem(row: dict[str, Any]) -> Problem:
    extra = row["extra_info"]
    facts = {"operations": int(extra["operations"])}
    prompt, ground_truth = row["prompt"][0]["content"], row["reward_model"]["ground_truth"]
    return Problem(extra["id"], prompt, ground_truth, row["data_source"], facts)


def _schemas() -> dict[str, Any]:
    """Explicit Arrow schemas with plain strings and lists: what `datasets` reads the same from JSONL and Parquet."""
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    messages = pa.list_(pa.struct({"role": text, "content": text}))
    span = pa.struct({"behavior": text, "start": number, "end": number})
    meta = pa.struct(
        {
            "problem_id": text,
            "ground_truth": text,
            "source": text,
            "operations": number,
            "style": text,
            "spans": pa.list_(span),
        }
    )
    extra = pa.struct({"split": text, "index": number, "id": text, "operations": number})
    return {
        "examples": pa.schema({"id": text, "messages": messages, "meta": meta}),
        "problems": pa.schema(
            {
                "prompt": messages,
                "solution": text,
                "data_source": text,
                "ability": text,
                "reward_model": pa.struct({"style": text, "ground_truth": text}),
                "extra_info": extra,
            }
        ),
        "ledger": pa.schema({"id": text, "step": text, "reason": text, "partner_id": text}),
    }


def schema(kind: str) -> Any:
    """The Arrow schema of `examples`, `problems` or `ledger`."""
    return _schemas()[kind]


def arrow_table(rows: list[dict[str, Any]], kind: str) -> Any:
    """Rows as an Arrow table with their declared schema."""
    import pyarrow as pa

    declared = schema(kind)
    return pa.table([_column([row[field.name] for row in rows], field.type) for field in declared], schema=declared)


def _column(values: list[Any], declared: Any) -> Any:
    """Values as an Arrow array, nested ones level by level; through Polars, since PyArrow would import pandas to look at lists."""
    import polars as pl
    import pyarrow as pa

    if pa.types.is_struct(declared):
        parts = [_column([value[field.name] for value in values], field.type) for field in declared]
        return pa.StructArray.from_arrays(parts, fields=list(declared))
    if pa.types.is_list(declared):
        ends = pl.Series([0, *itertools.accumulate(map(len, values))], dtype=pl.Int32).to_arrow()
        return pa.ListArray.from_arrays(ends, _column(list(itertools.chain.from_iterable(values)), declared.value_type), declared)
    return pl.Series(values, dtype=pl.String if pa.types.is_string(declared) else pl.Int64).to_arrow().cast(declared)


def write_parquet(path: Path, kind: str, rows: list[dict[str, Any]]) -> None:
    """Write rows of `examples`, `problems` or `ledger` with their declared schema."""
    write_table(path, arrow_table(rows, kind))


def write_table(path: Path, table: Any) -> None:
    """Write an Arrow table as Parquet."""
    import pyarrow.parquet as pq

    with atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_examples(path: Path) -> list[Example]:
    """Read examples back from a dataset folder's JSONL or Parquet file.

    Raises:
        InputError: missing, malformed (with the line), or not rows of examples.
    """
    return [_converted(path, number, row, _example) for number, row in _rows(path)]


def read_problems(path: Path) -> list[Problem]:
    """Read problems from an rl.parquet, or from JSONL with a question and a reference answer.

    A JSONL row has `question` and `answer` (GSM8K; the reference follows `####`), or `problem` and `answer` (MATH).
    """
    read = _problem if path.suffix == ".parquet" else _plain_problem
    return [_converted(path, number, row, read) for number, row in _rows(path)]


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a dataset folder's JSONL or Parquet file as they stand there.

    Raises:
        InputError: missing, or malformed (with the line).
    """
    return [row for _, row in _rows(path)]


def _plain_problem(row: dict[str, Any]) -> Problem:
    prompt = row["question"] if "question" in row else row["problem"]
    answer = str(row["answer"])
    reference = answer.rpartition("####")[2].strip()
    return Problem(text_id(prompt), prompt, reference, "jsonl", {})


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.suffix != ".parquet":
        yield from read_jsonl(path)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        raise InputError(f"{path}: no such file")
    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from None
    yield from enumerate(table.to_pylist(), start=1)


T = TypeVar("T")


def _converted(path: Path, number: int, row: dict[str, Any], convert: Callable[[dict[str, Any]], T]) -> T:
    try:
        return convert(row)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"{path}, line {number}: not a row of the expected shape ({type(error).__name__}: {error})") from None
