"""What is in a dataset folder, or in any file of traces: rows, lengths, and the behaviours that the texts show."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curate.check import read_manifest
from curate.config import check_config
from curate.errors import UsageError
from curate.examples import Example, read_examples
from curate.manifest import length_histogram
from curate.measure_behaviors import behavior_table
from curate.sources import Source, load

SHOWN = ("rows", "tokens", "lengths", "behavior_rates", "drop_reasons", "matched_problem_share", "distance_to_target")


def stats(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Facts of a dataset folder by its manifest, or of a file of traces in any source format; and behaviours as measured.

    Args:
        overrides: settings of the file as a recipe's source has them: `columns.prompt=instruction`.

    Raises:
        InputError: no such folder or file, or rows without traces.
        UsageError: no such setting, or settings for a folder.
    """
    if path.is_dir() and overrides:
        raise UsageError(f"{path}: --set says how a file is read; a dataset folder needs none")
    if not path.is_file():
        manifest = read_manifest(path)
        facts = {key: manifest.get(key) for key in SHOWN}
        return {**facts, "behaviors_measured": behavior_table(read_examples(path / "train.jsonl"))}
    read = {"path": path, "reference": "optional", "system": "drop"}
    return _of_traces(list(load(check_config(read, Source, list(overrides), origin=str(path)), 0)))


def _of_traces(examples: list[Example]) -> dict[str, Any]:
    words = sorted(len(example.completion.split()) for example in examples)
    return {
        "rows": {"read": len(examples), "problems": len({example.problem.prompt for example in examples})},
        "tokens": {"words": sum(words)},
        "lengths": length_histogram(words),
        "behaviors_measured": behavior_table(examples),
    }


def in_text(facts: dict[str, Any]) -> str:
    """The facts for a person."""
    rows = ", ".join(f"{name} {count}" for name, count in facts["rows"].items())
    tokens = ", ".join(f"{name} {count}" for name, count in facts["tokens"].items())
    lines = [f"rows     {rows}", f"tokens   {tokens}; mean {facts['lengths']['mean'] or 0:.1f} an example"]
    if drops := facts.get("drop_reasons"):
        lines.append("left out " + ", ".join(f"{reason} {count}" for reason, count in drops.items()))
    lines += ["", "length   examples", *_bars(facts["lengths"]), "", *_behaviors(facts["behaviors_measured"])]
    return "\n".join(lines)


def _bars(lengths: dict[str, Any]) -> list[str]:
    most = max(lengths["counts"], default=1)
    starts = lengths["edges"][:-1]
    return [
        f"{start:6d}  {count:8d} {'#' * round(40 * count / most)}" for start, count in zip(starts, lengths["counts"], strict=True)
    ]


def _behaviors(table: list[dict[str, Any]]) -> list[str]:
    lines = ["behaviour       share  an example  per 1000 words  recorded  precision  recall   (docs/behaviors.md)"]
    for row in table:
        agreed = (f"{row[name]:.2f}" if row[name] is not None else "-" for name in ("precision", "recall"))
        precision, recall = agreed
        lines.append(
            f"{row['behavior']:14s}{row['share']:7.1%}{row['per_example']:12.2f}{row['per_1000_words']:16.2f}"
            f"{row['recorded']:10.2f}{precision:>11s}{recall:>8s}"
        )
    return lines
