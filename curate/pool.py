"""The pool that variants are made from: read, deduplicate, verify, decontaminate, filter, set aside held-out and RL problems.

Every row read ends in the training set, the held-out set, the RL set or the ledger, once.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from curate import rows, sources
from curate.answers import Verdict, verify_all
from curate.decontaminate import Decontaminate, Index
from curate.dedup import Dedup, find_duplicates
from curate.errors import CheckFailed, InputError
from curate.examples import Example
from curate.lengths import TokenCounter, shuffle_keys
from curate.near import near_clusters
from curate.recipe import Heldout, Recipe, RlPrompts
from curate.sources import Source
from curate.work import Work

HELDOUT_STREAM, RL_STREAM = 1_000_003, 2_000_003
"""Added to the seed of generated sources, so that the sets come from different streams and few problems coincide."""
LEDGER = pl.Schema({"id": pl.String, "step": pl.String, "reason": pl.String, "partner_id": pl.String})
DROPS = pl.Schema({"row": pl.Int64, "reason": pl.String, "partner_id": pl.String})


@dataclass
class Pool:
    """What all variants of a recipe share. Its frames have the columns of `curate.rows`, and `row`, unique in each."""

    examples: pl.DataFrame
    heldout: pl.DataFrame
    """One trace a problem."""
    heldout_traces: pl.DataFrame
    """Every trace of the held-out problems: a variant's own held-out set is chosen from them."""
    rl: pl.DataFrame
    """One row a problem."""
    rows_read: int
    ledger: list[pl.DataFrame] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Rows and tokens left after each step."""
    contamination: pl.DataFrame = field(default_factory=pl.DataFrame)
    """Every hit of a benchmark, with its evidence."""

    def drop(self, step: str, drops: pl.DataFrame) -> None:
        """Take rows out of the pool and enter them in the ledger, each with its reason."""
        self.enter(step, self.examples.join(drops, on="row", maintain_order="left"))
        self.examples = self.examples.join(drops, on="row", how="anti", maintain_order="left")

    def enter(self, step: str, dropped: pl.DataFrame, reason: str | None = None) -> None:
        """Enter rows in the ledger; without `reason` and partner, the frame says them."""
        if reason:
            dropped = dropped.with_columns(reason=pl.lit(reason), partner_id=pl.lit(None, pl.String))
        self.ledger.append(dropped.with_columns(step=pl.lit(step)).select(LEDGER.names()).cast(LEDGER))

    def note(self, step: str) -> None:
        """Record how many rows and tokens are left."""
        self.steps.append({"step": step, "rows": len(self.examples), "tokens": int(self.examples["tokens"].sum())})


def gather(recipe: Recipe, count: TokenCounter, work: Work) -> Pool:
    """Run the recipe's steps up to the variants.

    Raises:
        InputError: a source cannot be read, or nothing is left.
        CheckFailed: fewer held-out or RL problems than asked for.
    """
    read = _read("pool", recipe.sources, recipe.seed, count, work)
    if read.is_empty():
        raise InputError(f"recipe {recipe.name}: the sources hold no examples")
    pool = Pool(read, read.clear(), read.clear(), read.clear(), len(read))
    pool.note("read")
    for step, decide in STEPS.items():
        pool.drop(step, decide(pool, recipe, work))
        pool.note(step)
    _check_something_is_left(pool, recipe)
    pool.examples = _shuffled(pool.examples, recipe.seed)
    if recipe.heldout:
        _hold_out(pool, recipe, recipe.heldout, count, work)
    if recipe.rl_prompts:
        _set_aside_rl(pool, recipe, recipe.rl_prompts, count, work)
    pool.note("pool")
    return pool


def _read(part: str, wanted: tuple[Source, ...], seed: int, count: TokenCounter, work: Work) -> pl.DataFrame:
    """The rows of the sources of the pool, the held-out set or the RL set; each source is kept once it is read."""
    load = _problem_rows if part == "rl" else sources.load_batches
    folders = [work.folder / f"read-{part}-{number}" for number in range(len(wanted))]
    for source, folder in zip(wanted, folders, strict=True):
        if not folder.exists():
            rows.store_rows(load(source, seed), count, folder)
    read = rows.map_rows(folders)
    rows.check_ids(read)
    return read


def _problem_rows(source: Source, seed: int) -> Iterator[list[Example]]:
    """Rows of RL problems: examples without a completion."""
    return sources.batches(Example(row_id, problem, "") for row_id, problem in sources.load_problems(source, seed))


def _shuffled(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    return frame.with_columns(shuffle=shuffle_keys(seed, frame["id"])).sort("shuffle").drop("shuffle")


def _check_something_is_left(pool: Pool, recipe: Recipe) -> None:
    if pool.examples.is_empty():
        reasons = Counter(f"{row['step']}.{row['reason']}" for frame in pool.ledger for row in frame.to_dicts())
        dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        raise InputError(f"recipe {recipe.name}: no example is left of {pool.rows_read}; dropped were {dropped}")


def _verify(pool: Pool, recipe: Recipe, work: Work) -> pl.DataFrame:
    if recipe.verify is None:
        return pl.DataFrame(schema=DROPS)
    judged = _with_verdicts(pool, recipe, work)
    return judged.filter(pl.col("verdict").is_in(recipe.verify.drop)).select(
        "row", reason="verdict", partner_id=pl.lit(None, pl.String)
    )


def _with_verdicts(pool: Pool, recipe: Recipe, work: Work) -> pl.DataFrame:
    """The pool's rows, each with what the verifier says of its own completion."""
    frame = pool.examples

    def judge() -> pl.DataFrame:
        texts = frame.select("completion", "ground_truth").iter_slices(sources.BATCH)
        verdicts = verify_all(pair for batch in texts for pair in batch.iter_rows())
        return frame.select("row", verdict=pl.Series(map(str, verdicts), dtype=pl.String))

    return frame.join(work.frame("verify", judge), on="row", maintain_order="left")


