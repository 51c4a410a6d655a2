"""Trackio: one SQLite file a project; a row of `metrics` is one call of `trackio.log`, its numbers as JSON."""

import json
from pathlib import Path
from typing import Any

from curate.errors import InputError
from predict.imports import reading
from predict.imports.found import Choices, Found, select_runs


def read(path: Path, choices: Choices) -> list[Found]:
    """The runs of a project's database.

    Raises:
        InputError: not Trackio's database, or no such run.
    """
    if path.is_dir():
        path = reading.only(sorted(path.glob("*.db")), path, "one Trackio database, PROJECT.db")
    runs: dict[str, Found] = {}
    for row in reading.query(path, "SELECT run_id, run_name, step, timestamp, metrics FROM metrics ORDER BY id"):
        run = runs.setdefault(
            row["run_id"] or row["run_name"], Found(name=str(row["run_name"]), engine="trackio", created_at=row["timestamp"])
        )
        run.finished_at = row["timestamp"]
        run.log(row["step"], _values(row["metrics"], path), f"{path}, run {row['run_name']}")
    for row in reading.query(path, "SELECT run_id, run_name, config FROM configs"):
        known = runs.get(row["run_id"] or row["run_name"])
        if known is not None:
            known.config = {name: value for name, value in _values(row["config"], path).items() if not name.startswith("_")}
    return select_runs(list(runs.values()), choices.pick, path)


def _values(raw: Any, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(raw)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: expected JSON in the metrics of a run ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected JSON objects in the metrics of a run, came {values!r}")
    return values
