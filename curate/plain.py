"""JSON lines of plain conversations, parsed a block at a time into columns, without a Python object a row.

Plain is what nearly every row of a `messages` file is: a user turn, an assistant turn, and its `ground_truth` or none. A block
with a row of any other kind, or with a fault, is not read here at all: `curate.formats` reads it row by row, with the same
result for plain rows, and has the messages for the others. Only what stands in fields that nobody reads is looked at less
strictly here: nesting or numbers beyond Python's limits pass.
"""

from typing import Any

import polars as pl

from curate.answers import extract_answer

_SAID = r"[^\s\x1C-\x1F]"
"""A character that is no white space as Python's `str.strip` has it."""


def plain_rows(block: bytes) -> pl.DataFrame | None:
    """The columns id (null where a row has none), prompt, completion and ground_truth (null where none is known) of whole lines.

    None where one row is not plain.
    """
    body = block.removesuffix(b"\n")
    breaks = body.count(b"\n")
    one_a_line = body.startswith(b"{") and body.endswith(b"}") and body.count(b"}\n{") == breaks
    rows = _parsed(block) if one_a_line and b"\\u0000" not in body else None
    if rows is None or len(rows) != breaks + 1 or not _holds(rows["messages"].list.len() == 2):
        return None
    turns = rows["messages"].list.explode(empty_as_null=False).struct.unnest()
    if not _holds(turns["role"] == pl.Series(["user", "assistant"] * len(rows))):
        return None
    texts, truths = turns["content"], rows["ground_truth"].replace("", None)
    if not all(_holds(column.str.contains(_SAID)) for column in (texts, truths.drop_nulls(), rows["id"].drop_nulls())):
        return None
    elsewhere = rows.filter(truths.is_null()).select("answer", "solution")
    if elsewhere.null_count().sum_horizontal().sum() < 2 * len(elsewhere):  # the answer has to be found in another text
        return None
    frame = pl.DataFrame({"id": rows["id"], "prompt": texts.gather_every(2), "completion": texts.gather_every(2, 1)})
    return frame.with_columns(ground_truth=_references(truths, frame["completion"]))


def _references(truths: pl.Series, completions: pl.Series) -> pl.Series:
    """The answers that rows say, else those that their completions say."""
    known = [
        extract_answer(completion) if truth is None else truth.strip()
        for truth, completion in zip(truths, completions, strict=True)
    ]
    return pl.Series(known, dtype=pl.String)


def _parsed(block: bytes) -> pl.DataFrame | None:
    """The fields that decide what a row says; None where the block is no JSON or one of them is of another type."""
    import pyarrow as pa
    import pyarrow.json as pj

    read = pj.ReadOptions(use_threads=False, block_size=len(block) + 1)
    parse = pj.ParseOptions(explicit_schema=_schema(), unexpected_field_behavior="ignore")
    try:
        table = pj.read_json(pa.BufferReader(block), read_options=read, parse_options=parse)
        table.validate(full=True)  # UTF-8, which the parser does not look at
    except pa.ArrowException:
        return None
    return pl.DataFrame(pl.from_arrow(table))


def _schema() -> Any:
    """Fields of the type null must not be there: they would change what the row says."""
    import pyarrow as pa

    text, nothing = pa.string(), pa.null()
    turn = {"role": text, "content": text, "tool_calls": nothing, "reasoning_content": nothing, "thinking": nothing}
    meta = pa.struct({"ground_truth": nothing})
    said = {"id": text, "ground_truth": text, "answer": text, "solution": text, "meta": meta}
    return pa.schema({**said, "messages": pa.list_(pa.struct(turn))})


def _holds(found: pl.Series) -> bool:
    """Whether a condition holds for every row; null does not."""
    return bool(found.fill_null(False).all())
