"""The pool that variants are made from: read, verify, filter, deduplicate, and set aside held-out and RL problems.

Every row read ends in the training set, the held-out set, the RL set or the ledger, once.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from curate import sources
from curate.answers import verify
from curate.errors import CheckFailed, InputError
from curate.examples import Example, Problem, text_id
from curate.lengths import Lengths, shuffle_key
from curate.recipe import Recipe, RlPrompts
from curate.sources import Source

HELDOUT_STREAM, RL_STREAM = 1_000_003, 2_000_003
"""Added to the seed of generated sources, so that the sets come from different streams and few problems coincide."""


@dataclass
class Ledger:
    """Every row that was read and is not in the training set, with the step and the reason."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def drop(self, example: Example, step: str, reason: str, partner: str | None = None) -> None:
        """Record one row."""
        self.rows.append({"id": example.id, "step": step, "reason": reason, "partner_id": partner})


@dataclass
class Pool:
    """What all variants of a recipe share."""

    examples: list[Example]
    heldout: list[Example]
    """One trace a problem."""
    heldout_traces: list[Example]
    """Every trace of the held-out problems: a variant's own held-out set is chosen from them."""
    rl: list[Problem]
    ledger: Ledger
    lengths: dict[str, int]
    """Completion tokens by example id."""
    rows_read: int
    steps: list[dict[str, Any]]
    """Rows and tokens left after each step."""


def gather(recipe: Recipe, count: Lengths) -> Pool:
    """Run the recipe's steps up to the variants.

    Raises:
        InputError: a source cannot be read, or nothing is left.
        CheckFailed: fewer held-out or RL problems than asked for.
    """
    examples = [example for source in recipe.sources for example in sources.load(source, recipe.seed)]
    if not examples:
        raise InputError(f"recipe {recipe.name}: the sources hold no examples")
    pool = Pool(examples, [], [], [], Ledger(), {}, len(examples), [])
    pool.lengths = {example.id: count(example.completion) for example in examples}
    _note(pool, "read")
    for step, keep in (("dedup", _dedup), ("verify", _verify), ("filters", _filter)):
        pool.examples = keep(pool, recipe)
        _note(pool, step)
    if not pool.examples:
        reasons = Counter(f"{row['step']}.{row['reason']}" for row in pool.ledger.rows)
        dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        raise InputError(f"recipe {recipe.name}: no example is left of {pool.rows_read}; dropped were {dropped}")
    pool.examples.sort(key=lambda example: shuffle_key(recipe.seed, example.id))
    _hold_out(pool, recipe, count)
    _set_aside_rl(pool, recipe)
    _note(pool, "pool")
    return pool


def _note(pool: Pool, step: str) -> None:
    tokens = sum(pool.lengths[example.id] for example in pool.examples)
    pool.steps.append({"step": step, "rows": len(pool.examples), "tokens": tokens})


def _dedup(pool: Pool, recipe: Recipe) -> list[Example]:
    """Keep the first id of equal rows, so that the order of the input does not matter."""
    first: dict[str, Example] = {}
    for example in sorted(pool.examples, key=lambda example: example.id):
        text = f"{example.problem.prompt}\n{example.completion}"
        key = text_id(" ".join(text.lower().split()), 32) if recipe.dedup.exact else example.id
        if key in first:
            pool.ledger.drop(example, "dedup", "exact_duplicate", first[key].id)
        else:
            first[key] = example
    return _unique_ids(first.values())


def _unique_ids(examples: Iterable[Example]) -> list[Example]:
    seen: set[str] = set()
    for example in (examples := list(examples)):
        if example.id in seen:
            raise InputError(f"id {example.id!r} stands for two different rows; ids must be unique over all sources")
        seen.add(example.id)
    return examples


def _verify(pool: Pool, recipe: Recipe) -> list[Example]:
    kept = []
    for example in pool.examples:
        verdict = verify(example.completion, ground_truth=example.problem.ground_truth) if recipe.verify else None
        if recipe.verify and verdict in recipe.verify.drop:
            pool.ledger.drop(example, "verify", str(verdict))
        else:
            kept.append(example)
    return kept


