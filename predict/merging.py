"""One run held by several sources: what is equal counts once, what differs is named."""

import json
from collections.abc import Sequence

import polars as pl

from curate.errors import InputError
from predict.rows import KEYS, SCHEMAS, Frames
from predict.sources import Unit

PROVENANCE = {
    "runs": ("dataset", "seconds", "engine", "versions", "commit", "hardware", "created_at", "finished_at", "source"),
    "evaluation_jobs": ("provenance",),
}
"""Recorded and shown, but no reason to call two runs different."""
MEASURED = {"runs": ("status", "tokens")}
"""Of these tables the columns that are measured, and the others decided; of all other tables every column is measured."""
JOB = list(KEYS["evaluation_jobs"])


def merge(parts: Sequence[tuple[Unit, Frames]]) -> tuple[Frames, list[str]]:
    """The rows of runs that several units hold, each once; and the runs that were made again on another machine.

    A packed study of the same execution (equal `created_at`) is a copy of a run folder, perhaps of an earlier state: where both have
    a row of equal key, the folder's counts. Another machine (versions and hardware of run.json) rounds otherwise, so what it measured
    of the same run differs: the first unit's row counts, run folders first. A run that was broken off in one unit and ended in another is
    the one that ended. In all other cases rows of equal key must be equal but for their provenance.

    Raises:
        InputError: they are not; the message names the run, the field and both places.
    """
    order = sorted(parts, key=lambda part: part[0].is_packed)
    folders = [unit.folder.as_posix() for unit, _ in order]
    kept = _without_broken_off([frames for _, frames in order])
    frames = [_marked(part, holder, unit.is_packed) for holder, ((unit, _), part) in enumerate(zip(order, kept, strict=True))]
    again = _made_again(pl.concat([part["runs"] for part in frames]))
    merged: Frames = {}
    for table in KEYS:
        if all(table in part for part in frames):
            merged[table] = _once(table, pl.concat([part[table] for part in frames]), folders)
    chosen = merged["evaluation_jobs"].select("holder", *JOB)
    counts = pl.concat([part["evaluations"] for part in frames])
    merged["evaluations"] = counts.join(chosen, on=["holder", *JOB], how="semi", maintain_order="left")
    return {table: frame.select(list(SCHEMAS[table])) for table, frame in merged.items()}, again


def _without_broken_off(parts: Sequence[Frames]) -> list[Frames]:
    """The parts without their rows of runs that only another part saw the end of."""
    runs = pl.concat([part["runs"].select("run_id", "status") for part in parts])
    ended = runs.filter(pl.col("status") != "running")["run_id"].to_list()
    gone = [part["runs"].filter(pl.col("status") == "running", pl.col("run_id").is_in(ended)) for part in parts]
    return [
        {
            table: rows if table == "forecast_files" else rows.join(broken, on="run_id", how="anti", maintain_order="left")
            for table, rows in part.items()
        }
        for part, broken in zip(parts, gone, strict=True)
    ]


def _made_again(runs: pl.DataFrame) -> list[str]:
    """Runs that were executed on several machines; a base model is only written down, wherever it is first used."""
    executed = runs.filter(pl.col("stage") != "base")
    return executed.filter(pl.col("machine").n_unique().over("run_id") > 1)["run_id"].unique().sort().to_list()


def _marked(frames: Frames, holder: int, is_packed: bool) -> Frames:
    """Frames that know where they are from; of runs the config without its folder, of jobs the counts as one text to compare."""
    machine = pl.concat_str("versions", "hardware", separator=" ", ignore_nulls=True)
    executions = frames["runs"].select("run_id", execution="created_at", machine=machine)
    content = pl.struct(pl.exclude(JOB)).struct.json_encode().sort_by("problem_id").str.join().alias("counts")
    counts = frames["evaluations"].group_by(JOB).agg(content)
    settings = [_without_folder(text) for text in frames["runs"]["config"]]
    return {
        table: frame.join(executions, on="run_id", how="left", maintain_order="left").with_columns(holder=pl.lit(holder), is_packed=pl.lit(is_packed))
        for table, frame in {
            **frames,
            "runs": frames["runs"].with_columns(pl.Series("settings", settings, pl.String)),
            "evaluation_jobs": frames["evaluation_jobs"].join(counts, on=JOB, how="left", maintain_order="left"),
        }.items()
        if table != "forecast_files"
    }  # fmt: skip


def _without_folder(config: str | None) -> str:
    """Where a base model's weights lie is no part of what it is."""
    return json.dumps({name: value for name, value in json.loads(config or "{}").items() if name != "folder"}, sort_keys=True)


def _once(table: str, rows: pl.DataFrame, folders: list[str]) -> pl.DataFrame:
    keys = list(KEYS[table])
    own = rows.filter(~pl.col("is_packed"))
    copies = rows.filter("is_packed").join(own, on=[*keys, "execution"], how="anti", nulls_equal=True, maintain_order="left")
    ignored = {*keys, *PROVENANCE.get(table, ()), "config", "execution", "machine", "holder", "is_packed"}
    compared = [name for name in rows.columns if name not in ignored]
    rows = _of_first_machine(pl.concat([own, copies]), keys, MEASURED.get(table, compared))
    different = rows.unique([*keys, *compared], keep="first", maintain_order=True)
    twice = different.filter(pl.struct(keys).is_duplicated()).sort(keys, maintain_order=True)
    if len(twice):
        first, second = twice.head(2).to_dicts()
        name = next(name for name in compared if first[name] != second[name])
        at = ", ".join(str(first[key]) for key in keys[1:])
        values = "" if name == "counts" else f" ({first[name]} and {second[name]})"
        raise InputError(
            f"run {first['run_id']}: {folders[first['holder']]} and {folders[second['holder']]} hold it with different content: "
            f"{table} {at}{': ' if at else ''}{name} differs{values}. Keep one: move the other away, or take its source out with `predict ingest --drop`"
        )
    return different


def _of_first_machine(rows: pl.DataFrame, keys: list[str], measured: Sequence[str]) -> pl.DataFrame:
    """The rows, what was measured on another machine than that of the first row of equal key put in that row's terms."""
    first = pl.col("machine").first().over(keys)
    return rows.with_columns(
        pl.when(pl.col("machine").eq_missing(first)).then(name).otherwise(pl.col(name).first().over(keys)).alias(name)
        for name in measured
    )
