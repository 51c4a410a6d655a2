"""Run a recipe: pool, variants, files. A dataset folder appears whole or not at all, and byte-identical for a seed."""

import random
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from curate import stubs
from curate.answers import VERIFIER_VERSION, Verdict, verify
from curate.behaviors import inject
from curate.errors import CheckFailed
from curate.examples import Example, example_row, problem_row, prompt_completion_row, write_jsonl, write_parquet
from curate.files import atomic_folder, content_hash, sha256_file, write_json, write_text
from curate.lengths import (
    Budget,
    Lengths,
    has_several_traces,
    in_the_range_of,
    one_trace_each,
    token_counter,
    within_budget,
)
from curate.pool import Pool, gather
from curate.recipe import Recipe, Variant

SCHEMA_VERSION = 1
HISTOGRAM_BINS = 20


@dataclass
class VariantRows:
    """What one variant holds."""

    variant: Variant
    train: list[Example]
    selected_tokens: int
    """Completion tokens as selected, before behaviours were injected."""
    heldout_own: list[Example]
    """The held-out problems, selected and injected as this variant is."""


def build(recipe: Recipe, output: Path, *, force: bool = False) -> dict[str, Any]:
    """Write one dataset folder a variant under `output` (or `output` itself, without variants).

    Returns:
        A summary: rows read, and rows and tokens of each variant.

    Raises:
        OutputExists: `output` is there and `force` is false.
        InputError, CheckFailed: see `curate.pool.gather` and `curate.lengths.within_budget`; nothing is written.
    """
    count = token_counter(recipe.tokenizer)
    with atomic_folder(output, force=force) as partial:
        pool = gather(recipe, count)
        variants = recipe.variants or (Variant(name=recipe.name),)
        made = [_select(pool, variant, recipe.seed) for variant in variants]
        common = _matched_share(made)
        for rows in made:
            folder = partial / rows.variant.name if recipe.variants else partial
            _write(folder, recipe, pool, rows, common, count)
    summary = {rows.variant.name: {"examples": len(rows.train), "tokens": rows.selected_tokens} for rows in made}
    return {
        "output": str(output),
        "rows_read": pool.rows_read,
        "heldout": len(pool.heldout),
        "rl": len(pool.rl),
        "variants": summary,
    }


def _select(pool: Pool, variant: Variant, seed: int) -> VariantRows:
    mix, budget = variant.select.length, Budget(variant.budget.tokens, variant.budget.examples)
    ordered = one_trace_each(pool.examples, mix, pool.lengths, seed)
    try:
        chosen = within_budget(ordered, budget, pool.lengths)
    except CheckFailed as error:
        raise CheckFailed(f"variant {variant.name}: {error}") from None
    own = one_trace_each(pool.heldout_traces, mix, pool.lengths, seed)
    if mix != "varying" and not has_several_traces(pool.examples):
        own = in_the_range_of(chosen, own, pool.lengths)
    tokens = sum(pool.lengths[example.id] for example in chosen)
    train, heldout = (_injected(rows, variant, seed) for rows in (chosen, own))
    return VariantRows(variant, train, tokens, heldout)


def _injected(examples: list[Example], variant: Variant, seed: int) -> list[Example]:
    """Write behaviours into the variant's share of the examples, and verify every trace that was touched."""
    if variant.inject is None:
        return examples
    result = []
    for example in examples:
        rng = random.Random(f"{seed}/{example.id}")
        if rng.random() < variant.inject.share:
            injected = inject(example, variant.inject, rng)
            verdict = verify(injected.completion, ground_truth=injected.problem.ground_truth)
            if verdict is not Verdict.CORRECT:
                raise CheckFailed(
                    f"variant {variant.name}: injected trace {injected.id} verifies as {verdict}; nothing was written"
                )
            result.append(injected)
        else:
            result.append(example)
    return result


def _matched_share(made: list[VariantRows]) -> dict[str, float]:
    """For each variant, the share of its problems that every variant holds."""
    prompts = {rows.variant.name: {example.problem.prompt for example in rows.train} for rows in made}
    common = set.intersection(*prompts.values())
    return {name: len(common) / len(held) for name, held in prompts.items()}


def _write(folder: Path, recipe: Recipe, pool: Pool, rows: VariantRows, matched: dict[str, float], count: Lengths) -> None:
    """Write the dataset folder of one variant."""
    train = [example_row(example) for example in rows.train]
    write_jsonl(folder / "train.jsonl", train)
    write_parquet(folder / "train.parquet", "examples", train)
    write_jsonl(folder / "train_pc.jsonl", map(prompt_completion_row, rows.train))
    write_parquet(folder / "heldout.parquet", "examples", [example_row(example) for example in pool.heldout])
    write_parquet(folder / "heldout_own.parquet", "examples", [example_row(example) for example in rows.heldout_own])
    write_parquet(folder / "rl.parquet", "problems", [problem_row(p, index) for index, p in enumerate(pool.rl)])
    ledger = _ledger(pool, rows)
    write_parquet(folder / "ledger.parquet", "ledger", ledger)
    manifest = _manifest(recipe, pool, rows, ledger, matched[rows.variant.name], count)
    write_json(folder / "manifest.json", manifest)
    for name, text in stubs.trainer_files(manifest).items():
        write_text(folder / "trainers" / name, text)
    write_text(folder / "README.md", stubs.card(manifest))


