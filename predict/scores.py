"""What scoring returns: one predictor's figures, and the report of all of them. Names are those of the JSON contract."""

from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from predict.ceilings import Ceiling
from predict.intervals import Interval


@dataclass(frozen=True)
class Score:
    """One predictor's figures; the names are those of the JSON contract. None: it cannot be had on these runs."""

    name: str
    features: list[str]
    n: int
    spearman: Interval
    pearson_squared: float | None
    r2_in_sample: float
    r2_half: dict[str, float | None]
    """Mean, sd and median over 200 random splits of the clusters in halves, and the mean's standard error, which the sd is not."""
    r2_loo: float
    spearman_loo: float | None
    r2_logo: float | None
    r2_logo_grand: float | None
    spearman_logo: float | None
    spearman_within: float | None
    mae_loo: float
    pairwise_accuracy: float | None
    top1_regret: float | None
    coverage_90: float | None
    versus_baseline: dict[str, Any] | None
    wrong_signed: bool | None
    notes: list[str] = field(default_factory=list)
    kendall: float | None = None
    spearman_fisher: Interval | None = None
    """By Fisher's z, where the rows are few."""
    spearman_crossed: Interval | None = None
    """Interval with the problems resampled too, where the scores by problem are given."""
    r2_within: float | None = None
    """Held-out, within base model x length mix."""
    r2_between: float | None = None
    interval_score_90: float | None = None
    """Mean interval score of the held-out 90 % intervals, in units of the outcome; lower is better."""
    regret: dict[str, Interval] = field(default_factory=dict)
    """`top1`, `top3`: by how many of the best-predicted runs are paid for."""
    r2_held_out: Interval = field(default_factory=lambda: Interval(None))
    """`r2_logo`, or `r2_loo` where there is no group, with its jackknife interval."""


@dataclass(frozen=True)
class Report:
    """The scores of all predictors, in the order they were named."""

    n: int
    n_runs: int
    n_groups: int
    outcome: str
    group: str | None
    folds: str
    predictors: list[Score]
    notes: list[str]
    sst: float = 0.0
    """Sum of squares of the outcome about its mean."""
    strata: list[str] = field(default_factory=list)
    """Columns whose combinations `r2_within` is within."""
    ceiling: Ceiling | None = None
    proposed_groups: list[str] = field(default_factory=list)
    """Columns by which rows are twins, finest first."""
    collapsed: list[str] = field(default_factory=list)
    """Ids of the rows whose run collapsed; they count."""

    def __getitem__(self, name: str) -> Score:
        return next(score for score in self.predictors if score.name == name)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def frame(self) -> pl.DataFrame:
        """One row a predictor."""
        return pl.DataFrame([_row(score) for score in self.predictors], infer_schema_length=None)


def _row(score: Score) -> dict[str, Any]:
    plain = ("r2_loo", "r2_logo", "mae_loo", "pairwise_accuracy", "top1_regret", "coverage_90")
    versus = score.versus_baseline
    return {
        "predictor": score.name,
        "spearman": score.spearman.value,
        "r2_in_sample": score.r2_in_sample,
        "r2_half": score.r2_half["mean"],
        **{name: getattr(score, name) for name in plain},
        "delta_r2": versus["delta_r2"]["value"] if versus else None,
        "p_value": versus["p_value"] if versus else None,
    }
