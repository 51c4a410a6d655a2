"""Weights & Biases: a history saved as CSV or Parquet, from the API or from a chart's export.

From the API, `pd.DataFrame(run.scan_history()).to_csv(...)`: `_step`, `_timestamp` and a column a metric, each row
holding what one call of `log` gave. The artifact `RUN_ID-history:v0`, downloaded, is a folder with the same as Parquet. From a chart: `Step` and a column `RUN - METRIC` a run, with `__MIN` and `__MAX` beside.
A `config.yaml` or `config.json` beside the file is read too. The binary `run-ID.wandb` is not.
"""

from pathlib import Path
from typing import Any

import polars as pl

from curate.config import read_yaml
from curate.errors import InputError
from predict.features import read_table
from predict.imports import reading
from predict.imports.csv import mapped
from predict.imports.found import Choices, Found, select_runs
from predict.imports.naming import utc, written

STEPS = ("_step", "Step", "step", "global_step", "train/global_step")
EXPECTED = "a history as CSV or Parquet with _step (run.scan_history(), or the folder of its history artifact), or a chart's export with Step"


def read(path: Path, choices: Choices) -> list[Found]:
    """The runs of an exported history.

    Raises:
        InputError: the binary log, or a table without steps.
    """
    is_artifact = path.is_dir() and any(path.glob("*.parquet"))
    if is_artifact:
        path = reading.only(sorted(path.glob("*.parquet")), path, "one Parquet file, the history artifact of a run")
    if path.is_dir() or path.suffix == ".wandb":
        raise InputError(f"{path}: expected {EXPECTED}; the binary log is not read: `wandb sync` it, then export its history")
    table = mapped(read_table(path), choices.columns, path)
    step = next((name for name in STEPS if name in table.columns), None)
    if step is None:
        raise InputError(f"{path}: expected {EXPECTED}; came {', '.join(table.columns[:20])}")
    is_chart = any(" - " in name for name in table.columns)
    runs = _of_chart(table, step, path) if is_chart else [_of_history(table, step, path, is_artifact)]
    return select_runs(runs, choices.pick, path)


def _of_history(table: pl.DataFrame, step: str, path: Path, is_artifact: bool) -> Found:
    """The run, named by its file; by its folder where the file's name says nothing."""
    folder = path.resolve().parent.name.partition("-history:")[0]
    name = folder if is_artifact or path.stem == "history" else path.stem
    found = Found(name=name, engine="wandb", finished_at=written(path))
    metrics = [name for name in table.columns if not name.startswith("_") and name != step]
    for number, row in enumerate(table.to_dicts(), start=1):
        found.log(row[step], {name: row[name] for name in metrics}, f"{path}, row {number}")
    if "_timestamp" in table.columns and table["_timestamp"].dtype.is_numeric():
        times = table["_timestamp"].drop_nulls().sort()
        found.created_at, found.finished_at = utc(times[0]), utc(times[-1])
    found.config = _config(path.parent)
    return found


def _of_chart(table: pl.DataFrame, step: str, path: Path) -> list[Found]:
    """One run each `RUN - METRIC`; the smoothing range of a chart is no metric."""
    runs: dict[str, Found] = {}
    for column in table.columns:
        name, separator, metric = column.rpartition(" - ")
        if not separator or metric.endswith(("__MIN", "__MAX")):
            continue
        run = runs.setdefault(name, Found(name=name, engine="wandb", finished_at=written(path)))
        for number, (at, value) in enumerate(table.select(step, column).iter_rows(), start=1):
            if value is not None:
                run.log(at, {metric: value}, f"{path}, row {number}")
    return list(runs.values())


def _config(folder: Path) -> dict[str, Any]:
    """The settings beside a history; W&B wraps each value of config.yaml as {value: ...}."""
    for file in (folder / "config.json", folder / "config.yaml"):
        if file.exists():
            settings = reading.document(file) if file.suffix == ".json" else read_yaml(file)
            plain = {
                name: value.get("value") if isinstance(value, dict) and "value" in value else value
                for name, value in settings.items()
            }
            return {name: value for name, value in plain.items() if name not in ("_wandb", "wandb_version")}
    return {}
