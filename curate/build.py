"""Run a recipe: pool, variants, files. A dataset folder appears whole or not at all, and byte-identical for a seed.

A build that is killed leaves its finished steps in a hidden folder beside the output, and the next one goes on from them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from curate import card, stubs
from curate.dataset_files import write_train
from curate.errors import CheckFailed, OutputExists, UsageError
from curate.examples import Example, example_row, problem_row, schema, write_parquet, write_table
from curate.files import atomic_folder, read_json, swap_in, write_json, write_text, write_through_memory
from curate.injection import inject_all
from curate.lengths import Budget, TokenCounter, has_several_traces, in_the_range_of, meet, one_trace_each, select
from curate.manifest import code_versions, make_manifest, source_facts
from curate.pool import LEDGER, Pool, gather
from curate.recipe import Recipe, Variant
from curate.rows import examples_of, problems_of
from curate.work import work_beside


@dataclass
class Chosen:
    """What one variant selects, before behaviours are injected."""

    variant: Variant
    train: pl.DataFrame
    heldout_own: pl.DataFrame
    """The held-out problems, selected as this variant is."""


def build(recipe: Recipe, output: Path, *, force: bool = False) -> dict[str, Any]:
    """Write one dataset folder a variant under `output` (or `output` itself, without variants).

    Returns:
        A summary: rows read, and rows and tokens of each variant.

    Raises:
        OutputExists: `output` is there and `force` is false, or it is nothing that this function wrote.
        InputError, CheckFailed: see `curate.pool.gather` and `curate.lengths.select`; nothing is written.
    """
    _check_output(output, force)
    facts = source_facts(recipe)
    with work_beside(output, [recipe.model_dump(mode="json"), facts, code_versions()]) as work:
        count = TokenCounter(recipe.tokenizer)
        pool = gather(recipe, count, work)
        whole = work.folder / "out"
        variants = recipe.variants or (Variant(name=recipe.name),)
        chosen = [_choose(pool, variant, recipe.seed, count, _rewrites(output)) for variant in variants]
        matched = _matched_share(chosen)
        manifests = {}
        for made in chosen:
            name = made.variant.name
            folder = whole / name if recipe.variants else whole
            if not folder.exists():
                with atomic_folder(folder) as partial:
                    _write(partial, recipe, facts, pool, made, matched[name], count, _rewrites(output))
            manifests[name] = read_json(folder / "manifest.json")
        swap_in(whole, output)
    return _summary(output, manifests)


def _check_output(output: Path, force: bool) -> None:
    if output.name in ("", ".."):
        raise UsageError(f"output {output}: expected the name of a new folder")
    if output.exists() and not force:
        raise OutputExists(f"{output} exists already; remove it, choose another output, or pass --force")
    if output.exists() and not _is_replaceable(output):
        raise OutputExists(f"{output} holds no datasets, and --force replaces nothing else; remove it, or choose another output")


def _is_replaceable(output: Path) -> bool:
    """Whether a folder is empty or holds datasets, so that a slip with --force does not delete a home folder."""
    return output.is_dir() and (
        not any(output.iterdir()) or (output / "manifest.json").exists() or any(output.glob("*/manifest.json"))
    )


def _rewrites(output: Path) -> Path:
    """Where a server's rewrites are kept, also after the build: they have been paid for."""
    return output.with_name(f".{output.name}.rewrites.jsonl")


def _summary(output: Path, manifests: dict[str, Any]) -> dict[str, Any]:
    rows = next(iter(manifests.values()))["rows"]
    variants = {
        name: {"examples": made["variant"]["n_examples"], "tokens": made["tokens"]["train"]} for name, made in manifests.items()
    }
    return {"output": str(output), "rows_read": rows["read"], "heldout": rows["heldout"], "rl": rows["rl"], "variants": variants}


def _choose(pool: Pool, variant: Variant, seed: int, count: TokenCounter, rewrites: Path) -> Chosen:
    if pool.examples.is_empty():
        raise CheckFailed(f"variant {variant.name}: no example is left to train on; hold out fewer, or set fewer aside for RL")
    try:
        if variant.inject and variant.budget.tokens:
            train = _select_injected(pool.examples, variant, variant.budget.tokens, seed, count, rewrites)
        else:
            train = select(pool.examples, variant.select, variant.budget, seed)
    except CheckFailed as error:
        raise CheckFailed(f"variant {variant.name}: {error}") from None
    own = one_trace_each(pool.heldout_traces, variant.select.length, seed)
    if variant.select.length != "varying" and not has_several_traces(pool.examples):
        own = in_the_range_of(train, own)
    return Chosen(variant, train, own)


