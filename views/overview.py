"""What is in the store: runs, forecasts beside results, how good each predictor is."""

import polars as pl
import streamlit as st

from curate.errors import ForerunError
from predict import charts, results
from views import data

st.title("Where RL takes a checkpoint")
stamp = data.store_stamp()
recipe = data.choose_recipe(stamp)
runs, forecasts = data.checkpoints(stamp, recipe), data.forecasts(stamp)
measured = runs.filter(pl.col("outcome_pass_at_1").is_not_null())

left, middle, right = st.columns(3)
left.metric("SFT checkpoints", len(runs))
middle.metric("with a measured RL outcome", len(measured))
right.metric("forecasts written", len(forecasts))

if len(forecasts):
    st.subheader("Forecast beside result")
    st.write(results.reading(forecasts))
    st.altair_chart(charts.forecast_against_result(forecasts), alt=results.reading(forecasts))
    with st.expander("The table"):
        st.dataframe(results.forecast_table(forecasts), hide_index=True)

st.subheader("What foretells the outcome?")
signals = [name for name in charts.SIGNALS if name in measured.columns and measured[name].null_count() < len(measured)]
first, second = st.columns(2)
x = first.selectbox("Signal, known before RL", signals, format_func=charts.title, key="signal", bind="query-params")
colour = second.selectbox("Colour and shape", ["length_mix", "variant", "base_model"], key="colour", bind="query-params")
if len(measured):
    st.altair_chart(
        charts.outcome_against(measured, x, colour=colour), alt=f"{charts.title('outcome_pass_at_1')} against {charts.title(x)}"
    )
else:
    st.info("No RL run has ended yet: there is no outcome to plot.")

st.subheader("How good is each predictor?")
try:
    table = data.scores(stamp, recipe)
    st.dataframe(table.frame(), hide_index=True)
    st.caption(
        f"{table.n} checkpoints in {table.n_groups} groups; {table.folds}. r2_logo is held-out R² against the training fold's mean: "
        "`mean` scores 0. delta_r2 is the difference to pass_at_1, the practice to beat; its p is from sign flips over groups."
    )
except ForerunError as error:
    st.info(str(error))

st.subheader("Checkpoints")
st.dataframe(runs, hide_index=True)
st.download_button("Download as CSV", runs.write_csv, "checkpoints.csv", on_click="ignore")
