"""What the pages read: cached until the store file changes, and the same functions that the command line uses."""

import polars as pl
import streamlit as st

from predict import Forecaster, Report, load, query, score
from predict.scoring import available, best_predictor
from predict.store import database
from train.records import workspace


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
    return score(checkpoints(stamp, recipe))


@st.cache_data(max_entries=4, show_spinner="Choosing the best predictor ...")
def best(stamp: int, recipe: str | None) -> str:
    """The predictor with the best held-out R^2."""
    return best_predictor(checkpoints(stamp, recipe))


@st.cache_resource(max_entries=16)
def forecaster(stamp: int, recipe: str | None, predictor: str) -> Forecaster:
    """A predictor fitted on all runs with an outcome."""
    return Forecaster(predictor).fit(checkpoints(stamp, recipe))


def movable(runs: pl.DataFrame) -> list[str]:
    """The default predictors whose columns hold values and are numbers that a slider can move."""
    return [p.name for p in available(runs) if p.terms and not p.categorical and not p.name.startswith("identity")]
