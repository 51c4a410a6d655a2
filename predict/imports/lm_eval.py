"""EleutherAI lm-evaluation-harness: results_*.json and samples_*.jsonl (formats of 0.4.x).

A sample line has one verdict for one (problem, filter). With `repeats` > 1 that verdict is of the first response alone
(filter `take_first`) or of a vote: then the texts of all responses are verified anew. Without sample files only
averages are known, and they are stored as scalars under lm-eval's own names.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.errors import InputError
from curate.examples import text_id
from curate.files import content_hash
from predict.imports import reading
from predict.imports.found import Choices, Evaluation, Found, Signal, chosen
from predict.imports.naming import name_and_step, utc
from predict.imports.tally import Sample, Tally, evaluation_key, is_right, reference, samples_note

_SAMPLES = re.compile(r"samples_(.+)_([^_]+)\.jsonl")
_SHARES = re.compile(r"acc|exact_match|pass|math_verify|em\b", re.IGNORECASE)


def read(path: Path, choices: Choices) -> list[Found]:
    """Runs of a folder of results, of one results_*.json with its samples, or of one samples_*.jsonl.

    Raises:
        InputError: none of them, malformed, or samples whose verdicts cannot be counted.
    """
    if path.suffix == ".jsonl":
        return [_run(path.with_name(f"results_{_task_and_date(path)[1]}.json"), [path], choices)]
    files = sorted(path.rglob("results*.json")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: expected lm-eval's results_*.json in it; there is none")
    found: dict[str, Found] = {}
    for file in files:
        run = _run(file, _samples_of(file), choices)
        if run.name in found:
            known = found[run.name]
            known.evaluations += run.evaluations
            known.signals += run.signals
            known.notes += run.notes
        else:
            found[run.name] = run
    return list(found.values())


def _task_and_date(path: Path) -> tuple[str, str]:
    match = _SAMPLES.fullmatch(path.name)
    if not match:
        raise InputError(f"{path}: expected lm-eval's name, samples_TASK_DATE.jsonl")
    return match[1], match[2]


def _samples_of(results: Path) -> list[Path]:
    """The sample files of the same date beside a results file."""
    date = results.stem.removeprefix("results").removeprefix("_")
    return sorted(results.parent.glob(f"samples_*_{date}.jsonl")) if date else []


def _run(file: Path, sample_files: list[Path], choices: Choices) -> Found:
    """One results file with its samples."""
    results = reading.document(file) if file.exists() else {}
    if not isinstance(results, dict) or (results and not isinstance(results.get("results"), dict)):
        raise InputError(f"{file}: expected lm-eval's results, an object with `results`")
    name, step = name_and_step(str(results.get("model_name") or _model_argument(results) or file.parent.name))
    found = Found(
        name=name,
        engine="lm-eval",
        versions={"lm_eval": str(results.get("lm_eval_version")), "transformers": str(results.get("transformers_version"))},
        commit=results.get("git_hash"),
        finished_at=utc(results.get("date")),
    )
    tasks = {_task_and_date(path)[0]: path for path in sample_files}
    averaged = [task for task in results.get("results", {}) if task not in tasks]
    for task in [choices.benchmark] if choices.benchmark else [*tasks, *averaged]:
        if task in tasks:
            _samples(task, tasks[task], step, results, choices, found)
        elif task in averaged:
            _averages(task, step, results, found, str(file))
        else:
            raise InputError(f"{file}: no task {task!r}; it has {', '.join([*tasks, *averaged])}")
    return found


def _model_argument(results: dict[str, Any]) -> str | None:
    """The model of a file from before `model_name` was written."""
    arguments = results.get("config", {}).get("model_args") or {}
    if isinstance(arguments, str):
        arguments = dict(part.partition("=")[::2] for part in arguments.split(","))
    return arguments.get("pretrained") or arguments.get("model")


def _samples(task: str, path: Path, step: int | None, results: dict[str, Any], choices: Choices, found: Found) -> None:
    """Add a task's counts."""
    surveys = _surveyed(path, found)
    name, notes = chosen(surveys, choices.filter, "filter", "--filter", path.name)
    first, repeats = surveys[name].first, surveys[name].repeats
    metrics = first.get("metrics") or [key.split(",")[0] for key in results.get("results", {}).get(task, {}) if f",{name}" in key]
    metric, more = chosen(metrics, choices.metric, "metric", "--metric", path.name)
    read = _responses if choices.reverify or repeats > 1 else _verdicts
    tally = Tally(read(_distinct(path, name), metric, choices, path.name), own=read is _responses)
    if repeats > 1 and not choices.reverify:
        more.append(f"{task}: lm-eval scored one of {repeats} responses; all are verified anew by Forerun's verifier")
    found.evaluations.append(
        Evaluation(
            key=evaluation_key(
                task, tally, verifier=f"lm-eval/{metric},{name}", version=str(results.get("versions", {}).get(task, "")),
                split=_config(results, task).get("test_split"), template=_template(results, task), **_generation(first),
            ),
            rows=tally.rows(path.name),
            step=step,
            facts={"repeats": repeats, "filter": name},
        )
    )  # fmt: skip
    found.notes += [*notes, *more, *samples_note(task, tally)]


