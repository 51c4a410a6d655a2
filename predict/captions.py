"""One sentence that reads each figure, made of its numbers: other data, another sentence."""

from typing import Any

import polars as pl

from predict.charts import title
from predict.diagnostics import BestReliability, Residuals
from predict.intervals import Interval
from predict.results import Gain
from predict.rollouts import Duel, break_even, duels
from predict.scores import Report, Score

LONGEST_NAME = 36


def short(predictor: str) -> str:
    """A predictor's name that fits beside an axis.

    >>> short("ridge(pass_at_1,pass_at_8,pass_at_64,mixed_share,gen_loss)")
    'ridge(5 columns)'
    """
    kind, bracket, inside = predictor.partition("(")
    return predictor if len(predictor) <= LONGEST_NAME or not bracket else f"{kind}({inside.count(',') + 1} columns)"


def _with(value: Interval | dict[str, float | None], sign: str = "") -> str:
    """A value with its 90 % interval, where it has one."""
    point, low, high = (
        (value.get(n) for n in ("value", "low", "high")) if isinstance(value, dict) else (value.value, value.low, value.high)
    )
    if point is None:
        return "not known"
    ends = "" if low is None or high is None else f" ({low:{sign}.2f} to {high:{sign}.2f})"
    return f"{point:{sign}.2f}{ends}"


