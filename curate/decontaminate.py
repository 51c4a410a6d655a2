"""Benchmark questions inside training rows: shared word n-grams, with the evidence for each hit.

Any shared n-gram is a hit and is reported. A row is dropped by coverage: the share of one benchmark question's n-grams that
the row's question holds. Traces are looked up too but never dropped for: they quote common formulas, which is where audits
found most false alarms. A benchmark question with fewer than `FEW` n-grams is dropped for by one of them; one without any
(shorter than an n-gram) is compared whole: the same words, or a rapidfuzz ratio of 95 with the same numbers.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from curate.config import Config
from curate.errors import InputError
from curate.examples import Problem
from curate.ngrams import Words, hashed_words, ngrams, sequence_hashes, split_words, text_batches
from curate.sources import problems_of_file

Part = Literal["question", "trace"]

LONG_NGRAM = 13
"""Reported beside: what GPT-3, the Pile and lm-eval count."""
FEW = 5
COMMON = 0.01
"""An n-gram in more than this share of a benchmark's questions, and in more than ten, is boilerplate and counts for nothing."""
SHORT_RATIO = 95.0
_SLOT_SHIFT = np.uint64(42)
HITS = pl.Schema(
    {
        "row": pl.Int64,  # place in the stream of texts
        "part": pl.String,  # question or trace
        "benchmark": pl.String,
        "item_id": pl.String,  # its question with the highest coverage
        "kind": pl.String,  # ngram, renumbered, whole or similar
        "coverage": pl.Float64,  # for whole and similar: the ratio of the two texts
        "coverage_13": pl.Float64,  # the same in 13-grams, null for other kinds
        "items": pl.Int64,  # questions of the benchmark that were hit
        "matched": pl.String,  # the longest run of shared words, normalised
        "drop": pl.Boolean,
    }
)


class Decontaminate(Config):
    """Removal of rows whose question holds a question of a benchmark."""

    against: tuple[Path, ...] = Field(min_length=1)
    """Problem files of the benchmarks."""
    ngram: int = Field(8, ge=2, le=64)
    """Words an n-gram."""
    coverage: float = Field(0.5, gt=0, le=1)
    """Least share of a benchmark question's n-grams at which a row is dropped."""
    traces: Literal["ignore", "report"] = "report"
    """Whether to look traces up too; no row is dropped for its trace."""
    renumbered: Literal["ignore", "report", "drop"] = "report"
    """What to do with a benchmark question that is there with other numbers."""