def _ledger(pool: Pool, rows: VariantRows) -> list[dict[str, Any]]:
    """The shared drops, then what this variant's selection left."""
    chosen = {example.id for example in rows.train}
    prompts = {example.problem.prompt: example.id for example in rows.train}
    left = [example for example in pool.examples if example.id not in chosen]
    return pool.ledger.rows + [
        {
            "id": example.id,
            "step": "select",
            "reason": "other_trace_selected" if example.problem.prompt in prompts else "over_budget",
            "partner_id": prompts.get(example.problem.prompt),
        }
        for example in left
    ]


def _manifest(
    recipe: Recipe, pool: Pool, rows: VariantRows, ledger: list[dict[str, Any]], matched: float, count: Lengths
) -> dict[str, Any]:
    """What is in the folder and how it came about. Only `sources` names paths."""
    variant, train = rows.variant, rows.train
    reasons = Counter(f"{row['step']}.{row['reason']}" for row in ledger)
    lengths = sorted(count(example.completion) for example in train)
    prompts = max((count(example.problem.prompt) for example in train), default=0)
    confounded = variant.select.length != "varying" and not has_several_traces(pool.examples)
    return {
        "schema_version": SCHEMA_VERSION,
        "content_hash": content_hash([[example_row(example) for example in train], variant.epochs]),
        "heldout_hash": content_hash([example_row(example) for example in pool.heldout]),
        "rl_hash": content_hash([[problem.prompt, problem.ground_truth] for problem in pool.rl]),
        "seed": recipe.seed,
        "epochs": variant.epochs,
        "variant": {
            "name": variant.name,
            "n_examples": len(train),
            "length_mix": variant.select.length,
            "behaviors": variant.inject.model_dump(mode="json") if variant.inject else {},
        },
        "recipe": _without_paths(recipe.model_dump(mode="json")),
        "sources": [_source_facts(source) for source in recipe.every_source],
        "rows": {
            "read": pool.rows_read,
            "train": len(train),
            "heldout": len(pool.heldout),
            "rl": len(pool.rl),
            "ledger": len(ledger),
        },
        "tokens": {"selected": rows.selected_tokens, "train": sum(lengths)},
        "steps": pool.steps,
        "drop_reasons": dict(sorted(reasons.items())),
        "lengths": _histogram(lengths),
        "longest": {"prompt": prompts, "completion": lengths[-1] if lengths else 0},
        "matched_problem_share": matched,
        "length_confounded_with_difficulty": confounded,
        "distance_to_pool": _distance(lengths, pool),
        "behavior_rates": _rates(train),
        "versions": {"forerun": version("forerun"), "verifier": VERIFIER_VERSION},
    }


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items() if key != "path"}
    return [_without_paths(inner) for inner in value] if isinstance(value, list) else value


def _source_facts(source: Any) -> dict[str, Any]:
    if source.path is None:
        return {"task": source.task, "size": source.size}
    return {"path": str(source.path), "sha256": sha256_file(source.path)}


def _histogram(lengths: list[int]) -> dict[str, Any]:
    """Counts of completion tokens in equal bins."""
    if not lengths:
        return {"edges": [], "counts": [], "mean": None}
    width = max(1, -(-(lengths[-1] + 1) // HISTOGRAM_BINS))
    counts = Counter(length // width for length in lengths)
    bins = lengths[-1] // width + 1
    edges = [width * edge for edge in range(bins + 1)]
    return {"edges": edges, "counts": [counts[b] for b in range(bins)], "mean": sum(lengths) / len(lengths)}


def _distance(lengths: list[int], pool: Pool) -> dict[str, float] | None:
    """How far the variant's lengths are from the pool's: Wasserstein distance in tokens, and Kolmogorov-Smirnov."""
    from scipy.stats import ks_2samp, wasserstein_distance

    source = [pool.lengths[example.id] for example in pool.examples]
    if not lengths:
        return None
    return {
        "wasserstein_tokens": float(wasserstein_distance(lengths, source)),
        "kolmogorov_smirnov": float(ks_2samp(lengths, source).statistic),
    }


def _rates(train: list[Example]) -> dict[str, Any]:
    """Realised behaviours: share of examples that show each, and spans an example."""
    showing = Counter(behavior for example in train for behavior in {span.behavior for span in example.spans})
    spans = Counter(span.behavior for example in train for span in example.spans)
    rows = max(1, len(train))
    return {name: {"share": showing[name] / rows, "per_example": spans[name] / rows} for name in sorted(showing)}