def _select_injected(
    pool: pl.DataFrame, variant: Variant, tokens: int, seed: int, count: TokenCounter, rewrites: Path
) -> pl.DataFrame:
    """Rows whose traces meet a token budget as they are trained on: with their behaviours, and with copies."""

    def choose(size: int) -> tuple[pl.DataFrame, int]:
        chosen = select(pool, variant.select, Budget(examples=size), seed)
        made, _ = _injected(chosen, variant, seed, rewrites)
        return chosen, sum(count.all([example.completion for example in made]))

    most = pool["prompt_key"].n_unique()
    plain = round(tokens / max(1.0, float(pool["tokens"].sum()) / len(pool)))
    return meet(tokens, choose, min(most, max(1, plain // 2)), most)  # half: behaviours lengthen traces


def _matched_share(chosen: list[Chosen]) -> dict[str, float]:
    """For each variant, the share of its problems that every variant holds."""
    problems = {made.variant.name: set(made.train["prompt_key"]) for made in chosen}
    common = set.intersection(*problems.values())
    return {name: len(common) / max(1, len(held)) for name, held in problems.items()}


def _write(
    folder: Path,
    recipe: Recipe,
    sources: list[dict[str, Any]],
    pool: Pool,
    made: Chosen,
    matched: float,
    count: TokenCounter,
    rewrites: Path,
) -> None:
    """Write the dataset folder of one variant."""
    train, injected = _injected(made.train, made.variant, recipe.seed, rewrites)
    own, _ = _injected(made.heldout_own, made.variant, recipe.seed, rewrites, required=False)
    facts = write_train(folder, train, made.variant.epochs, count)
    heldout, heldout_own = ([example_row(example) for example in held] for held in (examples_of(pool.heldout), own))
    problems = problems_of(pool.rl)
    write_parquet(folder / "heldout.parquet", "examples", heldout)
    write_parquet(folder / "heldout_own.parquet", "examples", heldout_own)
    write_parquet(folder / "rl.parquet", "problems", [problem_row(problem, index) for index, problem in enumerate(problems)])
    ledger = _ledger(pool, made)
    write_table(folder / "ledger.parquet", ledger.to_arrow().cast(schema("ledger")))
    if recipe.decontaminate:
        write_through_memory(folder / "contamination.parquet", pool.contamination.write_parquet)
    manifest = make_manifest(recipe, sources, pool, made, facts, injected, ledger, heldout, heldout_own, problems, matched)
    write_json(folder / "manifest.json", manifest)
    for name, text in stubs.trainer_files(manifest).items():
        write_text(folder / "trainers" / name, text)
    write_text(folder / "README.md", card.card(manifest))


def _injected(
    chosen: pl.DataFrame, variant: Variant, seed: int, rewrites: Path, *, required: bool = True
) -> tuple[Iterable[Example], dict[str, Any]]:
    """The examples, with behaviours where the variant wants them, and how many could be given any; `required`: at least one."""
    if variant.inject is None:
        return examples_of(chosen), {}
    try:
        made = inject_all(list(examples_of(chosen)), variant.inject, seed, rewrites)
    except CheckFailed as error:
        raise CheckFailed(f"variant {variant.name}: {error}") from None
    if required:
        made.require(f"variant {variant.name}")
    return made.examples, made.counts


def _ledger(pool: Pool, made: Chosen) -> pl.DataFrame:
    """The shared drops, then what this variant's selection left."""
    left = pool.examples.join(made.train, on="row", how="anti", maintain_order="left")
    taken = made.train.select("prompt_key", partner_id="id").unique("prompt_key", keep="first", maintain_order=True)
    left = left.join(taken, on="prompt_key", how="left", maintain_order="left")
    other = pl.when(pl.col("partner_id").is_null()).then(pl.lit("over_budget")).otherwise(pl.lit("other_trace_selected"))
    left = left.with_columns(step=pl.lit("select"), reason=other).select(LEDGER.names()).cast(LEDGER)
    return pl.concat([*pool.ledger, left])
