"""A frame as text: a table for a person, Markdown, CSV, JSON, or Parquet on stdout."""

import json
import math
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from curate.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

Format = Literal["table", "csv", "json", "parquet", "md"]


def print_rows(frame: "pl.DataFrame", form: Format) -> None:
    """Print all rows; `json` is a bare array, `table` shows the first and last 30.

    Raises:
        UsageError: Parquet to a terminal.
    """
    if form == "json":
        print(json.dumps(plain(frame), allow_nan=False))
    elif form == "csv":
        print(_flat(frame).write_csv(), end="")
    elif form == "md":
        print(_markdown(frame))
    elif form == "table":
        print(shown(frame))
    elif sys.stdout.isatty():
        raise UsageError("--format parquet is binary: send it to a file, as in `predict sql ... --format parquet > rows.parquet`")
    else:
        frame.write_parquet(sys.stdout.buffer)


def plain(frame: "pl.DataFrame") -> list[dict[str, Any]]:
    """Rows as JSON values; NaN and infinities become null."""
    rows: list[dict[str, Any]] = [_plain_value(row) for row in frame.to_dicts()]
    return rows


def _plain_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain_value(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain_value(part) for part in value]
    if isinstance(value, Decimal):  # what DuckDB makes of 1.5 and of the sum of a whole column
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, type(None))) else str(value)


def shown(frame: "pl.DataFrame") -> str:
    """A table for a person: all columns, three decimals."""
    import polars as pl

    with pl.Config(
        tbl_rows=60, tbl_cols=-1, tbl_width_chars=240, fmt_str_lengths=60, float_precision=3,
        tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, tbl_formatting="ASCII_MARKDOWN",
    ):  # fmt: skip
        return str(frame)


def _flat(frame: "pl.DataFrame") -> "pl.DataFrame":
    """Lists and structs as JSON texts: a cell of a table holds no other table."""
    import polars as pl

    texts = {
        name: [None if value is None else json.dumps(_plain_value(value)) for value in frame[name].to_list()]
        for name, kind in frame.schema.items()
        if kind.is_nested()
    }
    return frame.with_columns(pl.Series(name, values, pl.String) for name, values in texts.items())


def _markdown(frame: "pl.DataFrame") -> str:
    lines = [list(frame.columns), ["---"] * frame.width, *([_cell(value) for value in row] for row in _flat(frame).iter_rows())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", "<br>")
