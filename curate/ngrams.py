"""Texts as hashed word n-grams in numpy arrays: what near-duplicate search and decontamination compare.

A word is a run of letters, a number, one operator sign or one ideograph, after folding what reformatting changes: case,
Unicode forms, LaTeX spacing, sizes and fonts, thousands separators, numbers in words. Hashes hold within one process only.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

BATCH, BATCH_BYTES = 8192, 1 << 22
"""What one step looks at: bounds the memory of the words, which is some 30 times that of the text."""
_WORD_SHIFT = np.uint64(48)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}"
_WORD = rf"[{_SCRIPTS}]|[[\p{{L}}\p{{M}}]--[{_SCRIPTS}]]+|\p{{N}}+(?:\.\p{{N}}+)?|[-+=<>/*^%]"

_FOLDED = {
    **{form: f"^{digit}" for digit, form in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{rf"\{name}": r"\frac" for name in ("dfrac", "tfrac", "cfrac")},
    **{rf"\{name}": " " for name in ("left", "right", "bigl", "bigr", "Bigl", "Bigr", "displaystyle", "quad", "qquad")},
    **{rf"\{name}{{": "{" for name in ("text", "textbf", "textit", "mathrm", "mathbf", "mathit", "operatorname", "mbox")},
    **{rf"\{name}": f" {name} " for name in ("leftarrow", "rightarrow", "leftrightarrow")},
    **{r"\cdot": "*", r"\times": "*", "×": "*", "·": "*", "⋅": "*", r"\div": "/", "÷": "/", "−": "-", "–": "-", "—": " "},
    **{r"\leq": "<=", r"\le ": "<= ", "≤": "<=", r"\geq": ">=", r"\ge ": ">= ", "≥": ">=", "√": r"\sqrt ", "π": r"\pi "},
    **{"{,}": ",", r"\,": "", r"\!": "", r"\;": " ", r"\:": " ", "’": "", "'": "", " percent": "%", " per cent": "%"},
}
_UNITS = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS = {
    **{word: str(value) for value, word in enumerate(_UNITS.split(), start=2)},
    **{word: str(10 * value) for value, word in enumerate(_TENS.split(), start=2)},
    **{
        word: word
        for word in ["hundred", "thousand", "million", "half", "third", "quarter", "twice", "thrice", "double", "triple", "dozen"]
    },
}
"""Words that count as numbers, and how they are read. `one` is left out: mostly it is no number."""


@dataclass(frozen=True)
class Words:
    """The words of many texts, one text after the other."""

    hashes: U64
    """(words,)"""
    numbers: NDArray[np.bool_]
    """(words,) whether the word is a number."""
    starts: I64
    """(texts + 1,) where each text begins; the last entry is the number of words."""

    def masked(self) -> "Words":
        """The same texts with every number read as one and the same word."""
        return Words(np.where(self.numbers, _BASE, self.hashes), self.numbers, self.starts)


@dataclass(frozen=True)
class Grams:
    """The n-grams of many texts, one text after the other, in the order of the text."""

    hashes: U64
    """(grams,)"""
    texts: I64
    """(grams,) which text each one is from."""
    positions: I64
    """(grams,) the place of its first word among all words."""


def split_words(texts: pl.Series) -> pl.Series:
    """The normalised words of each text: a series of lists."""
    longest_first = sorted(_FOLDED, key=len, reverse=True)  # \left is the head of \leftarrow
    folded = texts.fill_null("").str.replace_many(longest_first, [_FOLDED[form] for form in longest_first], leftmost=True)
    other = folded.str.len_bytes() != folded.str.len_chars()
    if other.any():  # NFKC is as slow as all the rest together, and changes nothing in ASCII
        folded = folded.to_frame("text").select(pl.when(other).then(pl.col("text").str.normalize("NFKC")).otherwise("text"))[
            "text"
        ]
    for _ in range(2):  # the groups of 1,000,000 overlap in a digit
        folded = folded.str.replace_all(r"(\d),(\d{3})\b", "${1}${2}")
    hyphens = folded.str.to_lowercase().str.replace_all(r"(\p{L}{2})-(\p{L})", "${1} ${2}")
    return hyphens.str.extract_all(_WORD)


def hashed_words(texts: pl.Series) -> Words:
    """The words of `texts`, hashed; numbers in words are read as the numbers they stand for."""
    lists = split_words(texts)
    words = lists.list.explode(empty_as_null=False)
    hashes = words.hash().to_numpy()
    numbers = _in_digits(words)
    spelled, values = _spelled(hashes)
    numbers[spelled] = True
    starts = np.concatenate([[0], np.cumsum(lists.list.len().to_numpy(), dtype=np.int64)])
    hashes = hashes.copy()
    hashes[spelled] = values
    return Words(hashes, numbers, starts)


def _in_digits(words: pl.Series) -> NDArray[np.bool_]:
    """(words,) whether a word begins with a digit; comparing is faster than a regular expression, which other scripts need."""
    numbers = ((words >= "0") & (words < ":")).to_numpy().copy()  # a colon follows 9 in ASCII
    other = np.flatnonzero((words >= "\x80").to_numpy())
    numbers[other] = words.gather(other).str.contains(r"^\p{N}").to_numpy()
    return numbers


def _spelled(hashes: U64) -> tuple[I64, U64]:
    """The places of numbers in words, and the hash of the number that each stands for."""
    known, values = (pl.Series(list(part)).hash().to_numpy() for part in (NUMBER_WORDS, NUMBER_WORDS.values()))
    order = np.argsort(known)
    slots = np.zeros(1 << 16, np.bool_)  # a quick no for nearly all words
    slots[known >> _WORD_SHIFT] = True
    maybe = np.flatnonzero(slots[hashes >> _WORD_SHIFT])
    nearest = order[np.searchsorted(known[order], hashes[maybe]).clip(max=len(order) - 1)]
    found = known[nearest] == hashes[maybe]
    return maybe[found], values[nearest[found]]


def text_batches(texts: Iterable[str]) -> Iterator[pl.Series]:
    """A stream of texts in series of at most `BATCH` texts and about `BATCH_BYTES` bytes."""
    if not isinstance(texts, pl.Series):
        stream = iter(texts)
        while batch := list(islice(stream, BATCH)):
            yield from text_batches(pl.Series(batch, dtype=pl.String))
        return
    bytes_before = texts.str.len_bytes().fill_null(0).cast(pl.Int64).cum_sum().to_numpy() // BATCH_BYTES
    cuts = np.flatnonzero(np.diff(bytes_before + np.arange(len(texts)) // BATCH)) + 1
    bounds = [0, *cuts.tolist(), len(texts)]
    yield from (texts.slice(first, last - first) for first, last in pairwise(bounds) if last > first)


def ngrams(words: Words, n: int, likely: Callable[[U64], NDArray[np.bool_]] | None = None) -> Grams:
    """All runs of `n` words that lie within one text; a text of fewer words has none.

    `likely` is a quick test of hashes: those that fail it are left out before anything else is found out about them.
    """
    hashes = mixed(_run_hashes(words.hashes, n))
    places = np.arange(len(hashes)) if likely is None else np.flatnonzero(likely(hashes))
    texts = np.repeat(np.arange(len(words.starts) - 1), np.diff(words.starts))[places]
    within = places + n <= words.starts[texts + 1]
    places = places[within]
    return Grams(hashes[places], texts[within], places)


def _run_hashes(words: U64, n: int) -> U64:
    """(words - n + 1,) The polynomial in `_BASE` with `n` neighbouring words as coefficients, put together from its halves."""
    if n == 1:
        return words
    half = n // 2
    halves, count = _run_hashes(words, half), max(len(words) - n + 1, 0)
    hashes = halves[:count] * (_BASE ** np.uint64(half)) + halves[half : half + count]
    return hashes * _BASE + words[n - 1 : n - 1 + count] if n % 2 else hashes


def mixed(hashes: U64) -> U64:
    """Spread sums over all 64 bits (the finaliser of SplitMix64, Steele et al. 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def sequence_hashes(words: Words, keep: NDArray[np.bool_]) -> U64:
    """(texts,) One hash of each text's kept words, in their order; 0 for a text with none.

    `keep` is (words,).
    """
    kept = words.hashes[keep]
    before = np.concatenate([[0], np.cumsum(keep)])[words.starts]
    texts = np.repeat(np.arange(len(words.starts) - 1), np.diff(before))
    place = (np.arange(len(kept)) - before[texts]).astype(np.uint64)
    sums = np.zeros(len(words.starts) - 1, np.uint64)
    np.add.at(sums, texts, mixed(kept + mixed((place + np.uint64(1)) * _BASE)))
    return sums
