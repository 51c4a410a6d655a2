"""From what was found to ordinary run folders: everything is checked first, then written; the same input again changes nothing."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from curate.errors import InputError, UsageError
from curate.files import content_hash, read_json, read_jsonl, write_text
from predict.imports.found import Evaluation, Found
from predict.imports.lineage import RL_STAGES, Lineage, facts, find, imported_id, merged, new_run
from train.records import Run, RunFolder

REWARD_NAMES = ("reward", "train/reward", "critic/score/mean", "critic/rewards/mean")
"""What loggers call the mean reward of a step; `reward_mean` here."""


@dataclass(frozen=True)
class Plan:
    """One run as it will stand, and what is new in it."""

    folder: RunFolder
    name: str
    run: Run
    is_new: bool
    evaluations: list[tuple[Evaluation, int, dict[str, Any], bool]]
    """(evaluation, step, provenance, whether it is new)."""
    curves: dict[int, dict[str, float]]
    losses: list[tuple[int, dict[str, Any]]]
    signals: list[tuple[int, str, float, str]]


def plan(home: Path, found: Found, lineage: Lineage) -> Plan:
    """What importing one found run would write.

    Raises:
        InputError: it contradicts what the workspace holds of that run. UsageError: the parent's step cannot be known.
    """
    name = lineage.run or found.name
    folder, step = find(home, name)
    if step is not None:
        raise UsageError(f"--run {name!r}: give the step apart, as --step {step}")
    recorded = folder.run if (folder.path / "run.json").exists() else None
    is_ours = recorded is not None and folder.path.name != imported_id(name)
    known = {field: fact for field, fact in facts(home, name, found, lineage, recorded).items() if fact.said or not is_ours}
    run = merged(recorded or new_run(folder.path.name), known, name)
    evaluations = [_planned(folder, run, item, lineage, found) for item in found.evaluations]
    _check_distinct(evaluations)
    if not is_ours:
        run.steps = max([run.steps, found.steps, *(item[1] for item in evaluations)])
    at = run.steps if lineage.step is None else lineage.step
    signals = [(at if s.step is None else s.step, s.name, s.value, s.method) for s in found.signals]
    curves = _with_reward_mean(found.curves)
    return Plan(
        folder, name, run, recorded is None, evaluations,
        curves=_new_curves(folder, curves, name),
        losses=_new_losses(folder, curves, lineage, name),
        signals=_new_signals(folder, signals),
    )  # fmt: skip


def _planned(
    folder: RunFolder, run: Run, item: Evaluation, lineage: Lineage, found: Found
) -> tuple[Evaluation, int, dict[str, Any], bool]:
    """An evaluation with its step and provenance, and whether it is new.

    Raises:
        InputError: the run has an evaluation of this key and seed with other counts.
    """
    step = lineage.step if lineage.step is not None else item.step if item.step is not None else max(run.steps, found.steps)
    if item.needs_purpose and lineage.purpose is None:
        raise UsageError(
            "the file does not say whether its samples are of training (--purpose other), of a validation set whose last step is the "
            "outcome (--purpose outcome), or of the start (--purpose signals): say which"
        )
    purpose = item.purpose or lineage.purpose or ("outcome" if run.stage in RL_STAGES else "signals")
    seed = lineage.sampling_seed if lineage.sampling_seed is not None else item.seed or 0
    numbers = {row["num_samples"] for row in item.rows}
    provenance = {
        "num_samples": min(numbers), "seed": seed, "purpose": purpose, "engine": found.engine, "versions": found.versions,
        "commit": found.commit, "hardware": {}, **item.facts,
    }  # fmt: skip
    path = folder.evaluation_path(step, item.key, seed)
    if not path.exists():
        return item, step, provenance, True
    stored = pq.read_table(path, columns=list(item.rows[0])).to_pylist()
    kept = read_json(path.with_suffix(".json"))["provenance"].get("purpose")
    if stored != item.rows or kept != purpose:
        raise InputError(
            f"{item.key['benchmark']}, step {step}: {path} holds other counts (or another purpose, {kept}) of the same settings and seed; "
            "if these are further samples, say so with --sampling-seed N"
        )
    return item, step, provenance, False


def _check_distinct(evaluations: list[tuple[Evaluation, int, dict[str, Any], bool]]) -> None:
    """Refuse two sampling jobs of one key and seed with different counts: which of them counts?"""
    seen: dict[str, list[dict[str, Any]]] = {}
    for item, step, provenance, _ in evaluations:
        identity = content_hash([item.key, step, provenance["seed"]])
        if seen.setdefault(identity, item.rows) != item.rows:
            raise InputError(
                f"{item.key['benchmark']}, step {step}: several files hold evaluations of the same settings and seed with different "
                "counts; import them one at a time, each with its own --sampling-seed N"
            )


def _with_reward_mean(curves: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    """The curves with `reward_mean` where a logger calls it otherwise."""
    names = {name for row in curves.values() for name in row}
    source = next((name for name in REWARD_NAMES if name in names), None)
    if source is None or "reward_mean" in names:
        return curves
    return {step: {**row, "reward_mean": row[source]} if source in row else row for step, row in curves.items()}


def _recorded_curves(folder: RunFolder) -> dict[int, dict[str, float]]:
    path = folder.path / "metrics.jsonl"
    rows = [row for _, row in read_jsonl(path, torn_tail=True)] if path.exists() else []
    return {row["step"]: {name: value for name, value in row.items() if name != "step"} for row in rows}


def _new_curves(folder: RunFolder, curves: dict[int, dict[str, float]], name: str) -> dict[int, dict[str, float]]:
    """All curves as metrics.jsonl will hold them, empty if it holds them already."""
    recorded = _recorded_curves(folder)
    merged = {step: dict(row) for step, row in recorded.items()}
    for step, row in curves.items():
        known = merged.setdefault(step, {})
        for metric, value in row.items():
            if known.setdefault(metric, value) != value:
                raise InputError(
                    f"run {name!r}, step {step}: recorded with {metric} = {known[metric]:g}, came {value:g}; is it another run? "
                    "Give it another --run name"
                )
    return {} if merged == recorded else dict(sorted(merged.items()))


def _new_losses(
    folder: RunFolder, curves: dict[int, dict[str, float]], lineage: Lineage, name: str
) -> list[tuple[int, dict[str, Any]]]:
    """The evaluation losses of a log, as held-out losses of the set that a person names."""
    if lineage.heldout is None:
        return []
    loss_names = [f"eval_{lineage.heldout}_loss", f"eval/{lineage.heldout}_loss", "eval_loss", "eval/loss", "val/loss"]
    logged = {metric for row in curves.values() for metric in row}
    source = next((metric for metric in loss_names if metric in logged), None)
    if source is None:
        raise InputError(f"run {name!r}: --heldout {lineage.heldout}: none of {', '.join(loss_names)} was logged")
    identity = {"heldout": lineage.heldout, "heldout_hash": content_hash({"imported": lineage.heldout}), "kind": "shared"}
    rows = []
    for step, row in curves.items():
        if source not in row:
            continue
        if row[source] < 0:
            raise InputError(f"run {name!r}, step {step}: {source} = {row[source]:g}; a loss in nats a token is not negative")
        rows.append((step, {**identity, "nats_per_token": row[source], "nats_per_example": None, "tokens": None, "examples": None,
                            "entropy_teacher_forced": None}))  # fmt: skip
    known = _known(folder, "losses.jsonl")
    return [(step, row) for step, row in rows if {"step": step, **row} not in known]


def _new_signals(folder: RunFolder, signals: Iterable[tuple[int, str, float, str]]) -> list[tuple[int, str, float, str]]:
    known = _known(folder, "signals.jsonl")
    return [signal for signal in signals if dict(zip(("step", "name", "value", "method"), signal, strict=True)) not in known]


def _known(folder: RunFolder, name: str) -> list[dict[str, Any]]:
    path = folder.path / name
    return [row for _, row in read_jsonl(path, torn_tail=True)] if path.exists() else []


def carry_out(plan: Plan) -> None:
    """Write one planned run; run.json comes last, so that a new run is seen whole or not at all."""
    for item, step, provenance, is_new in plan.evaluations:
        if is_new:
            plan.folder.evaluation(step, item.key, provenance, item.rows)
    if plan.curves:
        rows = [json.dumps({"step": step, **row}, allow_nan=False) for step, row in plan.curves.items()]
        write_text(plan.folder.path / "metrics.jsonl", "\n".join(rows) + "\n")
    for step, loss in plan.losses:
        plan.folder.loss(step, loss)
    for signal in plan.signals:
        plan.folder.signal(*signal)
    plan.folder.write(plan.run)
