"""Quality against rollouts spent: what each forecast is worth at the price of its measurement, beside the first steps of RL themselves.

Losses cost no rollouts, pass@k and its like cost problems x samples (`predict.thinning` makes the cheaper ones from the counts), and an RL
step costs problems x group size: its reward is a measurement too. All scores are of held-out predictions, clusters left out whole; the
rows that are fitted on are measured as coarsely as the row that is forecast.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from curate.errors import UsageError
from predict.ceilings import r2_within, several
from predict.estimators import LeastSquares
from predict.features import LOSSES_ON_ONE_SET, OUTCOME, Term, column, filled_columns, group_of, load
from predict.folds import held_out
from predict.predictors import RIDGE, Predictor, parse
from predict.sample import Sample
from predict.thinning import Layout, Measured, fewest_samples

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
DEFAULTS = (
    "pass_at_1", "pass_at_8", "pass_at_64", "mixed_share", "expected_signal", "gen_loss_style_free+pass_at_8",
    "mean", "label(length_mix)", "gen_loss", "gen_loss_style_free", RIDGE,
)  # fmt: skip
FREE = (
    *LOSSES_ON_ONE_SET, "gen_loss_own", "rl_loss_style_free", "rl_loss_result", "variant", "length_mix", "behaviors", "dataset",
    "base_model", "family", "n_examples", "epochs", "sft_learning_rate",
)  # fmt: skip
"""Columns that cost no rollouts: losses of given texts, and what was decided rather than measured."""
WHOLE = ("entropy_t1", "mean_tokens", "truncated_share")
"""Columns of the same samples that counts do not hold: a predictor that reads one is scored at the price of all of them."""
DRAWS = 20
LATEST = 5
"""Steps whose mean reward is the level that RL has reached."""
PARTS = (8, 6, 4, 3, 2, 1)
"""Of the whole run, early RL is scored after these parts: an eighth, a sixth, ..."""
FIGURES = ("spearman", "r2", "spearman_within", "r2_within")
SCHEMA = {
    "predictor": pl.String, "kind": pl.String, "budget": pl.Int64, "rollouts": pl.Int64, "problems": pl.Int64, "samples": pl.Int64,
    "steps": pl.Int64, "draws": pl.Int64, **{f"{name}{end}": pl.Float64 for name in FIGURES for end in ("", "_sd")},
}  # fmt: skip
REWARDS = """WITH first AS ( -- one run a checkpoint: the mean curve of several would cost several
    SELECT start_run_id || '@' || start_step AS id, v.rl_recipe, v.run_id, v.steps,
           try_cast(config->>'problems' AS BIGINT) * try_cast(config->>'group_size' AS BIGINT) AS a_step
    FROM rl_runs v JOIN runs USING (run_id) WHERE v.status IN ('done', 'collapsed')
    QUALIFY row_number() OVER (PARTITION BY start_run_id, start_step, v.rl_recipe ORDER BY v.rl_seed, v.run_id) = 1
)
SELECT id, rl_recipe, steps, a_step, list(value ORDER BY step) AS rewards
FROM first JOIN metrics USING (run_id)
WHERE name = 'reward_mean' AND step BETWEEN 1 AND steps AND isfinite(value) AND a_step IS NOT NULL
GROUP BY ALL HAVING count(*) = steps ORDER BY id"""


def rollout_curve(
    home: Path | str | None = None,
    predictors: Sequence[str | Predictor] | None = None,
    *,
    outcome: str = OUTCOME,
    group: str | None = None,
    budgets: Sequence[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    rl_recipe: str | None = None,
) -> pl.DataFrame:
    """Held-out scores of predictors at their price in rollouts a checkpoint.

    Args:
        predictors: of columns that can be thinned (pass_at_k, mixed_share, expected_signal), cost nothing (losses, the SFT recipe), or
            come with the same samples (WHOLE: scored at the full price only). Default: those of DEFAULTS whose columns nine tenths of
            the runs have.
        budgets: rollouts a checkpoint. Default: powers of two from 64, and all that were measured.
        draws: of problems and samples; one draw of problems serves all checkpoints.

    Returns:
        A row for each predictor, budget and layout, with columns predictor; kind: `signal`, `free` or `early_rl`; budget; rollouts: what
        is spent of it; problems and samples a problem, or steps of RL; draws; four scores and their SD over the draws (`_sd`); widest: of
        this predictor's layouts at this budget the one with most problems, a choice made before looking; n: checkpoints.

        spearman: of held-out predictions less their fold's mean. r2: against the training fold's mean. spearman_within, r2_within: within
        base model x length mix, the former a mean over strata of 3 rows or more. Null: no such figure.

        Early RL is of one run: `early_reward_level`, mean reward of the latest 5 steps; `early_reward_start+early_reward_slope`, a line
        through the steps so far; `early_reward_extrapolated`, the line through the first tenth at the last step. There is none where the
        runs' config lacks problems or group_size, their logs lack steps, or runs differ in length or price.

    Raises:
        InputError: no store, too few runs, or checkpoints measured on different problems.
        UsageError: a column that can neither be thinned nor is free, or a budget that the measured samples do not hold.
    """
    from train.records import workspace

    place = workspace(home)
    runs, early = _with_early_rl(load(place, rl_recipe), place, outcome)
    chosen = _chosen(runs, predictors, outcome)
    sample = Sample.of(runs, [*chosen, *(one.predictor for one in early)], outcome, group_of(runs, group), seed)
    free = [predictor for predictor in chosen if set(predictor.features) <= set(FREE)]
    priced = [predictor for predictor in chosen if predictor not in free]
    rows = _signal_rows(sample, priced, Measured.of(place, sample.frame["id"].to_list()), budgets, draws) if priced else []
    rows += [_row(sample, predictor, kind="free", budget=0, rollouts=0) for predictor in free]
    rows += [
        _row(sample, one.predictor, kind="early_rl", budget=one.rollouts, rollouts=one.rollouts, steps=one.steps) for one in early
    ]
    fewest = pl.col("samples").min().over("predictor", "budget")
    widest = (pl.col("samples") == fewest).fill_null(value=True)
    return pl.DataFrame(rows, schema=SCHEMA).with_columns(widest=widest, n=pl.lit(len(sample.y)))


def _chosen(runs: pl.DataFrame, named: Sequence[str | Predictor] | None, outcome: str) -> list[Predictor]:
    """The predictors to score, all of columns whose price is known."""
    if named is None:
        there = filled_columns(runs, outcome)
        return [predictor for predictor in map(parse, DEFAULTS) if set(predictor.features) <= there]
    chosen = [parse(one) if isinstance(one, str) else one for one in named]
    for name in (name for predictor in chosen for name in predictor.features):
        if name not in runs.columns:
            column(runs, name)
        if name not in (*FREE, *WHOLE) and fewest_samples(name) is None:
            raise UsageError(
                f"column {name!r} has no known price in rollouts: expected counts, which can be thinned (pass_at_k, mixed_share, "
                f"expected_signal), what comes with them ({', '.join(WHOLE)}), or what costs none ({', '.join(FREE)})"
            )
    return chosen


def _counted(predictor: Predictor) -> dict[str, int]:
    """Its columns of counts, with the samples a problem that each needs."""
    return {name: fewest for name in predictor.features if (fewest := fewest_samples(name)) is not None}


def _signal_rows(
    sample: Sample, predictors: list[Predictor], measured: Measured, budgets: Sequence[int] | None, draws: int
) -> list[dict[str, Any]]:
    """Predictors with columns of counts, at each budget in each of its layouts; with others of the same samples, at the full price alone."""
    if draws < 1:
        raise UsageError(f"draws {draws}: expected 1 or more")
    whole = measured.layouts(measured.budgets()[-1])[0]
    ways = [(budget, layout) for budget in budgets or measured.budgets() for layout in measured.layouts(budget)]
    columns = {name: fewest for predictor in predictors for name, fewest in _counted(predictor).items()}
    signals = measured.signals([layout for _, layout in ways], columns, draws, sample.rng())
    rows = []
    for predictor in predictors:
        own = _counted(predictor)
        if set(predictor.features) & set(WHOLE):
            rows.append(_row(sample, predictor, **_price(whole.rollouts, whole)))
            continue
        for budget, layout in ways:
            if layout.samples >= max(own.values()):
                thinned = ({name: signals[name, layout][draw] for name in own} for draw in range(draws))
                frames = [sample.frame.with_columns(pl.Series(name, values) for name, values in one.items()) for one in thinned]
                rows.append(_row(sample, predictor, frames, draws=draws, **_price(budget, layout)))
    return rows


def _price(budget: int, layout: Layout) -> dict[str, Any]:
    facts = {"rollouts": layout.rollouts, "problems": layout.problems, "samples": layout.samples}
    return {"kind": "signal", "budget": budget, **facts}


def _row(sample: Sample, predictor: Predictor, frames: Sequence[pl.DataFrame] = (), **facts: Any) -> dict[str, Any]:
    """Scores of held-out predictions from each of the frames, the sample's own where there are none: mean and SD."""
    matrices = [predictor.matrix(frame) for frame in frames or [sample.frame]]
    held = [held_out(predictor, X, sample.y, sample.clusters) for X in matrices]
    row = {"predictor": predictor.name, **facts}
    figures = _figures(sample, np.stack([one.predicted for one in held]), held[0].training_mean)
    for name, values in zip(FIGURES, figures, strict=True):
        known = values[~np.isnan(values)]
        row[name] = float(known.mean()) if len(known) else None
        row[f"{name}_sd"] = float(known.std(ddof=1)) if len(known) > 1 else None
    return row


