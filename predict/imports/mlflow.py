"""MLflow: the SQLite store (`mlflow.db`) and the older file store (`mlruns/EXPERIMENT/RUN/metrics/...`)."""

from pathlib import Path
from typing import Any

from curate.config import read_yaml
from curate.errors import InputError
from predict.imports import reading
from predict.imports.found import Choices, Found, select_runs
from predict.imports.naming import utc

STATUSES = {"FAILED": "failed", "KILLED": "failed", 4: "failed", 5: "failed"}
"""Names in the database, numbers in the file store."""


def read(path: Path, choices: Choices) -> list[Found]:
    """The runs of a store that were not deleted.

    Raises:
        InputError: neither of the two stores, or no such run.
    """
    if path.is_dir() and not list(path.rglob("meta.yaml")):
        path = reading.only(sorted(path.glob("*.db")), path, "mlflow.db or an mlruns folder")
    runs = _from_files(path) if path.is_dir() else _from_database(path)
    return select_runs(runs, choices.pick, path)


def _from_database(path: Path) -> list[Found]:
    active = "SELECT run_uuid, name, status, start_time, end_time FROM runs WHERE lifecycle_stage = 'active' ORDER BY start_time"
    runs = {row["run_uuid"]: _found(row["name"], row) for row in reading.query(path, active)}
    for row in reading.query(path, "SELECT run_uuid, key, value FROM params"):
        if row["run_uuid"] in runs:
            runs[row["run_uuid"]].config[row["key"]] = number(row["value"])
    for row in reading.query(path, "SELECT run_uuid, key, value, step, is_nan FROM metrics ORDER BY timestamp"):
        if row["run_uuid"] in runs:
            value = float("nan") if row["is_nan"] else row["value"]
            runs[row["run_uuid"]].log(row["step"], {row["key"]: value}, f"{path}, {row['key']}")
    return list(runs.values())


def _from_files(path: Path) -> list[Found]:
    runs = []
    for meta in sorted(path.rglob("meta.yaml")):
        facts = read_yaml(meta)
        if "run_id" not in facts or facts.get("lifecycle_stage") != "active":
            continue
        run = _found(facts.get("run_name"), facts)
        for file in sorted((meta.parent / "params").rglob("*")):
            if file.is_file():
                run.config[str(file.relative_to(meta.parent / "params"))] = number(file.read_text(encoding="utf-8").strip())
        for file in sorted((meta.parent / "metrics").rglob("*")):
            if file.is_file():
                _metric_file(file, str(file.relative_to(meta.parent / "metrics")), run)
        runs.append(run)
    return runs


def _found(name: Any, facts: dict[str, Any]) -> Found:
    started, ended = ((facts.get(field) or 0) / 1000 for field in ("start_time", "end_time"))
    return Found(
        name=str(name), engine="mlflow", status=STATUSES.get(facts.get("status"), "done"), created_at=utc(started) if started else None,
        finished_at=utc(ended) if ended else None, seconds=max(0.0, ended - started) if ended else 0.0,
    )  # fmt: skip


def _metric_file(file: Path, name: str, run: Found) -> None:
    """Lines of `timestamp value step`."""
    for index, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            _, value, step, *_ = line.split()
            run.log(int(step), {name: float(value)}, f"{file}, line {index}")
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{file}, line {index}: expected `timestamp value step`, came {line!r}") from None


def number(text: str) -> Any:
    """A parameter as a number where it is one: MLflow keeps all as text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
