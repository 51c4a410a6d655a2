"""Forecast the outcome of checkpoints: point, 50 and 90 % interval, P(best), expected regret, support, abstention.

Intervals: the t interval of least squares below 19 clusters; from 19 on, CV+ with whole clusters left out, one at a time or
in 20 folds (Barber et al. 2021, "Predictive inference with the jackknife+", arXiv 1905.02928), which assumes nothing of the errors
but exchangeable clusters.
The plain leave-one-out residual quantile covers too little and is not used.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError, UsageError
from curate.files import content_hash
from predict.features import OUTCOME, as_fractions, column, same_heldout, with_ids
from predict.intervals import clusters_of
from predict.predictors import Predictor, parse

Array = NDArray[np.float64]
LEVELS = (0.9, 0.5)
FEWEST_FOR_CV = 19
MOST_FOLDS = 20
DRAWS = 4000
TELLS_APART = 0.9
"""Probability of one candidate being better than another from which they count as told apart."""
NEAREST = 3


@dataclass(frozen=True)
class Forecast:
    """One forecast document; `to_dict` is what `forecasts/<id>.json` holds."""

    predictor: str
    outcome: str
    fitted_on: dict[str, Any]
    target: str
    candidates: list[dict[str, Any]]
    abstentions: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())

    def to_dict(self) -> dict[str, Any]:
        """The document, its id a hash of all the rest."""
        body = {name: getattr(self, name) for name in ("created_at", "predictor", "fitted_on", "outcome", "target")}
        body |= {"candidates": self.candidates, "abstentions": self.abstentions, "notes": self.notes}
        return {"forecast_id": content_hash(body, 12), **body}

    def frame(self) -> pl.DataFrame:
        """One row a candidate."""
        flat = [{k: v for k, v in candidate.items() if k not in ("support", "nearest")} for candidate in self.candidates]
        return pl.DataFrame(flat).with_columns(support=pl.Series([c["support"]["words"] for c in self.candidates]))


class Forecaster:
    """Fit a predictor on runs with an outcome, forecast checkpoints without one."""

    def __init__(self, predictor: str | Predictor, *, outcome: str = OUTCOME, group: str | None = None, seed: int = 0) -> None:
        """`group` is the column whose equal values are near twins (default: `cell` where there is one)."""
        self.predictor = parse(predictor) if isinstance(predictor, str) else predictor
        self.outcome, self.group, self.seed = outcome, group, seed

    def fit(self, runs: pl.DataFrame) -> "Forecaster":
        """Fit on the rows that have an outcome and all features.

        Raises:
            InputError: too few such rows, or unusable columns.
        """
        if self.group is not None and self.group not in runs.columns:
            column(runs, self.group)
        group = self.group or ("cell" if "cell" in runs.columns else None)
        table = with_ids(runs)
        runs, self.notes = as_fractions(table, [*self.predictor.numeric, self.outcome])
        y, X = column(runs, self.outcome), self.predictor.matrix(runs)
        self.percent = [name for name in self.predictor.numeric if not runs[name].equals(table[name])]
        known = ~np.isnan(y) & ~np.isnan(X).any(1)
        self.runs, self.X, self.y = runs.filter(pl.Series(known)), X[known], y[known]
        fewest = self.predictor.matrix(runs).shape[1] + 4
        if len(self.y) < fewest:
            raise InputError(
                f"{self.predictor.name}: expected at least {fewest} runs with {self.outcome} and its columns, came {len(self.y)}"
            )
        if dropped := int((~np.isnan(y) & ~known).sum()):
            self.notes.append(
                f"{dropped} runs with an outcome lack {' or '.join(self.predictor.features)} and were not fitted on"
            )
        same_heldout(self.runs, self.predictor.features)
        labels = self.runs[group].cast(pl.String).to_list() if group else list(range(len(self.y)))
        self.clusters = clusters_of(labels)
        self.model = self.predictor.fit(self.X, self.y)
        self.left_out = self._without_each_cluster() if len(self.clusters) >= FEWEST_FOR_CV or not self.predictor.linear else None
        return self

    def _without_each_cluster(self) -> list[Any]:
        if len(self.clusters) < 10:
            raise UsageError(
                f"{self.predictor.name}: a 90 % interval without a linear model needs at least 10 independent runs or cells, came "
                f"{len(self.clusters)}; use a least-squares predictor such as pass_at_64"
            )
        rows = np.arange(len(self.y))
        self.folds = _folds(self.clusters, np.random.default_rng(self.seed))
        return [self.predictor.fit(self.X[kept], self.y[kept]) for kept in (np.setdiff1d(rows, fold) for fold in self.folds)]

    def predict(self, candidates: pl.DataFrame) -> Array:
        """Points, shape (m,)."""
        return np.asarray(self.model.predict(self._matrix(candidates)), dtype=float)

    def _matrix(self, candidates: pl.DataFrame) -> Array:
        X = self.predictor.matrix(self._in_units_of_the_runs(candidates))
        missing = np.atleast_1d(np.isnan(X).any(axis=1))
        if missing.any():
            names = with_ids(candidates)["id"].to_list()
            bad = [str(name) for name, gone in zip(names, missing, strict=True) if gone]
            raise InputError(
                f"candidate {bad[0]} lacks a value of {', '.join(self.predictor.features)} ({len(bad)} do): measure it, or leave the row out"
            )
        both = pl.concat([self.runs, candidates], how="diagonal_relaxed")
        same_heldout(both, self.predictor.features)
        return X

    def _in_units_of_the_runs(self, candidates: pl.DataFrame) -> pl.DataFrame:
        frame, _ = as_fractions(candidates, self.predictor.numeric)
        for name in self.percent:
            values = column(candidates, name)
            if frame[name].equals(candidates[name]) and (values > 0).any():
                raise InputError(
                    f"column {name!r} mixes percent (the runs) and what looks like fractions (the candidates, "
                    f"{np.nanmax(values):g} at most): write all values alike"
                )
        return frame

    def intervals(self, X: Array, level: float) -> tuple[Array, Array]:
        """Ends of the prediction interval of one measured outcome, shape (m,) each."""
        if self.left_out is None:
            return _t_interval(self.X, self.y, X, level)
        return _cv_plus(self.left_out, self.folds, self.X, self.y, X, level)

    def forecast(self, candidates: pl.DataFrame) -> Forecast:
        """Forecast rows whose outcome is not known.

        Raises:
            InputError: no candidates, a missing feature, or losses measured on another held-out set.
        """
        if not len(candidates):
            raise InputError("no candidates: every row has an outcome already; a candidate is a row whose outcome is empty")
        candidates = with_ids(candidates)
        X = self._matrix(candidates)
        points, draws = self.predict(candidates), self.true_levels(X)
        (low, high), (low_50, high_50) = (self.intervals(X, level) for level in LEVELS)
        best, regret = _p_best(draws), (draws.max(1)[:, None] - draws).mean(0)
        support = self._support(X)
        rows: list[dict[str, Any]] = [
            {
                "id": str(candidates["id"][i]),
                **_rounded(point=points[i], low=low[i], high=high[i], low_50=low_50[i], high_50=high_50[i]),
                **_rounded(p_best=best[i], expected_regret=regret[i]),
                "support": support[i][0],
                "nearest": support[i][1],
            }
            for i in range(len(candidates))
        ]
        rows.sort(key=lambda row: float(row["point"]), reverse=True)
        source = content_hash([self.runs["id"].to_list(), np.column_stack([self.X, self.y]).round(12).tolist()])
        fitted_on = {"n": len(self.y), "source": source}
        abstentions = _abstentions([str(name) for name in candidates["id"]], points, draws, _seconds(self.runs))
        return Forecast(self.predictor.name, self.outcome, fitted_on, "measured outcome", rows, abstentions, self.notes)

    def response(self, candidate: pl.DataFrame, name: str, points: int = 41) -> pl.DataFrame:
        """The forecast along one feature, the candidate's others held: columns `name`, point, low, high (90 %)."""
        known = column(self.runs, name)
        grid = np.linspace(known.min(), known.max(), points)
        frame = self._in_units_of_the_runs(candidate)
        X = self.predictor.matrix(pl.concat([frame.with_columns(pl.lit(float(value)).alias(name)) for value in grid]))
        low, high = self.intervals(X, LEVELS[0])
        return pl.DataFrame({name: grid, "point": np.asarray(self.model.predict(X)), "low": low, "high": high})

    def true_levels(self, X: Array) -> Array:
        """Joint draws of the candidates' true levels, (DRAWS, m): common coefficients, independent misfit.

        Misfit is the residual variance less what single RL seeds and finite sampling add to a measured outcome.
        """
        rng = np.random.default_rng(self.seed)
        means, variance = self._coefficient_draws(X, rng)
        misfit = np.sqrt(np.maximum(variance - noise_variance(self.runs), 0.0))
        return means + misfit[:, None] * rng.standard_normal(means.shape)

    def _coefficient_draws(self, X: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draws of the mean outcome (DRAWS, m) and of the residual variance (DRAWS,)."""
        if self.predictor.linear:
            return _posterior_draws(self.X, self.y, X, rng)
        means = np.empty((DRAWS, len(X)))
        spread = np.empty(DRAWS)
        refits = 200
        for start in range(refits):
            rows = np.concatenate([self.clusters[i] for i in rng.integers(0, len(self.clusters), len(self.clusters))])
            model = self.predictor.fit(self.X[rows], self.y[rows])
            left = np.setdiff1d(np.arange(len(self.y)), rows)
            means[start::refits] = model.predict(X)
            spread[start::refits] = np.mean((self.y[left] - model.predict(self.X[left])) ** 2) if len(left) else np.nan
        return means, np.where(np.isnan(spread), np.nanmean(spread), spread)

    def _support(self, X: Array) -> list[tuple[dict[str, Any], list[str]]]:
        """Leverage against the largest observed, the share of runs within one Gower radius, and the nearest runs.

        Another value of a feature that never varied is outside whatever its leverage.
        """
        seen, asked = _indicators(self.X, X) if self.predictor.categorical else (self.X, X)
        largest, new = float(_leverage(seen, seen).max()), _leverage(seen, asked)
        distances = _gower(seen, asked)
        radius = float(_gower(seen, seen).mean())
        strange = ((asked != seen[0]) & (np.ptp(seen, axis=0) == 0)).any(axis=1)
        names = [str(name) for name in self.runs["id"]]
        result = []
        for i in range(len(X)):
            share, inside = float((distances[i] <= radius).mean()), bool(new[i] <= largest + 1e-12 and not strange[i])
            words = "inside the observed runs" if inside else "outside of the observed runs: an extrapolation"
            facts = {**_rounded(leverage=new[i], leverage_max=largest, gower_share=share), "inside": inside, "words": words}
            result.append((facts, [names[j] for j in np.argsort(distances[i], kind="stable")[:NEAREST]]))
        return result


def noise_variance(runs: pl.DataFrame) -> float:
    """What one RL seed and finite sampling add to the variance of a measured outcome; 0 where neither is known."""
    seeds = 0.0
    if "outcome_sd" in runs.columns:
        known = runs.filter(pl.col("outcome_sd").is_not_null())
        if len(known):
            freedom = (known["n_rl_seeds"] - 1).to_numpy()
            seeds = float((known["outcome_sd"].to_numpy() ** 2 * freedom).sum() / freedom.sum())
    if seeds or "outcome_sampling_variance" not in runs.columns:
        return seeds  # replicate runs differ by their sampling noise too: it is in there already
    return float(runs["outcome_sampling_variance"].mean() or 0.0)  # type: ignore[arg-type]


def _seconds(runs: pl.DataFrame) -> float | None:
    value = runs["rl_seconds"].mean() if "rl_seconds" in runs.columns else None
    return float(value) if value is not None else None  # type: ignore[arg-type]


def _rounded(**values: float) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in values.items()}


def _with_intercept(X: Array) -> Array:
    """(n, d) -> (n, 1 + d); a column of zeros (the mean) adds nothing."""
    return _rows_like(X, X)


def _rows_like(X: Array, new: Array) -> Array:
    """New rows in the design of the fit on X."""
    return np.column_stack([np.ones(len(new)), new]) if X.any() else np.ones((len(new), 1))


def _leverage(X: Array, new: Array) -> Array:
    """Leverage x (X'X)^-1 x' of each new row, intercept included, (m,)."""
    design, rows = _with_intercept(X), _rows_like(X, new)
    return np.einsum("ij,jk,ik->i", rows, np.linalg.pinv(design.T @ design), rows)


def _indicators(X: Array, new: Array) -> tuple[Array, Array]:
    """Label codes (n, 1) and (m, 1) as columns of 0 and 1, one a label and one for labels that are not in X."""
    labels = np.unique(X)
    both = np.vstack([X, new]) == labels
    columns = np.column_stack([both, ~both.any(axis=1)]).astype(float)
    return columns[: len(X)], columns[len(X) :]


def _gower(X: Array, new: Array) -> Array:
    """Gower distance (m, n): mean over features of the difference as a share of the observed range."""
    spread = np.ptp(X, axis=0)
    spread[spread == 0] = 1.0
    return (np.abs(new[:, None] - X[None]) / spread).mean(2)


def _least_squares(X: Array, y: Array) -> Any:
    import statsmodels.api as sm

    return sm.OLS(y, _with_intercept(X)).fit()


def _t_interval(X: Array, y: Array, new: Array, level: float) -> tuple[Array, Array]:
    """Prediction interval of least squares for one new outcome, by statsmodels."""
    frame = _least_squares(X, y).get_prediction(_rows_like(X, new)).summary_frame(alpha=1 - level)
    return frame["obs_ci_lower"].to_numpy(), frame["obs_ci_upper"].to_numpy()


def _folds(clusters: list[NDArray[np.int64]], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Whole clusters in at most MOST_FOLDS folds."""
    parts = np.array_split(rng.permutation(len(clusters)), min(MOST_FOLDS, len(clusters)))
    return [np.concatenate([clusters[index] for index in part]) for part in parts]


def _cv_plus(
    models: list[Any], folds: list[NDArray[np.int64]], X: Array, y: Array, new: Array, level: float
) -> tuple[Array, Array]:
    """CV+ over folds of whole clusters: order statistics of prediction -+ left-out residual, over all runs."""
    lows, highs = [], []
    for model, rows in zip(models, folds, strict=True):
        at_new, residuals = model.predict(new), np.abs(y[rows] - model.predict(X[rows]))
        lows.append(at_new[None] - residuals[:, None])
        highs.append(at_new[None] + residuals[:, None])
    low, high = np.sort(np.concatenate(lows), axis=0), np.sort(np.concatenate(highs), axis=0)
    count = len(low)
    rank = int(np.floor((1 - level) * (count + 1) + 1e-9))  # 1 - .9 is a little less than .1
    if rank < 1:
        raise UsageError(f"a {level:.0%} interval needs more runs than {count}")
    return low[rank - 1], high[count - rank]


def _posterior_draws(X: Array, y: Array, new: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draws of (beta, sigma) under the usual flat prior: sigma^2 = RSS / chi^2, beta normal around the fit."""
    fit = _least_squares(X, y)
    sigma2 = fit.ssr / rng.chisquare(fit.df_resid, DRAWS)
    unit = rng.multivariate_normal(np.zeros(len(fit.params)), fit.normalized_cov_params, DRAWS)
    return (fit.params + np.sqrt(sigma2)[:, None] * unit) @ _rows_like(X, new).T, sigma2


def _p_best(draws: Array) -> Array:
    """Share of draws in which each candidate is the best, ties split; sums to 1."""
    best = draws == draws.max(1)[:, None]
    return (best / best.sum(1)[:, None]).mean(0)


def _abstentions(names: list[str], points: Array, draws: Array, seconds: float | None) -> list[dict[str, Any]]:
    """The leader beside each candidate that the data cannot tell from it."""
    order = np.argsort(-points, kind="stable")
    leader = order[0]
    price = f", about {seconds:.0f} s each" if seconds else ""
    result = []
    for other in order[1:]:
        better = float((draws[:, leader] > draws[:, other]).mean() + (draws[:, leader] == draws[:, other]).mean() / 2)
        if better < TELLS_APART:
            words = f"{names[leader]} and {names[other]} cannot be told apart: the first is better with probability {better:.2f}"
            cost = f"two RL runs{price}, tell which of the two is better"
            result.append({"a": names[leader], "b": names[other], "words": words, "cost": cost})
    return result
