"""The noise ceiling: how well a predictor that knew every checkpoint's true level would score.

The outcome of one RL run is its checkpoint's level plus the noise of the RL seed and of the evaluation. Replicate runs from one
checkpoint show that noise; no predictor of the start can explain it.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from predict.features import OUTCOME, column
from predict.intervals import spearman

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
DRAWS = 400


@dataclass(frozen=True)
class Noise:
    """Variance that one RL run adds to its checkpoint's level."""

    variance: float
    """Of one run."""
    freedom: int
    """Degrees of freedom behind it; 0 where it comes from the evaluation's sampling alone."""
    of_outcome: Array
    """Variance of each row's outcome, the mean of its runs, (n,)."""


@dataclass(frozen=True)
class Ceiling:
    """The best R^2 and Spearman there are to be had, over all rows and within strata; None where the noise leaves no signal."""

    noise_variance: float
    freedom: int
    r2: float | None
    spearman: float | None
    r2_within: float | None
    spearman_within: float | None


def outcome_noise(frame: pl.DataFrame, outcome: str = OUTCOME) -> Noise | None:
    """Noise of the outcome from `outcome_sd` over `n_rl_seeds` replicate runs, pooled by their degrees of freedom.

    Without replicates: from `outcome_sampling_variance`, the evaluation's share of it. None where the frame has neither, or the outcome is another
    of the store's.
    """
    if outcome.startswith("outcome_") and outcome != OUTCOME:
        return None
    seeds = column(frame, "n_rl_seeds") if "n_rl_seeds" in frame.columns else np.ones(len(frame))
    seeds = np.where(np.isnan(seeds), 1.0, np.maximum(seeds, 1.0))
    if "outcome_sd" in frame.columns:
        sd = column(frame, "outcome_sd")
        known = ~np.isnan(sd) & (seeds > 1)
        if known.any():
            freedom = seeds[known] - 1
            variance = float((sd[known] ** 2 * freedom).sum() / freedom.sum())
            return Noise(variance, int(freedom.sum()), variance / seeds)
    if "outcome_sampling_variance" in frame.columns:
        sampling = column(frame, "outcome_sampling_variance")
        if not np.isnan(sampling).all():
            mean = float(np.nanmean(sampling))
            return Noise(mean, 0, np.where(np.isnan(sampling), mean, sampling))
    return None


def noise_ceiling(y: Array, noise: Noise, strata: list[Rows], rng: np.random.Generator) -> Ceiling:
    """R^2 max = 1 - noise variance / Var(y), and the mean Spearman of simulated levels with the outcomes that they would give.

    The levels are the outcomes drawn towards their mean until their variance is what the noise leaves of it.
    """
    groups = [rows for rows in strata if len(rows) > 1]
    freedom = sum(len(rows) - 1 for rows in groups)
    centred = y.copy()
    for rows in groups:
        centred[rows] -= y[rows].mean()
    inside = np.concatenate(groups) if groups else np.array([], dtype=int)
    within = float((centred[inside] ** 2).sum() / freedom) if freedom else 0.0
    r2, r2_within = _share(y.var(ddof=1), noise.of_outcome.mean()), None
    if freedom:
        r2_within = _share(within, noise.of_outcome[inside].mean())
    overall = None if r2 is None else _simulated(y, noise, r2, [np.arange(len(y))], rng)
    by_stratum = None if r2_within is None else _simulated(y, noise, r2_within, groups, rng)
    return Ceiling(noise.variance, noise.freedom, r2, overall, r2_within, by_stratum)


def _share(total: float, noise: float) -> float | None:
    return float(1 - noise / total) if total > noise else None


def _simulated(y: Array, noise: Noise, share: float, groups: list[Rows], rng: np.random.Generator) -> float | None:
    """Mean over simulations of the row-weighted mean Spearman within the groups of at least 3 rows."""
    values, weights = [], []
    for rows in groups:
        level = y[rows].mean() + np.sqrt(share) * (y[rows] - y[rows].mean())
        drawn = level + np.sqrt(noise.of_outcome[rows]) * rng.standard_normal((DRAWS, len(rows)))
        found = [rho for one in drawn if (rho := spearman(level, one)) is not None]
        if found:
            values.append(np.mean(found))
            weights.append(len(rows))
    return float(np.average(values, weights=weights)) if values else None


def within_and_between(y: Array, predicted: Array, training_mean: Array, strata: list[Rows]) -> tuple[float | None, float | None]:
    """R^2 of held-out predictions within the strata (each less its stratum's mean) and between the strata's means."""
    groups = several(strata)
    if not groups:
        return None, None
    within = r2_within(y, predicted, groups)
    between = sum(len(rows) * float((y[rows] - training_mean[rows]).mean() ** 2) for rows in strata)
    off = sum(len(rows) * float((y[rows] - predicted[rows]).mean() ** 2) for rows in strata)
    return (None if np.isnan(within) else float(within)), (1 - off / between if between > 0 else None)


def several(strata: list[Rows]) -> list[Rows]:
    """Strata within which rows can be compared: those of two rows or more, where there is more than one stratum."""
    return [rows for rows in strata if len(rows) > 1] if len(strata) > 1 else []


def r2_within(y: Array, predicted: Array, groups: list[Rows]) -> Array:
    """R^2 of predictions (..., n), each less its group's mean, of outcomes (n,) less theirs: (...,); NaN without groups, or where no outcome varies."""
    total, missed = 0.0, np.zeros(predicted.shape[:-1])
    for rows in groups:
        true = y[rows] - y[rows].mean()
        ours = predicted[..., rows] - predicted[..., rows].mean(axis=-1, keepdims=True)
        total += float((true**2).sum())
        missed += ((true - ours) ** 2).sum(axis=-1)
    return 1 - missed / total if total > 0 else np.full(missed.shape, np.nan)
