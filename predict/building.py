"""Fill a new database of runs: what has not changed is copied from the old one, the rest is read from its files."""

import errno
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from curate.files import content_hash
from predict import packed, run_folders
from predict.columns import COLUMNS, OBJECTS
from predict.merging import merge
from predict.rows import SCHEMAS, Frames, check
from predict.sources import Unit

SCHEMA_SQL = Path(__file__).with_name("schema.sql")
PER_RUN = ("tallies", "pass_at_k", "benchmark_counts")
"""Views whose rows of a run depend on that run alone: their rows are kept as tables `stored_*`, and copied with it."""
BATCH = 500
"""Run folders read before their rows are written: what is held in memory."""
FORMAT = 2
"""Raise it when the reading of files changes: then every one is read anew."""


SUMMARY = """
SELECT (SELECT count(*) FROM runs) AS runs, (SELECT count(*) FROM evaluations) AS evaluations,
       (SELECT count(*) FROM forecast_files) AS forecast_files, (SELECT count(*) FROM checkpoints) AS checkpoints"""


@dataclass(frozen=True)
class Old:
    """The store that is there: its file, what it says of itself, and of each unit in it the signature and the runs."""

    path: Path | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, tuple[str, list[str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Filled:
    """What a new database holds, and how many units were read for it; the others were copied."""

    summary: dict[str, Any]
    runs: set[str]
    read: int


@dataclass(frozen=True)
class Head:
    """What is known of a unit before its rows are read: all of a packed study, the run.json of a run folder."""

    run_ids: list[str]
    run: dict[str, Any] = field(default_factory=dict)
    frames: Frames = field(default_factory=dict)


def schema_stamp() -> str:
    """Hash of what decides how files become tables."""
    return content_hash([FORMAT, SCHEMA_SQL.read_text(encoding="utf-8"), OBJECTS, COLUMNS, PER_RUN])


def fill(path: Path, units: Sequence[Unit], forecasts: pl.DataFrame, old: Old, stamp: str) -> Filled:
    """Write a new database.

    Args:
        stamp: hash of all that it is made from.

    Raises:
        InputError: a file is malformed, or sources contradict each other. OSError: the disk is full.
    """
    try:
        # One thread: several add up a mean in another order each time, and its last bit breaks ties between ranks.
        with duckdb.connect(str(path), config={"threads": 1}) as connection:
            connection.execute(SCHEMA_SQL.read_text(encoding="utf-8"))
            connection.begin()
            read, again = _fill(connection, units, forecasts, old)
            _comment(connection)
            summary, runs = _summed_up(connection, stamp, again)
            connection.commit()
            connection.execute("CHECKPOINT")
            return Filled(summary, runs, read)
    except duckdb.Error as error:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number)) from None
        raise
    finally:
        path.with_name(f"{path.name}.wal").unlink(missing_ok=True)  # left behind where the last commit failed


def _fill(
    connection: duckdb.DuckDBPyConnection, units: Sequence[Unit], forecasts: pl.DataFrame, old: Old
) -> tuple[int, list[str]]:
    """Units read, and the runs that were made again on another machine."""
    same = {
        unit: old.units[str(unit.folder)][1] for unit in units if old.units.get(str(unit.folder), ("", []))[0] == unit.signature
    }
    heads = {unit: _head(unit) for unit in units if unit not in same}
    holders = Counter(chain(*same.values(), *(head.run_ids for head in heads.values())))
    kept = {unit: ids for unit, ids in same.items() if all(holders[run] == 1 for run in ids)}
    heads = {unit: heads.get(unit) or _head(unit) for unit in units if unit not in kept}
    shared = {unit: head for unit, head in heads.items() if any(holders[run] > 1 for run in head.run_ids)}
    for frames in _batches({unit: head for unit, head in heads.items() if unit not in shared}):
        _insert(connection, frames)
    again: list[str] = []
    if shared:
        merged, again = merge([(unit, _rows({unit: head})) for unit, head in shared.items()])
        _insert(connection, merged)
    more = [packed.forecasts(unit.folder) for unit in units if unit.is_packed]
    _insert(connection, {"forecast_files": pl.concat([forecasts, *more]).unique(maintain_order=True)})
    _keep_views(connection)
    if kept:
        _copy(connection, old, list(chain(*kept.values())))
    _record(connection, kept | {unit: head.run_ids for unit, head in heads.items()})
    return len(heads), again


