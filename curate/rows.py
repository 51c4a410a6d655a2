"""Rows on disk: examples as Arrow files that are mapped into memory, so that texts are read only where they are looked at.

A frame of rows holds all columns; its text columns point into the files. A million rows of 2 KB cost the memory of their
ids and numbers, and the pages that a step touches. Columns `problem_meta`, `meta` and `spans` are JSON; `prompt_key` says
which rows ask one problem, whatever the case and white space of their prompts.
"""

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from curate.dedup import exact_key
from curate.errors import InputError
from curate.examples import Example, Problem, Span
from curate.files import atomic_folder, canonical_json, write_through_memory
from curate.lengths import TokenCounter

BATCH = 2048
"""Rows held as Python objects at a time."""
SCHEMA = pl.Schema(
    {
        "id": pl.String,
        "problem_id": pl.String,
        "prompt": pl.String,
        "completion": pl.String,
        "ground_truth": pl.String,
        "source": pl.String,
        "problem_meta": pl.String,
        "meta": pl.String,
        "spans": pl.String,
        "tokens": pl.Int64,
        "prompt_key": pl.String,
    }
)


def store_rows(examples: Iterable[Example], count: TokenCounter, folder: Path) -> None:
    """Write examples as Arrow files to `folder`, which appears once all are in it."""
    stream = iter(examples)
    with atomic_folder(folder) as partial:
        for number in itertools.count():
            batch = list(itertools.islice(stream, BATCH))
            if number and not batch:
                break
            write = functools.partial(_frame(batch, count).write_ipc, compat_level=pl.CompatLevel.newest())
            write_through_memory(partial / f"{number:06d}.arrow", write)


def map_rows(folders: Sequence[Path]) -> pl.DataFrame:
    """The rows of such folders, one after the other, with their number in column `row`."""
    import pyarrow as pa

    files = [file for folder in folders for file in sorted(folder.glob("*.arrow"))]
    tables = [pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files]
    frames = [pl.DataFrame(schema=SCHEMA), *(pl.DataFrame(pl.from_arrow(table, rechunk=False)) for table in tables)]
    return pl.concat(frames, rechunk=False).with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))


def check_ids(rows: pl.DataFrame) -> None:
    """An id names one row in the ledger and seeds its draws; rows that are equal may share theirs.

    Raises:
        InputError: rows that differ have the same id.
    """
    shared = rows.filter(pl.col("id").is_duplicated()).group_by("id").agg(texts=pl.struct("prompt", "completion").n_unique())
    clashing = shared.filter(pl.col("texts") > 1).sort("id")
    if len(clashing):
        name, texts = clashing.select("id", "texts").row(0)
        raise InputError(
            f"id {name!r:.80} names {texts} rows that differ ({len(clashing)} such ids in all); expected ids that are unique: name "
            "a column of such by `columns: {id: NAME}` (one that no row has: ids come from the content), and where the ids are "
            "numbers, give each source a `name` of its own"
        )


def _frame(examples: list[Example], count: TokenCounter) -> pl.DataFrame:
    problems = [example.problem for example in examples]
    return pl.DataFrame(
        {
            "id": [example.id for example in examples],
            "problem_id": [problem.id for problem in problems],
            "prompt": [problem.prompt for problem in problems],
            "completion": [example.completion for example in examples],
            "ground_truth": [problem.ground_truth for problem in problems],
            "source": [problem.source for problem in problems],
            "problem_meta": [_json(problem.meta) for problem in problems],
            "meta": [_json(example.meta) for example in examples],
            "spans": [_json([[s.behavior, s.start, s.end] for s in example.spans]) for example in examples],
            "tokens": count.all([example.completion for example in examples]),
            "prompt_key": [exact_key(problem.prompt) for problem in problems],
        },
        schema=SCHEMA,
    )


def _json(value: dict[str, Any] | list[Any]) -> str:
    """Canonical JSON, quickly where there is nothing."""
    return canonical_json(value) if value else "{}" if isinstance(value, dict) else "[]"


def examples_of(rows: pl.DataFrame) -> Iterator[Example]:
    """The examples that rows stand for, in their order."""
    for batch in rows.iter_slices(BATCH):
        for row in batch.iter_rows(named=True):
            spans = tuple(Span(*span) for span in json.loads(row["spans"]))
            yield Example(row["id"], _problem(row), row["completion"], json.loads(row["meta"]), spans)


def problems_of(rows: pl.DataFrame) -> list[Problem]:
    """The problems of rows, in their order."""
    return [_problem(row) for row in rows.iter_rows(named=True)]


def _problem(row: dict[str, Any]) -> Problem:
    return Problem(row["problem_id"], row["prompt"], row["ground_truth"], row["source"], json.loads(row["problem_meta"]))
