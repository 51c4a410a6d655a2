"""Which run a file's numbers belong to: what a person says, what the file says, and what the workspace holds already."""

import re
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from curate.config import Config
from curate.errors import InputError, UsageError
from curate.files import content_hash
from predict.imports.found import Found
from train.records import CheckpointId, Run, RunFolder

RL_STAGES = ("grpo", "dense_path")
UNNAMED_RECIPE = "imported"
"""The RL recipe of imported RL runs of which nobody says another."""
COUNTERS = ("tokens", "seconds")
"""Fields of which 0 means that it is not known."""
_RUN_ID = re.compile(r"[0-9a-f]{16}")


class Lineage(Config):
    """Where a file's numbers belong: what a person knows and the file does not say."""

    run: str | None = None
    """A name for the run, or the id of one that the workspace has."""
    stage: Literal["base", "sft", "grpo", "dense_path"] | None = None
    step: int | None = None
    parent: str | None = None
    """NAME or ID, or NAME@STEP: the checkpoint that the run started from."""
    base_model: str | None = None
    dataset: str | None = None
    cell: str | None = None
    rl_recipe: str | None = None
    seed: int | None = None
    """Of the training run."""
    sampling_seed: int | None = None
    purpose: Literal["signals", "rl_signals", "outcome", "outcome_shifted", "other"] | None = None
    heldout: str | None = None
    """Name of the held-out set, the same for all candidates, that `eval_loss` was measured on."""
    status: Literal["done", "failed", "collapsed"] | None = None
    started: datetime | None = None
    """When training began, UTC if no zone is given: a forecast from before it is one."""


def imported_id(name: str) -> str:
    """The run id that a foreign run's name stands for, on every machine."""
    return content_hash({"imported": name})


def find(home: Path, reference: str) -> tuple[RunFolder, int | None]:
    """The folder and step of `NAME`, `ID` or `NAME@STEP`; the folder need not be there."""
    name, at, step = reference.rpartition("@")
    if not (at and step.isdecimal()):
        name, step = reference, ""
    known = _RUN_ID.fullmatch(name) and RunFolder.of(home, name).path.exists()
    return RunFolder.of(home, name if known else imported_id(name)), int(step) if step else None


@dataclass(frozen=True)
class Fact:
    """A value of run.json, and whether a person (or for the stage, the file) says so, or it is only a default."""

    value: Any
    said: bool = False


def facts(home: Path, name: str, found: Found, lineage: Lineage, recorded: Run | None) -> dict[str, Fact]:
    """Field of run.json -> what this import knows of it."""
    stage = lineage.stage or found.stage or (recorded.stage if recorded else "sft")
    parent, start = _parent(home, lineage, recorded)
    origin = name if stage == "base" else start.base_model if start else None
    dataset = lineage.dataset or found.dataset
    seed = found.seed if lineage.seed is None else lineage.seed
    is_rl = stage in RL_STAGES
    started = (
        lineage.started.replace(tzinfo=lineage.started.tzinfo or UTC).astimezone(UTC).isoformat() if lineage.started else None
    )
    is_file_of_run = bool(found.curves)  # an evaluation's versions and dates are of the evaluation
    return {
        "stage": Fact(stage, bool(lineage.stage or found.stage)),
        "status": Fact(lineage.status or found.status, lineage.status is not None),
        "parent": Fact(parent, lineage.parent is not None),
        "base_model": Fact(lineage.base_model or origin or found.base_model, lineage.base_model is not None),
        "family": Fact(start.family if start else None),
        "dataset": Fact({"name": dataset, "hash": None} if dataset else None, lineage.dataset is not None),
        "variant": Fact(start.variant if is_rl and start else {"name": name}),
        "cell": Fact(lineage.cell or (start.cell if is_rl and start else name), lineage.cell is not None),
        "rl_recipe": Fact((lineage.rl_recipe or UNNAMED_RECIPE) if is_rl else None, lineage.rl_recipe is not None),
        "config": Fact(found.config),
        "data_seed": Fact(start.data_seed if is_rl and start else None),
        "sft_seed": Fact((start.sft_seed if start else None) if is_rl else seed, lineage.seed is not None and not is_rl),
        "rl_seed": Fact(seed if is_rl else None, lineage.seed is not None and is_rl),
        "tokens": Fact(found.tokens),
        "seconds": Fact(found.seconds),
        "engine": Fact(found.engine if is_file_of_run else None),
        "versions": Fact(found.versions if is_file_of_run else None),
        "commit": Fact(found.commit if is_file_of_run else None),
        "created_at": Fact(started or (found.created_at if is_file_of_run else None), started is not None),
        "finished_at": Fact(found.finished_at if is_file_of_run else None),
    }


def _parent(home: Path, lineage: Lineage, recorded: Run | None) -> tuple[dict[str, Any] | None, Run | None]:
    """The parent checkpoint as run.json has it, and its run."""
    if lineage.parent is None:
        parent = recorded.parent if recorded else None
        folder = RunFolder.of(home, parent["run_id"]) if parent else None
        return parent, folder.run if folder and (folder.path / "run.json").exists() else None
    folder, step = find(home, lineage.parent)
    if not (folder.path / "run.json").exists():
        raise UsageError(f"--parent {lineage.parent}: no such run in {home}; import it first, then what was trained from it")
    start = folder.run
    return CheckpointId(start.run_id, start.steps if step is None else step).__dict__.copy(), start


def merged(run: Run, new: dict[str, Fact], name: str) -> Run:
    """The run with what was not known yet; what a person says against the record is an error."""
    known = {field.name: getattr(run, field.name) for field in fields(run)}
    for field_name, fact in new.items():
        old = known[field_name]
        is_unknown = old in (None, "", {}) or (field_name in COUNTERS and old == 0)
        if is_unknown and fact.value is not None:
            known[field_name] = fact.value
        elif fact.said and old != fact.value:
            raise InputError(
                f"run {name!r}: recorded with {field_name} {old!r}, came {fact.value!r}; give this one another --run name, "
                f"or take it out with `predict ingest --drop {run.run_id}` and import it anew"
            )
    return Run(**known)


def new_run(identifier: str) -> Run:
    """A run of which nothing is known yet."""
    return Run(run_id=identifier, stage="", status="", engine="")
