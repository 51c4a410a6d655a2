"""The charts of how good predictors are: compared, by k, their residuals, and whether their intervals and probabilities hold."""

from typing import Any, Literal

import altair as alt
import polars as pl

from predict.charts import BLUE, HEIGHT, INK, PALETTE, RED, SHAPES, WIDTH, coloured, title
from predict.features import OUTCOME

LOWEST_SHOWN = -0.5
"""Held-out R^2 below it is drawn as an arrow at the edge: one useless predictor must not squeeze all others."""
SQUARE = 280


def predictors_compared(rows: pl.DataFrame, ceiling: float | None, ceiling_is: str = "noise ceiling") -> Any:
    """Held-out R^2 of each predictor with its 90 % interval, zero (the training mean) and the noise ceiling as lines.

    Args:
        rows: columns predictor, r2, low, high.
        ceiling_is: what is written at the second line.
    """
    floor = max(LOWEST_SHOWN, min(0.0, float(rows.select(pl.min_horizontal("r2", "low").min()).item() or 0.0)))
    shown = rows.with_columns(
        label=pl.format("{}   {}", "predictor", pl.col("r2").map_elements(lambda value: f"{value:.2f}", pl.String)),
        x=pl.max_horizontal("r2", pl.lit(floor)), left=pl.max_horizontal("low", pl.lit(floor)), right=pl.col("high"),
        below=pl.col("r2") < floor,
    ).with_columns(pl.when("below").then(None).otherwise(pl.col("left", "right")).name.keep())  # fmt: skip
    top = max(1.0, float(rows.select(pl.max_horizontal("r2", "high").max()).item()))
    scale = alt.Scale(domain=[floor - 0.03, top], nice=False)
    base = alt.Chart(shown).encode(
        y=alt.Y("label:N", title=None, sort=None, axis=alt.Axis(labelLimit=340)),
        x=alt.X("x:Q", title="held-out R²", scale=scale, axis=alt.Axis(tickCount=6)),
    )
    bars = base.mark_rule(color=BLUE, strokeWidth=2).encode(x=alt.X("left:Q", title="held-out R²", scale=scale), x2="right:Q")
    points = base.transform_filter("!datum.below").mark_point(
        filled=True, size=80, opacity=1, color=BLUE, stroke=INK, strokeWidth=0.4
    )
    arrows = base.transform_filter("datum.below").mark_point(filled=True, size=80, opacity=1, color=RED, shape="triangle-left")
    lines = pl.DataFrame({"x": [0.0, ceiling], "words": ["training mean", ceiling_is]}).drop_nulls()
    marked = alt.Chart(lines).encode(x=alt.X("x:Q", title="held-out R²", scale=scale))
    rules = marked.mark_rule(color=INK, strokeDash=[4, 3])
    words = marked.mark_text(color=INK, fontSize=11, dy=-6, baseline="bottom").encode(text="words:N", y=alt.value(0))
    layers = alt.layer(rules, words, bars, points, arrows)
    return layers.properties(width=WIDTH, height=alt.Step(22), title=alt.Title("Predictors compared", offset=24))


