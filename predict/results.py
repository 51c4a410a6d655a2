"""What RL did: pass@k before and after it, and forecasts beside their results."""

from pathlib import Path
from typing import NamedTuple

import polars as pl
from scipy import stats

from curate.errors import InputError
from predict import store
from predict.features import names
from predict.intervals import FEWEST_CLUSTERS, LEVEL, Interval

BEFORE, AFTER = "before RL", "after RL"
STARTS = (
    "SELECT run_id || '@' || step AS id, k, value AS before FROM checkpoint_pass WHERE purpose = 'outcome' AND value IS NOT NULL"
)
ENDS = """SELECT start_run_id || '@' || start_step AS id, r.rl_recipe, k, avg(value) AS after
FROM rl_runs r JOIN checkpoint_pass p ON p.run_id = r.run_id AND p.step = r.steps
WHERE purpose = 'outcome' AND value IS NOT NULL AND status IN ('done', 'collapsed') GROUP BY ALL"""


def pass_pairs(home: Path, runs: pl.DataFrame) -> pl.DataFrame:
    """pass@k of each checkpoint on the outcome problems before RL and after its last step, mean over RL seeds.

    Args:
        runs: one row a checkpoint, of one RL recipe (`predict.load`).

    Returns:
        The rows of `runs` that have both, one for each k, with columns k, before, after.

    Raises:
        InputError: no checkpoint has both.
    """
    starts, ends = store.query(home, STARTS), store.query(home, ENDS)
    both = runs.join(starts, on="id").join(ends, on=["id", "rl_recipe", "k"])
    if not len(both):
        raise InputError("no checkpoint was measured on the outcome problems both before and after RL: evaluate both there")
    return both.sort("id", "k")


def pass_curves(pairs: pl.DataFrame, group: str | None) -> pl.DataFrame:
    """Means over the checkpoints of each group, at the k that all its checkpoints have: columns group, when, k, value, checkpoints."""
    label = pl.lit("all checkpoints") if group is None else pl.col(group).cast(pl.String).fill_null("none")
    long = pairs.select(label.alias("group"), "id", "k", pl.col("before").alias(BEFORE), pl.col("after").alias(AFTER))
    means = long.group_by("group", "k").agg(pl.col(BEFORE, AFTER).mean(), pl.len().alias("checkpoints"))
    means = means.filter(pl.col("checkpoints") == pl.col("checkpoints").max().over("group"))
    return means.unpivot([BEFORE, AFTER], index=["group", "k", "checkpoints"], variable_name="when").sort("group", "when", "k")


class Gain(NamedTuple):
    """What RL did to pass@k, over checkpoints."""

    k: int
    mean: float
    risen: int
    n: int


def pass_gains(pairs: pl.DataFrame) -> list[Gain]:
    """The mean change of pass@k and how many checkpoints rose, at the smallest and the largest k that all checkpoints have."""
    gain = pl.col("after") - pl.col("before")
    by_k = pairs.group_by("k").agg(gain.mean().alias("mean"), (gain > 0).sum().alias("risen"), n=pl.len())
    complete = by_k.filter(pl.col("n") == pl.col("n").max()).sort("k")
    return [Gain(*complete.select("k", "mean", "risen", "n").row(index)) for index in sorted({0, len(complete) - 1})]


def gain_lost(pairs: pl.DataFrame, small: int, large: int) -> Interval:
    """By how much the gain in pass@small exceeds that in pass@large: mean over cells of the mean of their checkpoints, t interval.

    Above 0: RL made answers that were there likelier, more than it found new ones.
    """
    unit = "cell" if "cell" in pairs.columns and not pairs["cell"].null_count() else "id"
    sign = pl.when(pl.col("k") == small).then(1).otherwise(-1)
    kept = pairs.filter(pl.col("k").is_in([small, large]))
    lost = kept.group_by(unit, "k").agg((sign * (pl.col("after") - pl.col("before"))).mean().alias("gain"))
    values = lost.group_by(unit).agg(pl.col("gain").sum()).sort(unit)["gain"].to_numpy()
    mean, count = float(values.mean()), len(values)
    if count < FEWEST_CLUSTERS:
        return Interval(mean)
    margin = float(stats.t.ppf((1 + LEVEL) / 2, count - 1) * values.std(ddof=1) / count**0.5)
    return Interval(mean, mean - margin, mean + margin)


def forecast_rows(home: Path, rl_recipe: str | None = None) -> pl.DataFrame:
    """The `forecasts` view, oldest first; with `rl_recipe` only those compared with its outcomes."""
    rows = store.query(home, "SELECT * FROM forecasts ORDER BY created_at, point DESC")
    return rows if rl_recipe is None else rows.filter(pl.col("rl_recipe").is_null() | (pl.col("rl_recipe") == rl_recipe))


def forecast_table(forecasts: pl.DataFrame) -> pl.DataFrame:
    """The columns a person reads: what was forecast, and what happened."""
    called = names(forecasts)
    return forecasts.select(
        pl.col("id").replace_strict(called, return_dtype=pl.String).alias("checkpoint"),
        pl.col("pass_at_1").alias("pass@1 after SFT"),
        pl.col("point").alias("forecast"),
        pl.Series(
            "90 % interval", [f"{low:.3f} .. {high:.3f}" for low, high in forecasts.select("low", "high").iter_rows()], pl.String
        ),
        pl.col("p_best").alias("P(best)"),
        pl.col("start_pass_at_1").alias("before RL"),
        pl.col("measured").alias("after RL"),
        (pl.col("measured") - pl.col("point")).alias("error"),
        pl.col("inside"),
    )


def reading(forecasts: pl.DataFrame) -> str:
    """The forecasts in one sentence."""
    if not len(forecasts):
        return "No forecast has been written yet: `predict rank` writes one for the checkpoints without an outcome."
    known = forecasts.filter(pl.col("measured").is_not_null())
    if not len(known):
        return f"{len(forecasts)} forecasts; RL has not been run on any of them yet."
    error = float((known["measured"] - known["point"]).abs().mean())  # type: ignore[arg-type]
    gains = (known["measured"] - known["start_pass_at_1"]).drop_nulls().to_list()
    inside = int(known["inside"].sum())
    before = int(known["before_rl"].sum())
    moved = f"; RL moved pass@1 by {sum(gains) / len(gains):+.3f} on average" if gains else ""
    waiting = f" ({len(forecasts) - len(known)} more wait for RL)" if len(known) < len(forecasts) else ""
    return (
        f"Mean absolute error {error:.3f} over {len(known)} forecasts{waiting}; {inside} of {len(known)} results lie inside their "
        f"90 % interval{moved}; {before} of {len(known)} forecasts were written before their RL run began."
    )
