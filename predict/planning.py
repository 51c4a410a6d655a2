"""Which RL runs to pay for, among checkpoints without an outcome: those that may hold the best, or those that teach the predictor most."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError, UsageError
from predict import designs
from predict.features import OUTCOME, as_fractions, column, with_ids
from predict.forecasting import TELLS_APART, Forecaster, noise_variance
from predict.plans import Objective, Pick, Plan, Task, rounded
from predict.predictors import parse
from predict.scoring import best_predictor

Array = NDArray[np.float64]
SIGNALS = ("pass_at_1", "pass_at_64", "gen_loss_style_free", "gen_loss")
"""What runs are spread over where no predictor is named and none can be chosen yet."""
TELLS = 0.1
"""Gain of P(the best is among the picks) over drawing them at random from which the forecast counts as telling."""


def plan(
    runs: pl.DataFrame,
    budget: int,
    *,
    objective: Objective = "best",
    predictor: str | None = None,
    outcome: str = OUTCOME,
    group: str | None = None,
    percent: Sequence[str] = (),
    seed: int = 0,
) -> Plan:
    """Choose `budget` RL runs among the rows without an outcome.

    Args:
        objective: `best` maximises the expected outcome of the best pick; `calibrate` the fall in the predictor's variance, or the
            spread over signals, cells and bases where too few runs are there for a fit.
        predictor: default the one with the best held-out R^2 on the runs so far.

    Raises:
        UsageError: budget < 1. InputError: no candidates, too few runs for `best`, or unusable columns.
    """
    if budget < 1:
        raise UsageError(f"--budget expects at least 1 run, came {budget}")
    table = with_ids(runs)
    known = ~np.isnan(column(table, outcome)) if outcome in table.columns else np.zeros(len(table), dtype=bool)
    if known.all():
        raise InputError("no candidates: every row has an outcome already; a candidate is a row whose outcome is empty")
    chosen = parse(predictor or _default(table, known, outcome, group, seed, percent))
    table, notes = as_fractions(table, [*chosen.numeric, *([outcome] if outcome in table.columns else [])], percent)
    few = int(known.sum()) < chosen.matrix(table).shape[1] + 4
    if objective == "best" and few:
        raise InputError(
            f"{known.sum()} runs with {outcome} are too few to forecast by {chosen.name}; choose the first ones by --objective calibrate"
        )
    task = Task(table, known, chosen, outcome, group, seed, min(budget, int((~known).sum())))
    picks, worth, more = _best(task) if objective == "best" else _spread(task) if few else _calibrate(task)
    if budget >= (~known).sum():
        more.append(f"the budget covers all {(~known).sum()} candidates")
    return Plan(objective, budget, chosen.name, outcome, int(known.sum()), int((~known).sum()), picks, worth, [*notes, *more])


def _default(
    table: pl.DataFrame, known: NDArray[np.bool_], outcome: str, group: str | None, seed: int, percent: Sequence[str]
) -> str:
    if known.any():
        try:
            return best_predictor(table, outcome=outcome, group=group, seed=seed, percent=percent)
        except InputError:  # too few runs for a score: the signals are known all the same
            pass
    there = [name for name in SIGNALS if name in table.columns and table[name].null_count() == 0]
    if not there:
        raise UsageError(f"name a --predictor: none of {', '.join(SIGNALS)} is filled in every row")
    return "+".join(there)


Parts = tuple[list[Pick], dict[str, float], list[str]]
"""Picks, what they are worth, notes."""


def _best(task: Task) -> Parts:
    """Greedy on E[max of the picks], over joint draws of the candidates' true levels."""
    forecaster, candidates = task.fitted(), task.candidates
    forecast = {row["id"]: row for row in forecaster.forecast(candidates).candidates}
    draws = forecaster.true_levels(task.predictor.matrix(candidates))
    order, gains = designs.greedy_maximum(draws, task.budget)
    ids = [str(name) for name in candidates["id"]]
    picks: list[Pick] = []
    for row, gain in zip(order, gains, strict=True):
        facts = forecast[ids[row]]
        reason = _reason(facts, gain if picks else None)
        picks.append(task.pick(row, reason, **{name: facts[name] for name in ("point", "low", "high", "p_best")}))
    worth = _regrets(draws, order, float(np.sqrt(noise_variance(forecaster.runs))), np.random.default_rng(task.seed))
    worth["p_best_among"] = sum(pick.facts["p_best"] for pick in picks)
    notes = [*_no_better_than_the_mean(forecaster), *_cannot_tell(draws, order, worth["p_best_among"], ids)]
    return picks, rounded(worth), [*forecaster.notes, *notes]


def _reason(facts: dict[str, Any], gain: float | None) -> str:
    words = [f"best with probability {facts['p_best']:.2f}, forecast {facts['point']:.3f}"]
    if gain is not None:
        words.append(f"raises the expected best of the picks by {gain:.4f}")
    if not facts["support"]["inside"]:
        words.append("outside of the observed runs")
    return "; ".join(words)


def _regrets(draws: Array, order: list[int], noise: float, rng: np.random.Generator) -> dict[str, float]:
    """Expected loss to the best of all candidates: of the best pick, of what measures best, and of running none."""
    measured = draws + noise * rng.standard_normal(draws.shape)
    everyone = list(range(draws.shape[1]))
    return {
        "expected_regret": float((draws.max(1) - draws[:, order].max(1)).mean()),
        "expected_regret_measured": designs.regret_of_measured(draws, measured, order),
        "expected_regret_measured_all": designs.regret_of_measured(draws, measured, everyone),
        "expected_regret_without_runs": float((draws.max(1) - draws[:, draws.mean(0).argmax()]).mean()),
        "outcome_noise": noise,
    }