class Index:
    """The n-grams of benchmarks, to look texts up in."""

    def __init__(self, benchmarks: dict[str, list[Problem]], config: Decontaminate) -> None:
        """Index each benchmark's questions.

        Raises:
            InputError: a benchmark without questions, or a question without words.
        """
        self.config, self.items = config, _items(benchmarks)
        words = hashed_words(self.items["prompt"])
        names = self.items["benchmark"]
        self._ngrams, self._long = (_Table(words, n, names) for n in (config.ngram, LONG_NGRAM))
        self._masked = _Table(words.masked(), config.ngram, names)
        self._short = _Short(words, self.items, pl.Series(self._ngrams.sizes == 0))

    @classmethod
    def from_files(cls, config: Decontaminate) -> "Index":
        """Read the benchmarks of the config; each is called by its folder and file, `math500/test`."""
        names = [f"{path.resolve().parent.name}/{path.stem}" for path in config.against]
        if len(set(names)) < len(names):
            names = [str(path) for path in config.against]
        return cls({name: problems_of_file(path) for name, path in zip(names, config.against, strict=True)}, config)

    def hits(self, texts: Iterable[str], part: Part = "question") -> pl.DataFrame:
        """What the texts share with the benchmarks: the columns of `HITS`, one line a row, benchmark and kind.

        Kinds: `ngram`; `renumbered`, n-grams with masked numbers, from the config's coverage up and where the n-grams proper
        do not drop the row already; `whole` and `similar`, for benchmark questions without n-grams. Traces: `ngram` only.
        """
        found, first = [pl.DataFrame(schema=HITS)], 0
        for batch in text_batches(texts):
            hits = self._batch_hits(batch, part).with_columns(pl.col("row") + first, part=pl.lit(part))
            hits = hits.join(self.items, on=["benchmark", "item"], how="left", maintain_order="left")
            found.append(hits.select(HITS.names()).cast(HITS))
            first += len(batch)
        return pl.concat(found)

    def _batch_hits(self, texts: pl.Series, part: Part) -> pl.DataFrame:
        words = hashed_words(texts)
        hits = [self._by_ngram(words, part)]
        if part == "question":
            if self.config.renumbered != "ignore":
                hits.append(self._renumbered(words, hits[0]))
            hits.append(self._short.hits(texts, words))
        return _with_matched(texts, pl.concat(hits, how="diagonal")).sort("row", maintain_order=True)

    def _by_ngram(self, words: Words, part: Part) -> pl.DataFrame:
        hits = self._best(self._ngrams.shared(words))
        long = self._long.coverage(words).select("row", "item", coverage_13="coverage")
        dropped = (pl.col("coverage") >= self.config.coverage) | (pl.col("size") < FEW)
        return hits.join(long, on=["row", "item"], how="left", maintain_order="left").with_columns(
            pl.col("coverage_13").fill_null(0.0), kind=pl.lit("ngram"), drop=dropped & (part == "question")
        )

    def _renumbered(self, words: Words, exact: pl.DataFrame) -> pl.DataFrame:
        hits = self._best(self._masked.shared(words.masked(), self.config.coverage))
        hits = hits.join(exact.filter("drop"), on=["row", "benchmark"], how="anti")
        return hits.with_columns(kind=pl.lit("renumbered"), drop=pl.lit(self.config.renumbered == "drop"))

    def _best(self, shared: pl.DataFrame) -> pl.DataFrame:
        """For each row and benchmark the question with the highest coverage, and how many were hit."""
        ranked = shared.join(self.items.select("item", "benchmark"), on="item", how="left")
        ranked = ranked.sort("row", "benchmark", "coverage", "item", descending=[False, False, True, False])
        counted = ranked.with_columns(items=pl.len().over("row", "benchmark"))
        return counted.unique(["row", "benchmark"], keep="first", maintain_order=True)


def _items(benchmarks: dict[str, list[Problem]]) -> pl.DataFrame:
    """Item (its number), benchmark, item_id, prompt."""
    for name, problems in benchmarks.items():
        if not problems:
            raise InputError(f"benchmark {name}: the file holds no questions")
        words = split_words(pl.Series([problem.prompt for problem in problems])).list.len()
        if (empty := words.arg_min()) is not None and words[empty] == 0:
            raise InputError(f"benchmark {name}: question {empty + 1} has no words: {problems[empty].prompt!r:.60}")
    rows = [(name, problem.id, problem.prompt) for name, problems in benchmarks.items() for problem in problems]
    schema = {"benchmark": pl.String, "item_id": pl.String, "prompt": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").with_row_index("item").cast({"item": pl.Int64})


class _Table:
    """Which questions hold which n-gram, without those that are boilerplate of their benchmark."""

    def __init__(self, words: Words, n: int, benchmarks: pl.Series) -> None:
        grams = ngrams(words, n)
        held = pl.DataFrame({"gram": grams.hashes, "item": grams.texts}).unique()
        held = held.with_columns(benchmark=benchmarks.gather(held["item"])).join(
            benchmarks.value_counts(name="questions"), on="benchmark", how="left"
        )
        common = pl.max_horizontal(10, pl.col("questions") * COMMON)
        held = held.filter(pl.len().over("gram", "benchmark") <= common).sort("gram", "item")
        self.n, self._grams, self._items = n, held["gram"].to_numpy(), held["item"].to_numpy()
        self.sizes = np.bincount(self._items, minlength=len(benchmarks))
        self._slots = np.zeros(1 << 22, np.bool_)  # a quick no for nearly all n-grams of a text
        self._slots[self._grams >> _SLOT_SHIFT] = True

    def shared(self, words: Words, least: float = 0.0) -> pl.DataFrame:
        """The columns of `coverage`, from `least` up, and start and length in words of the longest shared run."""
        found = self._found(words)
        covered = self._coverage(found).filter(pl.col("coverage") >= least)
        kept = found.join(covered, on=["row", "item"], how="semi", maintain_order="left") if least else found
        return covered.join(_longest_runs(kept, self.n), on=["row", "item"], how="left")

    def coverage(self, words: Words) -> pl.DataFrame:
        """row, item, size (the question's n-grams) and coverage."""
        return self._coverage(self._found(words))

    def _coverage(self, found: pl.DataFrame) -> pl.DataFrame:
        held = found.group_by("row", "item").agg(pl.col("gram").n_unique())
        held = held.with_columns(size=pl.Series(self.sizes[held["item"].to_numpy()], dtype=pl.Int64))
        return held.with_columns(coverage=pl.col("gram") / pl.col("size")).drop("gram")

    def _found(self, words: Words) -> pl.DataFrame:
        """row, item, gram and position of every n-gram that a text shares with a question, sorted by row, item, position."""
        grams = ngrams(words, self.n, lambda hashes: self._slots[hashes >> _SLOT_SHIFT])
        begin, end = (np.searchsorted(self._grams, grams.hashes, side=side) for side in ("left", "right"))
        counts = end - begin
        place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - begin, counts)
        columns = {"row": grams.texts, "gram": grams.hashes, "position": grams.positions - words.starts[grams.texts]}
        found = pl.DataFrame({name: np.repeat(column, counts) for name, column in columns.items()})
        return found.with_columns(item=pl.Series(self._items[place], dtype=pl.Int64)).sort("row", "item", "position")


