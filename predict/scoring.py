"""How good is each predictor on these runs? Every figure out of sample says which fold it comes from.

Held-out R^2 is against the training fold's mean, so that `mean` scores exactly 0 under every scheme; squared Pearson correlation is
given beside it, named. Clusters (cells, base models) are left out whole: the checkpoints of one cell are near twins, and a twin in the
training fold is a leak.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from curate.errors import InputError
from predict.ceilings import Ceiling, noise_ceiling, outcome_noise
from predict.comparing import max_t_p
from predict.features import AFTER_RL, OUTCOME, Direction, column, filled_columns, group_of
from predict.figures import Fit, figures
from predict.folds import held_out
from predict.predictors import DEFAULTS, Predictor, parse
from predict.problems import ProblemScores
from predict.sample import Sample
from predict.scores import Report, Score

__all__ = ["Report", "Score", "available", "best_predictor", "score"]


def score(
    runs: pl.DataFrame,
    *,
    outcome: str = OUTCOME,
    predictors: Sequence[str | Predictor] | None = None,
    group: str | None = None,
    seed: int = 0,
    directions: Mapping[str, Direction] | None = None,
    percent: Sequence[str] = (),
    problems: ProblemScores | None = None,
) -> Report:
    """Score predictors on the runs that have an outcome; the first one is the baseline.

    >>> runs = pl.DataFrame({"pass_at_1": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "after": [0.3, 0.35, 0.5, 0.5, 0.7, 0.72]})
    >>> report = score(runs, outcome="after", predictors=["mean", "pass_at_1"])
    >>> report["mean"].r2_loo, round(report["pass_at_1"].r2_loo, 2)
    (0.0, 0.93)

    Args:
        runs: one row a checkpoint; rows without the outcome are candidates and are left aside.
        predictors: names (see `predict.predictors`) or `Predictor`s. Default: those of DEFAULTS that the columns allow.
        group: column of the clusters that are left out whole, "none" for single rows. Default: `cell` of a store's checkpoints.
        directions: whether the outcome should rise or fall with a column, where its name does not say.
        percent: columns in percent although values of at most 1 occur.
        problems: scores by problem (`problem_scores(home)`), for `spearman_crossed`.

    Raises:
        InputError: missing or unusable columns, or too few runs.
    """
    group = group_of(runs, group)
    for name in set(directions or ()) - set(runs.columns):
        column(runs, name)
    chosen = [parse(p) if isinstance(p, str) else p for p in predictors] if predictors else available(runs, outcome)
    sample = Sample.of(runs, chosen, outcome, group, seed, percent, problems)
    fits = [Fit(sample, predictor) for predictor in chosen]
    adjusted = _adjusted(sample, fits)
    scores = [figures(fit, fits[0], p, directions) for fit, p in zip(fits, adjusted, strict=True)]
    ceiling, notes = _ceiling(sample)
    return Report(
        n=len(sample.y),
        n_runs=sample.n_runs,
        n_groups=len(sample.clusters),
        outcome=outcome,
        group=group,
        folds=f"leave one {group} out" if group else "leave one row out",
        predictors=scores,
        notes=[*sample.notes, *notes, *_reading(len(fits))],
        sst=float(((sample.y - sample.y.mean()) ** 2).sum()),
        strata=sample.strata_columns,
        ceiling=ceiling,
        proposed_groups=list(sample.units),
        collapsed=_collapsed(sample),
    )


def _adjusted(sample: Sample, fits: list[Fit]) -> list[float | None]:
    """P of each predictor against the first, adjusted for looking at all of them; the first has none."""
    if len(fits) < 2:
        return [None]
    differences = np.stack([fit.cluster_errors - fits[0].cluster_errors for fit in fits[1:]], axis=1)
    return [None, *max_t_p(differences, sample.rng()).tolist()]


def _collapsed(sample: Sample) -> list[str]:
    return sample.frame.filter(pl.Series(sample.collapsed[0]))["id"].to_list()


def _ceiling(sample: Sample) -> tuple[Ceiling | None, list[str]]:
    """The noise ceiling and one sentence that reads it."""
    noise = outcome_noise(sample.frame, sample.outcome)
    if noise is None:
        return None, []
    ceiling = noise_ceiling(sample.y, noise, sample.strata, sample.rng())
    source = (
        f"replicate RL runs, {noise.freedom} degrees of freedom"
        if noise.freedom
        else "the evaluation's sampling alone, so too high"
    )
    best = (
        "no signal is left above the noise"
        if ceiling.r2 is None
        else f"R^2 {ceiling.r2:.2f} is the most that any predictor can reach"
    )
    within = (
        ""
        if ceiling.r2_within is None or not sample.strata_columns
        else f", {ceiling.r2_within:.2f} within {' x '.join(sample.strata_columns)}"
    )
    return ceiling, [f"noise ceiling: {best}{within} (noise sd of one run {noise.variance**0.5:.3f}, from {source})"]


def _reading(predictors: int) -> list[str]:
    notes = ["intervals are 90 %, from resampled clusters; R^2 is against the training fold's mean"]
    if predictors > 2:
        notes.append(
            "p_value is for one comparison chosen before looking; p_value_adjusted (max-T) for the best of all those shown here"
        )
    return notes


def best_predictor(
    runs: pl.DataFrame, *, outcome: str = OUTCOME, group: str | None = None, seed: int = 0, percent: Sequence[str] = ()
) -> str:
    """The default predictor with the best held-out R^2 on these runs, clusters left out whole; ties go to the shorter name.

    Raises:
        InputError: no column of any default predictor, or too few runs.
    """
    group = group_of(runs, group)
    candidates = [p for p in available(runs, outcome) if p.terms and not set(p.features) & set(AFTER_RL)]
    if not candidates:
        raise InputError(
            f"none of the default predictors' columns is there; name a predictor of these: {', '.join(runs.columns[:20])}"
        )
    sample = Sample.of(runs, candidates, outcome, group, seed, percent)
    r2 = {p.name: held_out(p, p.matrix(sample.frame), sample.y, sample.clusters).r2(sample.y) for p in candidates}
    return max(r2, key=lambda name: (round(r2[name], 3), -len(name)))


def available(runs: pl.DataFrame, outcome: str = OUTCOME) -> list[Predictor]:
    """The default predictors that the rows with an outcome allow: none may cost all others their rows, or the whole score.

    Its columns hold values on nine tenths of the rows, and of several columns there are three more rows than columns.
    """
    known = runs.filter(pl.col(outcome).is_not_null()) if outcome in runs.columns else runs
    filled = filled_columns(runs, outcome)
    fitting = [p for p in map(parse, DEFAULTS) if len(p.features) <= max(1, len(known) - 3)]
    return [predictor for predictor in fitting if set(predictor.features) <= filled]