def _dedup(pool: Pool, recipe: Recipe, work: Work) -> pl.DataFrame:
    """Equal rows, and near-equal questions; a row's own verdict decides which of two differing answers stays."""
    known = [problem for file in recipe.dedup.against for problem in sources.problems_of_file(file)]
    against = pl.DataFrame({"id": [p.id for p in known], "prompt": [p.prompt for p in known]}) if known else None
    frame = pool.examples
    if recipe.dedup.near is not None and recipe.verify is not None:
        frame = _with_verdicts(pool, recipe, work).with_columns(verified=pl.col("verdict") == Verdict.CORRECT)
    else:
        frame = frame.with_columns(verified=pl.lit(None, pl.Boolean))
    found = find_duplicates(rows.with_exact_keys(frame), recipe.dedup, against)
    return found.with_columns(row=frame["row"].gather(found["row"])).select(DROPS.names())


def _decontaminate(pool: Pool, recipe: Recipe, work: Work) -> pl.DataFrame:
    """Rows whose question holds one of a benchmark's; hits in questions and in traces are kept as evidence."""
    return _contaminated(pool, pool.examples, "decontaminate", recipe.decontaminate, work)


def _contaminated(pool: Pool, frame: pl.DataFrame, step: str, config: Decontaminate | None, work: Work) -> pl.DataFrame:
    """The rows of `frame` to drop; what was found is added to the pool's evidence."""
    if config is None:
        return pl.DataFrame(schema=DROPS)
    hits = work.frame(step, lambda: _hits(frame, config))
    pool.contamination = pl.concat([pool.contamination, hits]) if len(pool.contamination) else hits
    worst = hits.filter("drop").sort("row", "coverage", descending=[False, True]).unique("row", keep="first")
    partner = pl.format("{}#{}", "benchmark", "item_id")
    return worst.select("row", reason=pl.format("contaminated_{}", "kind"), partner_id=partner)


def _hits(frame: pl.DataFrame, config: Decontaminate) -> pl.DataFrame:
    index = Index.from_files(config)
    asked = frame.unique("prompt_key", keep="first", maintain_order=True)
    questions = index.hits(asked["prompt"], "question")
    questions = questions.with_columns(prompt_key=asked["prompt_key"].gather(questions["row"])).drop("row")
    questions = questions.join(frame.select("prompt_key", "row", "id"), on="prompt_key", maintain_order="left_right")
    looked_up = frame["completion"] if config.traces == "report" else frame["completion"].clear()
    traces = index.hits(looked_up, "trace")
    traces = traces.with_columns(frame["id"].gather(traces["row"]), frame["row"].gather(traces["row"]))
    return pl.concat([questions.drop("prompt_key"), traces], how="diagonal").select(
        "row", "id", *traces.drop("row", "id").columns
    )


def _filter(pool: Pool, recipe: Recipe, _: Work) -> pl.DataFrame:
    shortest, longest = recipe.filters.min_tokens or 0, recipe.filters.max_tokens
    too_long = pl.col("tokens") > longest if longest is not None else pl.lit(False)
    too_short = pl.when(pl.col("tokens") < shortest).then(pl.lit("too_short"))
    reason = too_short.when(too_long).then(pl.lit("too_long")).otherwise(None)
    judged = pool.examples.select("row", reason=reason, partner_id=pl.lit(None, pl.String))
    return judged.filter(pl.col("reason").is_not_null())


STEPS: dict[str, Callable[[Pool, Recipe, Work], pl.DataFrame]] = {
    "dedup": _dedup,
    "verify": _verify,
    "decontaminate": _decontaminate,
    "filters": _filter,
}
"""In their order: each says which rows go, and why."""