def _head(unit: Unit) -> Head:
    if unit.is_packed:
        frames = packed.read(unit.folder)
        return Head(frames["runs"]["run_id"].to_list(), frames=frames)
    run = run_folders.read_run(unit.folder)
    return Head([run["run_id"]], run)


def _batches(heads: Mapping[Unit, Head]) -> Iterator[Frames]:
    """Rows of a bounded number of units at a time."""
    units = list(heads)
    for first in range(0, len(units), BATCH):
        yield _rows({unit: heads[unit] for unit in units[first : first + BATCH]})


def _rows(heads: Mapping[Unit, Head]) -> Frames:
    """All rows of these units."""
    parts = [head.frames for unit, head in heads.items() if unit.is_packed]
    folders = {unit.folder: head.run for unit, head in heads.items() if not unit.is_packed}
    if folders:
        runs = pl.DataFrame(list(folders.values()), schema=SCHEMAS["runs"], orient="row")
        rows = run_folders.read_rows({folder: run["run_id"] for folder, run in folders.items()})
        parts.append({"runs": runs, **rows})
    return {name: pl.concat([part[name] for part in parts]) for name in SCHEMAS if name != "forecast_files"}


def _insert(connection: duckdb.DuckDBPyConnection, frames: Frames) -> None:
    places = dict(frames["runs"].select("run_id", "source").iter_rows()) if "runs" in frames else {}
    for name, frame in frames.items():
        check(name, frame, lambda run: places.get(run, "the sources"))
        connection.register("incoming", frame.to_arrow())
        columns = ", ".join(f'"{column}"' for column in SCHEMAS[name])
        connection.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM incoming")
        connection.unregister("incoming")


def _keep_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Make tables of the views that are per run, and of each view a look at its table."""
    for name in PER_RUN:
        connection.execute(f"CREATE TABLE stored_{name} AS SELECT * FROM {name}")
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM stored_{name}")


def _copy(connection: duckdb.DuckDBPyConnection, old: Old, runs: list[str]) -> None:
    """Bring the rows of these runs over from the old database."""
    connection.execute(f"ATTACH {_quoted(str(old.path))} AS old (READ_ONLY)")
    connection.execute("CREATE TEMP TABLE kept AS SELECT unnest(?::VARCHAR[]) AS run_id", [runs])
    for name in [*(name for name in SCHEMAS if name != "forecast_files"), *(f"stored_{name}" for name in PER_RUN)]:
        connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM old.{name} SEMI JOIN kept USING (run_id)")
    connection.execute("DETACH old")


def _record(connection: duckdb.DuckDBPyConnection, runs: Mapping[Unit, list[str]]) -> None:
    """Remember what each unit looked like and which runs it holds."""
    rows = [(str(unit.folder), unit.signature, run) for unit, ids in runs.items() for run in ids]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(("folder", "signature", "run_id"), pl.String), orient="row")
    connection.register("incoming", frame.to_arrow())
    connection.execute("INSERT INTO ingested BY NAME SELECT * FROM incoming")
    connection.unregister("incoming")


def _summed_up(connection: duckdb.DuckDBPyConnection, stamp: str, again: list[str]) -> tuple[dict[str, Any], set[str]]:
    """Counts of what is there and the runs made again, also kept in the database with what it was made from; and all runs."""
    summary: dict[str, Any] = connection.sql(SUMMARY).pl().to_dicts()[0]
    stages = connection.sql("SELECT run_id, stage FROM runs").fetchall()
    summary["made_again"] = again
    summary["stages"] = dict(sorted(Counter(stage for _, stage in stages).items()))
    facts = {"schema": schema_stamp(), "stamp": stamp, "summary": json.dumps(summary)}
    connection.executemany("INSERT INTO ingest_facts VALUES (?, ?)", list(facts.items()))
    return summary, {run for run, _ in stages}


def _comment(connection: duckdb.DuckDBPyConnection) -> None:
    """Put the meaning of tables, views and columns beside them."""
    tables = {name for (name,) in connection.sql("SELECT table_name FROM duckdb_tables()").fetchall()}
    for name, words in OBJECTS.items():
        connection.execute(f"COMMENT ON {'TABLE' if name in tables else 'VIEW'} {name} IS {_quoted(words)}")
    for table, column in connection.sql(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE schema_name = 'main'"
    ).fetchall():
        if table in OBJECTS:
            words = COLUMNS.get(f"{table}.{column}") or COLUMNS[column]
            connection.execute(f'COMMENT ON COLUMN {table}."{column}" IS {_quoted(words)}')


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
