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
    from predict.calibration import brier_score, interval_score, log_skill, reliability
    from predict.features import load, read_table
    from predict.forecasting import Forecast, Forecaster
    from predict.inference import corrected_slopes, measurement_noise, slopes
    from predict.planning import plan
    from predict.plans import Plan
    from predict.predictors import Predictor
    from predict.problems import problem_scores
    from predict.rollouts import rollout_curve
    from predict.scoring import Report, Score, score
    from predict.store import export, ingest, query

_HOME = {
    "Forecast": "forecasting",
    "Forecaster": "forecasting",
    "Plan": "plans",
    "Predictor": "predictors",
    "Report": "scoring",
    "Score": "scoring",
    "brier_score": "calibration",
    "corrected_slopes": "inference",
    "export": "store",
    "ingest": "store",
    "interval_score": "calibration",
    "load": "features",
    "log_skill": "calibration",
    "measurement_noise": "inference",
    "plan": "planning",
    "problem_scores": "problems",
    "query": "store",
    "read_table": "features",
    "reliability": "calibration",
    "rollout_curve": "rollouts",
    "score": "scoring",
    "slopes": "inference",
}
__all__ = [
    "Forecast",
    "Forecaster",
    "Plan",
    "Predictor",
    "Report",
    "Score",
    "brier_score",
    "corrected_slopes",
    "export",
    "ingest",
    "interval_score",
    "load",
    "log_skill",
    "measurement_noise",
    "plan",
    "problem_scores",
    "query",
    "read_table",
    "reliability",
    "rollout_curve",
    "score",
    "slopes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'predict' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"predict.{_HOME[name]}"), name)