def _figures(sample: Sample, predicted: Array, training_mean: Array) -> tuple[Array, Array, Array, Array]:
    """FIGURES of predictions (D, n): (D,) each, NaN where there is none."""
    y, ranked, groups = sample.y, predicted - training_mean, several(sample.strata)
    r2 = 1 - ((y - predicted) ** 2).sum(axis=1) / ((y - training_mean) ** 2).sum()
    return _rank_correlation(ranked, y), r2, _rank_within(ranked, y, groups), r2_within(y, predicted, groups)


def _rank_within(ranked: Array, y: Array, groups: list[Rows]) -> Array:
    """Mean over the groups of three rows or more, weighted by rows, of the rank correlations (D,) within each."""
    large = [rows for rows in groups if len(rows) > 2]
    by_group = np.array([_rank_correlation(ranked[:, rows], y[rows]) for rows in large]).reshape(len(large), len(ranked))
    weight = ~np.isnan(by_group) * np.array([len(rows) for rows in large], dtype=float)[:, None]
    summed, weights = (np.nan_to_num(by_group) * weight).sum(axis=0), weight.sum(axis=0)
    return np.divide(summed, weights, out=np.full(len(ranked), np.nan), where=weights > 0)


def _centred(values: Array) -> Array:
    return values - values.mean(axis=-1, keepdims=True)


