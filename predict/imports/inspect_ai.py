"""Inspect AI: `.eval` (a zip, mostly of Zstandard members) and `.json` logs.

An epoch is one sample of every problem. Letters are read as Inspect's `value_to_float` does (C 1, I 0, P 0.5, N 0); NaN and failed samples
are not scored, hence not wrong.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curate.errors import InputError
from curate.files import content_hash
from predict.imports import reading
from predict.imports.found import Choices, Evaluation, Found, chosen
from predict.imports.naming import name_and_step
from predict.imports.tally import Sample, Tally, evaluation_key, is_right, reference, samples_note

LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
CONVERT = "; convert it: inspect log convert --to eval"


def read(path: Path, choices: Choices) -> list[Found]:
    """The runs of one log or of a folder of logs, those of one model together.

    Raises:
        InputError: malformed, cut short, unsuccessful without `partial`, invalidated, or scores that are no verdicts.
    """
    files = sorted(file for file in path.rglob("*") if file.suffix in (".eval", ".json")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: expected Inspect's logs, *.eval or *.json; there is none")
    found: dict[str, Found] = {}
    for file in files:
        header, samples = _opened(file)
        _check_status(file, header, choices)
        spec = header["eval"]
        name, step = name_and_step(str(spec.get("model_args", {}).get("model_path") or spec.get("model")))
        run = found.setdefault(name, Found(name=name, engine="inspect", finished_at=spec.get("created")))
        run.versions = {key: str(value) for key, value in (spec.get("packages") or {}).items()}
        run.commit = (spec.get("revision") or {}).get("commit")
        _evaluation(file, header, samples, step, choices, run)
    return list(found.values())


def _opened(path: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Header and samples of a log."""
    if path.suffix == ".json":
        header = reading.document(path, CONVERT)
        samples = iter(header.get("samples") or []) if isinstance(header, dict) else iter(())
    else:
        archive = reading.Archive(path)
        header = archive.json("header.json")
        samples = (archive.json(name) for name in archive.members if name.startswith("samples/"))
    if not isinstance(header, dict) or not isinstance(header.get("eval"), dict):
        raise InputError(f"{path}: expected an Inspect log, an object with `eval`")
    return header, samples


def _check_status(path: Path, header: dict[str, Any], choices: Choices) -> None:
    if header.get("invalidated"):
        raise InputError(f"{path}: this log was invalidated; it is not read")
    if header.get("status") != "success" and not choices.partial:
        raise InputError(f"{path}: expected status success, came {header.get('status')}; --partial reads what is there")


def _evaluation(
    path: Path, header: dict[str, Any], samples: Iterator[dict[str, Any]], step: int | None, choices: Choices, run: Found
) -> None:
    """Add a log's counts."""
    spec = header["eval"]
    task = choices.benchmark or str(spec.get("task"))
    scorers = [str(scorer["name"]) for scorer in spec.get("scorers") or []]
    scorer, notes = (None, []) if choices.reverify else chosen(scorers, choices.metric, "scorer", "--metric", path.name)
    settings = {**(spec.get("model_generate_config") or {}), **(header.get("plan", {}).get("config") or {})}
    limit = settings.get("max_tokens")
    tally = Tally(_counted(samples, scorer, choices, path.name), own=choices.reverify)
    run.evaluations.append(
        Evaluation(
            key=evaluation_key(
                task, tally, verifier=f"inspect/{scorer}", version=run.versions.get("inspect_ai", ""),
                template=content_hash([header.get("plan", {}).get("steps"), settings.get("system_message")], 8),
                temperature=settings.get("temperature"), top_p=settings.get("top_p"), max_tokens=limit,
            ),
            rows=tally.rows(path.name),
            step=step,
            seed=settings.get("seed"),
            facts={"epochs": (spec.get("config") or {}).get("epochs", 1)},
        )
    )  # fmt: skip
    run.notes += [*notes, *samples_note(task, tally)]


def _counted(samples: Iterator[dict[str, Any]], scorer: str | None, choices: Choices, name: str) -> Iterator[Sample]:
    """Each epoch of each problem once."""
    seen: set[tuple[Any, Any]] = set()
    for sample in samples:
        where = f"{name}, sample {sample.get('id')}, epoch {sample.get('epoch')}"
        if (identity := (sample.get("id"), sample.get("epoch"))) in seen or None in identity:
            raise InputError(f"{where}: expected each sample of each epoch once, with its id")
        seen.add(identity)
        yield _sample(sample, scorer, choices, where)


def _sample(sample: dict[str, Any], scorer: str | None, choices: Choices, where: str) -> Sample:
    problem, content, target = str(sample["id"]), content_hash([sample.get("input"), sample.get("target")]), sample.get("target")
    if sample.get("error"):
        return Sample(problem, content)
    usage = list((sample.get("model_usage") or {}).values())
    tokens = usage[0].get("output_tokens") if len(usage) == 1 else None
    cut = _stop_reason(sample) in ("max_tokens", "model_length")
    if scorer is not None:
        value = as_number(((sample.get("scores") or {}).get(scorer) or {}).get("value"), where)
        return Sample(problem, content, is_right(value, choices.threshold, where), tokens=tokens, cut=cut)
    if not isinstance(target, str):
        raise InputError(f"{where}: expected one target to verify against, came {target!r}")
    text = str((sample.get("output") or {}).get("completion", ""))
    return Sample(problem, content, text=text, target=reference(target), tokens=tokens, cut=cut)


def _stop_reason(sample: dict[str, Any]) -> str | None:
    answers = (sample.get("output") or {}).get("choices") or []
    return answers[0].get("stop_reason") if answers else None


def as_number(value: Any, where: str) -> float | None:
    """A score's value as Inspect's own `value_to_float` reads it, but a list or mapping is refused instead of read as 0.

    Raises:
        InputError: a list, a mapping or an unknown word.
    """
    if value is None or isinstance(value, bool | int | float):
        return None if value is None or math.isnan(value) else float(value)
    if isinstance(value, str):
        known = {**LETTERS, **WORDS}.get(value, WORDS.get(value.lower()))
        if known is not None:
            return known
        try:
            return None if math.isnan(float(value)) else float(value)
        except ValueError:
            pass
    raise InputError(f"{where}: expected a score, C, I, P, N or a number, came {value!r}; choose another scorer with --metric")
