"""Read a dataset folder back and see that it is what its manifest says."""

from pathlib import Path
from typing import Any

from curate.errors import CheckFailed
from curate.examples import example_row, read_examples, read_problems
from curate.files import content_hash, read_json
from curate.lengths import token_counter
from curate.stubs import TEMPLATE_MARGIN


def check_dataset(folder: Path, max_length: int | None = None) -> dict[str, Any]:
    """Counts of a sound folder.

    Args:
        max_length: a trainer's limit, in tokens of the recipe's tokenizer.

    Raises:
        InputError: a file is missing or malformed.
        CheckFailed: contents differ from the manifest, sets overlap, or the limit would cut rows.
    """
    manifest = read_json(folder / "manifest.json")
    train, heldout = read_examples(folder / "train.jsonl"), read_examples(folder / "heldout.parquet")
    rl = read_problems(folder / "rl.parquet")
    if content_hash([[example_row(example) for example in train], manifest["epochs"]]) != manifest["content_hash"]:
        raise CheckFailed(f"{folder}/train.jsonl is not the file that the manifest describes: build it again")
    if train != read_examples(folder / "train.parquet"):
        raise CheckFailed(f"{folder}: train.parquet and train.jsonl hold different rows: build it again")
    sets = {
        "train": {example.problem.prompt for example in train},
        "heldout": {example.problem.prompt for example in heldout},
        "rl": {problem.prompt for problem in rl},
    }
    for one, other in (("train", "heldout"), ("train", "rl"), ("heldout", "rl")):
        if shared := sets[one] & sets[other]:
            raise CheckFailed(f"{folder}: {len(shared)} problems stand in both {one} and {other}")
    count = token_counter(manifest["recipe"]["tokenizer"])
    longest = [count(e.problem.prompt) + count(e.completion) + TEMPLATE_MARGIN for e in train]
    cut = sum(length > max_length for length in longest) if max_length else 0
    if cut:
        raise CheckFailed(f"{folder}: a limit of {max_length} tokens would cut {cut} of {len(train)} examples; the longest needs {max(longest)}")
    return {"train": len(train), "heldout": len(heldout), "rl": len(rl), "longest": max(longest, default=0), "cut": cut}
