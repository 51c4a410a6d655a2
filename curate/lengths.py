"""Token lengths, and selection of rows by length at one budget.

Where most problems have several traces, a mix chooses one of them for each problem, so that the same problems differ in length
alone. Where most have one trace, it chooses problems: then length and difficulty are confounded, and the manifest
says so. Every choice depends on the seed, the ids and the lengths, never on the order of the rows.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curate.config import Config, Count
from curate.errors import CheckFailed, InputError

LengthMix = Literal["short", "long", "short+long", "varying", "uniform", "quantiles"]
TOLERANCE = 0.01
UNIFORM_ENDS = (0.05, 0.95)
"""A uniform mix spans these quantiles of the pool: beyond them there are too few rows to fill the bins."""
_RANKED: dict[LengthMix, int] = {"short": 1, "long": -1, "varying": 0}


class Select(Config):
    """Which trace, or which rows, by length."""

    length: LengthMix = "varying"
    traces: Literal["one", "all"] = "one"
    """How many traces of a problem: `all` keeps those of rejection sampling together, problem by problem."""
    quantiles: dict[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0)]] = {}
    """With `quantiles`: completion tokens at shares of the set, `{0: 40, 0.5: 120, 1: 600}`; straight lines between."""

    @model_validator(mode="after")
    def _a_quantile_function(self) -> "Select":
        if self.traces == "all" and self.length != "varying":
            raise ValueError(f"`length: {self.length}` chooses one trace of each problem: `traces: all` goes with `varying`")
        lengths = [self.quantiles[share] for share in sorted(self.quantiles)]
        if (self.length == "quantiles") != bool(self.quantiles):
            raise ValueError("`length: quantiles` and `quantiles: {share: tokens}` go together")
        if lengths != sorted(lengths) or len(lengths) == 1:
            raise ValueError(f"quantiles: expected at least two shares whose tokens rise, came {lengths}")
        return self


class Budget(Config):
    """How much a variant holds: one of completion tokens or examples."""

    tokens: Count | None = None
    examples: Count | None = None

    @model_validator(mode="after")
    def _at_most_one(self) -> "Budget":
        if self.tokens is not None and self.examples is not None:
            raise ValueError("a budget is either tokens or examples: give one of them")
        return self


class TokenCounter:
    """Counts the tokens of texts, without special tokens.

    Args:
        tokenizer: `words` (white space), or a Hugging Face folder or cached id.
    """

    def __init__(self, tokenizer: str) -> None:
        self._lengths = _words if tokenizer == "words" else _of_tokenizer(tokenizer)

    def __call__(self, text: str) -> int:
        """The length of one text."""
        return self._lengths([text])[0]

    def all(self, texts: list[str]) -> list[int]:
        """The lengths of many texts at once, which a tokenizer counts in parallel."""
        return self._lengths(texts) if texts else []


def _words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def _of_tokenizer(tokenizer: str) -> Callable[[list[str]], list[int]]:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise InputError(f"tokenizer {tokenizer!r} needs transformers: pip install 'forerun[train]', or use words") from None
    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"tokenizer {tokenizer!r}: expected words, or a Hugging Face folder; {str(error).splitlines()[0]}"
        ) from None
    return lambda texts: [len(ids) for ids in loaded(texts, add_special_tokens=False)["input_ids"]]


def shuffle_key(seed: int, text: str) -> str:
    """A sort key that is random but depends on the seed and the text alone, not on where a row stood."""
    return hashlib.sha256(f"{seed}/{text}".encode()).hexdigest()


def shuffle_keys(seed: int, texts: pl.Series) -> pl.Series:
    """The shuffle key of each text."""
    return pl.Series([shuffle_key(seed, text) for text in texts], dtype=pl.String)


def has_several_traces(rows: pl.DataFrame) -> bool:
    """Whether most problems have more than one trace, so that length can vary at equal problems."""
    traces = rows.group_by("prompt_key").len()["len"]
    return 2 * int((traces > 1).sum()) > len(traces)


def select(rows: pl.DataFrame, wanted: Select, budget: Budget, seed: int) -> pl.DataFrame:
    """The rows of one variant, in the order in which the budget took them; one a problem, unless all traces are wanted.

    Args:
        rows: id, prompt, prompt_key, tokens.

    Raises:
        CheckFailed: the rows cannot meet the budget; the message says what was reachable.
    """
    if wanted.traces == "all":
        keys = {"problem": shuffle_keys(seed, rows["prompt_key"]), "trace": shuffle_keys(seed, rows["id"])}
        return within_budget(rows.with_columns(**keys).sort("problem", "trace").drop("problem", "trace"), budget)
    if wanted.length in _RANKED:
        return within_budget(one_trace_each(rows, wanted.length, seed), budget)
    if wanted.length == "short+long":
        return within_budget(_shortest_and_longest(rows, seed), budget)
    return _matched(rows, target(rows, wanted), budget, seed)


def one_trace_each(rows: pl.DataFrame, mix: LengthMix, seed: int) -> pl.DataFrame:
    """For each problem its shortest, longest or a random trace; other mixes take a random one.

    Problems come in random order; where most have one trace, the shortest or longest come first.
    """
    several = has_several_traces(rows)
    ranked = rows.with_columns(rank=_RANKED.get(mix, 0) * pl.col("tokens"), shuffle=shuffle_keys(seed, rows["id"]))
    chosen = ranked.sort("rank", "shuffle").unique("prompt_key", keep="first", maintain_order=True)
    if several:
        chosen = chosen.with_columns(shuffle=shuffle_keys(seed, chosen["prompt"])).sort("shuffle")
    return chosen.drop("rank", "shuffle")


def _shortest_and_longest(rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Short and long by turns: of a random half of the problems the shortest trace, of the others the longest."""
    if not has_several_traces(rows):
        short = one_trace_each(rows, "short", seed)
        half = len(short) // 2
        turns = [place for pair in zip(range(half), range(len(short) - 1, half - 1, -1), strict=False) for place in pair]
        return short[[*turns, *([half] if len(short) % 2 else [])]]
    short, long = (one_trace_each(rows, mix, seed).with_row_index("turn") for mix in ("short", "long"))
    return pl.concat([short.filter(pl.col("turn") % 2 == 0), long.filter(pl.col("turn") % 2 == 1)]).sort("turn").drop("turn")


