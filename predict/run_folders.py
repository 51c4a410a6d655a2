"""Run folders (`run.json` and what lies beside it) as rows of the store's tables."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import InputError
from curate.files import content_hash, read_json, read_jsonl
from predict.rows import KEYS, SCHEMAS, Frames, is_finite_number, run_row, typed

COUNTS = [name for name in SCHEMAS["evaluations"] if name not in ("key_id", "seed")]


def read_run(folder: Path) -> dict[str, Any]:
    """The row of `runs`. It must be read before the rest: a run that is done by then has all its rows.

    Raises:
        InputError: run.json is missing, malformed or of another release.
    """
    where = folder / "run.json"
    return run_row(read_json(where), where)


def read_rows(folders: Mapping[Path, str]) -> Frames:
    """The rows of the other tables, of many folders at once.

    Args:
        folders: run_id by folder.

    Raises:
        InputError: a file is malformed, or an evaluation is another run's.
    """
    files = {file: run_id for folder, run_id in folders.items() for file in sorted((folder / "evaluations").glob("*.parquet"))}
    jobs = pl.DataFrame(
        [_job(file, run_id) for file, run_id in files.items()], schema={"file": pl.String, **SCHEMAS["evaluation_jobs"]}
    )
    return {
        "evaluation_jobs": jobs.drop("file"),
        "evaluations": _evaluations(list(files), jobs),
        "losses": _rows("losses", folders),
        "signals": _rows("signals", folders),
        "metrics": _metrics(folders),
    }


def _job(file: Path, run_id: str) -> dict[str, Any]:
    """The job that a file holds the counts of, with the file's name."""
    try:
        key, provenance = (facts := _facts(file))["key"], facts["provenance"]
        row = {
            "run_id": run_id,
            "step": int(file.name.partition("-")[0]),
            "key_id": content_hash(key, 8),
            "seed": provenance["seed"],
            "purpose": provenance.get("purpose", "other"),
            "benchmark": key["benchmark"],
            "key": json.dumps(key, sort_keys=True),
            "provenance": json.dumps(provenance),
        }
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:  # pyarrow's errors are ValueErrors or OSErrors
        raise _not_an_evaluation(file, error) from None
    return {"file": str(file), **typed("evaluation_jobs", row, str(file))}


def _facts(file: Path) -> dict[str, Any]:
    """Key and provenance: in the file itself and, for people, in a sidecar, which a copy of the folder may lack."""
    embedded = (pq.read_metadata(file).metadata or {}).get(b"forerun")
    sidecar = file.with_suffix(".json")
    inside = json.loads(embedded) if embedded else None
    beside = read_json(sidecar) if sidecar.exists() else None
    if inside is not None and beside is not None and inside != beside:
        raise InputError(f"{sidecar}: key and provenance differ from those inside {file.name}; which of them is right?")
    facts: dict[str, Any] = inside or beside or {}
    return facts


def _not_an_evaluation(file: Path, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return InputError(f"{file}: not an evaluation ({reason}); delete it and its sidecar and evaluate again")


def _evaluations(files: list[Path], jobs: pl.DataFrame) -> pl.DataFrame:
    if not files:
        return pl.DataFrame(schema=SCHEMAS["evaluations"])
    counts = _counts(files).join(
        jobs.select("file", "key_id", "seed", own_run="run_id", own_step="step", own="benchmark"), on="file"
    )
    _check_jobs(counts)
    empty = jobs.filter(~pl.col("file").is_in(counts["file"].unique().implode()))
    if len(empty):
        raise InputError(f"{empty['file'][0]}: an evaluation without rows")
    return counts.select(list(SCHEMAS["evaluations"]))


def _counts(files: list[Path]) -> pl.DataFrame:
    """The rows of all files, each with its file: in one go where all are alike, else one by one, which names a broken one."""
    try:
        frame = pl.read_parquet(files, columns=[*COUNTS, "file"], include_file_paths="file", glob=False)
        if {name: kind for name, kind in frame.schema.items() if name != "file"} == {
            name: SCHEMAS["evaluations"][name] for name in COUNTS
        }:
            return frame
    except pl.exceptions.PolarsError:
        pass
    return pl.concat([_counts_of(file) for file in files])


def _counts_of(file: Path) -> pl.DataFrame:
    try:
        frame = pl.DataFrame(pl.from_arrow(pq.ParquetFile(file).read()))
        return frame.select(
            *(pl.col(name).cast(SCHEMAS["evaluations"][name]) for name in COUNTS), pl.lit(str(file)).alias("file")
        )
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise _not_an_evaluation(file, error) from None


def _check_jobs(counts: pl.DataFrame) -> None:
    for name, own in (("run_id", "own_run"), ("step", "own_step"), ("benchmark", "own")):
        if len(foreign := counts.filter(pl.col(name).ne_missing(pl.col(own))).head(1)):
            row = foreign.row(0, named=True)
            raise InputError(f"{row['file']}: expected rows of {name} {row[own]}, came {row[name]}; is it another run's?")
    if len(twice := counts.filter(pl.struct("file", "problem_id").is_duplicated()).head(1)):
        raise InputError(f"{twice['file'][0]}: problem {twice['problem_id'][0]} is there twice")


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.exists():
        yield from read_jsonl(path, torn_tail=True)


def _rows(table: str, folders: Mapping[Path, str]) -> pl.DataFrame:
    """Rows of .jsonl files without those that a later one of equal key replaces (a run that went on after a kill)."""
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for folder, run_id in folders.items():
        path = folder / f"{table}.jsonl"
        for number, line in _lines(path):
            row = typed(table, {**line, "run_id": run_id}, f"{path}, line {number}")
            key = (folder, *(row[name] for name in KEYS[table]))
            latest.pop(key, None)
            latest[key] = row
    return pl.DataFrame(list(latest.values()), schema=SCHEMAS[table], orient="row")


def _metrics(folders: Mapping[Path, str]) -> pl.DataFrame:
    """One row a step and name, gathered by column: there are many."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMAS["metrics"]}
    for folder, run_id in folders.items():
        path = folder / "metrics.jsonl"
        latest = {line.get("step"): (number, line) for number, line in _lines(path)}
        for step, (number, line) in latest.items():
            _check_numbers(line, f"{path}, line {number}, step {step}")
            values = {name: value for name, value in line.items() if name != "step"}
            columns["run_id"] += [run_id] * len(values)
            columns["step"] += [step] * len(values)
            columns["name"] += values
            columns["value"] += map(float, values.values())
    return pl.DataFrame(columns, schema=SCHEMAS["metrics"])


def _check_numbers(line: dict[str, Any], where: str) -> None:
    if not isinstance(line.get("step"), int):
        raise InputError(f"{where}: expected a whole number, came step = {line.get('step')!r}")
    for name, value in line.items():
        if not is_finite_number(value):
            raise InputError(f"{where}: expected a finite number, came {name} = {value!r}")