def _hold_out(pool: Pool, recipe: Recipe, wanted: Heldout, count: TokenCounter, work: Work) -> None:
    """Set problems aside, with all their traces; the held-out set takes one random trace of each."""
    seed = recipe.seed if wanted.seed is None else wanted.seed
    own = bool(wanted.sources)
    read = _read("heldout", wanted.sources, seed + HELDOUT_STREAM, count, work) if own else pool.examples
    candidates = _shuffled(read, seed)
    prompts = candidates["prompt_key"].unique(maintain_order=True)
    if len(prompts) < wanted.examples + (not own):
        rest = "" if own else ", and training needs some of them"
        raise CheckFailed(f"heldout: {wanted.examples} problems were asked for, {len(prompts)} are there in all{rest}")
    aside = prompts.head(wanted.examples).implode()
    pool.heldout_traces = candidates.filter(pl.col("prompt_key").is_in(aside))
    pool.heldout = pool.heldout_traces.unique("prompt_key", keep="first", maintain_order=True)
    others = pool.heldout_traces.filter(~pl.col("prompt_key").is_first_distinct())
    pool.enter("heldout", others, "other_trace_of_heldout_problem")
    if own:
        pool.rows_read += len(read)
        pool.enter("heldout", candidates.filter(~pl.col("prompt_key").is_in(aside)), "not_selected")
        _give_way(pool, recipe.dedup, pool.heldout, "problem_held_out")
    else:
        _without(pool, pool.heldout["prompt_key"])


def _without(pool: Pool, prompts: pl.Series) -> None:
    pool.examples = pool.examples.filter(~pl.col("prompt_key").is_in(prompts.implode()))


def _give_way(pool: Pool, dedup: Dedup, aside: pl.DataFrame, reason: str) -> None:
    """Drop the rows whose question stands in a set from sources of its own, or nearly repeats one there where near repeats go."""
    same = pool.examples.join(aside.select("prompt_key", partner_id="id"), on="prompt_key", maintain_order="left")
    pool.drop("disjoint", same.select("row", "partner_id", reason=pl.lit(reason)))
    if dedup.near is None:
        return
    asked = pool.examples.unique("prompt_key", keep="first", maintain_order=True).select("prompt_key", "prompt")
    keeper = near_clusters(
        asked["prompt"], dedup.near, reference=aside["prompt"], shingle=dedup.shingle, numbers=dedup.numbers
    ).keeper
    asked = asked.with_columns(set_row=pl.Series(-1 - keeper, dtype=pl.Int64)).filter(pl.col("set_row") >= 0)
    asked = asked.select("prompt_key", partner_id=aside["id"].gather(asked["set_row"]))
    near = pool.examples.join(asked, on="prompt_key", maintain_order="left")
    pool.drop("disjoint", near.select("row", "partner_id", reason=pl.lit(f"near_{reason}")))


def _set_aside_rl(pool: Pool, recipe: Recipe, wanted: RlPrompts, count: TokenCounter, work: Work) -> None:
    """Choose RL problems: from sources of their own, minus all known prompts, or from the pool, which then loses them."""
    if wanted.sources:
        seed = recipe.seed if wanted.seed is None else wanted.seed
        read = _read("rl", wanted.sources, seed + RL_STREAM, count, work)
        pool.rows_read += len(read)
        drops = _contaminated(pool, read, "decontaminate-rl", recipe.decontaminate, work)
        pool.enter("decontaminate", read.join(drops, on="row", maintain_order="left"))
        read = read.join(drops, on="row", how="anti", maintain_order="left")
        _rl_from_own_sources(pool, recipe.dedup, _shuffled(read, seed), wanted.examples)
    else:
        _rl_from_pool(pool, wanted.examples)
    if len(pool.rl) < wanted.examples:
        raise CheckFailed(f"rl_prompts: {wanted.examples} problems were asked for, {len(pool.rl)} are reachable")


def _rl_from_pool(pool: Pool, examples: int) -> None:
    known = pool.examples.filter(pl.col("ground_truth") != "")
    aside = known["prompt_key"].unique(maintain_order=True).head(examples)
    theirs = pool.examples.filter(pl.col("prompt_key").is_in(aside.implode()))
    first = pl.col("prompt_key").is_first_distinct()
    pool.rl = theirs.filter(first)
    pool.enter("rl_prompts", theirs.filter(~first), "other_trace_of_rl_problem")
    _without(pool, aside)


def _rl_from_own_sources(pool: Pool, dedup: Dedup, read: pl.DataFrame, examples: int) -> None:
    """The pool gives way where both hold a problem, so that the RL set depends on its own seed alone."""
    pool.enter("rl_prompts", read.filter(pl.col("ground_truth") == ""), "no_reference")
    read = read.filter(pl.col("ground_truth") != "")
    held = pool.heldout_traces["prompt_key"].unique().implode()
    repeat = pl.col("prompt_key").is_in(held) | ~pl.col("prompt_key").is_first_distinct()
    fresh = read.filter(~repeat)
    pool.rl = fresh.head(examples)
    pool.enter("rl_prompts", read.filter(repeat), "known_prompt")
    pool.enter("rl_prompts", fresh.slice(examples), "not_selected")
    _give_way(pool, dedup, pool.rl, "problem_in_rl_set")
