"""The DuckDB store of runs: build it from plain files, query it read-only. The only module that imports duckdb.

`ingest` reads every recorded source anew, builds the database beside the old one and renames it: readers are never
blocked and never see half. Deleting the database loses nothing.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from curate.errors import InputError, UsageError
from curate.files import atomic_file, read_json, read_jsonl, write_json
from predict import packed
from predict.rows import SCHEMAS, Tables

SCHEMA_SQL = Path(__file__).with_name("schema.sql")
LATEST_BY = {"losses": ("step", "heldout", "heldout_hash", "kind"), "signals": ("step", "name")}
"""What a later row of the same file replaces."""
VIEWS = ("checkpoints", "rl_runs", "pass_at_k", "curves", "lineage", "forecasts")


def database(home: Path) -> Path:
    """Where a workspace keeps its store."""
    return home / "runs.duckdb"


def ingest(home: Path, paths: Iterable[Path] = ()) -> dict[str, Any]:
    """Rebuild the store from the workspace's runs and forecasts and from all recorded sources, `paths` added to them.

    Returns:
        Counts of what the store holds, and `new_runs`.

    Raises:
        InputError: a source is missing, malformed or holds no runs; the old store stays.
    """
    sources = _sources(home, paths)
    tables = Tables()
    for folder in [home, *sources]:
        _read_source(folder, tables, required=folder != home)
    for file in sorted((home / "forecasts").glob("*.json")):
        tables.forecast(read_json(file), file)
    before = _run_ids(home)
    with atomic_file(database(home)) as partial:
        _write(partial, tables)
    write_json(home / "sources.json", [str(source) for source in sources])
    counts = {name: len(rows) for name, rows in tables.rows.items() if name in ("runs", "evaluations", "forecast_files")}
    stages = [run["stage"] for run in tables.rows["runs"]]
    return {
        **counts,
        "checkpoints": len(query(home, "SELECT * FROM checkpoints")),
        "stages": {stage: stages.count(stage) for stage in sorted(set(stages))},
        "new_runs": len({run["run_id"] for run in tables.rows["runs"]} - before),
    }


def _sources(home: Path, paths: Iterable[Path]) -> list[Path]:
    file = home / "sources.json"
    known = [Path(entry) for entry in read_json(file)] if file.exists() else []
    added = [path.resolve() for path in paths if path.resolve() != home.resolve()]
    return list(dict.fromkeys([*known, *added]))


def _run_ids(home: Path) -> set[str]:
    """Of the store that is there; none if it cannot be read: it is about to be rebuilt."""
    try:
        return set(query(home, "SELECT run_id FROM runs")["run_id"])
    except (InputError, UsageError):
        return set()


def _read_source(folder: Path, tables: Tables, *, required: bool) -> None:
    """A packed study, a workspace, a folder of run folders, or one run folder."""
    if (folder / "manifest.json").exists() and (folder / "runs.parquet").exists():
        packed.read(folder, tables)
        return
    if required and not folder.exists():
        raise InputError(f"{folder}: recorded as a source of runs, but it is not there; restore it or edit sources.json")
    single = [folder] if (folder / "run.json").exists() else []
    runs = single or sorted(path.parent for path in [*folder.glob("runs/*/run.json"), *folder.glob("*/run.json")])
    if required and not runs:
        raise InputError(f"{folder}: expected a packed study (runs.parquet, manifest.json) or run folders (*/run.json)")
    for run in runs:
        _read_run(run, tables, str(folder))


def _read_run(folder: Path, tables: Tables, source: str) -> None:
    document = read_json(folder / "run.json")
    tables.run(document, folder / "run.json", source)
    identifier = document["run_id"]
    for name, keys in LATEST_BY.items():
        tables.add(name, ({"run_id": identifier, **row} for row in _latest(_lines(folder / f"{name}.jsonl"), keys)))
    tables.add("metrics", _metrics(identifier, folder / "metrics.jsonl"))
    for file in sorted((folder / "evaluations").glob("*.parquet")):
        _read_evaluation(file, tables)


def _read_evaluation(file: Path, tables: Tables) -> None:
    facts = read_json(file.with_suffix(".json"))
    try:
        tables.evaluation(pl.read_parquet(file).to_dicts(), facts["key"], facts["provenance"], file)
    except (KeyError, TypeError, pl.exceptions.PolarsError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{file}: not an evaluation with its sidecar ({reason}); delete both and evaluate again") from None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from (row for _, row in read_jsonl(path, torn_tail=True))


def _latest(rows: Iterable[dict[str, Any]], keys: Iterable[str]) -> list[dict[str, Any]]:
    """The rows without those that a later one with equal keys replaces (a run that went on after a kill)."""
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row.get(name) for name in keys)
        latest.pop(key, None)
        latest[key] = row
    return list(latest.values())


def _metrics(identifier: str, path: Path) -> Iterator[dict[str, Any]]:
    """Long rows."""
    for row in _latest(_lines(path), ["step"]):
        for name, value in row.items():
            if not isinstance(value, int | float):
                raise InputError(f"{path}, step {row.get('step')}: expected a number, came {name} = {value!r}")
            if name != "step":
                yield {"run_id": identifier, "step": row.get("step"), "name": name, "value": float(value)}


def _write(path: Path, tables: Tables) -> None:
    """Fill a new database.

    Raises:
        InputError: rows of the wrong kind. OSError: the disk is full.
    """
    try:
        with duckdb.connect(str(path)) as connection:
            connection.execute(SCHEMA_SQL.read_text(encoding="utf-8"))
            for name, schema in SCHEMAS.items():
                _fill(connection, name, schema, tables)
            connection.execute("CHECKPOINT")
    except duckdb.Error as error:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number)) from None
        raise
    finally:
        path.with_name(f"{path.name}.wal").unlink(missing_ok=True)  # left behind where the last commit failed


def _fill(connection: duckdb.DuckDBPyConnection, name: str, schema: dict[str, Any], tables: Tables) -> None:
    try:
        frame = pl.DataFrame(tables.rows[name], schema=schema, orient="row")
        connection.register("incoming", frame.to_arrow())
        columns = ", ".join(f'"{column}"' for column in schema)
        connection.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM incoming")
        connection.unregister("incoming")
    except (TypeError, pl.exceptions.PolarsError, duckdb.ConstraintException) as error:
        raise InputError(f"the sources hold rows of {name} that the store cannot hold: {str(error).splitlines()[0]}") from None


def query(home: Path, sql: str) -> pl.DataFrame:
    """The rows of one SELECT. The store is opened read-only, without access to other files, for this query alone.

    Raises:
        InputError: there is no store yet, or the file is none.
        UsageError: not one SELECT, or DuckDB refuses it; its message is passed on.
    """
    path = database(home)
    if not path.exists():
        raise InputError(f"{path}: no store of runs yet; make it with `predict ingest`")
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise UsageError(f"SQL: {error}") from None
    if len(statements) != 1 or statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise UsageError(f"SQL: expected one SELECT, came {len(statements)} statement(s); the store is read-only")
    with _opened(path) as connection:
        try:
            return connection.sql(sql).pl()
        except duckdb.Error as error:
            raise UsageError(f"SQL: {error}") from None


def _opened(path: Path) -> duckdb.DuckDBPyConnection:
    """The database, read-only and closed to other files."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": "false",
        "autoinstall_known_extensions": "false",
        "lock_configuration": "true",
    }
    try:
        return duckdb.connect(str(path), read_only=True, config=config)
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({reason}); it is a cache: make it anew with `predict ingest`") from None


def describe(home: Path) -> pl.DataFrame:
    """Views, columns and types of the store."""
    names = ", ".join(f"'{view}'" for view in VIEWS)
    return query(
        home,
        f"SELECT table_name AS view, column_name AS column, data_type AS type FROM information_schema.columns "
        f"WHERE table_name IN ({names}) ORDER BY table_name, ordinal_position",
    )


def export(home: Path, output: Path, *, force: bool = False) -> dict[str, Any]:
    """Pack the whole store as a study folder that `ingest` reads."""
    frames = {name: query(home, f"SELECT * FROM {name}") for name in SCHEMAS}
    return packed.write(frames, output, force=force)
