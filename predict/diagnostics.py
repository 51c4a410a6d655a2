"""How far a predictor may be trusted on these runs: which k ranks best, held-out residuals, coverage at every level, P(best)."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from curate.errors import InputError
from predict.calibration import reliability
from predict.features import OUTCOME, group_of
from predict.figures import Fit
from predict.forecasting import Forecaster, p_best
from predict.intervals import LEVEL, Interval, Resamples, clusters_of, multiplicities, percentile, spearman
from predict.predictors import Predictor, parse
from predict.sample import Sample

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CANDIDATES = 4
"""Runs of one set of `best_reliability`."""
MOST_SETS = 60
REFITTED_FOLDS = 5
"""Folds of one partition where P(best) needs a bootstrap of refits, which takes near a second a fold."""


def _fits(
    runs: pl.DataFrame, predictors: list[str | Predictor], outcome: str, group: str | None, seed: int
) -> tuple[Sample, list[Fit]]:
    chosen = [parse(p) if isinstance(p, str) else p for p in predictors]
    sample = Sample.of(runs, chosen, outcome, group_of(runs, group), seed)
    return sample, [Fit(sample, predictor) for predictor in chosen]


def rank_by_k(runs: pl.DataFrame, *, outcome: str = OUTCOME, group: str | None = None, seed: int = 0) -> pl.DataFrame:
    """Rank correlation of pass@k before RL with the outcome, for each k whose column has a value on every row with an outcome.

    Columns k, spearman, low, high, and lead, lead_low, lead_high: how far it is ahead of the smallest k, on the same resampled
    clusters. Intervals are 90 %. The k that is best on these very runs was chosen after looking; `nested(pass_at_1..pass_at_64)`
    scores that choice.

    Raises:
        InputError: fewer than two such k, or too few runs.
    """
    known = runs.filter(pl.col(outcome).is_not_null())
    ks = [2**i for i in range(9) if f"pass_at_{2**i}" in known.columns and not known[f"pass_at_{2**i}"].null_count()]
    if len(ks) < 2 or not len(known):
        raise InputError(
            "expected pass@k before RL at two or more k on every run with an outcome: sample each problem more often"
        )
    sample, fits = _fits(runs, [f"pass_at_{k}" for k in ks], outcome, group, seed)
    draws = [sample.resamples.spearman(fit.shown) for fit in fits]
    rows = []
    for k, fit, drawn in zip(ks, fits, draws, strict=True):
        rank, first = fit.spearman(), spearman(fits[0].shown, sample.y)
        gap = None if rank.value is None or first is None else rank.value - first
        lead = percentile(gap, drawn - draws[0], len(sample.clusters))
        rows.append((k, rank.value, rank.low, rank.high, lead.value, lead.low, lead.high))
    names = ["k", "spearman", "low", "high", "lead", "lead_low", "lead_high"]
    return pl.DataFrame(rows, schema={name: pl.Int64 if name == "k" else pl.Float64 for name in names}, orient="row")


@dataclass(frozen=True)
class Residuals:
    """Outcomes less what was predicted for them by the fit without their cluster."""

    frame: pl.DataFrame
    """Columns id, predicted, outcome, residual."""
    mean: float
    mae: float
    spread_trend: Interval
    """Rank correlation of the residual's size with the prediction: a sure sign other than 0 says that one width does not fit all."""


def residuals(
    runs: pl.DataFrame, predictor: str | Predictor, *, outcome: str = OUTCOME, group: str | None = None, seed: int = 0
) -> Residuals:
    """Held-out residuals of one predictor, clusters left out whole.

    Raises:
        InputError: unusable columns, or too few runs.
    """
    sample, [fit] = _fits(runs, [predictor], outcome, group, seed)
    predicted = fit.by_cluster.predicted
    residual = sample.y - predicted
    trend = spearman(predicted, np.abs(residual))
    order = {"id": sample.frame["id"], "predicted": predicted, "outcome": sample.y, "residual": residual}
    interval = _rank_interval(sample, predicted, np.abs(residual), trend)
    return Residuals(pl.DataFrame(order), float(residual.mean()), float(np.abs(residual).mean()), interval)


def _rank_interval(sample: Sample, x: Array, y: Array, value: float | None) -> Interval:
    if value is None:
        return Interval(None)
    drawn = Resamples(y, multiplicities(sample.clusters, sample.rng())).spearman(x)
    return percentile(value, drawn, len(sample.clusters))


