"""Token lengths, and selection of examples by length at one budget.

Where a problem has several traces, `short`, `long` and `varying` take its shortest, its longest or a random one, so
that the same problems differ in length alone. Where each problem has one trace, `short` and `long` take the shortest
and longest examples: then length and difficulty are confounded, and the manifest says so.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from curate.errors import CheckFailed, InputError
from curate.examples import Example

LengthMix = Literal["short", "long", "varying"]
Lengths = Callable[[str], int]
TOLERANCE = 0.01


def token_counter(tokenizer: str) -> Lengths:
    """A function from text to its number of tokens, without special tokens.

    Args:
        tokenizer: `words` (white space), or a Hugging Face folder or cached id.
    """
    if tokenizer == "words":
        return lambda text: len(text.split())
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise InputError(f"tokenizer {tokenizer!r} needs transformers: pip install 'forerun[train]', or use words") from None
    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"tokenizer {tokenizer!r}: expected words, or a Hugging Face folder; {error}") from None
    return lambda text: len(loaded(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Budget:
    """How much a variant holds: completion tokens or examples."""

    tokens: int | None = None
    examples: int | None = None


def shuffle_key(seed: int, text: str) -> str:
    """A sort key that is random but depends on the seed and the text alone, not on where a row stood."""
    return hashlib.sha256(f"{seed}/{text}".encode()).hexdigest()


def one_trace_each(examples: Sequence[Example], mix: LengthMix, lengths: dict[str, int], seed: int) -> list[Example]:
    """For each problem the trace that the mix asks for, in the order in which a budget takes them.

    Args:
        lengths: completion tokens by example id.
    """
    by_prompt: dict[str, list[Example]] = {}
    for example in examples:
        by_prompt.setdefault(example.problem.prompt, []).append(example)
    sign = {"short": 1, "long": -1, "varying": 0}[mix]

    def rank(example: Example) -> tuple[int, str]:
        return sign * lengths[example.id], shuffle_key(seed, example.id)

    chosen = [min(traces, key=rank) for traces in by_prompt.values()]
    if has_several_traces(examples):
        return sorted(chosen, key=lambda example: shuffle_key(seed, example.problem.prompt))
    return sorted(chosen, key=rank)


def has_several_traces(examples: Sequence[Example]) -> bool:
    """Whether problems have more than one trace each, so that length can vary at equal problems."""
    return len({example.problem.prompt for example in examples}) < len(examples)


def within_budget(ordered: Sequence[Example], budget: Budget, lengths: dict[str, int]) -> list[Example]:
    """Take examples in order until the budget is met: exactly for examples, within 1 % for tokens.

    Raises:
        CheckFailed: the data cannot meet it; the message says what was reachable.
    """
    if budget.examples is not None:
        if len(ordered) < budget.examples:
            raise CheckFailed(f"a budget of {budget.examples} examples cannot be met: {len(ordered)} are reachable")
        return list(ordered[: budget.examples])
    if budget.tokens is None:
        return list(ordered)
    taken, total = [], 0
    for example in ordered:
        if total + lengths[example.id] <= budget.tokens * (1 + TOLERANCE):
            taken.append(example)
            total += lengths[example.id]
        if total >= budget.tokens:
            break
    if total < budget.tokens * (1 - TOLERANCE):
        raise CheckFailed(f"a budget of {budget.tokens} tokens cannot be met within 1 %: {total} are reachable")
    return taken


def in_the_range_of(chosen: Sequence[Example], others: Sequence[Example], lengths: dict[str, int]) -> list[Example]:
    """Those of `others` whose length lies within the range of the chosen ones."""
    known = [lengths[example.id] for example in chosen]
    return [example for example in others if min(known) <= lengths[example.id] <= max(known)]