def within_budget(ordered: pl.DataFrame, budget: Budget) -> pl.DataFrame:
    """Take rows in order until the budget is met: exactly for examples, within 1 % for tokens.

    Raises:
        CheckFailed: the rows cannot meet it; the message says what was reachable.
    """
    if budget.examples is not None:
        if len(ordered) < budget.examples:
            raise CheckFailed(f"a budget of {budget.examples} examples cannot be met: {len(ordered)} are reachable")
        return ordered.head(budget.examples)
    if budget.tokens is None:
        return ordered
    taken, total = [], 0
    for place, tokens in enumerate(ordered["tokens"]):
        if total + tokens <= budget.tokens * (1 + TOLERANCE):
            taken.append(place)
            total += tokens
        if total >= budget.tokens:
            break
    if total < budget.tokens * (1 - TOLERANCE):
        raise CheckFailed(f"a budget of {budget.tokens} tokens cannot be met within 1 %: {total} are reachable")
    return ordered[taken]


def target(rows: pl.DataFrame, wanted: Select) -> dict[float, float] | None:
    """The quantile function that a mix aims at, as tokens at shares; None where it aims at no distribution."""
    if wanted.length == "quantiles":
        return dict(sorted(wanted.quantiles.items()))
    if wanted.length != "uniform" or rows.is_empty():
        return None
    low, high = (float(rows["tokens"].quantile(share, "nearest") or 0) for share in UNIFORM_ENDS)
    return {0.0: low, 1.0: high}


def quantile_values(quantiles: Mapping[float, float], count: int) -> NDArray[np.float64]:
    """The lengths of `count` rows that follow a quantile function exactly, ascending; shape (count,)."""
    shares = (np.arange(count) + 0.5) / count
    return np.interp(shares, list(quantiles), list(quantiles.values()))


def _matched(rows: pl.DataFrame, quantiles: dict[float, float] | None, budget: Budget, seed: int) -> pl.DataFrame:
    """Rows whose lengths come nearest to a target distribution; the manifest says how near that is."""
    assert quantiles is not None or rows.is_empty()
    count = rows["prompt_key"].n_unique()
    if budget.examples is not None:
        if count < budget.examples:
            raise CheckFailed(f"a budget of {budget.examples} examples cannot be met: {count} are reachable")
        count = budget.examples
    elif budget.tokens is not None and quantiles:
        count = min(count, max(1, round(budget.tokens / float(quantile_values(quantiles, 1000).mean()))))
    if not quantiles or budget.tokens is None:
        return _nearest(rows, quantiles or {}, count, seed)
    return _matched_tokens(rows, quantiles, budget.tokens, count, seed)