def rank_by_k(rows: pl.DataFrame, lines: pl.DataFrame) -> Any:
    """Rank correlation of pass@k with the outcome over k, with its 90 % band.

    Args:
        rows: `diagnostics.rank_by_k`.
        lines: columns words, value: other signals to hold it against.
    """
    name = "rank correlation with the outcome"
    x = alt.X("k:Q", title="k of pass@k before RL", scale=alt.Scale(type="log", base=2), axis=alt.Axis(
        values=rows["k"].to_list(), format="d", grid=False))  # fmt: skip
    base = alt.Chart(rows).encode(x=x)
    y = alt.Y("spearman:Q", title=name, scale=alt.Scale(zero=True))
    band = base.transform_filter("isValid(datum.low)").mark_area(opacity=0.15, color=BLUE)
    best = base.transform_filter(alt.datum.spearman == rows["spearman"].max())
    others = alt.Chart(lines)
    ks, top = rows["k"].to_list(), rows.sort("spearman", descending=True, nulls_last=True)["k"][0]
    align: Literal["left", "center", "right"] = "left" if top == ks[0] else "right" if top == ks[-1] else "center"
    layers = alt.layer(
        band.encode(y=alt.Y("low:Q", title=name), y2="high:Q"),
        others.mark_rule(color=RED, strokeDash=[5, 3]).encode(y=alt.Y("value:Q", title=name)),
        others.mark_text(color=RED, align="left", baseline="bottom", dy=-3, fontSize=11).encode(
            y="value:Q", x=alt.value(4), text="words:N"
        ),
        base.mark_line(color=BLUE, point=alt.OverlayMarkDef(filled=True, size=60, color=BLUE)).encode(y=y),
        best.mark_text(color=INK, dy=-12, fontSize=12, align=align)
        .transform_calculate(words="'k = ' + datum.k")
        .encode(y=y, text="words:N"),
    )
    return layers.properties(width=WIDTH, height=HEIGHT, title="Which k of pass@k ranks the runs")


def rollouts(rows: pl.DataFrame, whole_run: int | None) -> Any:
    """Held-out R^2 over rollouts spent on a checkpoint, a line a predictor, with the SD over draws; what costs none stands at 0.

    Args:
        rows: columns name, kind, rollouts, r2, r2_sd.
        whole_run: rollouts of all of RL, a line.
    """
    order = rows["name"].unique(maintain_order=True).to_list()
    ticks = [0, *(4**i for i in range(3, 11) if 4**i <= max(rows["rollouts"]))]
    scale = alt.Scale(type="symlog", constant=64)
    x = alt.X("rollouts:Q", title="rollouts spent on a checkpoint", scale=scale, axis=alt.Axis(values=ticks, format=",d"))
    name = "held-out R²"
    shown = rows.with_columns(low=pl.col("r2") - pl.col("r2_sd"), high=pl.col("r2") + pl.col("r2_sd"))
    floor = max(LOWEST_SHOWN, min(0.0, *shown["r2"], *shown["low"].drop_nulls()))
    level = alt.Scale(domain=[floor, 1], clamp=True)
    y = alt.Y("r2:Q", title=name, scale=level, axis=alt.Axis(tickCount=6))
    legend = alt.Legend(symbolOpacity=1)
    colour = alt.Color("name:N", sort=order, scale=alt.Scale(domain=order, range=[*PALETTE, INK]), legend=legend)
    base = alt.Chart(shown).encode(x=x, color=colour)
    dash = alt.StrokeDash(
        "kind:N", scale=alt.Scale(domain=["signal", "free", "early_rl"], range=[[1, 0], [1, 0], [5, 3]]), legend=None
    )
    shape = alt.Shape("name:N", sort=order, scale=alt.Scale(domain=order, range=SHAPES))
    spread = base.transform_filter("isValid(datum.low)").mark_rule(opacity=0.4, strokeWidth=3)
    layers = [
        spread.encode(y=alt.Y("low:Q", title=name, scale=level), y2="high:Q"),
        base.mark_line().encode(y=y, strokeDash=dash),
        base.mark_point(filled=True, size=55, opacity=1).encode(y=y, shape=shape),
    ]
    if whole_run is not None:
        line = alt.Chart(pl.DataFrame({"rollouts": [whole_run], "words": ["all of RL"]})).encode(x=x)
        layers += [
            line.mark_rule(color=INK, strokeDash=[4, 3]),
            line.mark_text(color=INK, fontSize=11, dy=-4, baseline="bottom").encode(text="words:N", y=alt.value(0)),
        ]
    return alt.layer(*layers).properties(
        width=WIDTH + 60, height=HEIGHT + 40, title=alt.Title("What a forecast costs", offset=24)
    )


