"""TRL and transformers: `trainer_state.json` (curves) and GRPO's `completions/*.parquet` (rollouts, as counts per prompt).

The rollouts logged at step s were sampled before update s, from training problems: they are stored with purpose `other`.
`training_args.bin` is a pickle and is not opened.
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
from predict.imports.naming import written
from predict.imports.tally import Sample, Tally, evaluation_key, is_right, reference, samples_note

_STEP = re.compile(r"completions_(\d+)\.parquet")
_REFERENCES = ("solution", "ground_truth", "answer")
_FIXED = ("step", "prompt", "completion", "advantage")
_END = ("train_runtime", "train_loss", "train_samples_per_second", "train_steps_per_second")


def read(path: Path, choices: Choices) -> list[Found]:
    """The run of an output folder or of one of its checkpoint folders; of one trainer_state.json the curves alone.

    Raises:
        InputError: no trainer_state.json and no completions, or malformed ones.
    """
    folder = path.parent if path.is_file() else path
    state = path if path.is_file() else _last_state(folder)
    root = folder.parent if re.fullmatch(r"checkpoint-\d+", folder.name) else folder
    found = Found(name=root.resolve().name, engine="trl")
    if state is not None:
        _curves(state, found)
    completions = sorted((root / "completions").glob("completions_*.parquet")) if path.is_dir() else []
    if state is None and not completions:
        raise InputError(f"{path}: expected trainer_state.json or checkpoint-N/ or completions/ in it; there is none")
    for file in completions:
        _rollouts(file, found, choices)
    found.base_model = _base_model(root)
    return [found]


def _last_state(folder: Path) -> Path | None:
    """The state with the longest history: the folder's own (written by save_state), else the last checkpoint's."""
    if (folder / "trainer_state.json").exists():
        return folder / "trainer_state.json"
    states = [file for file in folder.glob("checkpoint-*/trainer_state.json") if file.parent.name[11:].isdecimal()]
    return max(states, key=lambda file: int(file.parent.name[11:]), default=None)


def _curves(file: Path, found: Found) -> None:
    state = reading.document(file)
    if not isinstance(state, dict) or not isinstance(state.get("log_history"), list):
        raise InputError(f"{file}: expected a trainer_state.json, an object with `log_history`")
    for number, row in enumerate(state["log_history"], start=1):
        where = f"{file}, log_history row {number}"
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object, came {row!r}")
        if "train_runtime" in row:
            found.seconds = float(row["train_runtime"])
        found.log(row.get("step"), {name: value for name, value in row.items() if name != "step" and name not in _END}, where)
    found.steps = int(state.get("global_step") or 0)
    names = {name for row in found.curves.values() for name in row}
    found.stage = "grpo" if "reward" in names else "sft"
    found.tokens = int(max((row.get("num_tokens", 0) for row in found.curves.values()), default=0))
    found.config = {
        name: state[name] for name in ("max_steps", "num_train_epochs", "train_batch_size") if state.get(name) is not None
    }
    found.finished_at = written(file)
    if found.steps < int(state.get("max_steps") or 0):
        found.notes.append(
            f"{found.name}: stopped at step {found.steps} of {state['max_steps']}; if the run failed, say --status failed"
        )


def _base_model(root: Path) -> str | None:
    """What the model card or the adapter says the run started from."""
    adapter, card = root / "adapter_config.json", root / "README.md"
    if adapter.exists():
        return str(reading.document(adapter).get("base_model_name_or_path") or "") or None
    if not card.exists():
        return None
    named = re.search(r"^base_model:\s*(\S+)\s*$", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return named[1] if named else None


def _rollouts(file: Path, found: Found, choices: Choices) -> None:
    """Add one step's rollouts as counts per prompt."""
    match = _STEP.fullmatch(file.name)
    frame = reading.parquet(file)
    missing = [name for name in ("prompt", "completion", "step") if name not in frame.columns]
    if not match or missing:
        raise InputError(
            f"{file}: expected TRL's completions_STEP.parquet with prompt, completion, step; lacks {', '.join(missing)}"
        )
    truth = next((name for name in _REFERENCES if name in frame.columns), None)
    verdict, notes = _verdict_column(frame.columns, choices, truth, file.name)
    tally = Tally(_samples(frame.to_dicts(), verdict, truth, choices, file.name), own=verdict is None)
    benchmark = choices.benchmark or f"{found.name}/rollouts"
    key = evaluation_key(benchmark, tally, verifier=f"trl/{verdict}", split="train")
    step = int(match[1])
    found.evaluations.append(
        Evaluation(key, tally.rows(file.name), step, purpose="other", facts={"sampled": "before this step's update"})
    )
    found.notes += [note for note in [*notes, *samples_note(benchmark, tally)] if note not in found.notes]


def _samples(
    rows: list[dict[str, Any]], verdict: str | None, truth: str | None, choices: Choices, where: str
) -> Iterator[Sample]:
    for number, row in enumerate(rows, start=1):
        prompt = canonical_json(row["prompt"])
        if verdict is not None:
            right = is_right(row[verdict], choices.threshold, f"{where}, row {number}, {verdict}")
            yield Sample(text_id(prompt), prompt, right)
        elif truth is not None:
            yield Sample(text_id(prompt), prompt, text=_text(row["completion"]), target=reference(str(row[truth])))


def _verdict_column(columns: list[str], choices: Choices, truth: str | None, where: str) -> tuple[str | None, list[str]]:
    """The reward that is a verdict; none where the texts are to be verified."""
    if choices.reverify:
        if truth is None:
            raise InputError(f"{where}: --reverify needs a column of references, one of {', '.join(_REFERENCES)}")
        return None, []
    rewards = [name for name in columns if name not in (*_FIXED, *_REFERENCES)]
    named = [name for name in rewards if "acc" in name or "correct" in name]
    column, notes = chosen(rewards if choices.metric else named or rewards, choices.metric, "reward", "--metric", "completions")
    return column, notes


def _text(completion: Any) -> str:
    """The text of a completion, plain or conversational."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
