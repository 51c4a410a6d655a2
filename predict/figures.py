"""The figures of one predictor on a sample of runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError, UsageError
from predict.calibration import IntervalFigures, interval_figures
from predict.ceilings import within_and_between
from predict.comparing import added_p, sign_flip_p
from predict.features import Direction, direction
from predict.folds import HeldOut, fold_numbers, half_splits, held_out, r2_without_blocks
from predict.intervals import (
    FEWEST_CLUSTERS,
    LEVEL,
    Interval,
    clusters_of,
    fisher,
    jackknife,
    kendall,
    percentile,
    spearman,
)
from predict.leakage import optimism_note
from predict.prediction import prediction_intervals
from predict.predictors import Predictor
from predict.regret import pairwise_accuracy, regret
from predict.sample import FEW_RUNS, Sample
from predict.scores import Score

Array = NDArray[np.float64]
SMALLEST_OF_MANY = 3
"""Runs paid for in `top3` regret."""


class Fit:
    """A predictor on a sample, its held-out predictions computed once."""

    def __init__(self, sample: Sample, predictor: Predictor) -> None:
        self.sample, self.predictor, self.X, self.y = sample, predictor, predictor.matrix(sample.frame), sample.y
        if len(self.y) < self.X.shape[1] + 3:
            raise InputError(
                f"{predictor.name}: {self.X.shape[1]} columns need at least {self.X.shape[1] + 3} runs, came {len(self.y)}"
            )
        self.fitted = np.asarray(predictor.fit(self.X, self.y).predict(self.X), dtype=float)

    @property
    def single(self) -> bool:
        """Whether it reads one column of numbers."""
        return len(self.predictor.features) == 1 and not self.predictor.categorical

    @property
    def shown(self) -> Array:
        """What is ranked against the outcome: the raw column of a single signal, else the fitted values."""
        return self.X[:, 0] if self.single else self.fitted

    @cached_property
    def by_row(self) -> HeldOut:
        """Single rows left out."""
        return held_out(self.predictor, self.X, self.y, self.sample.rows) if self.sample.grouped else self.by_cluster

    @cached_property
    def by_cluster(self) -> HeldOut:
        """Clusters left out whole."""
        return held_out(self.predictor, self.X, self.y, self.sample.clusters)

    @cached_property
    def cluster_errors(self) -> Array:
        """Mean squared held-out error of each cluster, (G,)."""
        errors = (self.y - self.by_cluster.predicted) ** 2
        return np.array([errors[rows].mean() for rows in self.sample.clusters])

    @cached_property
    def r2_without_blocks(self) -> Array:
        """Held-out R^2 without each jackknife block, every fold refitted, (B,); NaN where there are too few clusters for an interval."""
        if len(self.sample.clusters) < FEWEST_CLUSTERS:
            return np.full(len(self.sample.blocks), np.nan)
        return r2_without_blocks(self.predictor, self.X, self.y, self.sample.clusters, self.sample.blocks)

    def spearman(self) -> Interval:
        """Rank correlation with the cluster bootstrap; several columns keep their fitted values over the resamples."""
        value, clusters = spearman(self.shown, self.y), len(self.sample.clusters)
        return Interval(None) if value is None else percentile(value, self.sample.resamples.spearman(self.shown), clusters)

    def spearman_crossed(self) -> Interval | None:
        """The same with the problems resampled too, where the scores by problem are known; for the outcome of the store alone."""
        resamples, value = self.sample.crossed, spearman(self.shown, self.y)
        if resamples is None or value is None:
            return None
        by_problem = self.single and self.predictor.features[0] in resamples.signals
        draws = resamples.spearman(self.predictor.features[0] if by_problem else self.shown)
        return percentile(value, draws, len(self.sample.clusters))

    def held_out_intervals(self, levels: Sequence[float]) -> list[tuple[Array, Array]] | None:
        """The forecaster's own intervals of clusters that it was not fitted on, in at most 20 folds: ends (n,) at each level.

        None: too few clusters for an interval.
        """
        clusters, rng = self.sample.clusters, self.sample.rng()
        fold = fold_numbers(clusters, len(self.y), rng)
        ends = np.empty((len(levels), 2, len(self.y)))
        for number in range(fold.max() + 1):
            train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            labels = self.sample.cluster_of[train]
            try:
                ends[:, :, test] = prediction_intervals(
                    self.predictor, self.X[train], self.y[train], clusters_of(labels.tolist()), self.X[test], levels
                )
            except UsageError:
                return None
        return [(low, high) for low, high in ends]

    def intervals(self) -> IntervalFigures | None:
        """How its 90 % intervals do on clusters that it was not fitted on; None: too few clusters."""
        found = self.held_out_intervals([LEVEL])
        return interval_figures(self.y, *found[0]) if found else None

    def r2(self) -> Interval:
        """R^2 on left-out clusters with its delete-a-block jackknife interval, every fold refitted; it ends at 1, as R^2 does."""
        found = jackknife(self.by_cluster.r2(self.y), self.r2_without_blocks, len(self.sample.clusters))
        return found if found.high is None else Interval(found.value, found.low, min(found.high, 1.0))


def figures(fit: Fit, baseline: Fit, adjusted: float | None, directions: Mapping[str, Direction] | None) -> Score:
    """All figures of one predictor beside the baseline's."""
    sample, y, rank, by_cluster, by_row = fit.sample, fit.y, fit.spearman(), fit.by_cluster, fit.by_row
    intervals, ranked = fit.intervals(), by_cluster.ranked
    losses = {f"top{m}": _regret(fit, m) for m in (1, SMALLEST_OF_MANY)}
    within, between = within_and_between(y, by_cluster.predicted, by_cluster.training_mean, sample.strata)
    sign, notes = _sign(fit.predictor, rank.value, directions)
    grouped = sample.grouped
    return Score(
        name=fit.predictor.name,
        features=fit.predictor.features,
        n=len(y),
        spearman=rank,
        pearson_squared=float(np.corrcoef(fit.shown, y)[0, 1] ** 2) if np.ptp(fit.shown) > 0 else None,
        r2_in_sample=float(1 - ((y - fit.fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum()),
        r2_half=half_splits(fit.predictor, fit.X, y, sample.halves),
        r2_loo=by_row.r2(y),
        spearman_loo=spearman(by_row.ranked, y),
        r2_logo=by_cluster.r2(y) if grouped else None,
        r2_logo_grand=by_cluster.r2(y, grand=True) if grouped else None,
        spearman_logo=spearman(ranked, y) if grouped else None,
        spearman_within=_within(fit) if grouped else None,
        mae_loo=float(np.abs(y - by_row.predicted).mean()),
        pairwise_accuracy=pairwise_accuracy(ranked, y, sample.clusters),
        top1_regret=losses["top1"].value,
        coverage_90=intervals.coverage if intervals else None,
        versus_baseline=None if fit is baseline else _versus(fit, baseline, adjusted),
        wrong_signed=sign,
        notes=[*notes, *_notes(fit)],
        kendall=kendall(fit.shown, y),
        spearman_fisher=fisher(rank.value, len(y)) if len(y) < FEW_RUNS else None,
        spearman_crossed=fit.spearman_crossed(),
        r2_within=within,
        r2_between=between,
        interval_score_90=intervals.score if intervals else None,
        regret=losses,
        r2_held_out=fit.r2(),
    )


def _regret(fit: Fit, m: int) -> Interval:
    sample = fit.sample
    return regret(fit.by_cluster.ranked, sample.outcome_halves, sample.sets, sample.blocks, len(sample.clusters), m)


def _sign(predictor: Predictor, rank: float | None, directions: Mapping[str, Direction] | None) -> tuple[bool | None, list[str]]:
    """Whether a single signal points the wrong way; None where no direction is known."""
    if len(predictor.features) != 1 or predictor.categorical or rank is None:
        return None, []
    expected = direction(predictor.features[0], directions)
    if expected is None:
        return None, [f"{predictor.features[0]}: no direction is known; give one by --direction {predictor.features[0]}=up|down"]
    wrong = (rank < 0) if expected == "up" else (rank > 0)
    return wrong, [f"wrong-signed, Spearman {rank:+.2f} where {expected} is better"] if wrong else []


def _notes(fit: Fit) -> list[str]:
    """What a reader of this predictor's figures must know."""
    sample, notes = fit.sample, []
    if len(sample.clusters) < FEWEST_CLUSTERS:
        shown = ", ".join(f"{error:.4g}" for error in fit.cluster_errors)
        notes.append(f"{len(sample.clusters)} groups are too few for an interval; squared errors a group: {shown}")
    if sample.grouped:
        notes += optimism_note(fit.by_row.r2(fit.y), fit.by_cluster.r2(fit.y), str(sample.group))
    elif sample.units:
        unit = next(iter(sample.units))
        twins = clusters_of(sample.frame[unit].cast(str).to_list())
        notes += optimism_note(fit.by_row.r2(fit.y), held_out(fit.predictor, fit.X, fit.y, twins).r2(fit.y), unit)
    return [*notes, *_without_collapsed(fit)]


def _without_collapsed(fit: Fit) -> list[str]:
    """Collapsed runs stay in; this says what the score is without them."""
    fallen, reason = fit.sample.collapsed
    stays = ~fallen
    if not fallen.any() or stays.sum() < fit.X.shape[1] + 3:
        return []
    held = held_out(fit.predictor, fit.X, fit.y, fit.sample.clusters, stays)
    if np.ptp(fit.y[stays]) == 0 or np.isnan(held.training_mean[stays]).any():
        return []
    without = HeldOut(held.predicted[stays], held.training_mean[stays]).r2(fit.y[stays])
    return [
        f"{int(fallen.sum())} collapsed runs count ({reason}): held-out R^2 {fit.by_cluster.r2(fit.y):.2f} with them, {without:.2f} without"
    ]


def _within(fit: Fit) -> float | None:
    """Mean Spearman within the left-out clusters of at least 3 rows, weighted by their rows."""
    ranked, y = fit.by_cluster.ranked, fit.y
    pairs = [(spearman(ranked[rows], y[rows]), len(rows)) for rows in fit.sample.clusters if len(rows) >= 3]
    known = [(value, weight) for value, weight in pairs if value is not None]
    return float(np.average([v for v, _ in known], weights=[w for _, w in known])) if known else None


def _versus(fit: Fit, baseline: Fit, adjusted: float | None) -> dict[str, Any]:
    """Held-out R^2 less the baseline's, its jackknife interval, and sign-flip tests over clusters of the squared errors."""
    sample = fit.sample
    delta = fit.by_cluster.r2(fit.y) - baseline.by_cluster.r2(fit.y)
    interval = jackknife(delta, fit.r2_without_blocks - baseline.r2_without_blocks, len(sample.clusters))
    return {
        "name": baseline.predictor.name,
        "delta_r2": asdict(interval),
        "p_value": sign_flip_p(fit.cluster_errors - baseline.cluster_errors, sample.rng()),
        "p_value_adjusted": adjusted,
        "p_value_added": _added(fit, baseline),
    }


def _added(fit: Fit, baseline: Fit) -> float | None:
    """P of this predictor's further columns adding nothing, where both are lines and it has the baseline's columns and more."""
    mine, theirs = set(fit.predictor.terms), set(baseline.predictor.terms)
    if not (fit.predictor.linear and baseline.predictor.linear and theirs < mine):
        return None
    more = np.column_stack([fit.X[:, j] for j, term in enumerate(fit.predictor.terms) if term not in theirs])
    return added_p(baseline.X, more, fit.y, fit.sample.clusters, fit.sample.rng())
