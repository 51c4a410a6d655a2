"""Makes mapie.json: jackknife+ and CV+ intervals by MAPIE 1.6.0 (`pip install mapie==1.6.0`), run from the repository root:
    python tests/golden/make_mapie.py

The data are drawn here and written beside the intervals, so that a test needs nothing but the file.
"""  # fmt: skip

import json
from pathlib import Path

import numpy as np
from mapie.regression import CrossConformalRegressor
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.model_selection import PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

LEVELS = [0.5, 0.8, 0.9]
ESTIMATORS = {
    "linear": LinearRegression(),
    "ridge": make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13))),
}


def case(name: str, rows: int, folds: int, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    X, new = rng.normal(size=(rows, 2)), rng.normal(size=(5, 2))
    y = 0.5 + X @ [0.1, -0.05] + 0.05 * rng.standard_t(3, size=rows)
    fold = np.arange(rows) % folds
    mapie = CrossConformalRegressor(
        ESTIMATORS[name], confidence_level=LEVELS, method="plus", cv=PredefinedSplit(fold), conformity_score="absolute"
    )
    intervals = mapie.fit_conformalize(X, y).predict_interval(new)[1]
    return {
        "estimator": name, "X": X.tolist(), "y": y.tolist(), "fold": fold.tolist(), "new": new.tolist(), "levels": LEVELS,
        "low": intervals[:, 0].T.tolist(), "high": intervals[:, 1].T.tolist(),
    }  # fmt: skip


CASES = [("linear", 19, 19, 0), ("linear", 30, 30, 1), ("linear", 40, 20, 2), ("ridge", 25, 25, 3), ("ridge", 33, 11, 4)]

if __name__ == "__main__":
    text = json.dumps([case(*one) for one in CASES], indent=None)
    Path(__file__).with_name("mapie.json").write_text(text + "\n", encoding="utf-8")
