"""Trainer configs of a dataset folder: what a person adds a model to and trains without losing a token.

Trainers cut, drop or refuse long rows by default, so every stub states the set's own longest length, its epochs and
which tokens carry loss. Keys are those of the releases in `curate.trainers.TRAINERS`.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from curate.config import read_yaml
from curate.trainers import Trainer

TEMPLATE_MARGIN = 64
"""Tokens that a chat template may add around the turns, its default system turn included."""


def longest_row(manifest: dict[str, Any]) -> int:
    """A length that no row exceeds under a chat template.

    In tokens of the recipe's tokenizer; where that counts words, in bytes, since a tokenizer with byte fallback makes
    no more tokens than that of a text.
    """
    longest, words = manifest["longest"], manifest["recipe"]["tokenizer"] == "words"
    return int(longest["row_bytes" if words else "row"]) + TEMPLATE_MARGIN


def trainer_files(manifest: dict[str, Any]) -> dict[str, str]:
    """File name -> content of the stubs, paths taken from the folder `trainers/`."""
    longest, epochs, name = longest_row(manifest), manifest["epochs"], manifest["variant"]["name"]
    tags = {f"{role}_tag": role for role in ("role", "content", "user", "assistant", "system")}
    info = {"file_name": "../train.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    settings = {
        "trl": _trl(longest, epochs),
        "verl": _verl(longest, epochs),
        "llamafactory": _llamafactory(longest, epochs, name),
        "axolotl": _axolotl(longest, epochs),
    }
    files = {
        f"{trainer}.yaml": _head(trainer, manifest) + yaml.safe_dump(settings[trainer], sort_keys=False) for trainer in settings
    }
    files["open-instruct.sh"] = "#!/bin/sh\n" + _head("open-instruct", manifest) + _open_instruct(longest, epochs)
    return {**files, "dataset_info.json": json.dumps({name: info}, indent=2) + "\n"}


def stated_length(folder: Path, trainer: Trainer) -> int | None:
    """The length that a folder's stub for `trainer` states; None where there is none, or no stub."""
    if trainer.name == "open-instruct":
        script = folder / "trainers/open-instruct.sh"
        stated = re.search(r"--max_seq_length (\d+)", script.read_text(encoding="utf-8")) if script.exists() else None
        return int(stated[1]) if stated else None
    file = folder / f"trainers/{trainer.name}.yaml"
    value: Any = read_yaml(file) if file.exists() else {}
    for key in trainer.length_key.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int) else None


COMMANDS = {
    "trl": "trl sft --config trl.yaml --model_name_or_path MODEL --output_dir OUT",
    "verl": "torchrun -m verl.trainer.sft_trainer --config-dir . --config-name verl model.path=MODEL",
    "llamafactory": "llamafactory-cli train llamafactory.yaml model_name_or_path=MODEL template=NAME output_dir=OUT",
    "axolotl": "axolotl train axolotl.yaml --base-model MODEL",
    "open-instruct": "sh open-instruct.sh --model_name_or_path MODEL --output_dir OUT",
}
LOSS = {
    "trl": "the completion, from the end of the generation prompt (train.jsonl in its place would train on the whole row)",
    "verl": "assistant turns without their header",
    "llamafactory": "assistant turns; NAME is LLaMA-Factory's own template of the model's family",
    "axolotl": "the assistant's content and the end-of-sequence token after it",
    "open-instruct": "assistant turns; without the last two settings it uploads the model and starts evaluations",
}


def _head(trainer: str, manifest: dict[str, Any]) -> str:
    """The comment above a stub: how to run it, what carries loss, what the length counts."""
    unit = manifest["recipe"]["tokenizer"]
    counted = "bytes, which no byte-level tokenizer exceeds" if unit == "words" else f"tokens of {unit}"
    lines = [
        f"In this folder: {COMMANDS[trainer]}",
        f"Loss on {LOSS[trainer]}.",
        f"Length: that of the longest row in {counted}, plus {TEMPLATE_MARGIN} for the chat template.",
        f"For another model: curate check .. --trainer {trainer} --template MODEL",
    ]
    return "".join(f"# {line}\n" for line in lines)


def _trl(longest: int, epochs: int) -> dict[str, Any]:
    """ScriptArguments, SFTConfig and DatasetMixtureConfig of TRL."""
    return {
        "datasets": [{"path": "json", "data_files": "../train_pc.jsonl"}],
        "max_length": longest,
        "packing": False,
        "completion_only_loss": True,
        "num_train_epochs": epochs,
    }


def _verl(longest: int, epochs: int) -> dict[str, Any]:
    """verl/trainer/config/sft_trainer_engine.yaml, extended."""
    data = {
        "train_files": "../train.parquet",
        "messages_key": "messages",
        "max_length": longest,
        "max_token_len_per_gpu": max(8192, longest),
        "truncation": "error",
        "pad_mode": "no_padding",
        "ignore_input_ids_mismatch": False,
    }
    return {"defaults": ["sft_trainer_engine", "_self_"], "data": data, "trainer": {"total_epochs": epochs}}


def _llamafactory(longest: int, epochs: int, name: str) -> dict[str, Any]:
    """DataArguments and TrainingArguments of LLaMA-Factory; dataset_info.json stands beside it."""
    return {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset_dir": ".",
        "dataset": name,
        "cutoff_len": longest,
        "packing": False,
        "train_on_prompt": False,
        "mask_history": False,
        "num_train_epochs": float(epochs),
    }


def _axolotl(longest: int, epochs: int) -> dict[str, Any]:
    """AxolotlInputConfig and SFTDataset of axolotl."""
    dataset = {
        "path": "../train.jsonl",
        "ds_type": "json",
        "type": "chat_template",
        "field_messages": "messages",
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }
    return {
        "datasets": [dataset],
        "sequence_len": longest,
        "excess_length_strategy": "raise",
        "num_epochs": epochs,
        "train_on_inputs": False,
    }


def _open_instruct(longest: int, epochs: int) -> str:
    """FlatArguments of open_instruct/finetune.py, which reads no config file; by default it uploads the model."""
    arguments = [
        "--dataset_mixer_list ../train.jsonl 1.0",
        "--dataset_mixer_list_splits train",
        "--dataset_transform_fn sft_tulu_tokenize_and_truncate_v1 sft_tulu_filter_v1",
        f"--max_seq_length {longest}",
        f"--num_train_epochs {epochs}",
        "--push_to_hub False",
        "--try_launch_beaker_eval_jobs False",
        '"$@"',
    ]
    return " \\\n  ".join(["accelerate launch --module open_instruct.finetune", *arguments]) + "\n"
