"""The sets of hashed word shingles of many texts, and their Jaccard similarity."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.ngrams import I64, U64, Words, hashed_words, mixed, ngrams, sequence_hashes, text_batches

Floats = NDArray[np.float64]
Numbers = Literal["distinct", "ignore"]
"""`distinct`: texts whose sequences of numbers differ have no shingle in common. `ignore`: all numbers read alike."""

HASH_SHIFT, HASH_BITS = np.uint64(48), np.uint64((1 << 48) - 1)
MOST_OWNERS = 1 << 16
"""How many sets or pairs `packed_hashes` tells apart."""


@dataclass(frozen=True)
class Shingles:
    """The set of hashed shingles of each text. At 48 bits, two sets of 50 meet by chance once in 10^11 pairs."""

    hashes: U64
    """(shingles,) ascending within a text, without repeats."""
    starts: I64
    """(texts + 1,) where each text begins."""

    @property
    def sizes(self) -> I64:
        """(texts,) shingles of each text; 0 for a text without words, which is near nothing."""
        return np.diff(self.starts)


def shingles(texts: Iterable[str], size: int, numbers: Numbers) -> Shingles:
    """The shingle sets of a stream of texts."""
    parts = [_batch_shingles(hashed_words(batch), size, numbers) for batch in text_batches(texts)]
    sizes = np.concatenate([[0], *(sizes for _, sizes in parts)])
    hashes = np.concatenate([np.zeros(0, np.uint64), *(hashes for hashes, _ in parts)])
    return Shingles(hashes, np.cumsum(sizes, dtype=np.int64))


def _batch_shingles(words: Words, size: int, numbers: Numbers) -> tuple[U64, I64]:
    """Hashes and set sizes. The sequence of numbers is mixed into every hash: other numbers, nothing in common."""
    read = words.masked() if numbers == "ignore" else words
    grams = ngrams(read, size)
    lengths = np.diff(words.starts)
    is_short = (lengths > 0) & (lengths < size)
    short = sequence_hashes(read, np.repeat(is_short, lengths))[is_short]
    texts = np.concatenate([grams.texts, np.flatnonzero(is_short)])
    hashes = np.concatenate([grams.hashes, short])
    if numbers == "distinct":
        hashes ^= mixed(sequence_hashes(words, words.numbers))[texts]  # mixed: a text may be numbers only
    packed = packed_hashes(texts, mixed(hashes) & HASH_BITS)
    packed = packed[np.diff(packed, prepend=~packed[:1]) != 0]
    return packed & HASH_BITS, np.bincount((packed >> HASH_SHIFT).view(np.int64), minlength=len(lengths))


def packed_hashes(owners: I64, hashes: U64) -> U64:
    """`owners`, under 2^16, above 48 bits of hash, sorted: one fast sort of plain integers groups and orders at once."""
    packed = (owners.astype(np.uint64) << HASH_SHIFT) | hashes
    packed.sort()
    return packed


def jaccard(sets: Shingles, left: I64, right: I64) -> Floats:
    """(pairs,) |A and B| / |A or B| of the sets at `left` and at `right`; at most 65,536 pairs."""
    packed = packed_hashes(
        np.concatenate([np.repeat(np.arange(len(side)), sets.sizes[side]) for side in (left, right)]),
        np.concatenate([_members(sets, side) for side in (left, right)]),
    )
    shared = np.bincount((packed[1:][packed[1:] == packed[:-1]] >> HASH_SHIFT).view(np.int64), minlength=len(left))
    return shared / (sets.sizes[left] + sets.sizes[right] - shared)


def _members(sets: Shingles, chosen: I64) -> U64:
    sizes = sets.sizes[chosen]
    ends = np.cumsum(sizes)
    places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(sets.starts[chosen] - (ends - sizes), sizes)
    return sets.hashes[places]