def coverage(
    runs: pl.DataFrame, predictor: str | Predictor, *, outcome: str = OUTCOME, group: str | None = None, seed: int = 0
) -> pl.DataFrame:
    """Share of held-out outcomes inside the forecaster's intervals, at each of LEVELS.

    Columns nominal, inside (a count), n, realised, and expected_low, expected_high: where the share lies nine times in ten if the
    intervals are right, binomial over the clusters, which is exact where each row is one.

    Raises:
        InputError: too few clusters for an interval.
    """
    sample, [fit] = _fits(runs, [predictor], outcome, group, seed)
    found = fit.held_out_intervals(LEVELS)
    if found is None:
        raise InputError(f"{fit.predictor.name}: {len(sample.clusters)} groups are too few for intervals on those left out")
    inside = [int(((low <= sample.y) & (sample.y <= high)).sum()) for low, high in found]
    return _coverage_rows(LEVELS, inside, len(sample.y), len(sample.clusters))


def forecast_coverage(rows: pl.DataFrame) -> pl.DataFrame:
    """The same for forecasts that have a result: the columns of `coverage` at 50 and 90 %.

    Args:
        rows: the `forecasts` view.

    Raises:
        InputError: no forecast has a result.
    """
    known = rows.filter(pl.col("measured").is_not_null())
    if not len(known):
        raise InputError("no forecast has a result yet")
    ends = (("low_50", "high_50"), ("low", "high"))
    inside = [int(known["measured"].is_between(known[low], known[high]).sum()) for low, high in ends]
    return _coverage_rows((0.5, LEVEL), inside, len(known), len(known))


def _coverage_rows(levels: tuple[float, ...], inside: list[int], n: int, clusters: int) -> pl.DataFrame:
    low, high = (stats.binom.ppf(q, clusters, levels) / clusters for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return pl.DataFrame(
        {"nominal": levels, "inside": inside, "n": [n] * len(levels), "expected_low": low, "expected_high": high}
    ).with_columns(realised=pl.col("inside") / pl.col("n"))


@dataclass(frozen=True)
class BestReliability:
    """How often a run called the best of CANDIDATES with some probability was the best."""

    frame: pl.DataFrame
    """Columns probability (mean of the bin), share, error, n; `error` counts each run once, however many sets it was in."""
    sets: int
    favourite_won: float
    """Share of the sets whose likeliest candidate had the best outcome."""


def best_reliability(
    runs: pl.DataFrame, predictor: str | Predictor, *, outcome: str = OUTCOME, group: str | None = None, seed: int = 0
) -> BestReliability:
    """Reliability of P(best): random sets of CANDIDATES runs of one base model, forecast by the fit on all other clusters.

    The best is the best measured outcome, noise included. Sets of one partition share no run. Where one partition holds few sets more
    are drawn, up to MOST_SETS; `error` is that of one partition. Where P(best) is no closed form there is one, in REFITTED_FOLDS folds.

    Raises:
        InputError: too few runs.
    """
    sample, [fit] = _fits(runs, [predictor], outcome, group, seed)
    sets, once = _sets(sample, several=fit.predictor.linear)
    if not sets:
        raise InputError(f"P(best) needs {CANDIDATES} runs of one base model, beside others to fit on")
    folds = np.array_split(sets, len(sets) if fit.predictor.linear else min(REFITTED_FOLDS, len(sets)))
    said = [probabilities for fold in folds for probabilities in _said(sample, fit.predictor, fold)]
    top = [sample.y[rows] == sample.y[rows].max() for rows in sets]
    was = [tied / tied.sum() for tied in top]
    table = reliability(np.concatenate(said), np.concatenate(was), bins=5)
    frame = table.with_columns(error=pl.col("error") * max(1.0, len(sets) / once) ** 0.5)
    won = [float(happened[probability.argmax()]) for probability, happened in zip(said, was, strict=True)]
    return BestReliability(frame, len(sets), float(np.mean(won)))


def _said(sample: Sample, predictor: Predictor, sets: Rows) -> list[Array]:
    """P(best) within each of these sets, (S, CANDIDATES), forecast without their clusters."""
    others = ~np.isin(sample.cluster_of, sample.cluster_of[sets.ravel()])
    fitted = Forecaster(predictor, outcome=sample.outcome, group=sample.group or "none", seed=sample.seed)
    fitted.fit(sample.frame.filter(pl.Series(others)))
    levels = fitted.true_levels(predictor.matrix(sample.frame[sets.ravel()]))
    return [p_best(draws) for draws in np.split(levels, len(sets), axis=1)]


def _sets(sample: Sample, *, several: bool) -> tuple[list[Rows], int]:
    """Sets of rows, and how many of them one partition holds."""
    labels = sample.frame["base_model"].to_list() if "base_model" in sample.frame.columns else [0] * len(sample.y)
    bases, rng = clusters_of(labels), sample.rng()
    once = sum(len(rows) // CANDIDATES for rows in bases)
    found: list[Rows] = []
    for _ in range(max(1, MOST_SETS // once) if several and once else 1):
        for rows in bases:
            drawn = rng.permutation(rows)[: len(rows) // CANDIDATES * CANDIDATES]
            found += list(drawn.reshape(-1, CANDIDATES))
    return [found[index] for index in rng.permutation(len(found))[:MOST_SETS]], once