def _rank_correlation(x: Array, y: Array) -> Array:
    """Spearman's of each row of x (D, n) with y (n,), ties sharing their mean rank; NaN where one side is constant."""
    ranks, outcome = _centred(stats.rankdata(x, axis=1)), _centred(stats.rankdata(y))
    spread = np.sqrt((ranks**2).sum(axis=1) * (outcome**2).sum())
    return np.divide(ranks @ outcome, spread, out=np.full(len(x), np.nan), where=spread > 0)


@dataclass(frozen=True)
class EarlyRl:
    """A predictor that takes the first steps of RL."""

    predictor: Predictor
    steps: int
    rollouts: int


def _with_early_rl(runs: pl.DataFrame, home: Path, outcome: str) -> tuple[pl.DataFrame, list[EarlyRl]]:
    """The runs with what their RL's rewards were after some steps, and the predictors that read it; none where they have no common price."""
    from predict import store

    curves = store.query(home, REWARDS).join(
        runs.select("id", "rl_recipe"), on=["id", "rl_recipe"], how="semi", maintain_order="left"
    )
    if len(curves.select("steps", "a_step").unique()) != 1:
        return runs, []
    steps, a_step = curves.select("steps", "a_step").row(0)
    rewards = curves["rewards"].explode().to_numpy().reshape(len(curves), steps)
    columns, early = {}, []
    for name, step, values in _early_features(rewards):
        columns.update({f"{part}_{step}": column for part, column in values.items()})
        terms = tuple(Term(f"{part}_{step}") for part in values)
        early.append(EarlyRl(Predictor(name, terms, LeastSquares(), linear=True), step, step * a_step))
    known = curves.select("id", "rl_recipe").with_columns(pl.Series(name, values) for name, values in columns.items())
    joined = runs.join(known, on=["id", "rl_recipe"], how="left", maintain_order="left")
    there = filled_columns(joined, outcome)
    return joined, [one for one in early if set(one.predictor.features) <= there]


