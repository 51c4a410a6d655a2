"""CSV and Parquet with a column map: counts per problem, one verdict a row, or curves of runs.

A wide table of checkpoints (one row each, signals and outcome as columns) needs no import: `predict score --csv`.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from curate.errors import InputError, UsageError
from predict.features import as_fractions, read_table
from predict.imports.found import Choices, Evaluation, Found
from predict.imports.naming import written
from predict.imports.tally import Sample, Tally, evaluation_key, is_right, samples_note

COUNTS = ("problem_id", "num_samples", "num_correct")
VERDICTS = ("problem_id", "correct")
OPTIONAL = ("run", "step", "benchmark")
EXPECTED = (
    f"counts ({', '.join(COUNTS)}), verdicts ({', '.join(VERDICTS)}) or curves (step and numbers), each with {', '.join(OPTIONAL)} "
    "where they vary; map names with --map COL=NAME. A table of checkpoints is read by `predict score --csv`"
)
SHARE = ("pass", "acc", "exact_match")


def read(path: Path, choices: Choices) -> list[Found]:
    """The runs of a table: one each value of column `run`, else one named like the file.

    Raises:
        InputError: columns or values of another kind. UsageError: a map of a column that is not there.
    """
    table = mapped(read_table(path), choices.columns, path)
    if choices.pick is not None:
        table = picked(table, choices.pick, path)
    runs = table.partition_by("run", maintain_order=True) if "run" in table.columns else [table]
    return [_run(rows, path, choices) for rows in runs]


def mapped(table: pl.DataFrame, columns: dict[str, str], path: Path) -> pl.DataFrame:
    """The table with its columns renamed."""
    if missing := [name for name in columns if name not in table.columns]:
        raise UsageError(f"--map {missing[0]}: {path} has no such column; it has {', '.join(table.columns[:20])}")
    if twice := [name for name in columns.values() if name in table.columns and name not in columns]:
        raise UsageError(f"--map: {path} has a column {twice[0]!r} already; map that one to another name")
    return table.rename(columns)


def picked(table: pl.DataFrame, name: str, path: Path) -> pl.DataFrame:
    """The rows of one run."""
    if "run" not in table.columns or name not in set(table["run"].cast(pl.String)):
        raise InputError(f"{path}: no run {name!r}" + ("" if "run" in table.columns else ": the table has no column run"))
    return table.filter(pl.col("run").cast(pl.String) == name)


def _run(table: pl.DataFrame, path: Path, choices: Choices) -> Found:
    found = Found(name=str(table["run"][0]) if "run" in table.columns else path.stem, engine="csv", finished_at=written(path))
    if set(COUNTS) <= set(table.columns):
        _evaluations(table, found, choices, path, counted=True)
    elif set(VERDICTS) <= set(table.columns):
        _evaluations(table, found, choices, path, counted=False)
    elif "step" in table.columns and "problem_id" not in table.columns:
        curves(table, found, path, choices)
    else:
        raise InputError(f"{path}: expected {EXPECTED}; came {', '.join(table.columns[:20])}")
    return found


def curves(table: pl.DataFrame, found: Found, path: Path, choices: Choices) -> None:
    """Add the numeric columns of a table with `step` as curves; shares in percent become fractions, with a note."""
    numbers = [name for name in table.columns if table[name].dtype.is_numeric() and name != "step"]
    shares = [name for name in numbers if any(word in name for word in SHARE)]
    table, notes = as_fractions(table, shares, choices.percent)
    found.notes += notes
    for name in shares:
        if (lowest := min(table[name].drop_nulls().to_list(), default=0)) < 0:
            raise InputError(f"{path}, column {name}: expected shares from 0 on, came {lowest}")
    steps = table["step"].to_list()
    if twice := next((step for step, after in zip(sorted(steps), sorted(steps)[1:], strict=False) if step == after), None):
        raise InputError(f"{path}: step {twice} is there twice in run {found.name!r}; several runs need a column run")
    for number, row in enumerate(table.select("step", *numbers).to_dicts(), start=1):
        found.log(row.pop("step"), row, f"{path}, row {number}")


def _evaluations(table: pl.DataFrame, found: Found, choices: Choices, path: Path, *, counted: bool) -> None:
    """Add the counts of each benchmark and step."""
    for (benchmark, step), rows in _groups(table, choices, path).items():
        tally = _counts(rows, path) if counted else Tally(_verdicts(rows, choices, path))
        key = evaluation_key(benchmark, tally, verifier=f"csv/{benchmark}")
        found.evaluations.append(Evaluation(key, tally.rows(str(path)), step))
        found.notes += samples_note(benchmark, tally)


def _groups(table: pl.DataFrame, choices: Choices, path: Path) -> dict[tuple[str, int | None], list[tuple[int, dict[str, Any]]]]:
    """Numbered rows by (benchmark, step)."""
    groups: dict[tuple[str, int | None], list[tuple[int, dict[str, Any]]]] = {}
    for number, row in enumerate(table.to_dicts(), start=1):
        benchmark = str(row.get("benchmark") or choices.benchmark or path.stem)
        step = row.get("step")
        if step is not None:
            step = whole(step, f"{path}, row {number}: step")
        groups.setdefault((benchmark, step), []).append((number, row))
    return groups


def whole(value: Any, where: str) -> int:
    """A whole number from 0 on."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or value != int(value):
        raise InputError(f"{where}: expected a whole number from 0 on, came {value!r}")
    return int(value)


def _counts(rows: list[tuple[int, dict[str, Any]]], path: Path) -> Tally:
    tally = Tally()
    for number, row in rows:
        where = f"{path}, row {number}"
        samples, right = (whole(row[name], f"{where}, {name}") for name in COUNTS[1:])
        if samples < 1 or right > samples:
            raise InputError(f"{where}: expected num_samples >= 1 and num_correct <= num_samples, came {right} of {samples}")
        tally.add_counts(_problem(row, where), samples, right, where)
    return tally


def _verdicts(rows: list[tuple[int, dict[str, Any]]], choices: Choices, path: Path) -> Iterator[Sample]:
    for number, row in rows:
        where = f"{path}, row {number}"
        yield Sample(_problem(row, where), "", is_right(row["correct"], choices.threshold, where))


def _problem(row: dict[str, Any], where: str) -> str:
    if row["problem_id"] is None:
        raise InputError(f"{where}: expected a problem_id, the cell is empty")
    return str(row["problem_id"])
