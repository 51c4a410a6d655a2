"""Scores of every checkpoint on every problem: what a crossed bootstrap and a correction for measurement error need."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError
from predict.intervals import RESAMPLES, multiplicities

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
TIE = 1e-12
"""Means of the same counts, added up in another order, differ by rounding."""
SIGNALS = """SELECT run_id || '@' || step AS id, benchmark, problem_id, {values}
FROM counts JOIN shared_keys USING (purpose, key_id) WHERE purpose = 'signals'"""
OUTCOME = """SELECT r.start_run_id || '@' || r.start_step AS id, c.benchmark, c.problem_id, avg(c.num_correct / c.num_samples) AS value
FROM rl_runs r JOIN counts c ON c.run_id = r.run_id AND c.step = r.steps
JOIN shared_keys k ON k.purpose = c.purpose AND k.key_id = c.key_id
WHERE c.purpose = 'outcome' AND r.status IN ('done', 'collapsed') {recipe} GROUP BY ALL"""


@dataclass(frozen=True)
class ProblemScores:
    """Scores (n, P) of n checkpoints on P problems for each signal, and outcomes (n, Q) on Q problems."""

    ids: list[str]
    signals: dict[str, Array]
    signal_benchmarks: list[str]
    """Benchmark of each of the P problems; a mean is the mean of the benchmarks' means."""
    outcome: Array
    outcome_benchmarks: list[str]
    same_problems: bool = False
    """The P problems are the Q, in one order."""

    def of(self, ids: Sequence[str]) -> "ProblemScores":
        """The same for some checkpoints, in this order.

        Raises:
            InputError: one of them has no scores.
        """
        place = {name: row for row, name in enumerate(self.ids)}
        if missing := [name for name in ids if name not in place]:
            raise InputError(
                f"checkpoint {missing[0]} has no counts by problem ({len(missing)} have none): `predict ingest` them"
            )
        rows = np.array([place[name] for name in ids], dtype=int)
        signals = {name: values[rows] for name, values in self.signals.items()}
        return ProblemScores(
            list(ids), signals, self.signal_benchmarks, self.outcome[rows], self.outcome_benchmarks, self.same_problems
        )


def problem_scores(home: Path, ks: Sequence[int] = (1, 8, 64), rl_recipe: str | None = None) -> ProblemScores:
    """The store's checkpoints with an outcome: pass@k by problem before RL, pass@1 by problem after it (mean over RL seeds).

    Raises:
        InputError: no store, or a checkpoint lacks some problem that others have.
    """
    from predict import store

    values = ", ".join(f"pass_at_k(num_samples, num_correct, {k}) AS pass_at_{k}" for k in ks)
    before = store.query(home, SIGNALS.format(values=values))
    chosen = "" if rl_recipe is None else f"AND r.rl_recipe = '{rl_recipe.replace(chr(39), chr(39) * 2)}'"
    after = store.query(home, OUTCOME.format(recipe=chosen))
    ids = sorted(set(before["id"]) & set(after["id"]))
    signals, problems = {}, None
    for name in (f"pass_at_{k}" for k in ks):
        if before[name].null_count() == 0:
            signals[name], problems = _matrix(before, name, ids)
    if not ids or problems is None:
        raise InputError("no checkpoint has counts by problem both before and after RL")
    outcome, later = _matrix(after, "value", ids)
    return ProblemScores(ids, signals, _benchmarks(problems), outcome, _benchmarks(later), problems.equals(later))


def _matrix(long: pl.DataFrame, value: str, ids: list[str]) -> tuple[Array, pl.DataFrame]:
    """(n, P) in the order of the ids and of (benchmark, problem_id), and those."""
    kept = long.filter(pl.col("id").is_in(ids)).sort("benchmark", "problem_id", "id")
    problems = kept.select("benchmark", "problem_id").unique(maintain_order=True)
    if len(kept) != len(problems) * len(ids):
        short = kept.group_by("id").len().sort("len", "id")
        raise InputError(
            f"checkpoint {short['id'][0]} has {value} on {short['len'][0]} of {len(problems)} problems: "
            "evaluate all checkpoints on one set of problems"
        )
    return kept[value].to_numpy().reshape(len(problems), len(ids)).T, problems


def _benchmarks(problems: pl.DataFrame) -> list[str]:
    return [str(name) for name in problems["benchmark"]]


def problem_weights(benchmarks: Sequence[str], rng: np.random.Generator, resamples: int | None = None) -> Array:
    """Weights of each problem in resampled problem sets, drawn within each benchmark, (P, R); columns sum to 1."""
    names, code = np.unique(list(benchmarks), return_inverse=True)
    weights = np.empty((len(code), resamples or RESAMPLES))
    for number in range(len(names)):
        rows = np.flatnonzero(code == number)
        drawn = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), weights.shape[1])
        weights[rows] = drawn.T / len(rows) / len(names)
    return weights


class CrossedResamples:
    """Resamples in which clusters of checkpoints and problems are both drawn, the outcome ranked in each.

    Checkpoints and problems are crossed: every checkpoint meets the same resampled problems, so what a hard problem takes from all of
    them widens nothing (Owen 2007, "The pigeonhole bootstrap"). Counts are held: resampling samples too would count their noise twice.
    """

    def __init__(self, scores: ProblemScores, clusters: list[Rows], rng: np.random.Generator) -> None:
        self.signals, self.times = scores.signals, multiplicities(clusters, rng)
        outcome = problem_weights(scores.outcome_benchmarks, rng)
        self.weights = outcome if scores.same_problems else problem_weights(scores.signal_benchmarks, rng)
        self.outcome = self._centred_ranks(scores.outcome @ outcome)

    def _centred_ranks(self, values: Array) -> Array:
        return ranks_of_columns(values, self.times) - (self.times.sum(axis=0) + 1) / 2

    def spearman(self, x: str | Array) -> Array:
        """Rank correlation with the outcome in each resample, (R,); NaN where one side is constant there.

        Args:
            x: name of a signal, resampled with its problems; or a fixed column (n,), such as a loss.
        """
        values = self.signals[x] @ self.weights if isinstance(x, str) else np.broadcast_to(x[:, None], self.times.shape)
        ranks = self._centred_ranks(values)
        covariance = np.einsum("nr,nr,nr->r", self.times, ranks, self.outcome)
        spread = np.einsum("nr,nr->r", self.times, ranks**2) * np.einsum("nr,nr->r", self.times, self.outcome**2)
        return np.divide(covariance, np.sqrt(spread), out=np.full(len(spread), np.nan), where=spread > 1e-9)


def ranks_of_columns(values: Array, times: Array) -> Array:
    """Ranks within each column, rows counted `times`, ties sharing the mean rank, (n, R) each."""
    n, resamples = values.shape
    order = np.argsort(values, axis=0, kind="stable")
    rises = np.diff(np.take_along_axis(values, order, axis=0), axis=0, prepend=-np.inf) > TIE
    group = np.cumsum(rises, axis=0) - 1 + n * np.arange(resamples)
    weight = np.take_along_axis(times, order, axis=0)
    totals = np.bincount(group.ravel(), weight.ravel(), minlength=n * resamples).reshape(resamples, n)
    middle = (np.cumsum(totals, axis=1) - (totals - 1) / 2).ravel()[group]
    ranks = np.empty_like(times)
    np.put_along_axis(ranks, order, middle, axis=0)
    return ranks
