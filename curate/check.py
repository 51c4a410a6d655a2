"""Read a dataset folder back: that it is what its manifest says, and what trainers will see of it."""

from pathlib import Path
from typing import Any

from curate.dedup import exact_key
from curate.errors import CheckFailed, InputError, UsageError
from curate.examples import Example, example_row, prompt_completion_row, read_examples, read_problems, read_table
from curate.files import content_hash, read_json
from curate.seen import loss_in_words, stub_in_words, view
from curate.stubs import stated_length
from curate.templates import load_template
from curate.trainers import TRAINERS, Trainer

PARTS = {
    "content_hash": str,
    "heldout_hash": str,
    "heldout_own_hash": str,
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


def check_dataset(folder: Path) -> dict[str, Any]:
    """Counts of a sound folder.

    Raises:
        InputError: a file is missing or malformed.
        CheckFailed: contents differ from the manifest, or sets overlap.
    """
    manifest = read_manifest(folder)
    train, heldout, own = (read_examples(folder / name) for name in ("train.jsonl", "heldout.parquet", "heldout_own.parquet"))
    rl = read_problems(folder / "rl.parquet")
    counts = {"train": len(train), "heldout": len(heldout), "rl": len(rl)}
    hashes = {
        "content_hash": ("train.jsonl", content_hash([[example_row(example) for example in train], manifest["epochs"]])),
        "heldout_hash": ("heldout.parquet", content_hash([example_row(example) for example in heldout])),
        "heldout_own_hash": ("heldout_own.parquet", content_hash([example_row(example) for example in own])),
        "rl_hash": ("rl.parquet", content_hash([[problem.prompt, problem.ground_truth] for problem in rl])),
    }
    for key, (name, found) in hashes.items():
        if found != manifest[key]:
            raise CheckFailed(f"{folder}/{name} is not the file that the manifest describes: build it again")
    _check_copies(folder, train)
    _check_accounts(folder, manifest["rows"], {**counts, "ledger": len(read_table(folder / "ledger.parquet"))})
    prompts = {
        name: {exact_key(example.problem.prompt) for example in rows} for name, rows in (("train", train), ("heldout", heldout))
    }
    _check_disjoint(folder, {**prompts, "rl": {exact_key(problem.prompt) for problem in rl}})
    _check_own(folder, own, heldout, prompts["heldout"])
    return counts


def _check_own(folder: Path, own: list[Example], heldout: list[Example], prompts: set[str]) -> None:
    """A variant's own held-out set asks the held-out problems, in another wording where premises were permuted."""
    known = {example.problem.id for example in heldout}
    strays = {e.problem.id for e in own if e.problem.id not in known and exact_key(e.problem.prompt) not in prompts}
    if strays:
        raise CheckFailed(f"{folder}: {len(strays)} problems of heldout_own.parquet are not held out: build it again")


def _check_copies(folder: Path, train: list[Example]) -> None:
    """train.parquet and train_pc.jsonl hold the same rows as train.jsonl."""
    if train != read_examples(folder / "train.parquet"):
        raise CheckFailed(f"{folder}: train.parquet and train.jsonl hold different rows: build it again")
    if read_table(folder / "train_pc.jsonl") != [prompt_completion_row(example) for example in train]:
        raise CheckFailed(f"{folder}: train_pc.jsonl and train.jsonl hold different rows: build it again")


def _check_accounts(folder: Path, stated: dict[str, int], found: dict[str, int]) -> None:
    """Every row read is in the training set, the held-out set, the RL set or the ledger; copies of rows were never read."""
    read = sum(found.values()) - stated["copies"]
    if stated != {**found, "train": found["train"] - stated["copies"], "copies": stated["copies"], "read": read}:
        raise CheckFailed(f"{folder}: the manifest accounts for the rows {stated}, found were {found}: build it again")


def _check_disjoint(folder: Path, sets: dict[str, set[str]]) -> None:
    for one, other in (("train", "heldout"), ("train", "rl"), ("heldout", "rl")):
        if shared := sets[one] & sets[other]:
            raise CheckFailed(f"{folder}: {len(shared)} problems stand in both {one} and {other}")


def check_trainers(
    folder: Path, names: list[str] | None = None, max_length: int | None = None, template: str | None = None
) -> dict[str, Any]:
    """What trainers see of a folder's training set.

    Args:
        names: keys of `TRAINERS`; default all.
        max_length: a limit in tokens in place of each trainer's default.
        template: see `load_template`.

    Returns:
        `template`, `unit`, `trainers` (one `View.document` each), `warnings` and `failures`, one sentence a trainer. A loss is a
        failure where the trainer or the length was named, else a warning.
    """
    chosen = [_trainer(name) for name in names or TRAINERS]
    tokenizer = read_manifest(folder)["recipe"].get("tokenizer", "words")
    loaded = load_template(template, tokenizer)
    limits = [(trainer, max_length or trainer.default_length, stated_length(folder, trainer)) for trainer in chosen]
    views = view(read_examples(folder / "train.jsonl"), loaded, limits)
    asked = [sentence for each in views if (sentence := loss_in_words(each, loaded))]
    named = names or max_length is not None
    stubs = [sentence for each in views if (sentence := stub_in_words(each))]
    return {
        "template": loaded.name,
        "unit": loaded.unit,
        "trainers": [each.document() for each in views],
        "warnings": stubs if named else [*asked, *stubs],
        "failures": asked if named else [],
    }


def _trainer(name: str) -> Trainer:
    if name not in TRAINERS:
        raise UsageError(f"--trainer {name}: expected one of {', '.join(TRAINERS)}")
    return TRAINERS[name]
