"""The way in: read a foreign path, check all of it, then write it as run folders."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from curate.errors import InputError, UsageError
from predict.imports.found import Choices, Found
from predict.imports.lineage import Lineage
from predict.imports.writing import Plan, carry_out, plan

FORMATS = {
    "lm-eval": "lm_eval",
    "lighteval": "lighteval",
    "inspect": "inspect_ai",
    "trl": "trl",
    "verl": "verl",
    "prime-rl": "prime_rl",
    "nemo": "nemo",
    "trackio": "trackio",
    "mlflow": "mlflow",
    "wandb": "wandb",
    "csv": "csv",
}
"""What a format is called -> its module here, which has `read(path, choices) -> list[Found]`."""


def import_logs(
    form: str, path: Path, home: Path, lineage: Lineage, choices: Choices, *, dry_run: bool = False
) -> dict[str, Any]:
    """Write what a foreign path holds as runs of a workspace; the same input again changes nothing.

    Args:
        form: one of FORMATS.
        dry_run: check and report, write nothing.

    Returns:
        JSON-able: format, dry_run, runs (run_id, name, stage, evaluations, metrics rows, what is new), notes.

    Raises:
        InputError: the path holds something else, or contradicts what the workspace has. Nothing was written then.
        UsageError: unknown format, or one run's lineage given for several.
    """
    if form not in FORMATS:
        raise UsageError(f"format {form!r}: expected one of {', '.join(FORMATS)}")
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    read: Callable[[Path, Choices], list[Found]] = import_module(f"predict.imports.{FORMATS[form]}").read
    found = [item.close() for item in read(path, choices)]
    if lineage.run and len(found) > 1:
        names = ", ".join(item.name for item in found)
        raise UsageError(f"--run names one run, {path} holds {len(found)} ({names}): choose one with --pick")
    plans = [plan(home, item, lineage) for item in found]
    if not dry_run:
        for item in plans:
            carry_out(item)
    notes = [note for item in found for note in item.notes]
    return {"format": form, "dry_run": dry_run, "runs": [_described(item) for item in plans], "notes": notes}


def _described(item: Plan) -> dict[str, Any]:
    return {
        "run_id": item.run.run_id,
        "name": item.name,
        "stage": item.run.stage,
        "parent": item.run.parent,
        "steps": item.run.steps,
        "is_new": item.is_new,
        "metric_steps": len(item.curves),
        "losses": len(item.losses),
        "signals": len(item.signals),
        "evaluations": [
            {
                "step": step,
                "benchmark": found.key["benchmark"],
                "verifier": found.key["verifier"],
                "purpose": provenance["purpose"],
                "problems": len(found.rows),
                "num_samples": sum(row["num_samples"] for row in found.rows),
                "num_correct": sum(row["num_correct"] for row in found.rows),
                "is_new": is_new,
            }
            for found, step, provenance, is_new in item.evaluations
        ],
    }
