"""The rows that all predictors are scored on, what was left out and why, and the random draws that all of them share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError
from predict.features import OUTCOME, as_fractions, column, noise_as_fractions, same_heldout, with_ids
from predict.folds import half_masks, jackknife_masks, single_rows
from predict.intervals import Resamples, clusters_of, multiplicities
from predict.leakage import collapsed_rows, gain_note, own_loss_note, repeated_rows, shared_note, shared_units, tie_notes
from predict.predictors import Predictor
from predict.problems import CrossedResamples, ProblemScores
from predict.regret import candidate_sets, outcome_halves

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
FEWEST_RUNS = 5
FEW_RUNS = 15
STRATA = ("base_model", "length_mix")
"""Columns whose combinations are the strata of `r2_within` and `r2_between`, where they are there."""


@dataclass(frozen=True)
class Sample:
    """Complete rows: every predictor sees the same ones."""

    frame: pl.DataFrame
    outcome: str
    y: Array
    group: str | None
    clusters: list[Rows]
    seed: int
    notes: list[str]
    problems: ProblemScores | None = None
    """Scores of these rows by problem, where given."""
    units: dict[str, int] = field(default_factory=dict)
    """Columns by which rows are twins, with how many values each has."""

    @classmethod
    def of(
        cls,
        runs: pl.DataFrame,
        predictors: list[Predictor],
        outcome: str,
        group: str | None,
        seed: int,
        percent: Sequence[str] = (),
        problems: ProblemScores | None = None,
    ) -> "Sample":
        """The rows with an outcome and all columns of all predictors.

        Raises:
            InputError: too few of them, an outcome that does not vary, one group, or losses of different held-out sets.
        """
        numeric = list(dict.fromkeys(name for predictor in predictors for name in predictor.numeric))
        frame, notes = as_fractions(with_ids(runs), [*numeric, outcome], percent)
        frame = noise_as_fractions(frame, runs, outcome)
        known = ~np.isnan(column(frame, outcome))
        complete, lacking = _complete(frame, predictors, known)
        if complete.sum() < FEWEST_RUNS:
            raise InputError(_too_few(int(known.sum()), int(complete.sum()), outcome, lacking))
        if left_out := int((known & ~complete).sum()):
            notes.append(f"{left_out} rows with an outcome lack {_listed(lacking)}: left out for all predictors")
        kept = frame.filter(pl.Series(complete))
        same_heldout(kept, numeric)
        y = column(kept, outcome)
        if np.ptp(y) == 0:
            raise InputError(f"column {outcome!r}: all {len(y)} values are equal; there is nothing to predict")
        clusters = _clusters(kept, group)
        units = shared_units(kept)
        notes += [*shared_note(units, group, len(y)), *_remarks(kept, predictors, numeric, outcome)]
        scores = None if problems is None or outcome != OUTCOME else problems.of(kept["id"].to_list())
        return cls(kept, outcome, y, group, clusters, seed, notes, scores, units)

    @property
    def grouped(self) -> bool:
        """Whether the clusters are of a named group; else each row is one."""
        return self.group is not None

    @property
    def n_runs(self) -> int:
        """RL runs behind the rows."""
        return int(self.frame["n_rl_seeds"].sum()) if "n_rl_seeds" in self.frame.columns else len(self.y)

    @cached_property
    def rows(self) -> list[Rows]:
        """Every row a cluster of its own."""
        return single_rows(len(self.y))

    @cached_property
    def cluster_of(self) -> Rows:
        """Number of each row's cluster, (n,)."""
        number = np.empty(len(self.y), dtype=np.int64)
        for index, rows in enumerate(self.clusters):
            number[rows] = index
        return number

    @cached_property
    def strata_columns(self) -> list[str]:
        """The columns of STRATA that vary."""
        return [name for name in STRATA if name in self.frame.columns and self.frame[name].n_unique() > 1]

    @cached_property
    def strata(self) -> list[Rows]:
        """Rows of each combination of the strata's columns; one stratum where there are none."""
        if not self.strata_columns:
            return [np.arange(len(self.y))]
        return clusters_of(
            self.frame.select(pl.concat_str(pl.col(self.strata_columns).fill_null("none"), separator=" x ")).to_series().to_list()
        )

    @cached_property
    def collapsed(self) -> tuple[NDArray[np.bool_], str]:
        """Rows whose run collapsed, (n,), and the rule."""
        return collapsed_rows(self.frame, self.outcome)

    def rng(self) -> np.random.Generator:
        """A new generator, the same each time."""
        return np.random.default_rng(self.seed)

    @cached_property
    def resamples(self) -> Resamples:
        """Resampled clusters."""
        return Resamples(self.y, multiplicities(self.clusters, self.rng()))

    @cached_property
    def crossed(self) -> CrossedResamples | None:
        """Resampled clusters and problems, where the scores by problem are given."""
        return None if self.problems is None else CrossedResamples(self.problems, self.clusters, self.rng())

    @cached_property
    def halves(self) -> NDArray[np.bool_]:
        """Training halves, (S, n)."""
        return half_masks(self.clusters, len(self.y), self.rng())

    @cached_property
    def blocks(self) -> NDArray[np.bool_]:
        """Rows that stay without each jackknife block, (B, n)."""
        return jackknife_masks(self.clusters, len(self.y), self.rng())

    @cached_property
    def sets(self) -> list[Rows]:
        """Random candidate sets within a base model."""
        return candidate_sets(self.frame, self.rng())

    @cached_property
    def outcome_halves(self) -> tuple[Array, Array]:
        """The outcome on two halves of the problems."""
        return outcome_halves(self.frame, self.outcome, self.y)


def _complete(
    frame: pl.DataFrame, predictors: list[Predictor], known: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Rows with everything, and how many rows with an outcome lack each column."""
    complete, lacking = known.copy(), dict[str, int]()
    for predictor in predictors:
        missing = np.isnan(predictor.matrix(frame))
        complete &= ~missing.any(axis=1)
        for name, gone in zip(predictor.features, missing.T, strict=False):
            if count := int((gone & known).sum()):
                lacking[name] = count
    return complete, lacking


def _remarks(kept: pl.DataFrame, predictors: list[Predictor], numeric: list[str], outcome: str) -> list[str]:
    """What a reader must know of these rows and columns."""
    few = [f"{len(kept)} rows are few: intervals are wide, and spearman_fisher stands beside the bootstrap"]
    return [
        *(few if len(kept) < FEW_RUNS else []),
        *tie_notes(kept, [*numeric, outcome]),
        *gain_note(kept, outcome, numeric),
        *own_loss_note(kept, numeric),
        *repeated_rows([*(predictor.matrix(kept) for predictor in predictors), column(kept, outcome)], kept["id"].to_list()),
    ]


def _listed(lacking: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sorted(lacking.items(), key=lambda item: -item[1]))


def _too_few(known: int, complete: int, outcome: str, lacking: dict[str, int]) -> str:
    reason = f"; of {known} rows with an outcome some lack {_listed(lacking)}: leave that predictor out" if lacking else ""
    return f"expected at least {FEWEST_RUNS} rows with {outcome} and all columns of the predictors, came {complete}{reason}"


def _clusters(kept: pl.DataFrame, group: str | None) -> list[Rows]:
    if group is None:
        return single_rows(len(kept))
    if missing := kept[group].null_count():
        raise InputError(f"group {group!r}: {missing} rows have no value; fill it in, or group by another column")
    clusters = clusters_of(kept[group].cast(pl.String).to_list())
    if len(clusters) < 2:
        raise InputError(f"group {group!r} has 1 different value; leaving one out needs at least 2")
    return clusters
