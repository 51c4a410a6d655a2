"""NeMo-RL: `evaluation_data.json` with its `config.json` (eval.save_path).

Training curves are in the tracker that it logged to (import `wandb` or `mlflow`). The reward of an evaluation is its verdict. Its `pass@k` in a training log means any of k, not the unbiased estimate.
"""

from pathlib import Path
from typing import Any

from curate.errors import InputError
from curate.examples import text_id
from curate.files import canonical_json
from predict.imports import reading
from predict.imports.found import Choices, Evaluation, Found
from predict.imports.naming import name_and_step
from predict.imports.tally import Sample, Tally, evaluation_key, is_right, samples_note


def read(path: Path, choices: Choices) -> list[Found]:
    """The run of an evaluation's folder or file.

    Raises:
        InputError: no evaluation_data.json, or fewer samples than its config says.
    """
    file = path / "evaluation_data.json" if path.is_dir() else path
    document = reading.document(file)
    data = document.get("evaluation_data") if isinstance(document, dict) else None
    if not isinstance(data, list):
        raise InputError(
            f"{file}: expected NeMo-RL's evaluation_data.json, an object with `evaluation_data`; its training curves are in its tracker: "
            "import wandb or mlflow"
        )
    settings = reading.document(file.with_name("config.json")) if file.with_name("config.json").exists() else {}
    name, step = name_and_step(str(settings.get("model_name") or file.resolve().parent.name))
    found = Found(name=name, engine="nemo-rl")
    tally = Tally(_sample(row, choices, f"{file}, sample {number}") for number, row in enumerate(data, start=1))
    benchmark = choices.benchmark or str(settings.get("dataset_name") or file.resolve().parent.name)
    key = evaluation_key(
        benchmark, tally, verifier="nemo-rl/reward", temperature=settings.get("temperature"), top_p=settings.get("top_p")
    )
    rows = tally.rows(str(file))
    _check_complete(rows, settings.get("num_tests_per_prompt"), str(file))
    found.evaluations.append(Evaluation(key, rows, step))
    found.notes += samples_note(benchmark, tally)
    return [found]


def _sample(row: Any, choices: Choices, where: str) -> Sample:
    if not isinstance(row, dict) or "prompt" not in row or "reward" not in row:
        raise InputError(f"{where}: expected prompt and reward")
    prompt = row["prompt"] if isinstance(row["prompt"], str) else canonical_json(row["prompt"])
    return Sample(text_id(prompt), prompt, is_right(row["reward"], choices.threshold, where))


def _check_complete(rows: list[dict[str, Any]], asked: Any, where: str) -> None:
    """Refuse what has fewer samples than the job asked for: it was cut short."""
    if isinstance(asked, int) and (short := [row for row in rows if row["num_samples"] % asked]):
        raise InputError(
            f"{where}: {asked} samples a prompt were asked for, prompt {short[0]['problem_id']} has {short[0]['num_samples']}; cut short?"
        )