def _longest_runs(found: pl.DataFrame, n: int) -> pl.DataFrame:
    """Start and length in words of the longest run of neighbouring n-grams; `found` is sorted by row, item, position."""
    follows = (pl.col("row").diff() == 0) & (pl.col("item").diff() == 0) & (pl.col("position").diff() == 1)
    runs = found.with_row_index("place").filter(~follows.fill_null(False)).cast({"place": pl.Int64})
    grams = pl.col("place").shift(-1, fill_value=len(found)) - pl.col("place")
    runs = runs.select("row", "item", start="position", length=grams + n - 1)
    return runs.sort("length", "start", descending=[True, False]).unique(["row", "item"], keep="first")


class _Short:
    """Questions without n-grams of their own, compared as whole texts."""

    def __init__(self, words: Words, items: pl.DataFrame, short: pl.Series) -> None:
        numbers = sequence_hashes(words, words.numbers)
        every = items.with_columns(text=split_words(items["prompt"]).list.join(" "), numbers=pl.Series(numbers))
        self._items = every.filter(short).select("item", "benchmark", "text", "numbers")
        self._longest = max(self._items["text"].str.len_chars().to_list(), default=0)

    def hits(self, texts: pl.Series, words: Words) -> pl.DataFrame:
        """row, item, benchmark, kind, coverage (the ratio), start, length, items and drop."""
        rows = pl.DataFrame({"row": np.arange(len(texts)), "numbers": sequence_hashes(words, words.numbers)})
        rows = rows.with_columns(length=pl.Series(np.diff(words.starts)))
        near = rows.filter(pl.col("length").is_between(1, self._longest)).join(self._items, on="numbers")
        own = split_words(texts.gather(near["row"])).list.join(" ")
        ratios = [_ratio(left, right) for left, right in zip(own, near["text"], strict=True)]
        near = near.with_columns(
            coverage=pl.Series(ratios, dtype=pl.Float64),
            kind=pl.when(own == near["text"]).then(pl.lit("whole")).otherwise(pl.lit("similar")),
        )
        found = near.filter(pl.col("coverage") > 0).with_columns(start=pl.lit(0, pl.Int64), drop=pl.lit(True))
        best = found.sort("row", "coverage", "item", descending=[False, True, False])
        best = best.with_columns(items=pl.len().over("row", "benchmark")).unique(
            ["row", "benchmark"], keep="first", maintain_order=True
        )
        return best.drop("numbers", "text")


def _ratio(left: str, right: str) -> float:
    """Similarity of two texts by insertions and deletions, in (0, 1]; 0 where it is below `SHORT_RATIO`."""
    from rapidfuzz import fuzz

    return float(fuzz.ratio(left, right, score_cutoff=SHORT_RATIO)) / 100


def _with_matched(texts: pl.Series, hits: pl.DataFrame) -> pl.DataFrame:
    words = hits.with_columns(split_words(texts.gather(hits["row"])).alias("words"))
    return words.with_columns(matched=pl.col("words").list.slice(pl.col("start"), pl.col("length")).list.join(" ")).drop("words")
