"""The DuckDB store of runs: `ingest` builds it from plain files, `query` reads it, `export` packs it.

The database is built beside the old one and renamed: readers are never blocked and never see half. Deleting it loses nothing.
"""

import json
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from curate.errors import InputError, UsageError
from curate.files import atomic_file, content_hash, read_json, write_json
from predict import building, packed, sources
from predict.building import Filled, Old
from predict.locking import locked
from predict.rows import SCHEMAS, typed
from predict.sources import Unit

VIEWS = ("checkpoints", "rl_runs", "pass_at_k", "curves", "lineage", "forecasts")
ASIDE = ".dropped"
"""Ends the name of a run folder that an ingest is about to remove."""
SECONDS = 60.0
"""A query may take this long."""
LIMITS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "memory_limit": "4GB",
    "max_temp_directory_size": "0B",
    "threads": 1,
}
"""Of a connection that reads. One thread, as where the store is filled: several add up a mean in another order each time."""


def database(home: Path) -> Path:
    """Where a workspace keeps its store."""
    return home / "runs.duckdb"


def ingest(home: Path, paths: Iterable[Path] = (), *, drop: Iterable[str] = ()) -> dict[str, Any]:
    """Bring the store up to date with the workspace's runs and forecasts and all recorded sources, `paths` added to them.

    A path is a packed study, a workspace, a run folder, or a folder that holds any of them. Run folders and packed studies whose
    files have not changed are copied from the old store. One ingest of a workspace runs at a time; another waits.

    Args:
        drop: recorded sources to forget, whose files stay, and imported runs by name or id, whose run folders go.

    Returns:
        Counts of what the store holds; `new_runs`; `read` and `unchanged`, the run folders and packed studies read anew or not;
        `without_run_json`, folders among run folders that hold no run yet; `dropped`, the paths of what was taken out; `made_again`,
        runs that several sources hold from different machines, which differ by rounding: the first source's numbers count, run folders first.

    Raises:
        InputError: a source is missing, malformed or holds no runs, or two contradict each other; the old store stays, and what
            was to be dropped too. UsageError: nothing goes by the name that is to be dropped.
    """
    with locked(home):
        _drop_leftovers(home)
        known = sources.recorded(home)
        dropped = [sources.named(home, known, name) for name in drop]
        with _set_aside([path for path in dropped if path not in known]):
            counts = _ingest(home, [path for path in sources.recorded(home, paths) if path not in dropped])
        return {**counts, "dropped": [str(path) for path in dropped]}


@contextmanager
def _set_aside(folders: list[Path]) -> Iterator[None]:
    """Run folders under a name that no ingest sees: removed at the end, back in their place after an error."""
    aside = {folder: folder.with_name(f".{folder.name}{ASIDE}") for folder in dict.fromkeys(folders)}
    for folder, hidden in aside.items():
        folder.rename(hidden)
    try:
        yield
    except BaseException:
        for folder, hidden in aside.items():
            hidden.rename(folder)
        raise
    for hidden in aside.values():
        shutil.rmtree(hidden)


