"""What a cheaper measurement would have found: fewer problems and samples, drawn from those measured. No new rollout is needed.

Of c correct among n samples, n' drawn without replacement hold c' ~ Hypergeometric(n, c, n') correct ones. Problems are drawn without
replacement too, one draw for all checkpoints. A mean over the draws is that of the full counts; a spread over the draws is that of
measurements on part of these problems, and shrinks to 0 as all of them are used: new problems would add theirs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from curate.errors import InputError, UsageError

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
GROUP = 16
"""Rollouts of a group in `mixed_share` and `expected_signal`, as in the store."""
FEWEST_PROBLEMS = 8
SMALLEST_BUDGET = 64
COUNTS = """SELECT run_id || '@' || step AS id, list(num_samples ORDER BY benchmark, problem_id) AS samples,
    list(num_correct ORDER BY benchmark, problem_id) AS correct, list(benchmark ORDER BY benchmark, problem_id) AS benchmarks,
    hash(list((benchmark, problem_id) ORDER BY benchmark, problem_id)) AS problems
FROM counts JOIN shared_keys USING (purpose, key_id) WHERE purpose = 'signals' GROUP BY run_id, step"""


@dataclass(frozen=True, order=True)
class Layout:
    """How rollouts are spent on a checkpoint."""

    samples: int
    """A problem."""
    problems: int

    @property
    def rollouts(self) -> int:
        """What it costs."""
        return self.problems * self.samples


def fewest_samples(column: str) -> int | None:
    """Samples a problem that a column of counts needs; None: it is none.

    >>> fewest_samples("pass_at_64"), fewest_samples("mixed_share"), fewest_samples("gen_loss")
    (64, 16, None)
    """
    if column in ("mixed_share", "expected_signal"):
        return GROUP
    k = column.removeprefix("pass_at_")
    return int(k) if k != column and k.isdecimal() else None


def by_count(column: str, samples: int) -> Array:
    """What a problem with 0, 1, ..., n correct of n samples adds to a column of counts, (n + 1,), unbiased.

    The mean of f(correct ones) over groups of k drawn without replacement. pass@k: any (1 - C(n - c, k) / C(n, k), Chen et al. 2021);
    mixed_share: some but not all; expected_signal: sqrt(a (1 - a)), a the share correct.
    """
    k = fewest_samples(column) or samples
    right = np.arange(k + 1)
    kinds = {"mixed_share": (right > 0) & (right < k), "expected_signal": np.sqrt(right / k * (1 - right / k))}
    chances = stats.hypergeom.pmf(right, samples, np.arange(samples + 1)[:, None], k)
    return np.asarray(chances @ kinds.get(column, right > 0).astype(float))


@dataclass(frozen=True)
class Measured:
    """Counts of n checkpoints on P problems."""

    samples: Integers
    """(n, P)."""
    correct: Integers
    """(n, P)."""
    benchmark: Integers
    """Number of each problem's benchmark, (P,)."""

    @classmethod
    def of(cls, home: Path, ids: Sequence[str]) -> "Measured":
        """The signals' counts of these checkpoints in the store, on the benchmarks that all its checkpoints share.

        Raises:
            InputError: they were not measured on the same problems, or one has no counts.
        """
        from predict import store

        found = pl.DataFrame({"id": ids}).join(store.query(home, COUNTS), on="id", how="left", maintain_order="left")
        other = found.filter(pl.col("problems").ne_missing(pl.col("problems").first()) | pl.col("problems").is_null())
        if len(other):
            raise InputError(
                f"checkpoint {other['id'][0]} was measured on other problems than {ids[0]}, or on none: evaluate all checkpoints on one set"
            )
        samples, correct = (found[name].explode().to_numpy().astype(np.int64) for name in ("samples", "correct"))
        benchmark = np.unique(found["benchmarks"][0].to_list(), return_inverse=True)[1]
        return cls(samples.reshape(len(ids), -1), correct.reshape(len(ids), -1), benchmark)

    @property
    def fewest_problems(self) -> int:
        """A layout has so many or more: every benchmark has one among them."""
        return max(FEWEST_PROBLEMS, ceil(len(self.benchmark) / np.bincount(self.benchmark).min()))

    def budgets(self) -> list[int]:
        """Rollouts a checkpoint: powers of two from SMALLEST_BUDGET, and all that were measured."""
        whole = len(self.benchmark) * int(self.samples.min())
        return [*(2**i for i in range(SMALLEST_BUDGET.bit_length() - 1, 63) if 2**i < whole), whole]

    def layouts(self, budget: int) -> list[Layout]:
        """Ways to spend at most the budget, most problems first: samples that spread it over all problems, and powers of two above.

        Raises:
            UsageError: there is none.
        """
        most, problems = int(self.samples.min()), len(self.benchmark)
        spread = max(1, budget // problems)
        ladder = [spread, *(2**i for i in range(most.bit_length()) if 2**i > spread)]
        found = [Layout(samples, min(problems, budget // samples)) for samples in ladder if samples <= most]
        kept = [layout for layout in found if layout.problems >= self.fewest_problems]
        if not kept:
            ends = f"{self.fewest_problems} to {problems * most}"
            raise UsageError(f"budget {budget}: expected {ends} rollouts a checkpoint, of {problems} problems x {most} samples")
        return kept

    def thin(self, samples: int, rng: np.random.Generator) -> Integers:
        """Correct ones among so many of each problem's samples, (n, P)."""
        return rng.hypergeometric(self.correct, self.samples - self.correct, samples)

    def weights(self, sizes: Sequence[int], rng: np.random.Generator) -> Array:
        """Weights of the problems in a draw of so many, (P, len(sizes)): a mean is the mean of the benchmarks' means, as in the store.

        A larger draw holds the smaller ones; each takes the benchmarks in proportion.
        """
        place, sizes_of = np.empty(len(self.benchmark)), np.bincount(self.benchmark)
        for number, size in enumerate(sizes_of):
            place[self.benchmark == number] = (rng.permutation(size) + rng.random()) / size
        inside = np.argsort(np.argsort(place))[:, None] < np.asarray(sizes)
        drawn = np.stack([inside[self.benchmark == number].sum(axis=0) for number in range(len(sizes_of))])
        return inside / drawn[self.benchmark] / len(sizes_of)

    def signals(
        self, layouts: Iterable[Layout], columns: Mapping[str, int], draws: int, rng: np.random.Generator
    ) -> dict[tuple[str, Layout], Array]:
        """The columns as each layout would have measured them, (draws, n), where it has samples enough.

        Args:
            columns: with the samples a problem that each needs.
        """
        wanted = sorted(set(layouts))
        found: dict[tuple[str, Layout], list[Array]] = {}
        for _ in range(draws):
            weights = self.weights([layout.problems for layout in wanted], rng)
            for samples in sorted({layout.samples for layout in wanted}):
                correct = self.thin(samples, rng)
                for column in (column for column, fewest in columns.items() if fewest <= samples):
                    means = by_count(column, samples)[correct] @ weights
                    for at, layout in enumerate(wanted):
                        if layout.samples == samples:
                            found.setdefault((column, layout), []).append(means[:, at])
        return {key: np.stack(values) for key, values in found.items()}
