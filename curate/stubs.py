"""Trainer config stubs and the dataset card: what a person needs to train on a dataset folder without losing tokens.

Trainers cut long rows by default (TRL at 1024 tokens, LLaMA-Factory at 2048, axolotl drops over 512), so every stub
states the set's own longest length.
"""

import json
from typing import Any

TEMPLATE_MARGIN = 64
"""Tokens that a chat template may add around the turns."""


def trainer_files(manifest: dict[str, Any]) -> dict[str, str]:
    """File name -> content of the stubs for TRL, verl, LLaMA-Factory and axolotl."""
    longest = manifest["longest"]["prompt"] + manifest["longest"]["completion"] + TEMPLATE_MARGIN
    epochs, name = manifest["epochs"], manifest["variant"]["name"]
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages"}
    info = {name: {"file_name": "../train.jsonl", "formatting": "sharegpt", "columns": columns, "tags": tags}}
    unit = manifest["recipe"]["tokenizer"]
    note = f"# Lengths are counted by the recipe's tokenizer ({unit}), plus {TEMPLATE_MARGIN} for the chat template.\n"
    return {
        "trl.yaml": note + f"dataset_name: ../train_pc.jsonl\nmax_length: {longest}\nnum_train_epochs: {epochs}\n"
        "completion_only_loss: true\n",
        "verl.yaml": note + f"data:\n  train_files: ../train.parquet\n  messages_key: messages\n  max_length: {longest}\n"
        f"  truncation: error\ntrainer:\n  total_epochs: {epochs}\n",
        "axolotl.yaml": note + "datasets:\n  - path: ../train.jsonl\n    ds_type: json\n    type: chat_template\n"
        f"sequence_len: {longest}\nexcess_length_strategy: raise\nnum_epochs: {epochs}\n",
        "llamafactory.yaml": note + f"dataset_dir: .\ndataset: {name}\ncutoff_len: {longest}\nnum_train_epochs: {epochs}\n",
        "dataset_info.json": json.dumps(info, indent=2) + "\n",
    }


def card(manifest: dict[str, Any]) -> str:
    """README.md of a dataset folder, with the front matter that dataset hubs read."""
    rows, variant = manifest["rows"], manifest["variant"]
    rates = manifest["behavior_rates"]
    behaviors = ", ".join(f"{name} in {rate['share']:.0%}" for name, rate in rates.items()) or "none injected"
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files: train.parquet",
        "---",
        f"# {manifest['recipe']['name']} / {variant['name']}",
        "",
        f"{rows['train']} examples, {manifest['tokens']['train']} completion tokens, {manifest['epochs']} epoch(s); "
        f"length mix: {variant['length_mix']}; behaviours: {behaviors}.",
        "",
        f"Rows read {rows['read']} = train {rows['train']} + held out {rows['heldout']} + RL {rows['rl']} + ledger {rows['ledger']}.",
        f"Problems shared with all other variants: {manifest['matched_problem_share']:.0%}.",
    ]
    if manifest["length_confounded_with_difficulty"]:
        lines += [
            "",
            "Each problem has one trace here, so length and difficulty are confounded: shorter traces are easier problems.",
        ]
    return "\n".join([*lines, ""])