def _matched_tokens(rows: pl.DataFrame, quantiles: dict[float, float], tokens: int, count: int, seed: int) -> pl.DataFrame:
    """As many rows as bring the matched lengths within 1 % of a token budget."""

    def choose(size: int) -> tuple[pl.DataFrame, int]:
        chosen = _nearest(rows, quantiles, size, seed)
        return chosen, int(chosen["tokens"].sum())

    return meet(tokens, choose, count, rows["prompt_key"].n_unique())


def meet(tokens: int, choose: Callable[[int], tuple[pl.DataFrame, int]], count: int, most: int) -> pl.DataFrame:
    """As many rows as bring their tokens within 1 % of a budget; the count is corrected by what came of it.

    Args:
        choose: so many rows, and how many tokens they make.
        count: rows to begin with; never more than `most`.

    Raises:
        CheckFailed: no count meets it; the message says what was reachable.
    """
    seen = dict[int, int]()
    while count not in seen:
        chosen, seen[count] = choose(count)
        if abs(seen[count] - tokens) <= TOLERANCE * tokens:
            return chosen
        count = min(most, max(1, round(count * tokens / max(seen[count], 1))))
    reached = min(seen.values(), key=lambda total: abs(total - tokens))
    raise CheckFailed(f"a budget of {tokens} tokens cannot be met within 1 %: {reached} are reachable")


def _nearest(rows: pl.DataFrame, quantiles: dict[float, float], count: int, seed: int) -> pl.DataFrame:
    """For each wanted length, in random order, the nearest row that is left, of a problem that is not taken."""
    shuffled = rows.with_columns(shuffle=shuffle_keys(seed, rows["id"])).sort("shuffle").drop("shuffle")
    supply = _Supply(shuffled["tokens"].to_list(), shuffled["prompt_key"].to_list())
    wanted = quantile_values(quantiles, count) if count else np.empty(0)
    order = sorted(range(count), key=lambda place: shuffle_key(seed, str(place)))
    return shuffled[list(supply.take(float(wanted[place]) for place in order))]


class _Supply:
    """Rows by length, each handed out once and a problem once."""

    def __init__(self, tokens: Sequence[int], problems: Sequence[str]) -> None:
        self.problems, self.taken = problems, set[str]()
        self.by_length: dict[int, list[int]] = {}
        for row in reversed(range(len(tokens))):
            self.by_length.setdefault(tokens[row], []).append(row)
        self.lengths = sorted(self.by_length)

    def take(self, wanted: Iterator[float]) -> Iterator[int]:
        """The row whose length is nearest to each wanted one, the shorter where two are as near."""
        for length in wanted:
            yield self._one(length)

    def _one(self, length: float) -> int:
        while True:
            place = bisect_left(self.lengths, length)
            near = self.lengths[max(0, place - 1) : place + 1]
            best = min(near, key=lambda candidate: abs(candidate - length))
            row = self.by_length[best].pop()
            if not self.by_length[best]:
                self.lengths.remove(best)
            if self.problems[row] not in self.taken:
                self.taken.add(self.problems[row])
                return row


def in_the_range_of(chosen: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Those of `others` whose length lies within the range of the chosen ones."""
    return others.filter(pl.col("tokens").is_between(chosen["tokens"].min(), chosen["tokens"].max()))


def distance(lengths: Sequence[float], wanted: Sequence[float]) -> dict[str, float] | None:
    """How far lengths are from wanted ones, F and G being their empirical distribution functions.

    The Wasserstein-1 distance is the integral of |F - G|, in tokens; Kolmogorov-Smirnov the largest |F - G|. They are written
    out here, operation by operation as in scipy.stats, since importing that takes longer than building a small dataset.
    """
    if not lengths or not wanted:
        return None
    ours, theirs = np.sort(lengths), np.sort(wanted)
    every = np.sort(np.concatenate([ours, theirs]))
    apart = [np.searchsorted(side, every, side="right") / len(side) for side in (ours, theirs)]
    gaps = np.abs(apart[0] - apart[1])
    return {"wasserstein_tokens": float(np.vecdot(gaps[:-1], np.diff(every))), "kolmogorov_smirnov": float(gaps.max())}
