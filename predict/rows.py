"""The rows that fill the store's tables, gathered from run folders, packed studies and importers, each row once."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from curate.errors import InputError
from curate.files import content_hash

SCHEMA_VERSION = 1
TEXT, WHOLE, REAL = pl.String, pl.Int64, pl.Float64
SCHEMAS: dict[str, dict[str, Any]] = {
    "runs": {
        **dict.fromkeys(("run_id", "stage", "status", "parent_run_id"), TEXT),
        "parent_step": WHOLE,
        **dict.fromkeys(("base_model", "family", "dataset", "dataset_hash", "variant", "cell", "rl_recipe", "config"), TEXT),
        **dict.fromkeys(("data_seed", "sft_seed", "rl_seed", "steps", "tokens"), WHOLE),
        "seconds": REAL,
        **dict.fromkeys(("engine", "versions", "commit", "hardware", "created_at", "finished_at", "source"), TEXT),
    },
    "evaluation_jobs": {
        "run_id": TEXT,
        "step": WHOLE,
        "key_id": TEXT,
        "seed": WHOLE,
        **dict.fromkeys(("purpose", "benchmark", "key", "provenance"), TEXT),
    },
    "evaluations": {
        "run_id": TEXT,
        "step": WHOLE,
        "key_id": TEXT,
        "seed": WHOLE,
        "benchmark": TEXT,
        "problem_id": TEXT,
        **dict.fromkeys(("num_samples", "num_correct", "num_no_answer", "num_unparsable", "num_truncated"), WHOLE),
        "mean_tokens": REAL,
    },
    "losses": {
        "run_id": TEXT,
        "step": WHOLE,
        **dict.fromkeys(("heldout", "heldout_hash", "kind"), TEXT),
        **dict.fromkeys(("nats_per_token", "nats_per_example"), REAL),
        **dict.fromkeys(("tokens", "examples"), WHOLE),
        "entropy_teacher_forced": REAL,
    },
    "signals": {"run_id": TEXT, "step": WHOLE, "name": TEXT, "value": REAL, "method": TEXT},
    "metrics": {"run_id": TEXT, "step": WHOLE, "name": TEXT, "value": REAL},
    "forecast_files": {"forecast_id": TEXT, "created_at": TEXT, "predictor": TEXT, "document": TEXT},
}
JSON_COLUMNS = ("variant", "config", "versions", "hardware")


class Tables:
    """Rows by table. A run or an evaluation that a second source holds again is not counted twice."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
        self._runs: set[str] = set()
        self._jobs: set[tuple[Any, ...]] = set()
        self._lines: dict[str, set[str]] = {name: set() for name in SCHEMAS}

    def run(self, document: dict[str, Any], where: Path, source: str) -> None:
        """Add a run.json."""
        try:
            if document.get("schema_version") != SCHEMA_VERSION:
                raise InputError(f"{where}: expected schema_version {SCHEMA_VERSION}, came {document.get('schema_version')}")
            parent, dataset = document.get("parent") or {}, document.get("dataset") or {}
            row = {name: document.get(name) for name in SCHEMAS["runs"]}
            row |= {name: json.dumps(document.get(name) or {}) for name in JSON_COLUMNS}
            row |= {"parent_run_id": parent.get("run_id"), "parent_step": parent.get("step")}
            row |= {"dataset": dataset.get("name"), "dataset_hash": dataset.get("hash"), "source": source}
            identifier, _, _ = document["run_id"], document["stage"], document["status"]
        except (KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{where}: not a run.json ({type(error).__name__}: {error})") from None
        self.packed_run({**row, "run_id": identifier})

    def packed_run(self, row: dict[str, Any]) -> None:
        """Add a row of the runs table, unless that run is there already."""
        if row["run_id"] not in self._runs:
            self._runs.add(row["run_id"])
            self.rows["runs"].append({name: row.get(name) for name in SCHEMAS["runs"]})

    def evaluation(self, rows: list[dict[str, Any]], key: dict[str, Any], provenance: dict[str, Any], where: Path) -> None:
        """Add the counts of one sampling job."""
        if not rows:
            raise InputError(f"{where}: an evaluation without rows")
        job = {
            "run_id": rows[0]["run_id"],
            "step": rows[0]["step"],
            "key_id": content_hash(key, 8),
            "seed": provenance["seed"],
            "purpose": provenance.get("purpose", "other"),
            "benchmark": key["benchmark"],
            "key": json.dumps(key, sort_keys=True),
            "provenance": json.dumps(provenance),
        }
        identity = {name: job[name] for name in ("key_id", "seed")}
        self.packed_job(job, [{**row, **identity} for row in rows])

    def packed_job(self, job: dict[str, Any], rows: Iterable[dict[str, Any]]) -> None:
        """Add a row of evaluation_jobs with its counts, unless that job is there already."""
        identity = tuple(job[name] for name in ("run_id", "step", "key_id", "seed"))
        if identity not in self._jobs:
            self._jobs.add(identity)
            self.rows["evaluation_jobs"].append(job)
            self.rows["evaluations"] += [{name: row.get(name) for name in SCHEMAS["evaluations"]} for row in rows]

    def forecast(self, document: dict[str, Any], where: Path) -> None:
        """Add a forecast file."""
        try:
            row = {name: document[name] for name in ("forecast_id", "created_at", "predictor")}
        except (KeyError, TypeError):
            raise InputError(f"{where}: not a forecast (forecast_id, created_at and predictor expected)") from None
        self.add("forecast_files", [{**row, "document": json.dumps(document)}])

    def add(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows of another table, equal ones once."""
        for row in rows:
            kept = {column: row.get(column) for column in SCHEMAS[name]}
            identity = json.dumps(kept, sort_keys=True)
            if identity not in self._lines[name]:
                self._lines[name].add(identity)
                self.rows[name].append(kept)
