"""What if a checkpoint had other signals? Sliders, the forecast with its interval, and the nearest real runs."""

import json

import polars as pl
import streamlit as st

from curate.errors import ForerunError
from predict import charts
from predict.features import names
from views import data

st.title("What if?")
stamp = data.store_stamp()
recipe = data.choose_recipe(stamp)
runs = data.checkpoints(stamp, recipe)

try:
    choices, best = data.movable(runs), data.best(stamp, recipe)
    predictor = st.sidebar.selectbox("Predictor", choices, index=choices.index(best), key="predictor", bind="query-params")
    fitted = data.forecaster(stamp, recipe, predictor)
except ForerunError as error:
    st.info(str(error))
    st.stop()

complete = runs.drop_nulls(fitted.predictor.features)
called = names(complete)
chosen = st.sidebar.selectbox("Start from", list(called), format_func=called.__getitem__, key="start", bind="query-params")
start = runs.filter(pl.col("id") == chosen)

st.sidebar.subheader("Signals")
scenario = {}
for feature in fitted.predictor.features:
    low, high = charts.span(fitted.runs[feature])
    scenario[feature] = st.sidebar.slider(
        charts.title(feature), low, high, float(start[feature][0]), format="%.3f", key=f"{chosen}-{feature}", bind="query-params"
    )
if st.sidebar.button("Reset to the start"):
    for feature in scenario:
        del st.session_state[f"{chosen}-{feature}"]
    st.rerun()

changed = start.with_columns(pl.lit(value).alias(name) for name, value in scenario.items())
forecast = fitted.forecast(changed).candidates[0]
baseline = fitted.forecast(start).candidates[0]

first, second, third = st.columns(3)
moved = round(forecast["point"] - baseline["point"], 3)
first.metric("Forecast: pass@1 after RL", f"{forecast['point']:.3f}", f"{moved:+.3f} against the start" if moved else None)
second.metric("90 % interval", f"{forecast['low']:.3f} .. {forecast['high']:.3f}")
third.metric("50 % interval", f"{forecast['low_50']:.3f} .. {forecast['high_50']:.3f}")
support = forecast["support"]
(st.success if support["inside"] else st.warning)(
    f"The scenario is {support['words']}: leverage {support['leverage']:.2f} (largest observed {support['leverage_max']:.2f}), "
    f"{support['gower_share']:.0%} of the runs are near."
)
outcome = start["outcome_pass_at_1"][0]
if outcome is not None:
    st.caption(f"The start itself was taken through RL: it ended at {outcome:.3f}; its own forecast is {baseline['point']:.3f}.")

x = st.selectbox("Along", fitted.predictor.features, format_func=charts.title, key="along", bind="query-params")
chart = charts.response(fitted.runs, fitted.response(changed, x), x, {**scenario, **forecast})
st.altair_chart(chart, alt=f"Forecast of pass@1 after RL along {charts.title(x)}, with its 90 % interval, over the observed runs")
st.caption("An association over the runs in the store, the other signals held where the sliders are; not a cause.")

st.subheader("Nearest real runs")
nearest = pl.DataFrame({"id": forecast["nearest"]}).join(fitted.runs, on="id", maintain_order="left")
nearest = nearest.with_columns(checkpoint=pl.col("id").replace_strict(called, return_dtype=pl.String))
st.dataframe(nearest.select("checkpoint", "outcome_pass_at_1", *fitted.predictor.features), hide_index=True)
document = json.dumps({"predictor": predictor, "scenario": scenario, "forecast": forecast}, indent=2)
st.download_button("Download the scenario as JSON", document, "scenario.json", on_click="ignore")