def residuals(rows: pl.DataFrame, group: str | None) -> Any:
    """Held-out residual over prediction; zero is a line.

    Args:
        rows: columns predicted, residual, and the group's.
    """
    level = alt.Scale(zero=False, nice=True)
    points = alt.Chart(rows).mark_point(filled=True, size=60, opacity=0.9, stroke=INK, strokeWidth=0.4)
    points = points.encode(
        x=alt.X("predicted:Q", title=f"predicted {title(OUTCOME)}", scale=level, axis=alt.Axis(tickCount=6)),
        y=alt.Y("residual:Q", title="measured less predicted", axis=alt.Axis(tickCount=6)),
        **(coloured(group) if group else {}),
    )
    zero = alt.Chart(pl.DataFrame({"zero": [0.0]})).mark_rule(color=INK, strokeDash=[4, 3]).encode(y="zero:Q")
    return alt.layer(zero, points).properties(width=WIDTH, height=HEIGHT, title="Held-out residuals")


def coverage(rows: pl.DataFrame, forecasts: pl.DataFrame | None) -> Any:
    """Realised over nominal coverage of intervals; the band is what right intervals would do nine times in ten.

    Args:
        rows: `diagnostics.coverage`.
        forecasts: the same of recorded forecasts, where any has a result.
    """
    unit = alt.Scale(domain=[0, 1])
    percent = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
    x = alt.X("nominal:Q", title="nominal coverage", scale=unit, axis=percent)
    name = "share of results inside"
    y = alt.Y("realised:Q", title=name, scale=unit, axis=percent)
    base = alt.Chart(rows).encode(x=x)
    layers = [
        base.mark_area(color=INK, opacity=0.1).encode(y=alt.Y("expected_low:Q", title=name, scale=unit), y2="expected_high:Q"),
        _diagonal(),
        base.mark_line(color=BLUE, point=alt.OverlayMarkDef(filled=True, size=60, color=BLUE)).encode(y=y),
    ]
    if forecasts is not None:
        recorded = alt.Chart(forecasts).encode(x=x, y=y)
        words = "'forecasts, n = ' + datum.n"
        layers += [
            recorded.mark_point(shape="diamond", filled=True, size=120, opacity=1, color=RED, stroke=INK, strokeWidth=0.4),
            recorded.transform_filter(alt.datum.nominal < 0.7).transform_calculate(words=words).mark_text(
                color=RED, align="left", dx=9, dy=9, fontSize=11).encode(text="words:N"),
        ]  # fmt: skip
    return alt.layer(*layers).properties(width=SQUARE, height=SQUARE, title="Calibration of the intervals")


def best_reliability(rows: pl.DataFrame) -> Any:
    """How often a candidate was the best over the probability it was given, with two standard errors on each side of that probability.

    Args:
        rows: `diagnostics.best_reliability`, its frame.
    """
    unit = alt.Scale(domain=[0, 1], clamp=True)
    shown = rows.with_columns(
        low=(pl.col("probability") - 2 * pl.col("error")).clip(0, 1),
        high=(pl.col("probability") + 2 * pl.col("error")).clip(0, 1),
    )
    percent = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
    x = alt.X("probability:Q", title="P(best) that was forecast", scale=unit, axis=percent)
    name = "share that was the best"
    base = alt.Chart(shown).encode(x=x)
    return alt.layer(
        _diagonal(),
        base.mark_rule(color=INK, opacity=0.35, strokeWidth=7).encode(
            y=alt.Y("low:Q", title=name, scale=unit, axis=percent), y2="high:Q"
        ),
        base.mark_point(filled=True, size=80, opacity=1, color=BLUE, stroke=INK, strokeWidth=0.4).encode(
            y=alt.Y("share:Q", title=name, scale=unit)
        ),
        base.mark_text(align="left", dx=8, dy=-8, fontSize=11, color=INK)
        .transform_calculate(words="'n = ' + datum.n")
        .encode(y=alt.Y("share:Q", title=name, scale=unit), text="words:N"),
    ).properties(width=SQUARE, height=SQUARE, title="Calibration of P(best)")


def _diagonal() -> Any:
    ends = alt.Chart(pl.DataFrame({"at": [0.0, 1.0]}))
    return ends.mark_line(color=INK, strokeDash=[4, 3], strokeWidth=1).encode(x="at:Q", y="at:Q")
