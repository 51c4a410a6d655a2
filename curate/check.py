"""Read a dataset folder back and see that it is what its manifest says."""

from pathlib import Path
from typing import Any

from curate.errors import CheckFailed, InputError
from curate.examples import Example, example_row, prompt_completion_row, read_examples, read_problems, read_table
from curate.files import content_hash, read_json
from curate.lengths import token_counter
from curate.stubs import TEMPLATE_MARGIN

PARTS = {
    "content_hash": str,
    "heldout_hash": str,
    "rl_hash": str,
    "epochs": int,
    "recipe": dict,
    "rows": dict,
    "tokens": dict,
    "lengths": dict,
    "behavior_rates": dict,
    "drop_reasons": dict,
    "matched_problem_share": float,
}
"""What is read from a manifest, and of which kind it is."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a dataset folder.

    Raises:
        InputError: not such a folder, or a manifest that `curate build` did not write.
    """
    file = folder / "manifest.json"
    if not file.exists():
        variants = sorted(path.parent.name for path in folder.glob("*/manifest.json"))
        hint = f"it holds the variants {', '.join(variants)}: name one" if variants else "write one with `curate build`"
        raise InputError(f"{folder}: expected a dataset folder with manifest.json, found none; {hint}")
    manifest = read_json(file)
    for part, kind in PARTS.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(part), kind):
            raise InputError(f"{file}: expected {part!r} as `curate build` writes it, found none or another type; build it again")
    return dict(manifest)


def check_dataset(folder: Path, max_length: int | None = None) -> dict[str, Any]:
    """Counts of a sound folder.

    Args:
        max_length: a trainer's limit, in tokens of the recipe's tokenizer.

    Raises:
        InputError: a file is missing or malformed.
        CheckFailed: contents differ from the manifest, sets overlap, or the limit would cut rows.
    """
    manifest = read_manifest(folder)
    train, heldout = read_examples(folder / "train.jsonl"), read_examples(folder / "heldout.parquet")
    rl = read_problems(folder / "rl.parquet")
    counts = {"train": len(train), "heldout": len(heldout), "rl": len(rl)}
    hashes = {
        "content_hash": ("train.jsonl", content_hash([[example_row(example) for example in train], manifest["epochs"]])),
        "heldout_hash": ("heldout.parquet", content_hash([example_row(example) for example in heldout])),
        "rl_hash": ("rl.parquet", content_hash([[problem.prompt, problem.ground_truth] for problem in rl])),
    }
    for key, (name, found) in hashes.items():
        if found != manifest[key]:
            raise CheckFailed(f"{folder}/{name} is not the file that the manifest describes: build it again")
    _check_copies(folder, train)
    _check_accounts(folder, manifest["rows"], {**counts, "ledger": len(read_table(folder / "ledger.parquet"))})
    prompts = {name: {example.problem.prompt for example in rows} for name, rows in (("train", train), ("heldout", heldout))}
    _check_disjoint(folder, {**prompts, "rl": {problem.prompt for problem in rl}})
    longest = _check_length(folder, train, manifest["recipe"].get("tokenizer", "words"), max_length)
    return {**counts, "longest": longest, "cut": 0}


def _check_copies(folder: Path, train: list[Example]) -> None:
    """train.parquet and train_pc.jsonl hold the same rows as train.jsonl."""
    if train != read_examples(folder / "train.parquet"):
        raise CheckFailed(f"{folder}: train.parquet and train.jsonl hold different rows: build it again")
    if read_table(folder / "train_pc.jsonl") != [prompt_completion_row(example) for example in train]:
        raise CheckFailed(f"{folder}: train_pc.jsonl and train.jsonl hold different rows: build it again")


def _check_accounts(folder: Path, stated: dict[str, int], found: dict[str, int]) -> None:
    """Every row read is in the training set, the held-out set, the RL set or the ledger."""
    if stated != {"read": sum(found.values()), **found}:
        raise CheckFailed(f"{folder}: the manifest accounts for the rows {stated}, found were {found}: build it again")


def _check_disjoint(folder: Path, sets: dict[str, set[str]]) -> None:
    for one, other in (("train", "heldout"), ("train", "rl"), ("heldout", "rl")):
        if shared := sets[one] & sets[other]:
            raise CheckFailed(f"{folder}: {len(shared)} problems stand in both {one} and {other}")


def _check_length(folder: Path, train: list[Example], tokenizer: str, limit: int | None) -> int:
    """The longest example in tokens, with room for a chat template."""
    count = token_counter(tokenizer)
    lengths = [count(example.problem.prompt) + count(example.completion) + TEMPLATE_MARGIN for example in train]
    cut = sum(length > limit for length in lengths) if limit is not None else 0
    if cut:
        share = f"{cut} of {len(train)} examples"
        raise CheckFailed(f"{folder}: a limit of {limit} tokens would cut {share}; the longest needs {max(lengths)}")
    return max(lengths, default=0)
