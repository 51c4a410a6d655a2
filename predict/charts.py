"""The charts of runs and forecasts, as Altair specifications: the report and the explorer share them. One look for all of them."""

from typing import Any

import altair as alt
import polars as pl

from predict.features import OUTCOME, names

WIDTH, HEIGHT = 360, 260
INK, FAINT = "#1b1b1b", "#d9d9d9"
"""Text and axes; grid lines. The page turns both round in dark mode."""
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
"""Okabe and Ito's colours, told apart with every kind of colour vision, but yellow, which white paper swallows. Shape says the same."""
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left"]
"""One more than colours: from the seventh value on a colour comes again with another shape."""
BLUE, RED = PALETTE[:2]
TITLES = {
    "pass_at_1": "pass@1 after SFT",
    "pass_at_8": "pass@8 after SFT",
    "pass_at_64": "pass@64 after SFT",
    "mixed_share": "share of mixed groups (G = 16)",
    "gen_loss": "generalization loss (nats a token)",
    "gen_loss_style_free": "style-free loss (nats a problem)",
    "entropy_t1": "token entropy at T = 1 (nats)",
    "length_mix": "length mix",
    "base_model": "base model",
    OUTCOME: "pass@1 after RL",
}
WORDS = ("length_mix", "base_model")
SIGNALS = tuple(name for name in TITLES if name not in (*WORDS, OUTCOME))


def title(column: str) -> str:
    """What an axis calls a column."""
    return TITLES.get(column, column.replace("_", " "))


def grouping(runs: pl.DataFrame) -> str | None:
    """The column that colours the points: the first that has two values or more and few enough to tell apart, or none."""
    known = (name for name in ("variant", "length_mix", "base_model") if name in runs.columns)
    return next((name for name in known if 2 <= runs[name].n_unique() <= len(PALETTE)), None)


def printed(chart: Any) -> Any:
    """The chart with the look of the report: plain axes, text large enough for a column of a paper."""
    text = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    return (
        chart.configure(background="white", padding=8)
        .configure_view(stroke=None)
        .configure_axis(**text, gridColor=FAINT, domainColor=INK, tickColor=INK, titlePadding=8, labelFlush=False)
        .configure_legend(**text, orient="bottom", columns=3, labelLimit=220, title=None)
        .configure_header(**text)
        .configure_title(color=INK, fontSize=13, anchor="start", fontWeight="bold", offset=10)
    )


def coloured(group: str) -> dict[str, Any]:
    """Colour and shape by a column, saying the same."""
    name = title(group)
    return {
        "color": alt.Color(f"{group}:N", title=name, scale=alt.Scale(range=PALETTE)),
        "shape": alt.Shape(f"{group}:N", title=name, scale=alt.Scale(range=SHAPES)),
    }


def outcome_against(
    runs: pl.DataFrame, column: str, *, outcome: str = OUTCOME, colour: str | None = "variant", curve: pl.DataFrame | None = None
) -> Any:
    """Outcome over one signal, a point a checkpoint.

    Args:
        curve: `Forecaster.response` along the signal, drawn as a line with its 90 % band.
    """
    known = runs.filter(pl.col(outcome).is_not_null() & pl.col(column).is_not_null())
    shown = list(dict.fromkeys(name for name in ("id", colour, column, outcome) if name in known.columns))
    if colour in shown:
        known = known.with_columns(pl.col(colour).cast(pl.String).fill_null("none"))  # the base model has no SFT set
    x, y = _axes(column, outcome)
    points = alt.Chart(known.select(shown)).mark_point(filled=True, size=60, opacity=0.9, stroke=INK, strokeWidth=0.4)
    points = points.encode(x=x, y=y, tooltip=shown, **(coloured(colour) if colour in known.columns and colour else {}))
    layers = points if curve is None else alt.layer(*_band(curve, column, outcome), points)
    return layers.properties(width=WIDTH, height=HEIGHT, title=f"{title(outcome)} against {title(column)}")


def _axes(column: str, outcome: str) -> tuple[alt.X, alt.Y]:
    level = alt.Scale(zero=False, nice=True)
    return alt.X(f"{column}:Q", title=title(column), scale=level, axis=alt.Axis(tickCount=6)), alt.Y(
        f"{outcome}:Q", title=title(outcome), scale=level, axis=alt.Axis(tickCount=6)
    )


def _band(curve: pl.DataFrame, column: str, outcome: str = OUTCOME) -> tuple[Any, Any]:
    """The forecast along a signal: its 90 % band, and a line."""
    x, _ = _axes(column, outcome)
    along = alt.Chart(curve)
    level, name = alt.Scale(zero=False), title(outcome)
    band = along.mark_area(opacity=0.15, color=BLUE).encode(x=x, y=alt.Y("low:Q", title=name, scale=level), y2="high:Q")
    return band, along.mark_line(color=BLUE).encode(x=x, y=alt.Y("point:Q", title=name, scale=level))


