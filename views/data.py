"""What the pages read: cached until the store file changes, and the same functions that the command line uses."""

import polars as pl
import streamlit as st

from predict import Forecaster, Report, load, query, score
from predict.store import database
from train.records import workspace

PREDICTORS = (
    "pass_at_8",
    "mixed_share",
    "pass_at_64",
    "gen_loss_style_free",
    "gen_loss_style_free+pass_at_64",
    "gen_loss",
    "gen_loss+pass_at_64",
    "pass_at_1",
)


def store_stamp() -> int:
    """When the store was last built, as the key of every cache; without a store the page ends here and says what to do."""
    path = database(workspace(None))
    if not path.exists():
        st.info(
            f"No store of runs at `{path}` yet. `make demo` makes one; so does `predict ingest FOLDER` on runs of your own. "
            "A workspace elsewhere is named by the environment variable `FORERUN_HOME`."
        )
        st.stop()
    return path.stat().st_mtime_ns


def choose_recipe(stamp: int) -> str | None:
    """The RL recipe whose outcomes are shown: outcomes of different recipes are never pooled."""
    names = rl_recipes(stamp)
    if len(names) < 2:
        return None
    return st.sidebar.selectbox("RL recipe", names, key="recipe", bind="query-params")


@st.cache_data(max_entries=4)
def rl_recipes(stamp: int) -> list[str]:
    """The RL recipes of the store."""
    frame = query(workspace(None), "SELECT DISTINCT rl_recipe FROM checkpoints WHERE rl_recipe IS NOT NULL ORDER BY 1")
    return frame["rl_recipe"].to_list()


@st.cache_data(max_entries=4)
def checkpoints(stamp: int, recipe: str | None) -> pl.DataFrame:
    """One row a checkpoint."""
    return load(workspace(None), recipe)


@st.cache_data(max_entries=4)
def forecasts(stamp: int) -> pl.DataFrame:
    """Forecasts beside results."""
    return query(workspace(None), "SELECT * FROM forecasts ORDER BY created_at, point DESC")


@st.cache_data(max_entries=4, show_spinner="Scoring the predictors ...")
def scores(stamp: int, recipe: str | None) -> Report:
    """How good each predictor is on the runs with an outcome."""
    runs = checkpoints(stamp, recipe)
    return score(runs, predictors=["pass_at_1", "mean", *(p for p in usable(runs) if p != "pass_at_1")])


@st.cache_resource(max_entries=16)
def forecaster(stamp: int, recipe: str | None, predictor: str) -> Forecaster:
    """A predictor fitted on all runs with an outcome."""
    return Forecaster(predictor).fit(checkpoints(stamp, recipe))


def usable(runs: pl.DataFrame) -> list[str]:
    """The predictors whose columns hold values."""
    filled = {name for name in runs.columns if runs[name].null_count() < len(runs)}
    return [name for name in PREDICTORS if set(name.split("+")) <= filled]