def signal(column: str, score: Score, curve: pl.DataFrame) -> str:
    """Outcome against one signal."""
    first, last, middle = curve.row(0, named=True), curve.row(-1, named=True), curve.row(len(curve) // 2, named=True)
    worth = (
        "explains"
        if score.r2_held_out.value is not None and score.r2_held_out.value > 0
        else "tells no more than the mean of the runs:"
    )
    sign = ", against its expected sign" if score.wrong_signed else ""
    return (
        f"{_sentence_case(title(column))} {worth} held-out R² {_with(score.r2_held_out)} over {score.n} checkpoints, with rank correlation "
        f"{_with(score.spearman)}{sign}; from its lowest to its highest value the forecast goes from {first['point']:.2f} to "
        f"{last['point']:.2f}, give or take {(middle['high'] - middle['low']) / 2:.2f}."
    )


def _sentence_case(words: str) -> str:
    return words if "@" in words.split(maxsplit=1)[0] else words[:1].upper() + words[1:]


def compared(report: Report, best: str) -> str:
    """Predictors beside one another."""
    top, baseline = report[best], report.predictors[0]
    above = sum((score.r2_held_out.value or 0) > 0 for score in report.predictors)
    versus = ""
    if top.versus_baseline and top.versus_baseline["delta_r2"]["value"] is not None:
        p = top.versus_baseline["p_value_adjusted"]
        gap = _with(top.versus_baseline["delta_r2"], "+")
        versus = (
            f", {gap} against {short(baseline.name)} ({'p < 0.001' if p < 0.001 else f'p = {p:.3f}'}, adjusted for all looked at)"
        )
    ceiling = ""
    if report.ceiling and report.ceiling.r2 is not None:
        known = "" if report.ceiling.freedom else " (from the evaluation's sampling alone, so too high)"
        ceiling = f"; the noise ceiling is {report.ceiling.r2:.2f}{known}"
    return (
        f"{short(best)} forecasts best, held-out R² {_with(top.r2_held_out)}{versus}; {above} of {len(report.predictors)} predictors do "
        f"better than the mean of the runs{ceiling}."
    )


def ranks(rows: pl.DataFrame) -> str:
    """Which k ranks best."""
    best, first = rows.sort("spearman", descending=True, nulls_last=True).row(0, named=True), rows.row(0, named=True)
    if best["k"] == first["k"]:
        return f"No larger k ranks the runs better than pass@{first['k']}: {_with(_interval(first))}."
    lead = Interval(best["lead"], best["lead_low"], best["lead_high"])
    sure = "" if lead.low is None else ", a lead that resampled runs keep" if lead.low > 0 else ", which is within the noise"
    return (
        f"pass@{best['k']} ranks the runs best, {_with(_interval(best))}, ahead of pass@{first['k']} by {_with(lead, '+')}{sure} "
        "(k chosen after looking)."
    )


def _interval(row: dict[str, float]) -> Interval:
    return Interval(row["spearman"], row["low"], row["high"])


def gains(changes: list[Gain], lost: Interval | None) -> str:
    """pass@k before and after RL.

    Args:
        lost: `results.gain_lost` from the smallest to the largest k, where there are two.
    """
    parts = [f"pass@{g.k} by {g.mean:+.3f} on average (up in {g.risen} of {g.n} checkpoints)" for g in changes]
    if lost is None:
        return f"RL moved {parts[0]}."
    shape = "no sure change of the gain with k"
    if lost.low is not None and lost.low > 0:
        shape = "the gain shrinks with k: answers that were there became likelier, more than new ones were found"
    elif lost.high is not None and lost.high < 0:
        shape = "the gain grows with k: more problems came within reach"
    return f"RL moved {parts[0]} and {parts[1]}; {shape} (difference {_with(lost, '+')})."


def missed(found: Residuals, predictor: str, called: dict[str, str]) -> str:
    """Held-out residuals."""
    worst = found.frame.sort(pl.col("residual").abs(), descending=True).row(0, named=True)
    trend = found.spread_trend
    sure = trend.low is not None and trend.high is not None and (trend.low > 0 or trend.high < 0)
    grows = "grows" if (trend.value or 0) > 0 else "shrinks"
    spread = f"their size {grows} with the prediction" if sure else "their size shows no sure trend with the prediction"
    return (
        f"{short(predictor)} misses held-out outcomes by {found.mae:.3f} on average, with a bias of {found.mean:+.3f}; "
        f"the largest miss is {called.get(worst['id'], worst['id'])} ({worst['residual']:+.3f}), and {spread} (rank correlation {_with(trend, '+')})."
    )


def covered(rows: pl.DataFrame, forecasts: pl.DataFrame | None) -> str:
    """Calibration of intervals."""
    last = rows.row(-1, named=True)
    off = rows.filter(~pl.col("realised").is_between(pl.col("expected_low"), pl.col("expected_high")))
    levels = ", ".join(f"{level:.0%}" for level in off["nominal"])
    verdict = f"outside of what chance allows at {levels}" if len(off) else "within what chance allows at every level"
    recorded = ""
    if forecasts is not None:
        one = forecasts.row(-1, named=True)
        recorded = f"; of the recorded forecasts {one['inside']} of {one['n']} results lay inside"
    return (
        f"The {last['nominal']:.0%} intervals held {last['inside']} of {last['n']} held-out outcomes ({last['realised']:.0%}), and coverage is "
        f"{verdict}{recorded}."
    )


def best(found: BestReliability, size: int) -> str:
    """Calibration of P(best)."""
    top = found.frame.row(-1, named=True)
    off = found.frame.filter((pl.col("share") - pl.col("probability")).abs() > 2 * pl.col("error"))
    verdict = "every share lies" if not len(off) else f"{len(off)} of {len(found.frame)} shares do not lie"
    return (
        f"In {found.sets} held-out sets of {size} the likeliest candidate was the best in {found.favourite_won:.0%} (guessing: {1 / size:.0%}); "
        f"those given about {top['probability']:.0%} were the best in {top['share']:.0%} of {top['n']} cases, and {verdict} within two "
        "standard errors of the probability."
    )


def rollouts(curve: pl.DataFrame) -> str:
    """Quality against rollouts spent."""
    found, forecasts = duels(curve), curve.filter((pl.col("kind") != "early_rl") & pl.col("widest"))
    top = forecasts.sort("r2", "rollouts", descending=[True, False]).row(0, named=True)
    best = f"The best forecast is {_priced(top)}"
    if not found:
        return f"{best}; no RL curve with a known price stands beside it."
    ahead, last = break_even(found), found[-1]
    whole = f"the whole run costs {last.rl['rollouts']:,}"
    if ahead is None:
        return f"{best}; the rewards of RL itself never forecast better than what costs no more; {whole}."
    before = next((duel for duel in reversed(found) if duel.rl["rollouts"] < ahead.rl["rollouts"]), None)
    cheaper = "" if before is None else f"after {before.rl['steps']} steps {_against(before)}, "
    return f"{best}. RL's own rewards forecast better than all that costs no more from step {ahead.rl['steps']} on: {cheaper}after {ahead.rl['steps']} {_against(ahead)}; {whole}."


def _priced(row: dict[str, Any]) -> str:
    return f"{short(row['predictor'])}, held-out R² {row['r2']:.2f} for {row['rollouts']:,} rollouts a checkpoint"


def _against(duel: Duel) -> str:
    rival = duel.forecast
    return f"({duel.rl['rollouts']:,} rollouts) {duel.rl['r2']:.2f} against {rival['r2']:.2f} of {short(rival['predictor'])} for {rival['rollouts']:,}"