def _drop_leftovers(home: Path) -> None:
    """Of an ingest that was killed: its half-written database, what DuckDB keeps beside one, and runs that it was dropping."""
    for path in [*home.glob(f".{database(home).name}.*"), *home.glob(f"runs/.*{ASIDE}")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _ingest(home: Path, recorded: list[Path]) -> dict[str, Any]:
    found = sources.find(home, recorded)
    files = sorted((home / "forecasts").glob("*.json"))
    stamp = content_hash([building.schema_stamp(), [[str(u.folder), u.signature] for u in found.units.values()], _stamps(files)])
    old, runs = _old(home)
    extra = {"without_run_json": [str(folder) for folder in found.without_run]}
    if old.facts.get("stamp") == stamp:
        _record(home, recorded)
        return {**json.loads(old.facts["summary"]), "new_runs": 0, "read": 0, "unchanged": len(found.units), **extra}
    forecasts = pl.DataFrame([_forecast(file) for file in files], schema=SCHEMAS["forecast_files"], orient="row")
    with atomic_file(database(home)) as partial:
        filled = _filled(partial, list(found.units.values()), forecasts, old, stamp)
        _record(home, recorded)  # before the rename: after a kill in between, the next ingest reads what was added
    counts = {"new_runs": len(filled.runs - runs), "read": filled.read, "unchanged": len(found.units) - filled.read}
    return {**filled.summary, **counts, **extra}


def _filled(partial: Path, units: list[Unit], forecasts: pl.DataFrame, old: Old, stamp: str) -> Filled:
    """Fill the new database, from files alone if the old one turns out to be damaged."""
    try:
        return building.fill(partial, units, forecasts, old, stamp)
    except duckdb.Error:
        if not old.units:
            raise
        partial.unlink()
        return building.fill(partial, units, forecasts, Old(), stamp)


def _record(home: Path, recorded: list[Path]) -> None:
    write_json(home / "sources.json", [str(source) for source in recorded])


def _stamps(files: list[Path]) -> list[list[Any]]:
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _forecast(file: Path) -> dict[str, Any]:
    document = read_json(file)
    if not isinstance(document, dict) or not {"forecast_id", "created_at", "predictor"} <= document.keys():
        raise InputError(f"{file}: not a forecast (forecast_id, created_at and predictor expected)")
    return typed("forecast_files", {**document, "document": json.dumps(document)}, str(file))


def _old(home: Path) -> tuple[Old, set[str]]:
    """What can be copied from the store that is there, and its runs; nothing if it cannot be read: it is about to be rebuilt."""
    try:
        with _opened(home) as connection:
            runs = {run for (run,) in connection.sql("SELECT run_id FROM runs").fetchall()}
            facts = dict(connection.sql("SELECT name, value FROM ingest_facts").fetchall())
            if facts["schema"] != building.schema_stamp():
                return Old(), runs
            units: dict[str, tuple[str, list[str]]] = {}
            for folder, signature, run in connection.sql("SELECT folder, signature, run_id FROM ingested").fetchall():
                units.setdefault(folder, (signature, []))[1].append(run)
            return Old(database(home), facts, units), runs
    except (InputError, KeyError, duckdb.Error):
        return Old(), set()


def query(home: Path, sql: str, *, seconds: float = SECONDS) -> pl.DataFrame:
    """The rows of one SELECT. The store is opened read-only, without access to other files, for this query alone.

    Args:
        seconds: it may take so long; at most 4 GB of memory are used.

    Raises:
        InputError: there is no store yet, or the file is none.
        UsageError: not one SELECT, or DuckDB refuses it; its message is passed on.
    """
    with _opened(home) as connection:
        return _selected(connection, sql, seconds)


def _selected(connection: duckdb.DuckDBPyConnection, sql: str, seconds: float) -> pl.DataFrame:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise UsageError(f"SQL: {error}") from None
    if len(statements) != 1 or statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise UsageError(f"SQL: expected one SELECT, came {len(statements)} statement(s); the store is read-only")
    timer = threading.Timer(seconds, connection.interrupt)
    timer.start()
    try:
        return connection.sql(sql).pl()
    except duckdb.InterruptException:
        raise UsageError(
            f"SQL: stopped after {seconds:g} seconds; select less, or read a table once instead of per row"
        ) from None
    except duckdb.Error as error:
        raise UsageError(f"SQL: {error}") from None
    finally:
        timer.cancel()


@contextmanager
def _opened(home: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The store, read-only and closed to other files."""
    path = database(home)
    if not path.exists():
        raise InputError(f"{path}: no store of runs yet; make it with `predict ingest`")
    try:
        connection = duckdb.connect(str(path), read_only=True, config={**LIMITS, "lock_configuration": "true"})
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({reason}); it is a cache: make it anew with `predict ingest`") from None
    with connection:
        yield connection


def describe(home: Path) -> pl.DataFrame:
    """Views of the store with their columns: type, and unit and meaning."""
    names = ", ".join(f"'{view}'" for view in VIEWS)
    return query(
        home,
        "SELECT table_name AS view, column_name AS column, data_type AS type, comment FROM duckdb_columns() "
        f"WHERE schema_name = 'main' AND table_name IN ({names}) ORDER BY table_name, column_index",
    )


def export(home: Path, output: Path, *, force: bool = False) -> dict[str, Any]:
    """Pack the whole store as a study folder that `ingest` reads.

    Raises:
        OutputExists: `output` is there and `force` is false, or holds runs that would be lost.
    """
    with locked(home), _opened(home) as connection:  # one database for all tables, whatever happens to the name meanwhile
        frames = {name: connection.sql(f"SELECT * FROM {name}").pl() for name in SCHEMAS}
        return packed.write(frames, output, force=force)
