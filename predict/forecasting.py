"""Forecast the outcome of checkpoints: point, 50 and 90 % interval, P(best), expected regret, support, abstention."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError
from curate.files import content_hash
from predict.ceilings import outcome_noise
from predict.features import OUTCOME, as_fractions, column, group_of, noise_as_fractions, same_heldout, with_ids
from predict.intervals import clusters_of
from predict.leakage import shared_note, shared_units
from predict.prediction import posterior_draws, prediction_intervals
from predict.predictors import Predictor, parse
from predict.support import support

Array = NDArray[np.float64]
LEVELS = (0.9, 0.5)
DRAWS = 4000
REFITS = 200
TELLS_APART = 0.9
"""Probability of one candidate being better than another from which they count as told apart."""


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
    """Fit a predictor on runs with an outcome, forecast checkpoints without one.

    >>> runs = pl.DataFrame({"pass_at_64": [0.2, 0.3, 0.4, 0.5, 0.6], "after": [0.31, 0.39, 0.5, 0.61, 0.69]})
    >>> fitted = Forecaster("pass_at_64", outcome="after").fit(runs)
    >>> fitted.predict(pl.DataFrame({"pass_at_64": [0.45]})).round(3).tolist()
    [0.549]
    """

    def __init__(self, predictor: str | Predictor, *, outcome: str = OUTCOME, group: str | None = None, seed: int = 0) -> None:
        """`group` is the column whose equal values are near twins, as in `score`."""
        self.predictor = parse(predictor) if isinstance(predictor, str) else predictor
        self.outcome, self.group, self.seed = outcome, group, seed

    def fit(self, runs: pl.DataFrame) -> "Forecaster":
        """Fit on the rows that have an outcome and all features.

        Raises:
            InputError: too few such rows, or unusable columns. UsageError: too few for an interval of this predictor.
        """
        group = group_of(runs, self.group)
        table = with_ids(runs)
        runs, self.notes = as_fractions(table, [*self.predictor.numeric, self.outcome])
        runs = noise_as_fractions(runs, table, self.outcome)
        y, X = column(runs, self.outcome), self.predictor.matrix(runs)
        self.percent = [name for name in self.predictor.numeric if not runs[name].equals(table[name])]
        known = ~np.isnan(y) & ~np.isnan(X).any(1)
        self.runs, self.X, self.y = runs.filter(pl.Series(known)), X[known], y[known]
        fewest = self.X.shape[1] + 4
        if len(self.y) < fewest:
            raise InputError(
                f"{self.predictor.name}: expected at least {fewest} runs with {self.outcome} and its columns, came {len(self.y)}"
            )
        if dropped := int((~np.isnan(y) & ~known).sum()):
            self.notes.append(
                f"{dropped} runs with an outcome lack {' or '.join(self.predictor.features)} and were not fitted on"
            )
        same_heldout(self.runs, self.predictor.features)
        self.notes += shared_note(shared_units(self.runs), group, len(self.y)) if group is None else []
        labels = self.runs[group].cast(pl.String).to_list() if group else list(range(len(self.y)))
        self.clusters = clusters_of(labels)
        self.model = self.predictor.fit(self.X, self.y)
        self.intervals(self.X[:1], LEVELS[0])  # too few runs for an interval are refused here, not at the first candidate
        return self

    @property
    def target(self) -> str:
        """Which outcome the interval is of: that of one run, or the mean over RL seeds where the runs fitted on are such means."""
        averaged = "n_rl_seeds" in self.runs.columns and bool((self.runs["n_rl_seeds"] > 1).any())
        return "mean over seeds" if averaged else "measured outcome"

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
        return self._intervals(X, [level])[0]

    def _intervals(self, X: Array, levels: list[float]) -> list[tuple[Array, Array]]:
        return prediction_intervals(self.predictor, self.X, self.y, self.clusters, X, levels, self.seed)

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
        (low, high), (low_50, high_50) = self._intervals(X, list(LEVELS))
        best, regret = p_best(draws), (draws.max(1)[:, None] - draws).mean(0)
        near = support(self.predictor, self.X, X, [str(name) for name in self.runs["id"]])
        rows: list[dict[str, Any]] = [
            {
                "id": str(candidates["id"][i]),
                **_rounded(point=points[i], low=low[i], high=high[i], low_50=low_50[i], high_50=high_50[i]),
                **_rounded(p_best=best[i], expected_regret=regret[i]),
                "support": near[i][0],
                "nearest": near[i][1],
            }
            for i in range(len(candidates))
        ]
        rows.sort(key=lambda row: float(row["point"]), reverse=True)
        source = content_hash([self.runs["id"].to_list(), np.column_stack([self.X, self.y]).round(12).tolist()])
        fitted_on = {"n": len(self.y), "source": source}
        if "rl_recipe" in self.runs.columns:  # of a store: what the forecast is compared with later
            fitted_on["rl_recipe"] = self.runs["rl_recipe"].drop_nulls().first()
        abstentions = _abstentions([str(name) for name in candidates["id"]], points, draws, _seconds(self.runs))
        return Forecast(self.predictor.name, self.outcome, fitted_on, self.target, rows, abstentions, self.notes)

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
        misfit = np.sqrt(np.maximum(variance - self._noise(), 0.0))
        return means + misfit[:, None] * rng.standard_normal(means.shape)

    def _noise(self) -> float:
        """Mean noise variance of the outcomes fitted on: of one run, or of the mean over a row's RL seeds."""
        noise = outcome_noise(self.runs, self.outcome)
        return 0.0 if noise is None else float(noise.of_outcome.mean())

    def _coefficient_draws(self, X: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draws of the mean outcome (DRAWS, m) and of the residual variance (DRAWS,)."""
        if self.predictor.linear:
            return posterior_draws(self.X, self.y, X, DRAWS, rng)
        means = np.empty((DRAWS, len(X)))
        spread = np.empty(DRAWS)
        for start in range(REFITS):
            rows = np.concatenate([self.clusters[i] for i in rng.integers(0, len(self.clusters), len(self.clusters))])
            model = self.predictor.fit(self.X[rows], self.y[rows])
            left = np.setdiff1d(np.arange(len(self.y)), rows)
            means[start::REFITS] = model.predict(X)
            spread[start::REFITS] = np.mean((self.y[left] - model.predict(self.X[left])) ** 2) if len(left) else np.nan
        return means, np.where(np.isnan(spread), np.nanmean(spread), spread)


def noise_variance(runs: pl.DataFrame) -> float:
    """What one RL run adds to the variance of a measured outcome, its seed and finite sampling; 0 where neither is known."""
    noise = outcome_noise(runs)
    return 0.0 if noise is None else noise.variance


def _seconds(runs: pl.DataFrame) -> float | None:
    value = runs["rl_seconds"].mean() if "rl_seconds" in runs.columns else None
    return float(value) if value is not None else None  # type: ignore[arg-type]


def _rounded(**values: float) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in values.items()}


def p_best(draws: Array) -> Array:
    """Share of draws (D, m) in which each candidate is the best, ties split; sums to 1.

    >>> p_best(np.array([[0.5, 0.5], [0.75, 0.25]])).tolist()
    [0.75, 0.25]
    """
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
