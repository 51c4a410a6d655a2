"""Forecast where RL will take an SFT checkpoint.

    import predict
    runs = predict.load("forerun")            # one row an SFT checkpoint; or any polars frame of your own
    report = predict.score(runs, predictors=["pass_at_1", "gen_loss+pass_at_64"], group="base_model")
    forecast = predict.Forecaster("gen_loss+pass_at_64").fit(runs).forecast(candidates)

Names are imported when they are first used, so that importing this package is quick and loads neither torch nor scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from predict.features import load, read_table
    from predict.forecasting import Forecast, Forecaster
    from predict.predictors import Predictor
    from predict.scoring import Report, Score, score
    from predict.store import export, ingest, query

_HOME = {
    "Forecast": "forecasting",
    "Forecaster": "forecasting",
    "Predictor": "predictors",
    "Report": "scoring",
    "Score": "scoring",
    "export": "store",
    "ingest": "store",
    "load": "features",
    "query": "store",
    "read_table": "features",
    "score": "scoring",
}
__all__ = [
    "Forecast",
    "Forecaster",
    "Predictor",
    "Report",
    "Score",
    "export",
    "ingest",
    "load",
    "query",
    "read_table",
    "score",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'predict' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"predict.{_HOME[name]}"), name)
