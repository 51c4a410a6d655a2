"""verl: the file logger's JSONL (curves) and dumps of rollouts or validation, one `{step}.jsonl` a step.

Metrics keep verl's names: `best@N` there draws with replacement and is not pass@N. Counts come from the dumps alone.
"""

from collections.abc import Iterator
from pathlib import Path

from curate.errors import InputError
from curate.examples import text_id
from predict.imports import reading
from predict.imports.found import Choices, Evaluation, Found
from predict.imports.naming import written
from predict.imports.tally import Sample, Tally, evaluation_key, is_right, reference, samples_note


def read(path: Path, choices: Choices) -> list[Found]:
    """The run of a log file, of one dump, or of a folder of dumps.

    Raises:
        InputError: neither, or malformed.
    """
    if path.is_dir():
        dumps = reading.numbered(path, ".jsonl")
        if not dumps:
            raise InputError(f"{path}: expected verl's dumps, files named by their step like 120.jsonl; there is none")
        found = Found(name=path.resolve().name, engine="verl", stage="grpo")
        for step, file in dumps:
            _dump(step, file, found, choices)
        return [found]
    if path.stem.isdecimal():
        found = Found(name=path.resolve().parent.name, engine="verl", stage="grpo")
        _dump(int(path.stem), path, found, choices)
        return [found]
    return [_log(path)]


def _log(path: Path) -> Found:
    found = Found(name=path.stem, engine="verl", finished_at=written(path))
    for number, row in reading.lines(path, growing=True):
        if not isinstance(row.get("data"), dict):
            raise InputError(
                f'{path}, line {number}: expected verl\'s log, {{"step": N, "data": {{...}}}}, came {", ".join(row)}'
            )
        found.log(row.get("step"), row["data"], f"{path}, line {number}")
    if not found.curves:
        raise InputError(f"{path}: holds no metrics")
    names = {name for row in found.curves.values() for name in row}
    found.stage = "grpo" if any(name.startswith(("critic/", "actor/", "val-core/")) for name in names) else "sft"
    return found


def _dump(step: int, path: Path, found: Found, choices: Choices) -> None:
    """Add the counts of one dump: rows input, output, gts, score, and what the reward function gave beside."""
    first = next((row for _, row in reading.lines(path)), {})
    column = choices.metric or ("acc" if "acc" in first else "score")
    tally = Tally(_samples(path, column, choices), own=choices.reverify)
    benchmark = choices.benchmark or path.resolve().parent.name
    key = evaluation_key(benchmark, tally, verifier=f"verl/{column}")
    found.evaluations.append(Evaluation(key, tally.rows(str(path)), step, needs_purpose=True))
    found.notes += samples_note(f"{benchmark}, step {step}", tally)


def _samples(path: Path, column: str, choices: Choices) -> Iterator[Sample]:
    for number, row in reading.lines(path):
        where, prompt = f"{path}, line {number}", row.get("input")
        if not isinstance(prompt, str) or column not in row:
            raise InputError(f"{where}: expected verl's dump with input, output and {column}, came {', '.join(row)}")
        if not choices.reverify:
            yield Sample(text_id(prompt), prompt, is_right(row[column], choices.threshold, f"{where}, {column}"))
        elif isinstance(row.get("gts"), str) and isinstance(row.get("output"), str):
            yield Sample(text_id(prompt), prompt, text=row["output"], target=reference(row["gts"]))
        else:
            raise InputError(f"{where}: --reverify needs texts in output and gts")
