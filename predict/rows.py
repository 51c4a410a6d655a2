"""The rows of the store's tables: their columns, what makes a row the same row, and what its values must be."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from curate.errors import InputError

SCHEMA_VERSION = 1
TEXT, WHOLE, REAL = pl.String, pl.Int64, pl.Float64
KINDS: dict[Any, tuple[str, tuple[type, ...]]] = {
    TEXT: ("a text", (str,)),
    WHOLE: ("a whole number", (int,)),
    REAL: ("a number", (int, float)),
}
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
KEYS = {
    "runs": ("run_id",),
    "evaluation_jobs": ("run_id", "step", "key_id", "seed"),
    "losses": ("run_id", "step", "heldout", "heldout_hash", "kind"),
    "signals": ("run_id", "step", "name"),
    "metrics": ("run_id", "step", "name"),
    "forecast_files": ("forecast_id",),
}
"""A later row of the same file replaces one of equal key; rows of equal key from two sources must be equal."""
REQUIRED = {**KEYS, "runs": ("run_id", "stage", "status", "source"), "evaluations": tuple(SCHEMAS["evaluations"])[:8]}
REQUIRED["evaluation_jobs"] = tuple(SCHEMAS["evaluation_jobs"])
STATUSES = ("running", "done", "failed", "collapsed")
NOT_NEGATIVE = {
    "runs": ("steps", "tokens", "seconds"),
    "evaluations": ("num_correct", "num_no_answer", "num_unparsable", "num_truncated", "mean_tokens"),
    "losses": ("nats_per_token", "nats_per_example", "tokens", "examples", "entropy_teacher_forced"),
}
JSON_COLUMNS = ("variant", "config", "versions", "hardware")

Frames = dict[str, pl.DataFrame]
"""Rows by table."""


def run_row(document: Any, where: Path) -> dict[str, Any]:
    """The row of a run.json.

    Raises:
        InputError: of another schema version, or a field is missing or of the wrong kind.
    """
    if not isinstance(document, dict):
        raise InputError(f"{where}: not a run.json: expected an object, came {type(document).__name__}")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{where}: expected schema_version {SCHEMA_VERSION}, came {document.get('schema_version')}")
    parent, dataset = document.get("parent") or {}, document.get("dataset") or {}
    for name, part in (("parent", parent), ("dataset", dataset)):
        if not isinstance(part, dict):
            raise InputError(f"{where}: {name}: expected an object, came {part!r}")
    row = {**document, **{name: json.dumps(document.get(name) or {}) for name in JSON_COLUMNS}}
    row |= {"parent_run_id": parent.get("run_id"), "parent_step": parent.get("step")}
    row |= {"dataset": dataset.get("name"), "dataset_hash": dataset.get("hash"), "source": str(where.parent)}
    return typed("runs", row, str(where))


def typed(table: str, row: dict[str, Any], where: str) -> dict[str, Any]:
    """The row's columns of a table; one that it lacks is None.

    Raises:
        InputError: a value of the wrong kind. Polars would cut 1.5 down to a whole number without a word.
    """
    return {name: _of_kind(row.get(name), kind, where, name) for name, kind in SCHEMAS[table].items()}


def _of_kind(value: Any, kind: Any, where: str, name: str) -> Any:
    words, kinds = KINDS[kind]
    if kind is WHOLE and isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or (isinstance(value, kinds) and not isinstance(value, bool)):
        return value
    raise InputError(f"{where}: expected {words}, came {name} = {value!r}")


def check(table: str, frame: pl.DataFrame, place: Callable[[str], str]) -> None:
    """Refuse the first row with a value that cannot be.

    Args:
        place: the folder of a run, by its id, for the message.

    Raises:
        InputError: with the place, the run, the step, the field and what came.
    """
    for words, columns, bad in _rules(table):
        if len(rows := frame.filter(bad).head(1)):
            row = rows.row(0, named=True)
            at = ", ".join(f"{name} {row[name]}" for name in ("step", "benchmark", "problem_id", "kind", "name") if row.get(name))
            came = ", ".join(f"{name} = {row[name]}" for name in columns if name in row)
            run = row.get("run_id") or ""
            raise InputError(f"{place(run)}: {table}{run and f' of run {run}'}{at and f', {at}'}: expected {words}, came {came}")


def _rules(table: str) -> list[tuple[str, Sequence[str], pl.Expr]]:
    """(what is expected, columns to show, which rows are wrong)."""
    required = REQUIRED[table]
    rules: list[tuple[str, Sequence[str], pl.Expr]] = [
        (f"{name} to be there", (name,), pl.col(name).is_null()) for name in required
    ]
    for name, kind in SCHEMAS[table].items():
        if kind is REAL:
            rules.append((f"{name} to be finite", (name,), ~pl.col(name).is_finite()))
        if name in NOT_NEGATIVE.get(table, ()):
            rules.append((f"{name} >= 0", (name,), pl.col(name) < 0))
    if table == "runs":
        rules.append((f"one of {', '.join(STATUSES)}", ("status",), ~pl.col("status").is_in(STATUSES)))
    if table == "forecast_files":
        rules.append(("one document of an id", ("forecast_id",), pl.col("forecast_id").is_duplicated()))
    if table == "evaluations":
        rules.append(("num_samples >= 1", ("num_samples",), pl.col("num_samples") < 1))
        for name in ("num_correct", "num_no_answer", "num_unparsable", "num_truncated"):
            rules.append((f"{name} <= num_samples", (name, "num_samples"), pl.col(name) > pl.col("num_samples")))
    return rules


def is_finite_number(value: Any) -> bool:
    """Whether a JSON value is a number that can be stored: neither NaN nor an infinity, nor true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