def _no_better_than_the_mean(forecaster: Forecaster) -> list[str]:
    """A note where the runs left out, a cluster at a time, are forecast no better than by the mean of the others."""
    predictor, X, y = forecaster.predictor, forecaster.X, forecaster.y
    if len(forecaster.clusters) < 2 or not predictor.terms:
        return []
    of_fit = of_mean = 0.0
    for rows in forecaster.clusters:
        kept = np.setdiff1d(np.arange(len(y)), rows)
        of_fit += float(((y[rows] - predictor.fit(X[kept], y[kept]).predict(X[rows])) ** 2).sum())
        of_mean += float(((y[rows] - y[kept].mean()) ** 2).sum())
    if of_fit < of_mean:
        return []
    return [
        f"the data cannot tell: {predictor.name} forecasts left-out runs no better than their mean (R^2 {1 - of_fit / of_mean:.2f})"
    ]


def _cannot_tell(draws: Array, order: list[int], among: float, ids: list[str]) -> list[str]:
    """Where the forecast does no better than drawing lots, and where the cut between picked and not picked is arbitrary."""
    count, left = draws.shape[1], sorted(set(range(draws.shape[1])) - set(order), key=lambda row: -draws[:, row].mean())
    if not left:
        return []
    notes = []
    if among < len(order) / count + TELLS:
        notes.append(
            f"the data cannot tell: the picks hold the best candidate with probability {among:.2f}, as many drawn by lot with "
            f"{len(order) / count:.2f}; runs chosen by --objective calibrate teach more"
        )
    better = float((draws[:, order[-1]] > draws[:, left[0]]).mean())
    if better < TELLS_APART:
        notes.append(f"{ids[order[-1]]} (picked) and {ids[left[0]]} (not) cannot be told apart: probability {better:.2f}")
    return notes


def _calibrate(task: Task) -> Parts:
    """I-optimal: the runs that lower most the mean variance of the fitted outcome over all checkpoints."""
    forecaster = task.fitted()
    forecaster.forecast(task.candidates)  # refuses a candidate that lacks a feature
    fitted = np.isin(task.table["id"].to_numpy(), forecaster.runs["id"].to_numpy())
    rows = np.flatnonzero(fitted | ~task.known)
    X = designs.standardised(task.predictor.matrix(task.table)[rows], categorical=task.predictor.categorical)
    correlation = designs.correlation([[each[row] for row in rows] for each in task.labels() if each], len(rows))
    candidates = np.flatnonzero(~task.known[rows])
    order, variances = designs.i_optimal(X, correlation, np.flatnonzero(fitted[rows]), candidates, task.budget)
    picks: list[Pick] = []
    for place, chosen in enumerate(order):
        fall = 1 - variances[place + 1] / variances[place]
        special = task.special(rows[chosen], [*np.flatnonzero(fitted), *rows[order[:place]]])
        reason = f"lowers the mean variance of the fit by {fall:.0%}; {special}"
        picks.append(task.pick(int(np.searchsorted(candidates, chosen)), reason, variance_fall=fall))
    sigma = _residual_sd(forecaster, X.shape[1])
    everything = designs.mean_variance(X, correlation, range(len(rows)))
    errors = sigma * np.sqrt([variances[0], variances[-1], everything])
    worth = dict(zip(("fit_se", "fit_se_after", "fit_se_all", "residual_sd"), (*errors, sigma), strict=True))
    notes = ["the plan holds for the columns of the predictor; a curve that they do not have is not looked for"]
    return picks, rounded(worth), [*forecaster.notes, *_no_better_than_the_mean(forecaster), *notes]


def _residual_sd(forecaster: Forecaster, parameters: int) -> float:
    residual = forecaster.y - np.asarray(forecaster.model.predict(forecaster.X))
    return float(np.sqrt((residual**2).sum() / max(len(residual) - parameters, 1)))


def _spread(task: Task) -> Parts:
    """Too few runs for a fit: fill the space of the signals, the cells and the bases, farthest first."""
    X, candidates = task.predictor.matrix(task.table), np.flatnonzero(~task.known)
    if (bad := np.isnan(X[candidates]).any(1)).any():
        name = task.candidates["id"][int(bad.argmax())]
        raise InputError(
            f"candidate {name} lacks a value of {', '.join(task.predictor.features)}: measure it, or leave the row out"
        )
    seen = np.flatnonzero(task.known & ~np.isnan(X).any(1))
    rows = np.concatenate([candidates, seen])
    labels = [[each[row] for row in rows] for each in task.labels() if each]
    distances = designs.gower(X[rows], labels, categorical=task.predictor.categorical)
    count = len(candidates)
    order, radii = designs.farthest_first(distances[:count, :count], distances[:count, count:], task.budget)
    picks, earlier = [], list(seen)
    for place, row in enumerate(order):
        start = (
            "nearest to the middle of the candidates; "
            if place == 0 and not len(seen)
            else f"farthest from the runs so far ({radii[place]:.2f}); "
        )
        picks.append(task.pick(row, start + task.special(candidates[row], earlier), distance=radii[place]))
        earlier.append(candidates[row])
    words = f"{len(seen)} runs with an outcome: too few for a fit by {task.predictor.name}, so runs are spread over its columns and over cells and bases"
    return picks, rounded({"largest_distance_left": radii[-1]}), [words, "no regret can be said before runs are observed"]
