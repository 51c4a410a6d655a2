"""Which texts nearly repeat an earlier one: a join of sets of word shingles by Jaccard similarity.

The similarity is computed, not estimated, and no pair is missed: candidates come from prefix filtering (Bayardo, Ma and
Srikant 2007, "Scaling up all pairs similarity search"), which, unlike MinHash with bands, has a recall of 1. Questions are
short, so that it is cheap as well: two sets are near at 0.8 only if they share one of the rarest ninth of the smaller one.

A text is dropped for one keeper that it repeats itself, never for a chain A ~ B ~ C: walking down the order of rank, a text
stays if it is near none of those that stayed before it. So no two kept texts are near, and every dropped one has its proof.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.ngrams import I64, U64
from curate.shingles import HASH_BITS, MOST_OWNERS, Floats, Numbers, Shingles, jaccard, packed_hashes, shingles

FOUND = np.dtype([("text", np.int64), ("better", np.int64), ("similarity", np.float64)])
"""A near pair, the text of better rank named second."""

MOST_PAIRS = 1_000_000
"""Candidate pairs looked at in one step; what bounds memory where thousands of texts are near one another."""


@dataclass(frozen=True)
class Clusters:
    """Which text stands for each one."""

    keeper: I64
    """(texts,) the text that it repeats; itself where it stays; -1 - r where it repeats reference r."""
    similarity: Floats
    """(texts,) Jaccard similarity with the keeper; 1 where it stays."""


def near_clusters(
    texts: Iterable[str],
    threshold: float,
    *,
    reference: Iterable[str] = (),
    shingle: int = 3,
    numbers: Numbers = "distinct",
) -> Clusters:
    """Give each text the first kept text that it repeats; `texts` come in order of rank, so that of near ones the first stays.

    A text repeats a reference before it repeats another text; references are not compared with one another. The texts are
    read as a stream; 8 bytes a word stay in memory, and about twice that for a moment.

    Args:
        threshold: least Jaccard similarity, in (0, 1], of the two sets of shingles.
        shingle: words a shingle. A text of fewer words is one shingle.
        numbers: `distinct`: texts whose sequences of numbers differ are never near. `ignore`: all numbers read alike.
    """
    known = shingles(reference, shingle, numbers)
    own = shingles(texts, shingle, numbers)
    ahead = len(known.sizes)
    starts = np.concatenate([known.starts, own.starts[1:] + known.starts[-1]])
    walk = _Walk(Shingles(np.concatenate([known.hashes, own.hashes]), starts), threshold)
    del known, own
    walk.run(ahead)
    keeper = walk.keeper[ahead:] - ahead
    return Clusters(np.where(keeper < 0, -1 - walk.keeper[ahead:], keeper), walk.similarity[ahead:])


@dataclass(frozen=True)
class _Postings:
    """Which texts have which shingle among their rarest ones, sorted by shingle, then by text."""

    tokens: U64
    texts: I64
    indexed: NDArray[np.bool_]
    """Whether the shingle is rare enough within the text for it to be the smaller one of a near pair."""

    def where(self, wanted: NDArray[np.bool_]) -> "_Postings":
        """Those of the wanted texts; `wanted` is (texts,)."""
        return self._masked(wanted[self.texts])

    def index(self) -> "_Postings":
        """Those that the smaller text of a pair must be found by."""
        return self._masked(self.indexed)

    def _masked(self, keep: NDArray[np.bool_]) -> "_Postings":
        return _Postings(self.tokens[keep], self.texts[keep], self.indexed[keep])


def _postings(sets: Shingles, threshold: float) -> _Postings:
    """The prefixes of the texts, each in the order from its rarest shingle on.

    Two sets x and y, |x| <= |y|, with a similarity of t share at least 2t / (1 + t) |x| and at least t |y| shingles. So the
    first one that they share, in any order over all shingles, is among the first |x| - ceil(2t / (1 + t) |x|) + 1 of x, and
    among the first |y| - ceil(t |y|) + 1 of y. What a whole crowd of texts has in common is not there unless they are near.
    """
    levels, shift = _rarity(sets.hashes)
    probed, indexed = (
        sets.sizes - np.ceil(share * sets.sizes - 1e-9).astype(np.int64) + 1
        for share in (threshold, 2 * threshold / (1 + threshold))
    )
    parts = [(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.bool_))]
    for first in range(0, len(sets.sizes), MOST_OWNERS):
        some = slice(first, min(first + MOST_OWNERS, len(sets.sizes)))
        hashes = sets.hashes[sets.starts[first] : sets.starts[some.stop]]
        owners = np.repeat(np.arange(some.stop - first), sets.sizes[some])
        rarity = levels[hashes >> shift].astype(np.uint64) << np.uint64(40)
        tokens = packed_hashes(owners, rarity | (hashes >> np.uint64(8))) & HASH_BITS
        place = np.arange(len(tokens)) - (sets.starts[some] - sets.starts[first])[owners]
        keep = (place < probed[some][owners]) & (tokens >> np.uint64(40) > 0)
        parts.append((tokens[keep], owners[keep] + first, (place < indexed[some][owners])[keep]))
    tokens, texts, rare = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(tokens, kind="stable")
    return _Postings(tokens[order], texts[order], rare[order])


def _rarity(hashes: U64) -> tuple[NDArray[np.uint8], np.uint64]:
    """A level of each table slot, 0 where its shingles occur once in all, and the shift from hash to slot."""
    bits = int(np.clip(len(hashes).bit_length(), 10, 24))
    shift = np.uint64(48 - bits)
    counts = np.zeros(1 << bits, np.uint32)
    for start in range(0, len(hashes), 1 << 20):
        np.add.at(counts, (hashes[start : start + (1 << 20)] >> shift).view(np.int64), np.uint32(1))
    levels = (8 * np.log2(np.arange(counts.max() + 1).clip(min=1))).astype(np.uint8)  # of each count: few differ
    return levels[counts], shift


class _Walk:
    """The walk down the ranks: decides for each text whether it stays, or which kept one it repeats."""

    def __init__(self, sets: Shingles, threshold: float) -> None:
        self.sets, self.threshold, self.sizes = sets, threshold, sets.sizes
        self.keeper = np.arange(len(self.sizes))
        self.similarity = np.ones(len(self.sizes))

    def run(self, ahead: int) -> None:
        """Decide for all texts; the first `ahead` stay in any case."""
        postings = _postings(self.sets, self.threshold)
        is_reference = np.arange(len(self.sizes)) < ahead
        self._drop(postings.where(~is_reference), postings.where(is_reference))
        self._decide(postings.where(self._kept() & ~is_reference))

    def _kept(self) -> NDArray[np.bool_]:
        return self.keeper == np.arange(len(self.keeper))

    def _decide(self, postings: _Postings) -> None:
        """Compare all with all, or where that is too much, the first half, then the rest with what stayed of it."""
        index = postings.index()
        begin, end = _matches(index, postings)
        several = np.unique(postings.texts)
        if (end - begin).sum() <= MOST_PAIRS or len(several) == 1:
            self._settle(self._near(index, postings))
            return
        upper = np.arange(len(self.keeper)) >= several[len(several) // 2]
        self._decide(postings.where(~upper))
        self._drop(postings.where(upper), postings.where(~upper & self._kept()))
        self._decide(postings.where(upper & self._kept()))

    def _drop(self, postings: _Postings, kept: _Postings) -> None:
        """Drop the texts that repeat one of the kept ones, which are of better rank."""
        self._settle(np.concatenate([self._near(kept.index(), postings), self._near(postings.index(), kept)]))

    def _near(self, index: _Postings, probe: _Postings) -> NDArray[Any]:
        """The near pairs among the texts that share a token."""
        found = [np.zeros(0, FOUND)]
        for smaller, larger in _pairs(index, probe):
            fit = (self.sizes[smaller] <= self.sizes[larger]) & (
                self.sizes[smaller] >= self.threshold * self.sizes[larger] - 1e-9
            )
            fit &= smaller != larger
            keys = np.unique((np.maximum(smaller, larger)[fit] << 32) | np.minimum(smaller, larger)[fit])
            for start in range(0, len(keys), MOST_OWNERS):
                some = keys[start : start + MOST_OWNERS]
                pairs = np.zeros(len(some), FOUND)
                pairs["text"], pairs["better"] = some >> 32, some & 0xFFFFFFFF
                pairs["similarity"] = jaccard(self.sets, pairs["better"], pairs["text"])
                found.append(pairs[pairs["similarity"] >= self.threshold])
        return np.concatenate(found)

    def _settle(self, near: NDArray[Any]) -> None:
        near = near[np.lexsort((near["better"], near["text"]))]
        for text, better, value in near.tolist():
            if self.keeper[text] == text and self.keeper[better] == better:
                self.keeper[text], self.similarity[text] = better, value


def _matches(index: _Postings, probe: _Postings) -> tuple[I64, I64]:
    """(probe,) the range of entries of `index` with the token of each entry of `probe`."""
    return np.searchsorted(index.tokens, probe.tokens, side="left"), np.searchsorted(index.tokens, probe.tokens, side="right")


def _pairs(index: _Postings, probe: _Postings) -> Iterator[tuple[I64, I64]]:
    """Texts of `index` and of `probe` with a token in common, about `MOST_PAIRS` pairs at a time."""
    begin, end = _matches(index, probe)
    counts = end - begin
    total = np.cumsum(counts)
    cuts = np.searchsorted(total, np.arange(MOST_PAIRS, total[-1] if len(total) else 0, MOST_PAIRS))
    bounds = np.unique(np.concatenate([[0], cuts, [len(counts)]]))
    for first, last in pairwise(bounds.tolist()):
        owner = np.repeat(np.arange(first, last), counts[first:last])
        before = total - counts
        place = np.arange(len(owner)) - before[owner] + before[first] + begin[owner]
        yield index.texts[place], probe.texts[owner]
