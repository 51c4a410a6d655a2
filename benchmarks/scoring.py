"""Scoring beside scikit-learn and statsmodels in a loop: 500 runs in 100 cells, 12 predictors, equal results.

    python benchmarks/scoring.py

Per predictor: 2,000 cluster bootstrap resamples of Spearman, 200 half splits, leave-one-out and leave-one-group-out. The loops are
scikit-learn's cross_val_predict (both leave-outs), statsmodels' OLS where the predictor is a straight line and scikit-learn's estimator
otherwise (half splits), and scipy's spearmanr (bootstrap). Their bootstrap is measured on one resample in ten and scaled; the rest in full.
"""

import time
from collections.abc import Callable

import numpy as np
import polars as pl
import statsmodels.api as sm
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import VotingRegressor
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import predict
from predict.figures import Fit
from predict.folds import half_splits
from predict.intervals import multiplicities
from predict.predictors import parse
from predict.sample import Sample
from predict.shrinkage import ALPHAS

RUNS, CELLS, FRACTION = 500, 100, 10
SIGNALS = ["pass_at_1", "pass_at_8", "pass_at_64", "gen_loss", "mixed_share", "entropy_t1"]


def simulated(rng: np.random.Generator) -> pl.DataFrame:
    """Runs whose signals and outcome share a cell's part."""
    cell = np.arange(RUNS) % CELLS
    latent = rng.normal(size=CELLS)[cell] + 0.3 * rng.normal(size=RUNS)
    columns = {name: 0.5 + 0.05 * (latent + rng.normal(size=RUNS)) for name in SIGNALS}
    mix = np.array(["short", "long", "varying", "uniform"])[cell % 4]
    y = 0.4 + 0.05 * latent + 0.02 * rng.normal(size=RUNS)
    return pl.DataFrame({**columns, "length_mix": mix, "cell": cell, "outcome_pass_at_1": y})


def column(index: int) -> object:
    """Least squares on one of two columns."""
    return make_pipeline(make_column_transformer(("passthrough", [index])), LinearRegression())


PEERS: dict[str, object] = {
    "mean": DummyRegressor(),
    **{name: LinearRegression() for name in SIGNALS},
    "gen_loss+pass_at_64": LinearRegression(),
    "pass_at_1+gen_loss+pass_at_64": LinearRegression(),
    "label(length_mix)": make_pipeline(OneHotEncoder(handle_unknown="ignore", sparse_output=False), LinearRegression()),
    "average(gen_loss,pass_at_64)": VotingRegressor([("a", column(0)), ("b", column(1))]),
    f"ridge({','.join(SIGNALS)})": make_pipeline(StandardScaler(), RidgeCV(ALPHAS)),
}


def ours(sample: Sample, name: str) -> dict[str, np.ndarray]:
    """Draws, split values and held-out predictions by Forerun."""
    fit = Fit(sample, parse(name))
    return {
        "bootstrap": sample.resamples.spearman(fit.shown),
        "half": np.array([half_splits(fit.predictor, fit.X, fit.y, sample.halves)["mean"]]),
        "loo": fit.by_row.predicted,
        "logo": fit.by_cluster.predicted,
    }


def theirs(sample: Sample, name: str, clock: dict[str, float]) -> dict[str, np.ndarray]:
    """The same by loops; `clock` collects seconds of CPU."""
    predictor, estimator = parse(name), PEERS[name]
    X, y = predictor.matrix(sample.frame), sample.y
    found = {
        "loo": timed(clock, "loo", lambda: cross_val_predict(estimator, X, y, cv=LeaveOneOut())),
        "logo": timed(clock, "logo", lambda: cross_val_predict(estimator, X, y, cv=LeaveOneGroupOut(), groups=sample.cluster_of)),
        "half": timed(clock, "half", lambda: np.array([np.mean([half(predictor.linear and bool(predictor.terms), estimator, X, y, kept) for kept in sample.halves])])),
    }  # fmt: skip
    shown = X[:, 0] if X.shape[1] == 1 and not predictor.categorical else clone(estimator).fit(X, y).predict(X)
    if np.ptp(shown) > 0:
        times = multiplicities(sample.clusters, sample.rng())[:, ::FRACTION].astype(int)
        rows = [np.repeat(np.arange(len(y)), times[:, draw]) for draw in range(times.shape[1])]
        found["bootstrap"] = timed(clock, "bootstrap", lambda: np.array([spearmanr(shown[r], y[r]).statistic for r in rows]))
    return found


def half(line: bool, estimator: object, X: np.ndarray, y: np.ndarray, kept: np.ndarray) -> float:
    """R^2 of one split against the training half's mean."""
    if line:
        predicted = sm.OLS(y[kept], sm.add_constant(X[kept])).fit().predict(sm.add_constant(X[~kept]))
    else:
        predicted = clone(estimator).fit(X[kept], y[kept]).predict(X[~kept])
    return 1 - ((y[~kept] - predicted) ** 2).sum() / ((y[~kept] - y[kept].mean()) ** 2).sum()


def timed(clock: dict[str, float], name: str, work: Callable[[], np.ndarray]) -> np.ndarray:
    """Run and add the CPU seconds."""
    start = time.process_time()
    result = work()
    clock[name] = clock.get(name, 0.0) + time.process_time() - start
    return result


def main() -> None:
    """Time both, hold them to each other, print."""
    frame = simulated(np.random.default_rng(0))
    names = list(PEERS)
    start = time.process_time()
    sample = Sample.of(frame, [parse(name) for name in names], "outcome_pass_at_1", "cell", 0, ())
    found = {name: ours(sample, name) for name in names}
    mine = time.process_time() - start
    clock: dict[str, float] = {}
    worst = 0.0
    for name in names:
        for key, value in theirs(sample, name, clock).items():
            own = found[name][key][::FRACTION] if key == "bootstrap" else found[name][key]
            worst = max(worst, float(np.abs(own - value).max()))
    clock["bootstrap"] *= FRACTION
    total = sum(clock.values())
    start = time.process_time()
    predict.score(frame, predictors=names, group="cell")
    everything = time.process_time() - start
    print(f"{RUNS} runs, {CELLS} cells, {len(names)} predictors; largest difference of any result {worst:.1e}")
    print("loops, s of CPU: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in clock.items()) + f"; together {total:.1f}")
    print(f"Forerun, s of CPU: {mine:.2f}; {total / mine:.0f} times faster")
    print(f"predict.score in full (tests, jackknife, regret, coverage, notes too), s of CPU: {everything:.2f}")


if __name__ == "__main__":
    main()