def _early_features(rewards: Array) -> list[tuple[str, int, dict[str, Array]]]:
    """Predictor, steps taken and columns (n,), of rewards (n, S) by step: after 1, 2 and 5 steps, and after parts of all."""
    last = rewards.shape[1]
    tenth = max(2, ceil(last / 10))
    ladder = sorted({step for step in (1, 2, 5, tenth, *(ceil(last / part) for part in PARTS)) if step <= last})
    found = [("early_reward_level", step, {"rl_level": rewards[:, max(0, step - LATEST) : step].mean(axis=1)}) for step in ladder]
    lines = {step: np.polynomial.polynomial.polyfit(np.arange(step), rewards[:, :step].T, 1) for step in ladder if step > 1}
    found += [
        ("early_reward_start+early_reward_slope", step, {"rl_start": start, "rl_slope": slope})
        for step, (start, slope) in lines.items()
        if step > 2
    ]
    if tenth in lines:
        start, slope = lines[tenth]
        found.append(("early_reward_extrapolated", tenth, {"rl_extrapolated": start + slope * (last - 1)}))
    return found


def by_price(curve: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Held-out R^2 as a person reads it: forecasts by budget, a row a predictor, each in its widest layout; and early RL by steps."""
    early = pl.col("kind") == "early_rl"
    forecasts = curve.filter(~early & pl.col("widest")).sort("budget", maintain_order=True)
    order = pl.DataFrame({"predictor": curve.filter(~early)["predictor"].unique(maintain_order=True)})
    table = order.join(forecasts.pivot("budget", index="predictor", values="r2"), on="predictor", maintain_order="left")
    return table, curve.filter(early).pivot("predictor", index=["steps", "rollouts"], values="r2").sort("steps")


@dataclass(frozen=True)
class Duel:
    """Early RL against the best forecast of at most its price, by held-out R^2: rows of the curve."""

    rl: dict[str, Any]
    forecast: dict[str, Any]


def duels(curve: pl.DataFrame) -> list[Duel]:
    """At each number of RL steps, the better reading of its rewards and the best forecast that costs no more; cheapest first."""
    early = (
        curve.filter(pl.col("kind") == "early_rl")
        .sort("r2", descending=True)
        .unique("rollouts", keep="first", maintain_order=True)
    )
    forecasts = curve.filter((pl.col("kind") != "early_rl") & pl.col("widest")).sort("r2", "rollouts", descending=[True, False])
    pairs = [
        (row, forecasts.filter(pl.col("rollouts") <= row["rollouts"])) for row in early.sort("rollouts").iter_rows(named=True)
    ]
    return [Duel(row, rivals.row(0, named=True)) for row, rivals in pairs if len(rivals)]


def break_even(found: list[Duel]) -> Duel | None:
    """The first from which RL's own rewards stay ahead; None: they never are at the end."""
    ahead = None
    for duel in reversed(found):
        if duel.rl["r2"] <= duel.forecast["r2"]:
            break
        ahead = duel
    return ahead
