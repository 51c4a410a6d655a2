"""lighteval: `details_TASK_DATE.parquet` (columns doc, metric, model_response; `--save-details`) and `results_DATE.json`.

With several samples a problem lighteval keeps the texts and one number, so the texts are verified anew. Its own pass@k
divides by the number of samples asked for even where fewer are there; here n is the number of texts.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curate.errors import InputError
from curate.examples import text_id
from predict.imports import reading
from predict.imports.found import Choices, Evaluation, Found, chosen
from predict.imports.naming import name_and_step
from predict.imports.tally import Sample, Tally, evaluation_key, is_right, reference, samples_note

_DETAILS = re.compile(r"details_(.+)_(\d{4}-\d\d-\d\dT[^_]+)\.parquet")
_ASKED = re.compile(r"(?:n=|:)(\d+)(?:_samples)?$")


def read(path: Path, choices: Choices) -> list[Found]:
    """Runs of an output folder, or of one details file.

    Raises:
        InputError: no details, or details of the columns of 2024 and before.
    """
    files = sorted(path.rglob("details_*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: expected lighteval's details_*.parquet in it (--save-details); averages alone have no counts")
    found: dict[str, Found] = {}
    for file in files:
        match = _DETAILS.fullmatch(file.name)
        if not match:
            raise InputError(f"{file}: expected lighteval's name, details_TASK_DATE.parquet")
        config = _config(file, match[2])
        name, step = name_and_step(str(config.get("model_name") or _model_folder(file)))
        run = found.setdefault(name, Found(name=name, engine="lighteval", commit=config.get("lighteval_sha")))
        _evaluation(file, match[1], config, step, choices, run)
    return list(found.values())


def _model_folder(file: Path) -> str:
    """The model by the folders: details/MODEL/DATE/details_*.parquet, where MODEL may have a slash."""
    parts = file.resolve().parent.parent.parts
    return "/".join(parts[parts.index("details") + 1 :]) if "details" in parts else parts[-1]


def _config(file: Path, date: str) -> dict[str, Any]:
    """The general config of the results of the same date, if they are there."""
    above = next((folder for folder in file.resolve().parents if folder.name == "details"), file.resolve().parent).parent
    results = next(iter(sorted(above.rglob(f"results_{date}.json"))), None)
    return dict(reading.document(results).get("config_general") or {}) if results else {}


def _evaluation(file: Path, task: str, config: dict[str, Any], step: int | None, choices: Choices, run: Found) -> None:
    frame = reading.parquet(file)
    missing = [name for name in ("doc", "metric", "model_response") if name not in frame.columns]
    if missing:
        raise InputError(
            f"{file}: expected columns doc, metric, model_response (lighteval since 2025), lacks {', '.join(missing)}"
        )
    rows = frame.to_dicts()
    several = max(len(row["model_response"]["text"] or []) for row in rows) > 1
    metric, notes = (
        (None, []) if choices.reverify or several else chosen(rows[0]["metric"], choices.metric, "metric", "--metric", file.name)
    )
    read = (
        sample
        for number, row in enumerate(rows, start=1)
        for sample in _samples(row, metric, choices, f"{file.name}, row {number}")
    )
    tally = Tally(read, own=metric is None)
    settings = (config.get("model_config") or {}).get("generation_parameters") or {}
    benchmark = choices.benchmark or task
    run.evaluations.append(
        Evaluation(
            key=evaluation_key(
                benchmark, tally, verifier=f"lighteval/{metric}", temperature=settings.get("temperature"), top_p=settings.get("top_p"),
                max_tokens=settings.get("max_new_tokens") or rows[0]["doc"].get("generation_size"),
            ),
            rows=tally.rows(file.name),
            step=step,
            seed=settings.get("seed"),
        )
    )  # fmt: skip
    run.notes += [*notes, *_shortfall(rows, benchmark), *samples_note(benchmark, tally)]


def _shortfall(rows: list[dict[str, Any]], benchmark: str) -> list[str]:
    """A note where fewer texts are there than were asked for: lighteval's own averages are too low then."""
    asked = [int(match[1]) for name in rows[0]["metric"] if (match := _ASKED.search(name))]
    wanted = max([*asked, int(rows[0]["doc"].get("num_samples") or 1)])
    there = min(len(row["model_response"]["text"]) for row in rows)
    if there >= wanted:
        return []
    return [
        f"{benchmark}: {wanted} samples a problem were asked for, {there} are there; counted are those that are there "
        f"(lighteval's own pass@k divides by {wanted})"
    ]


def _samples(row: dict[str, Any], metric: str | None, choices: Choices, where: str) -> Iterator[Sample]:
    """The problem's one verdict, or its texts."""
    doc, response = row["doc"], row["model_response"]
    problem, query = str(doc.get("id") or text_id(doc["query"])), doc["query"]
    if metric is not None:
        yield Sample(problem, query, is_right(row["metric"].get(metric), choices.threshold, f"{where}, {metric}"))
        return
    golds = doc["gold_index"] if isinstance(doc["gold_index"], list) else [doc["gold_index"]]
    if len(golds) != 1 or not doc.get("choices"):
        raise InputError(f"{where}: expected one reference answer to verify against, came {len(golds)}")
    target = reference(str(doc["choices"][golds[0]]))
    lengths = [len(tokens) for tokens in response.get("output_tokens") or []]
    for index, text in enumerate(response["text"]):
        tokens = lengths[index] if len(lengths) == len(response["text"]) else None
        yield Sample(problem, query, text=text, target=target, tokens=tokens)
