"""Rows on disk: examples as Arrow files that are mapped into memory, so that texts are read only where they are looked at.

A frame of rows holds all columns; its text columns point into the files. A million rows of 2 KB cost the memory of their
ids and numbers, and the pages that a step touches. Columns `problem_meta`, `meta` and `spans` are JSON; `prompt_key` says
which rows ask one problem, whatever the case and white space of their prompts.
"""

import functools
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
from curate.sources import BATCH

EMPTY = {"problem_meta": "{}", "meta": "{}", "spans": "[]"}
"""What these columns hold where there is nothing."""
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


def store_rows(batches: Iterable[list[Example] | pl.DataFrame], count: TokenCounter, folder: Path) -> None:
    """Write batches of examples, or frames as of `curate.sources.load_batches`, as Arrow files to `folder`.

    The folder appears once all are in it.
    """
    with atomic_folder(folder) as partial:
        for number, batch in enumerate(batches):
            rows = batch if isinstance(batch, pl.DataFrame) else _frame(batch)
            write = functools.partial(_counted(rows, count).write_ipc, compat_level=pl.CompatLevel.newest())
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


def with_exact_keys(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with `exact_key`, equal where question and completion are but for case and white space.

    A row that alone asks its question is equal to none, and its completion is not looked at.
    """
    several = rows.filter(pl.col("prompt_key").is_duplicated()).select("row", "prompt", "completion")
    texts = (text for batch in several.iter_slices(BATCH) for text in batch.select("prompt", "completion").iter_rows())
    keys = pl.Series([exact_key(f"{prompt}\n{completion}") for prompt, completion in texts], dtype=pl.String)
    rows = rows.join(several.select("row", exact_key=keys), on="row", how="left", maintain_order="left")
    return rows.with_columns(pl.col("exact_key").fill_null(pl.col("prompt_key")))


def _counted(rows: pl.DataFrame, count: TokenCounter) -> pl.DataFrame:
    """The columns of `SCHEMA`; those that the frame lacks are empty objects and lists."""
    empty = {name: pl.lit(value) for name, value in EMPTY.items() if name not in rows.columns}
    tokens = pl.Series(count.all(rows["completion"].to_list()), dtype=pl.Int64)
    keys = pl.Series([exact_key(prompt) for prompt in rows["prompt"]], dtype=pl.String)
    return rows.with_columns(tokens=tokens, prompt_key=keys, **empty).select(SCHEMA.names())


def _frame(examples: list[Example]) -> pl.DataFrame:
    problems = [example.problem for example in examples]
    columns = {
        "id": [example.id for example in examples],
        "problem_id": [problem.id for problem in problems],
        "prompt": [problem.prompt for problem in problems],
        "completion": [example.completion for example in examples],
        "ground_truth": [problem.ground_truth for problem in problems],
        "source": [problem.source for problem in problems],
        "problem_meta": [_json(problem.meta) for problem in problems],
        "meta": [_json(example.meta) for example in examples],
        "spans": [_json([[s.behavior, s.start, s.end] for s in example.spans]) for example in examples],
    }
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def _json(value: dict[str, Any] | list[Any]) -> str:
    """Canonical JSON, quickly where there is nothing."""
    return canonical_json(value) if value else "{}" if isinstance(value, dict) else "[]"


def _value(text: str) -> Any:
    """What `_json` wrote."""
    return {} if text == "{}" else [] if text == "[]" else json.loads(text)


def examples_of(rows: pl.DataFrame) -> Iterator[Example]:
    """The examples that rows stand for, in their order."""
    for batch in rows.iter_slices(BATCH):
        for row in batch.iter_rows(named=True):
            spans = tuple(Span(*span) for span in _value(row["spans"]))
            yield Example(row["id"], _problem(row), row["completion"], _value(row["meta"]), spans)


def problems_of(rows: pl.DataFrame) -> list[Problem]:
    """The problems of rows, in their order."""
    return [_problem(row) for row in rows.iter_rows(named=True)]


def _problem(row: dict[str, Any]) -> Problem:
    return Problem(row["problem_id"], row["prompt"], row["ground_truth"], row["source"], _value(row["problem_meta"]))
