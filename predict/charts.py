"""The charts of the report and of the explorer, as Altair specifications: the same functions serve both."""

import altair as alt
import polars as pl

from predict.features import OUTCOME, names

WIDTH, HEIGHT = 340, 260
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000"]
"""Okabe and Ito's colours, told apart with every kind of colour vision; shape says the same as colour."""
TITLES = {
    "pass_at_1": "pass@1 after SFT",
    "pass_at_8": "pass@8 after SFT",
    "pass_at_64": "pass@64 after SFT",
    "mixed_share": "share of mixed groups (G = 16)",
    "gen_loss": "generalization loss (nats a token)",
    "gen_loss_style_free": "style-free loss (nats a problem)",
    "entropy_t1": "token entropy at T = 1 (nats)",
    OUTCOME: "pass@1 after RL",
}

SIGNALS = tuple(name for name in TITLES if name != OUTCOME)


def title(column: str) -> str:
    """What an axis calls a column."""
    return TITLES.get(column, column.replace("_", " "))


def outcome_against(runs: pl.DataFrame, column: str, *, outcome: str = OUTCOME, colour: str = "variant") -> alt.Chart:
    """Outcome over one signal, a point a checkpoint."""
    known = runs.filter(pl.col(outcome).is_not_null() & pl.col(column).is_not_null())
    shown = list(dict.fromkeys(name for name in ("id", colour, column, outcome) if name in known.columns))
    chart = alt.Chart(known.select(shown)).mark_point(filled=True, size=55, opacity=0.85)
    encoding = {
        "x": alt.X(f"{column}:Q", title=title(column), scale=alt.Scale(zero=False)),
        "y": alt.Y(f"{outcome}:Q", title=title(outcome), scale=alt.Scale(zero=False)),
        "tooltip": shown,
    }
    if colour in known.columns:
        encoding |= {
            "color": alt.Color(f"{colour}:N", title=title(colour), scale=alt.Scale(range=PALETTE)),
            "shape": alt.Shape(f"{colour}:N", title=title(colour)),
        }
    return chart.encode(**encoding).properties(width=WIDTH, height=HEIGHT, title=f"{title(outcome)} against {title(column)}")


def pass_curves(curves: pl.DataFrame) -> alt.Chart:
    """pass@k before and after RL on the outcome problems, mean over checkpoints of a variant.

    Args:
        curves: columns variant, when (`before RL`, `after RL`), k, value.
    """
    return (
        alt.Chart(curves)
        .mark_line(point=True)
        .encode(
            x=alt.X("k:Q", title="k", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=sorted(set(curves["k"])))),
            y=alt.Y("value:Q", title="pass@k"),
            color=alt.Color("variant:N", scale=alt.Scale(range=PALETTE)),
            strokeDash=alt.StrokeDash(
                "when:N",
                title="",
                sort=["before RL", "after RL"],
                legend=alt.Legend(symbolType="stroke", symbolStrokeColor="black", symbolSize=300),
            ),
            tooltip=["variant", "when", "k", alt.Tooltip("value", format=".3f")],
        )
        .properties(width=WIDTH, height=HEIGHT, title="pass@k before and after RL")
    )


def forecast_against_result(rows: pl.DataFrame) -> alt.LayerChart:
    """Each forecast with its 90 % interval, and what RL gave.

    Args:
        rows: the `forecasts` view.
    """
    named = rows.with_columns(name=pl.col("id").replace_strict(names(rows), return_dtype=pl.String))
    base = alt.Chart(named).encode(
        y=alt.Y("name:N", title=None, axis=alt.Axis(labelLimit=300), sort=alt.EncodingSortField("point", order="descending"))
    )
    level = alt.Scale(zero=False)
    bars = base.mark_rule(color=PALETTE[0]).encode(x=alt.X("low:Q", title=title(OUTCOME), scale=level), x2="high:Q")
    inner = base.mark_rule(color=PALETTE[0], strokeWidth=5).encode(x="low_50:Q", x2="high_50:Q")
    columns = ["name", *(alt.Tooltip(c, format=".3f") for c in ("point", "low", "high", "measured"))]
    point = base.mark_point(filled=True, size=70, color=PALETTE[0]).encode(x="point:Q", tooltip=columns)
    measured = base.mark_point(shape="diamond", filled=True, size=110, color=PALETTE[4]).encode(x="measured:Q", tooltip=columns)
    caption = "forecast (circle, 50 and 90 % interval) and result of RL (diamond)"
    return (bars + inner + point + measured).properties(width=WIDTH + 120, height=alt.Step(26), title=caption)


def response(runs: pl.DataFrame, curve: pl.DataFrame, column: str, point: dict[str, float]) -> alt.LayerChart:
    """The observed runs, the forecast along one signal with its 90 % band, and the scenario asked about.

    Args:
        curve: `Forecaster.response`: columns `column`, point, low, high.
        point: value of `column`, and point, low, high.
    """
    x = alt.X(f"{column}:Q", title=title(column), scale=alt.Scale(zero=False))
    along = alt.Chart(curve)
    band = along.mark_area(opacity=0.15, color=PALETTE[0]).encode(x=x, y="low:Q", y2="high:Q")
    line = along.mark_line(color=PALETTE[0]).encode(x=x, y="point:Q")
    scenario = alt.Chart(pl.DataFrame([{name: float(point[name]) for name in (column, "point", "low", "high")}]))
    bar = scenario.mark_rule(strokeWidth=2).encode(x=x, y="low:Q", y2="high:Q")
    cross = scenario.mark_point(shape="cross", filled=True, size=160, color=PALETTE[7]).encode(x=x, y="point:Q")
    observed = outcome_against(runs, column, colour="length_mix")
    return (band + line + observed + bar + cross).properties(width=WIDTH + 200, height=HEIGHT + 60)


def span(values: pl.Series) -> tuple[float, float]:
    """Ends of a slider: the observed range and a tenth of it beyond on each side; a share stays within 0..1."""
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
    margin = 0.1 * (high - low)
    ends = low - margin, high + margin
    return (max(0.0, ends[0]), min(1.0, ends[1])) if 0 <= low <= high <= 1 else ends