def pass_curves(curves: pl.DataFrame) -> Any:
    """pass@k before and after RL on the outcome problems, a panel a group.

    Args:
        curves: `results.pass_curves`: columns group, when (`before RL`, `after RL`), k, value.
    """
    when = alt.Scale(domain=["after RL", "before RL"], range=[BLUE, RED])
    ks = sorted(set(curves["k"]))
    base = alt.Chart().encode(
        x=alt.X("k:Q", title="k", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=ks, format="d", grid=False)),
        y=alt.Y("value:Q", title="pass@k", axis=alt.Axis(tickCount=5)),
        color=alt.Color("when:N", scale=when, legend=None),
        tooltip=["group:N", "when:N", "k:Q", alt.Tooltip("value:Q", format=".3f")],
    )
    dash = alt.StrokeDash("when:N", scale=alt.Scale(domain=["after RL", "before RL"], range=[[1, 0], [5, 3]]), legend=None)
    points = base.mark_point(filled=True, size=40, opacity=1).encode(shape=alt.Shape("when:N", legend=None))
    last = base.transform_filter(alt.datum.k == ks[-1])
    words = [
        last.transform_filter(alt.datum.when == name)
        .mark_text(align="left", dx=6, dy=dy, fontSize=11)
        .encode(text=alt.value(word))
        for name, word, dy in (("after RL", "after", -5), ("before RL", "before", 6))
    ]
    layers = alt.layer(base.mark_line().encode(strokeDash=dash), points, *words)
    panels = layers.properties(width=150, height=150).facet(
        facet=alt.Facet("group:N", title=None), data=curves, columns=3, bounds="flush", spacing={"row": 62, "column": 62}
    )
    return panels.properties(title="pass@k before and after RL")


def forecast_against_result(rows: pl.DataFrame) -> Any:
    """Each forecast with its 90 % interval, and what RL gave.

    Args:
        rows: the `forecasts` view, of one outcome.
    """
    named = rows.with_columns(name=pl.col("id").replace_strict(names(rows), return_dtype=pl.String))
    if named["name"].is_duplicated().any():  # the same checkpoint, forecast more than once
        named = named.with_columns(pl.format("{} ({})", "name", pl.col("created_at").str.slice(0, 16).str.replace("T", " ")))
    outcome = rows["outcome"][0] if len(rows) and rows["outcome"][0] else OUTCOME
    order = named.sort("point", descending=True)["name"].to_list()
    base = alt.Chart(named).encode(y=alt.Y("name:N", title=None, axis=alt.Axis(labelLimit=300, grid=True), sort=order))
    level = alt.Scale(zero=False)
    bars = base.mark_rule(color=BLUE).encode(
        x=alt.X("low:Q", title=title(outcome), scale=level, axis=alt.Axis(tickCount=6)), x2="high:Q"
    )
    inner = base.mark_rule(color=BLUE, strokeWidth=5).encode(x="low_50:Q", x2="high_50:Q")
    columns = ["name", *(alt.Tooltip(c, format=".3f") for c in ("point", "low", "high", "measured"))]
    point = base.mark_point(filled=True, size=80, opacity=1, color=BLUE, stroke=INK, strokeWidth=0.4).encode(
        x="point:Q", tooltip=columns
    )
    measured = base.transform_filter("isValid(datum.measured)").mark_point(
        shape="diamond", filled=True, size=110, opacity=1, color=RED, stroke=INK, strokeWidth=0.4
    )
    caption = "forecast (circle; 50 and 90 % interval) and result of RL (diamond)"
    layers = bars + inner + point + measured.encode(x="measured:Q", tooltip=columns)
    return layers.properties(width=WIDTH + 40, height=alt.Step(26), title=caption)


def response(runs: pl.DataFrame, curve: pl.DataFrame, column: str, point: dict[str, float]) -> Any:
    """The observed runs, the forecast along one signal with its 90 % band, and the scenario asked about.

    Args:
        curve: `Forecaster.response`: columns `column`, point, low, high.
        point: value of `column`, and point, low, high.
    """
    x, _ = _axes(column, OUTCOME)
    scenario = alt.Chart(pl.DataFrame([{name: float(point[name]) for name in (column, "point", "low", "high")}]))
    bar = scenario.mark_rule(strokeWidth=2).encode(x=x, y="low:Q", y2="high:Q")
    cross = scenario.mark_point(shape="cross", filled=True, size=160, color=RED).encode(x=x, y="point:Q")
    observed = outcome_against(runs, column, colour="length_mix", curve=curve)
    return (observed + bar + cross).properties(width=WIDTH + 200, height=HEIGHT + 60)


def span(values: pl.Series) -> tuple[float, float]:
    """Ends of a slider: the observed range and a tenth of it beyond on each side; a share stays within 0..1."""
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
    margin = 0.1 * (high - low)
    ends = low - margin, high + margin
    return (max(0.0, ends[0]), min(1.0, ends[1])) if 0 <= low <= high <= 1 else ends
