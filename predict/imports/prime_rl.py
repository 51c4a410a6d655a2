"""prime-rl: `metrics.jsonl` (curves) and `rollouts/step_N/{train,eval}/{effective,all}/traces.jsonl` (episodes of verifiers).

Trainer and orchestrator write their metrics of one step as separate lines. Episodes of evaluations count at their step;
those of training are stored with purpose `other`. A failed episode is not a wrong answer.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curate.errors import InputError
from curate.examples import text_id
from curate.files import canonical_json
from predict.imports import reading
from predict.imports.found import Choices, Evaluation, Found, chosen
from predict.imports.naming import utc
from predict.imports.tally import Sample, Tally, evaluation_key, is_right, samples_note

_FOLDER = re.compile(r"step_(\d+)/(train|eval)/(effective|all)")


def read(path: Path, choices: Choices) -> list[Found]:
    """The run of a run folder, or of its metrics.jsonl.

    Raises:
        InputError: neither metrics nor episodes, or malformed ones.
    """
    folder = path.parent if path.is_file() else path
    metrics = path if path.is_file() else folder / "metrics.jsonl"
    found = Found(name=folder.resolve().name, engine="prime-rl", stage="grpo")
    if metrics.exists():
        _curves(metrics, found)
    episodes = _episode_files(folder) if path.is_dir() else []
    if not metrics.exists() and not episodes:
        raise InputError(f"{path}: expected prime-rl's metrics.jsonl or rollouts/step_N/KIND/SUBSET/traces.jsonl; there is none")
    for file, step, kind in episodes:
        _evaluations(file, step, kind, choices, found)
    return [found]


def _curves(path: Path, found: Found) -> None:
    for number, row in reading.lines(path, growing=True):
        time = row.pop("time", None)
        found.created_at, found.finished_at = found.created_at or utc(time), utc(time)
        found.log(row.pop("step", None), row, f"{path}, line {number}")
    names = {name for row in found.curves.values() for name in row}
    reward = sorted(name for name in names if re.fullmatch(r"train/agg/effective/(?:[^/]+/)?reward/mean", name))
    for row in found.curves.values():
        if len(reward) == 1 and reward[0] in row:
            row["reward_mean"] = row[reward[0]]
    if not reward:
        found.stage = "sft"


def _episode_files(folder: Path) -> list[tuple[Path, int, str]]:
    """(file, step, kind), of one step and kind the effective cohort where it is there."""
    files: dict[tuple[int, str], Path] = {}
    for file in sorted((folder / "rollouts").glob("step_*/*/*/traces.jsonl")):
        match = _FOLDER.fullmatch(file.parent.relative_to(folder / "rollouts").as_posix())
        if match and (match[3] == "effective" or (int(match[1]), match[2]) not in files):
            files[int(match[1]), match[2]] = file
    return [(file, step, kind) for (step, kind), file in sorted(files.items())]


def _evaluations(path: Path, step: int, kind: str, choices: Choices, found: Found) -> None:
    """Add the counts of one file, environment by environment."""
    samples: dict[str, list[Sample]] = {}
    for number, episode in reading.lines(path):
        where = f"{path}, line {number}"
        if not isinstance(episode.get("task"), dict) or not isinstance(episode.get("traces"), list):
            raise InputError(f"{where}: expected an episode of verifiers with task and traces, came {', '.join(episode)}")
        env = episode.get("env") or {}
        name = str(env.get("name") or env.get("id") or "env")
        if choices.benchmark in (None, name):
            samples.setdefault(name, []).extend(_samples(episode, choices, where))
    for name, known in samples.items():
        tally = Tally(known)
        benchmark = name if kind == "eval" else f"{name}/rollouts"
        key = evaluation_key(benchmark, tally, verifier=f"prime-rl/{choices.metric or 'reward'}", split=kind)
        purpose = None if kind == "eval" else "other"
        found.evaluations.append(Evaluation(key, tally.rows(str(path)), step, purpose=purpose))
        found.notes += samples_note(f"{benchmark}, step {step}", tally)


def _samples(episode: dict[str, Any], choices: Choices, where: str) -> Iterator[Sample]:
    """An episode's traces of one agent; a failed episode is one sample without a score."""
    task = episode["task"]
    content = canonical_json(task.get("data"))
    problem, content = str(task.get("key") or task.get("hash") or text_id(content)), text_id(content)
    if not episode.get("ok") or not episode["traces"]:
        yield Sample(problem, content)
        return
    agents = [str((trace.get("agent") or {}).get("name", "agent")) for trace in episode["traces"]]
    agent, others = chosen(agents, choices.filter, "agent", "--filter", where)
    if others:
        raise InputError(f"{where}: several agents ({', '.join(dict.fromkeys(agents))}); say with --filter whose traces count")
    for trace, name in zip(episode["traces"], agents, strict=True):
        if name == agent:
            yield Sample(problem, content, is_right(_reward(trace, choices.metric, where), choices.threshold, where))


def _reward(trace: dict[str, Any], name: str | None, where: str) -> float | None:
    """The named reward's score, else the weighted sum that verifiers calls the reward; None for a failed trace."""
    rewards = {key: value for key, value in (trace.get("rewards") or {}).items() if value is not None}
    if name is not None and name not in rewards:
        raise InputError(f"{where}: no reward {name!r}; it has {', '.join(rewards) or 'none'}")
    if not trace.get("ok") or not rewards:
        return None
    if name is not None:
        return float(rewards[name]["score"])
    return float(sum(reward["score"] * reward.get("weight", 1.0) for reward in rewards.values()))
