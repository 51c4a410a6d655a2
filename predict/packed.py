"""A packed study: a whole store as one folder of Parquet files with checksums, small enough to ship."""

import io
import json
from pathlib import Path
from typing import Any

import polars as pl

from curate.errors import CheckFailed, InputError
from curate.files import atomic_folder, read_json, sha256_file, write_json
from predict.rows import SCHEMAS, Tables

SCHEMA_VERSION = 1
FILES = {"forecast_files": "forecasts"}
"""Tables whose file has another name."""
MADE_BY = "predict export"


def _file(table: str) -> str:
    return f"{FILES.get(table, table)}.parquet"


def write(frames: dict[str, pl.DataFrame], output: Path, *, force: bool = False) -> dict[str, Any]:
    """Write the tables of a store; evaluation jobs are folded into evaluations.parquet.

    Raises:
        OutputExists: `output` is there and `force` is false.
    """
    frames = dict(frames)
    jobs = frames.pop("evaluation_jobs").drop("benchmark")
    frames["evaluations"] = frames["evaluations"].join(jobs, on=["run_id", "step", "key_id", "seed"], how="left")
    frames["runs"] = _without_places(frames["runs"])
    with atomic_folder(output, force=force) as partial:
        for name, frame in frames.items():
            keys = [column for column in ("run_id", "step", "name") if column in frame.columns]
            _write_parquet(frame.sort(keys, maintain_order=True), partial / _file(name))
        files = {file.name: sha256_file(file) for file in sorted(partial.glob("*.parquet"))}
        counts = {name: len(frame) for name, frame in frames.items()}
        manifest = {"schema_version": SCHEMA_VERSION, "made_by": MADE_BY, "sha256": files, "counts": counts}
        write_json(partial / "manifest.json", manifest)
        size = sum(file.stat().st_size for file in partial.iterdir())
    return {"output": str(output), "bytes": size, **counts}


def _write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Through memory: a full disk is then an OSError, which Polars' own writer does not raise."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=12)
    path.write_bytes(buffer.getvalue())


def _without_places(runs: pl.DataFrame) -> pl.DataFrame:
    """Rows that say nothing of the machine's folders: no source, and of a base model not where its weights lie."""
    config = [json.dumps({k: v for k, v in json.loads(text).items() if k != "folder"}) for text in runs["config"]]
    return runs.with_columns(pl.Series("config", config, pl.String), source=pl.lit(None, pl.String))


def read(folder: Path, tables: Tables) -> None:
    """Add a packed study's rows.

    Raises:
        InputError: a file is missing or of another release. CheckFailed: a checksum differs.
    """
    for name, expected in _checksums(folder).items():
        if not (folder / name).exists():
            raise InputError(f"{folder}: {name} is missing; the manifest names it")
        if sha256_file(folder / name) != expected:
            raise CheckFailed(f"{folder}/{name}: its checksum is not the manifest's; fetch the study again")
    for row in _frame(folder, "runs").with_columns(source=pl.lit(str(folder))).to_dicts():
        tables.packed_run(row)
    for name in ("losses", "signals", "metrics", "forecast_files"):
        tables.add(name, _frame(folder, name).to_dicts())
    _read_evaluations(_frame(folder, "evaluations"), tables)


def _checksums(folder: Path) -> dict[str, str]:
    """Of every file of a packed study, by its manifest."""
    manifest = read_json(folder / "manifest.json")
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{folder}/manifest.json: expected schema_version {SCHEMA_VERSION}, came {version}")
    files = manifest.get("sha256")
    missing = {_file(table) for table in SCHEMAS if table != "evaluation_jobs"} - set(files or ())
    if not isinstance(files, dict) or missing:
        raise InputError(f"{folder}/manifest.json: no checksum of {', '.join(sorted(missing))}")
    return files


def _frame(folder: Path, table: str) -> pl.DataFrame:
    return pl.read_parquet(folder / _file(table))


def _read_evaluations(frame: pl.DataFrame, tables: Tables) -> None:
    for _, rows in frame.group_by(["run_id", "step", "key_id", "seed"], maintain_order=True):
        job = {name: rows[name][0] for name in SCHEMAS["evaluation_jobs"]}
        tables.packed_job(job, rows.to_dicts())