def _filter(pool: Pool, recipe: Recipe) -> list[Example]:
    shortest, longest = recipe.filters.min_tokens or 0, recipe.filters.max_tokens
    kept = []
    for example in pool.examples:
        tokens = pool.lengths[example.id]
        if tokens < shortest:
            pool.ledger.drop(example, "filters", "too_short")
        elif longest is not None and tokens > longest:
            pool.ledger.drop(example, "filters", "too_long")
        else:
            kept.append(example)
    return kept


def _hold_out(pool: Pool, recipe: Recipe, count: Lengths) -> None:
    """Set problems aside, with all their traces; the held-out set takes one random trace of each."""
    wanted = recipe.heldout
    if wanted is None:
        return
    seed = recipe.seed if wanted.seed is None else wanted.seed
    read = _read(wanted.sources, seed + HELDOUT_STREAM) if wanted.sources else []
    pool.rows_read += len(read)
    pool.lengths |= {example.id: count(example.completion) for example in read}
    candidates = sorted(read or pool.examples, key=lambda example: shuffle_key(seed, example.id))
    prompts = list(dict.fromkeys(example.problem.prompt for example in candidates))
    if len(prompts) < wanted.examples + (not read):
        raise CheckFailed(f"heldout: {wanted.examples} problems were asked for, {len(prompts)} are there in all")
    aside = set(prompts[: wanted.examples])
    taken: set[str] = set()
    for example in candidates:
        if example.problem.prompt not in aside:
            if read:
                pool.ledger.drop(example, "heldout", "not_selected")
            continue
        pool.heldout_traces.append(example)
        if example.problem.prompt in taken:
            pool.ledger.drop(example, "heldout", "other_trace_of_heldout_problem")
        else:
            taken.add(example.problem.prompt)
            pool.heldout.append(example)
    _without(pool, aside, None if not read else "problem_held_out")


def _without(pool: Pool, prompts: set[str], reason: str | None) -> None:
    """Take problems out of the pool; with a reason, each row goes to the ledger."""
    for example in pool.examples:
        if reason and example.problem.prompt in prompts:
            pool.ledger.drop(example, "disjoint", reason)
    pool.examples = [example for example in pool.examples if example.problem.prompt not in prompts]


def _read(wanted: tuple[Source, ...], seed: int) -> list[Example]:
    return [example for source in wanted for example in sources.load(source, seed)]


def _set_aside_rl(pool: Pool, recipe: Recipe) -> None:
    """Choose RL problems: from sources of their own, minus all known prompts, or from the pool, which then loses them."""
    wanted = recipe.rl_prompts
    if wanted is None:
        return
    if wanted.sources:
        _rl_from_own_sources(pool, wanted, recipe.seed if wanted.seed is None else wanted.seed)
    else:
        prompts = list(dict.fromkeys(example.problem.prompt for example in pool.examples))
        _rl_from_pool(pool, set(prompts[: wanted.examples]))
    if len(pool.rl) < wanted.examples:
        raise CheckFailed(f"rl_prompts: {wanted.examples} problems were asked for, {len(pool.rl)} are reachable")


def _rl_from_pool(pool: Pool, aside: set[str]) -> None:
    kept, taken = [], set()
    for example in pool.examples:
        if example.problem.prompt not in aside:
            kept.append(example)
        elif example.problem.prompt in taken:
            pool.ledger.drop(example, "rl_prompts", "other_trace_of_rl_problem")
        else:
            taken.add(example.problem.prompt)
            pool.rl.append(example.problem)
    pool.examples = kept


def _rl_from_own_sources(pool: Pool, wanted: RlPrompts, seed: int) -> None:
    """The pool gives way where both hold a problem, so that the RL set depends on its own seed alone."""
    heldout = {example.problem.prompt for example in pool.heldout_traces}
    read = _read(wanted.sources, seed + RL_STREAM)
    pool.rows_read += len(read)
    chosen: set[str] = set()
    for example in sorted(read, key=lambda example: shuffle_key(seed, example.id)):
        if example.problem.prompt in heldout or example.problem.prompt in chosen:
            pool.ledger.drop(example, "rl_prompts", "known_prompt")
        elif len(pool.rl) == wanted.examples:
            pool.ledger.drop(example, "rl_prompts", "not_selected")
        else:
            chosen.add(example.problem.prompt)
            pool.rl.append(example.problem)
    _without(pool, chosen, "problem_in_rl_set")