@dataclass
class _Survey:
    """What the lines of one filter have in common."""

    first: dict[str, Any]
    repeats: int = 0


def _surveyed(path: Path, found: Found) -> dict[str, _Survey]:
    """Filter -> survey of its lines, in a first pass that checks them all; a file may not fit into memory."""
    surveys: dict[str, _Survey] = {}
    seen: dict[tuple[Any, str], str] = {}
    repeated = 0
    for number, row in reading.lines(path):
        if "doc_id" not in row or not isinstance(row.get("resps"), list):
            raise InputError(f"{path}, line {number}: expected lm-eval's sample with doc_id and resps")
        survey = surveys.setdefault(_filter(row), _Survey(row))
        survey.repeats = max(survey.repeats, len(_texts(row)))
        identity, digest = (row["doc_id"], _filter(row)), text_id(json.dumps(row, sort_keys=True))
        repeated += identity in seen
        if seen.setdefault(identity, digest) != digest:
            raise InputError(
                f"{path}, line {number}: doc {row['doc_id']} is there twice with different content: two jobs in one file?"
            )
    if repeated:
        found.notes.append(f"{path.name}: {repeated} line(s) are there twice, as lm-eval appends to a file; each is counted once")
    return surveys


def _filter(row: dict[str, Any]) -> str:
    return str(row.get("filter", "none"))


def _distinct(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """The lines of one filter, each problem once."""
    seen = set()
    for _, row in reading.lines(path):
        if _filter(row) == name and row["doc_id"] not in seen:
            seen.add(row["doc_id"])
            yield row


def _texts(row: dict[str, Any]) -> list[str]:
    """The responses of a generation; none of a comparison of likelihoods."""
    first = row["resps"][0] if row["resps"] else []
    return first if isinstance(first, list) and all(isinstance(text, str) for text in first) and len(row["resps"]) == 1 else []


def _content(row: dict[str, Any]) -> str:
    return str(row.get("doc_hash") or json.dumps([row.get("doc"), row.get("target")], sort_keys=True))


def _verdicts(rows: Iterator[dict[str, Any]], metric: str, choices: Choices, where: str) -> Iterator[Sample]:
    """lm-eval's own verdict, one a problem."""
    for row in rows:
        place = f"{where}, doc {row['doc_id']}, {metric}"
        if metric not in row:
            raise InputError(f"{place}: no such score; choose one with --metric")
        yield Sample(str(row["doc_id"]), _content(row), is_right(row[metric], choices.threshold, place))


def _responses(rows: Iterator[dict[str, Any]], _: str, __: Choices, where: str) -> Iterator[Sample]:
    """All responses, to be verified anew."""
    for row in rows:
        texts, target = _texts(row), row.get("target")
        if not texts or not isinstance(target, str):
            raise InputError(
                f"{where}, doc {row['doc_id']}: expected texts and a target to verify; this task compares likelihoods"
            )
        for text in texts:
            yield Sample(str(row["doc_id"]), _content(row), text=text, target=reference(target))


def _config(results: dict[str, Any], task: str) -> dict[str, Any]:
    config = results.get("configs", {}).get(task)
    return config if isinstance(config, dict) else {}


def _template(results: dict[str, Any], task: str) -> str:
    """What stands around a problem: chat template, system turn, examples shown."""
    parts = [results.get(name) for name in ("chat_template_sha", "system_instruction_sha", "fewshot_as_multiturn")]
    return content_hash([*parts, results.get("n-shot", {}).get(task), _config(results, task).get("doc_to_text")], 8)


def _generation(row: dict[str, Any]) -> dict[str, Any]:
    """Temperature and limits as the request had them; lm-eval's default is greedy."""
    request = row.get("arguments", {}).get("gen_args_0", {}).get("arg_1")
    if not isinstance(request, dict):
        return {}
    limit = next((request[name] for name in ("max_gen_toks", "max_new_tokens", "max_tokens") if request.get(name)), None)
    temperature = request.get("temperature", 1.0 if request.get("do_sample") else 0.0)
    return {"temperature": float(temperature), "top_p": request.get("top_p"), "max_tokens": limit}


def _averages(task: str, step: int | None, results: dict[str, Any], found: Found, where: str) -> None:
    """Add the averages of a task without samples, as what they are."""
    repeats = _config(results, task).get("repeats", 1)
    of = f"; of one of {repeats} responses" if repeats != 1 else ""
    for key, value in results["results"][task].items():
        metric, comma, _ = key.partition(",")
        if not comma or metric.endswith("_stderr") or isinstance(value, str):
            continue
        if not isinstance(value, int | float) or not math.isfinite(value) or (_SHARES.search(metric) and not 0 <= value <= 1):
            raise InputError(f"{where}: {task}, {key}: expected a share in 0..1, came {value!r}")
        found.signals.append(Signal(f"{task}/{key}", float(value), f"lm-eval, average{of}; no samples, no pass@k", step))
    found.notes.append(f"{task}: no samples_*.jsonl (--log_samples): averages are kept as scalars; pass@k needs samples")
