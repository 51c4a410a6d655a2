"""A packed study: a whole store as one folder of Parquet files with checksums, small enough to ship."""

import io
import json
from pathlib import Path
from typing import Any

import polars as pl

from curate.errors import CheckFailed, InputError, OutputExists
from curate.files import atomic_folder, read_json, sha256_file, write_json
from predict.rows import KEYS, SCHEMAS, Frames

SCHEMA_VERSION = 1
FILES = {"forecast_files": "forecasts"}
"""Tables whose file has another name."""
MADE_BY = "predict export"


def _file(table: str) -> str:
    return f"{FILES.get(table, table)}.parquet"


def write(frames: Frames, output: Path, *, force: bool = False) -> dict[str, Any]:
    """Write the tables of a store; evaluation jobs are folded into evaluations.parquet.

    Raises:
        OutputExists: `output` is there and `force` is false, or holds what would be lost: run folders, or runs that the store lacks.
    """
    _check_nothing_lost(output, frames["runs"]["run_id"])
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


def _check_nothing_lost(output: Path, runs: pl.Series) -> None:
    """A folder that is replaced may be a study, or anything but a workspace."""
    folders = [path.parent for pattern in ("run.json", "*/run.json", "runs/*/run.json") for path in output.glob(pattern)]
    if folders:
        raise OutputExists(
            f"{output} holds run folders ({folders[0]}), which a packed study must not replace; choose another folder"
        )
    if (output / "runs.parquet").exists() and (output / "manifest.json").exists():
        lost = set(_frame(output, "runs", {"run_id": pl.String})["run_id"]) - set(runs)
        if lost:
            raise OutputExists(
                f"{output} holds {len(lost)} run(s) that the store lacks, such as {min(lost)}: `predict ingest {output}` first, or remove it"
            )


def _write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Through memory: a full disk is then an OSError, which Polars' own writer does not raise."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=12)
    path.write_bytes(buffer.getvalue())


def _without_places(runs: pl.DataFrame) -> pl.DataFrame:
    """Rows that say nothing of the machine's folders: no source, and of a base model not where its weights lie."""
    config = [json.dumps({k: v for k, v in json.loads(text).items() if k != "folder"}) for text in runs["config"]]
    return runs.with_columns(pl.Series("config", config, pl.String), source=pl.lit(None, pl.String))


def read(folder: Path) -> Frames:
    """A packed study's rows.

    Raises:
        InputError: a file is missing, of another release, or holds rows of a run that runs.parquet lacks.
        CheckFailed: a checksum differs.
    """
    for name, expected in _checksums(folder).items():
        if not (folder / name).exists():
            raise InputError(f"{folder}: {name} is missing; the manifest names it")
        if sha256_file(folder / name) != expected:
            raise CheckFailed(f"{folder}/{name}: its checksum is not the manifest's; fetch the study again")
    frames = {
        name: _frame(folder, name, SCHEMAS[name]) for name in SCHEMAS if name not in ("runs", "evaluations", "evaluation_jobs")
    }
    frames["runs"] = _frame(folder, "runs", {**SCHEMAS["runs"], "source": None}).with_columns(source=pl.lit(str(folder)))
    both = _frame(folder, "evaluations", SCHEMAS["evaluations"] | SCHEMAS["evaluation_jobs"])
    jobs = both.select(list(SCHEMAS["evaluation_jobs"]))
    frames["evaluation_jobs"] = jobs.unique(KEYS["evaluation_jobs"], keep="first", maintain_order=True)
    frames["evaluations"] = both.select(list(SCHEMAS["evaluations"]))
    _check_runs(folder, frames)
    return frames


def _check_runs(folder: Path, frames: Frames) -> None:
    known = frames["runs"]["run_id"]
    if known.n_unique() != len(known):
        raise InputError(f"{folder}/runs.parquet: run {known.filter(known.is_duplicated())[0]} is there twice")
    for name, frame in frames.items():
        if "run_id" in frame.columns and len(foreign := frame.filter(~pl.col("run_id").is_in(known.implode()))):
            raise InputError(f"{folder}/{_file(name)}: rows of run {foreign['run_id'][0]}, which runs.parquet does not hold")


def forecasts(folder: Path) -> pl.DataFrame:
    """The forecasts of a packed study alone."""
    return _frame(folder, "forecast_files", SCHEMAS["forecast_files"])


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


def _frame(folder: Path, table: str, schema: dict[str, Any]) -> pl.DataFrame:
    path = folder / _file(table)
    try:
        return pl.read_parquet(path).select(pl.col(name).cast(kind or pl.String) for name, kind in schema.items())
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not the table {table} ({str(error).splitlines()[0]})") from None
