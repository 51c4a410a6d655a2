"""How good is each predictor on these runs? Every figure out of sample says which fold it comes from.

Held-out R^2 is 1 - sum (y - prediction)^2 / sum (y - mean of the training fold)^2, so that `mean` scores exactly 0 under every
scheme; squared Pearson correlation is given beside it, named. Clusters (cells, base models) are left out whole: the
checkpoints of one cell are near twins, and a twin in the training fold is a leak.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError, UsageError
from predict.features import OUTCOME, Direction, as_fractions, column, direction, same_heldout
from predict.forecasting import Forecaster
from predict.intervals import Interval, bootstrap, clusters_of, jackknife, sign_flip_p, spearman
from predict.predictors import DEFAULTS, Predictor, parse

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
HALF_SPLITS = 200
CANDIDATE_SETS, SET_SIZE = 2000, 8
FEWEST_RUNS = 6


@dataclass(frozen=True)
class Score:
    """One predictor's figures; the names are those of the JSON contract. None: it cannot be had on these runs."""

    name: str
    features: list[str]
    n: int
    spearman: Interval
    pearson_squared: float | None
    r2_in_sample: float
    r2_half: dict[str, float | None]
    """Mean, sd and median over 200 random splits of the clusters in halves; the sd is no standard error."""
    r2_loo: float
    spearman_loo: float | None
    r2_logo: float | None
    r2_logo_grand: float | None
    spearman_logo: float | None
    spearman_within: float | None
    mae_loo: float
    pairwise_accuracy: float | None
    top1_regret: float | None
    coverage_90: float | None
    versus_baseline: dict[str, Any] | None
    wrong_signed: bool | None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """The scores of all predictors, in the order they were named."""

    n: int
    n_runs: int
    n_groups: int
    outcome: str
    group: str | None
    folds: str
    predictors: list[Score]
    notes: list[str]

    def __getitem__(self, name: str) -> Score:
        return next(score for score in self.predictors if score.name == name)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def frame(self) -> pl.DataFrame:
        """One row a predictor."""
        rows = []
        for score in self.predictors:
            versus = score.versus_baseline
            rows.append(
                {
                    "predictor": score.name,
                    "spearman": score.spearman.value,
                    "r2_in_sample": score.r2_in_sample,
                    "r2_half": score.r2_half["mean"],
                    "r2_loo": score.r2_loo,
                    "r2_logo": score.r2_logo,
                    "mae_loo": score.mae_loo,
                    "pairwise_accuracy": score.pairwise_accuracy,
                    "top1_regret": score.top1_regret,
                    "coverage_90": score.coverage_90,
                    "delta_r2": versus["delta_r2"]["value"] if versus else None,
                    "p_value": versus["p_value"] if versus else None,
                }
            )
        return pl.DataFrame(rows, infer_schema_length=None)


def score(
    runs: pl.DataFrame,
    *,
    outcome: str = OUTCOME,
    predictors: Sequence[str | Predictor] | None = None,
    group: str | None = None,
    seed: int = 0,
    directions: Mapping[str, Direction] | None = None,
    percent: Sequence[str] = (),
) -> Report:
    """Score predictors on the runs that have an outcome; the first one is the baseline.

    Args:
        runs: one row a checkpoint; rows without the outcome are candidates and are left aside.
        predictors: names (see `predict.predictors`) or `Predictor`s. Default: those of DEFAULTS that the columns allow.
        group: column of the clusters that are left out whole. Default: `cell` where there is one, else single rows.
        directions: whether the outcome should rise or fall with a column, where its name does not say.
        percent: columns in percent although values of at most 1 occur.

    Raises:
        InputError: missing or unusable columns, or too few runs.
    """
    group = _group(runs, group)
    for name in set(directions or ()) - set(runs.columns):
        column(runs, name)
    chosen = [parse(p) if isinstance(p, str) else p for p in predictors] if predictors else available(runs)
    data = _Data.of(runs, chosen, outcome, group, seed, percent)
    scores = [_score_one(data, predictor, chosen[0], directions) for predictor in chosen]
    notes = [*data.notes, "intervals are 90 %, from resampled clusters; R^2 is against the training fold's mean"]
    folds = f"leave one {group} out" if group else "leave one row out"
    return Report(len(data.y), data.n_runs, len(data.clusters), outcome, group, folds, scores, notes)


def best_predictor(
    runs: pl.DataFrame, *, outcome: str = OUTCOME, group: str | None = None, seed: int = 0, percent: Sequence[str] = ()
) -> str:
    """The default predictor with the best held-out R^2 on these runs, clusters left out whole; ties go to the shorter name.

    Raises:
        InputError: no column of any default predictor, or too few runs.
    """
    group = _group(runs, group)
    candidates = [predictor for predictor in available(runs) if predictor.terms]
    if not candidates:
        raise InputError(
            f"none of the default predictors' columns is there; name a predictor of these: {', '.join(runs.columns[:20])}"
        )
    data = _Data.of(runs, candidates, outcome, group, seed, percent)
    held_out = {p.name: _held_out(p, p.matrix(data.frame), data.y, data.clusters).r2(data.y) for p in candidates}
    return max(held_out, key=lambda name: (round(held_out[name], 3), -len(name)))


def _group(runs: pl.DataFrame, named: str | None) -> str | None:
    """The column of the clusters; an InputError where the named one is not there."""
    if named is not None and named not in runs.columns:
        column(runs, named)
    return named or ("cell" if "cell" in runs.columns else None)


def available(runs: pl.DataFrame) -> list[Predictor]:
    """The default predictors whose columns hold values."""
    parsed = [parse(name) for name in DEFAULTS]
    filled = {name for name in runs.columns if runs[name].null_count() < len(runs)}
    return [predictor for predictor in parsed if set(predictor.features) <= filled]


@dataclass(frozen=True)
class _Data:
    """The rows all predictors are scored on."""

    frame: pl.DataFrame
    outcome: str
    y: Array
    clusters: list[Rows]
    grouped: bool
    """Whether the clusters are of a named group; else each row is one."""
    n_runs: int
    seed: int
    notes: list[str]

    @classmethod
    def of(
        cls, runs: pl.DataFrame, predictors: list[Predictor], outcome: str, group: str | None, seed: int, percent: Sequence[str]
    ) -> "_Data":
        numeric = [name for predictor in predictors for name in predictor.numeric]
        frame, notes = as_fractions(runs, [*numeric, outcome], percent)
        known = ~np.isnan(column(frame, outcome))
        complete = known.copy()
        for predictor in predictors:
            complete &= ~np.isnan(predictor.matrix(frame)).any(1)
        if complete.sum() < FEWEST_RUNS:
            raise InputError(
                f"expected at least {FEWEST_RUNS} rows with {outcome} and all columns of the predictors, came {int(complete.sum())}"
            )
        if lacking := int((known & ~complete).sum()):
            notes.append(f"{lacking} rows with an outcome lack a column of some predictor: left out for all")
        kept = frame.filter(pl.Series(complete))
        same_heldout(kept, numeric)
        y = column(kept, outcome)
        if np.ptp(y) == 0:
            raise InputError(f"column {outcome!r}: all {len(y)} values are equal; there is nothing to predict")
        labels = kept[group].cast(pl.String).to_list() if group else list(range(len(y)))
        clusters = clusters_of(labels)
        if len(clusters) < 3:
            raise InputError(f"group {group!r} has {len(clusters)} different values; leaving one out needs at least 3")
        n_runs = int(kept["n_rl_seeds"].sum()) if "n_rl_seeds" in kept.columns else len(y)
        return cls(kept, outcome, y, clusters, group is not None, n_runs, seed, notes)

    @property
    def rows(self) -> list[Rows]:
        """Every row a cluster of its own."""
        return [np.array([row]) for row in range(len(self.y))]


@dataclass(frozen=True)
class _HeldOut:
    """Predictions of rows that were not in the training fold, and that fold's mean."""

    predicted: Array
    training_mean: Array

    @property
    def ranked(self) -> Array:
        """Predictions less their fold's intercept: raw ones of different folds are not to be ranked together."""
        return self.predicted - self.training_mean

    def r2(self, y: Array, *, grand: bool = False) -> float:
        centre = y.mean() if grand else self.training_mean
        return float(1 - ((y - self.predicted) ** 2).sum() / ((y - centre) ** 2).sum())


def _held_out(predictor: Predictor, X: Array, y: Array, folds: Iterable[Rows]) -> _HeldOut:
    predicted, means = np.empty(len(y)), np.empty(len(y))
    everything = np.arange(len(y))
    for fold in folds:
        train = np.setdiff1d(everything, fold)
        predicted[fold] = predictor.fit(X[train], y[train]).predict(X[fold])
        means[fold] = y[train].mean()
    return _HeldOut(predicted, means)


def _score_one(data: _Data, predictor: Predictor, baseline: Predictor, directions: Mapping[str, Direction] | None) -> Score:
    X, y = predictor.matrix(data.frame), data.y
    if len(y) < X.shape[1] + 3:
        raise InputError(f"{predictor.name}: {X.shape[1]} columns need at least {X.shape[1] + 3} runs, came {len(y)}")
    fitted = np.asarray(predictor.fit(X, y).predict(X), dtype=float)
    shown = X[:, 0] if len(predictor.terms) == 1 and not predictor.categorical else fitted
    rng = np.random.default_rng(data.seed)
    by_row, by_cluster = _held_out(predictor, X, y, data.rows), _held_out(predictor, X, y, data.clusters)
    rank = bootstrap(lambda rows: spearman(shown[rows], y[rows]), data.clusters, rng)
    sign, notes = _sign(predictor, rank.value, directions)
    if len(data.clusters) < 6:
        notes.append(
            f"{len(data.clusters)} groups are too few for an interval; squared errors a group: {_fold_errors(data, by_cluster)}"
        )
    return Score(
        name=predictor.name,
        features=predictor.features,
        n=len(y),
        spearman=rank,
        pearson_squared=_pearson_squared(shown, y),
        r2_in_sample=float(1 - ((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum()),
        r2_half=_half_splits(data, predictor, X),
        r2_loo=by_row.r2(y),
        spearman_loo=spearman(by_row.ranked, y),
        r2_logo=by_cluster.r2(y) if data.grouped else None,
        r2_logo_grand=by_cluster.r2(y, grand=True) if data.grouped else None,
        spearman_logo=spearman(by_cluster.ranked, y) if data.grouped else None,
        spearman_within=_within(data, by_cluster.ranked) if data.grouped else None,
        mae_loo=float(np.abs(y - by_row.predicted).mean()),
        pairwise_accuracy=_pairwise(by_cluster.ranked, y, data.clusters),
        top1_regret=_top1_regret(data, by_cluster.ranked),
        coverage_90=_coverage(data, predictor),
        versus_baseline=None if predictor.name == baseline.name else _versus(data, predictor, baseline),
        wrong_signed=sign,
        notes=notes,
    )


def _pearson_squared(x: Array, y: Array) -> float | None:
    return float(np.corrcoef(x, y)[0, 1] ** 2) if np.ptp(x) > 0 else None


def _sign(predictor: Predictor, rank: float | None, directions: Mapping[str, Direction] | None) -> tuple[bool | None, list[str]]:
    """Whether a single signal points the wrong way; None where no direction is known."""
    if len(predictor.terms) != 1 or predictor.categorical or rank is None:
        return None, []
    expected = direction(predictor.features[0], directions)
    if expected is None:
        return None, [f"{predictor.features[0]}: no direction is known; give one by --direction {predictor.features[0]}=up|down"]
    wrong = (rank < 0) if expected == "up" else (rank > 0)
    return wrong, [f"wrong-signed, Spearman {rank:+.2f} where {expected} is better"] if wrong else []


def _fold_errors(data: _Data, held: _HeldOut) -> str:
    return ", ".join(f"{float(((data.y[rows] - held.predicted[rows]) ** 2).mean()):.4g}" for rows in data.clusters)


def _half_splits(data: _Data, predictor: Predictor, X: Array) -> dict[str, float | None]:
    """R^2 on one half of the clusters after fitting on the other, 200 times."""
    rng, values = np.random.default_rng(data.seed), []
    for _ in range(HALF_SPLITS):
        order = rng.permutation(len(data.clusters))
        half = len(order) // 2
        test, train = (np.concatenate([data.clusters[i] for i in part]) for part in (order[:half], order[half:]))
        if len(train) < X.shape[1] + 2 or len(test) < 2:
            return {"mean": None, "sd": None, "median": None}
        y, mean = data.y[test], data.y[train].mean()
        spread = float(((y - mean) ** 2).sum())
        if spread > 0:
            error = ((y - predictor.fit(X[train], data.y[train]).predict(X[test])) ** 2).sum()
            values.append(float(1 - error / spread))
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)), "median": float(np.median(values))}


def _within(data: _Data, predicted: Array) -> float | None:
    """Mean Spearman within the left-out clusters of at least 3 rows, weighted by their rows."""
    pairs = [(spearman(predicted[rows], data.y[rows]), len(rows)) for rows in data.clusters if len(rows) >= 3]
    known = [(value, weight) for value, weight in pairs if value is not None]
    return float(np.average([v for v, _ in known], weights=[w for _, w in known])) if known else None


def _pairwise(predicted: Array, y: Array, clusters: list[Rows]) -> float | None:
    """Share of pairs from different clusters that are ordered rightly; predicted ties count half, true ties not at all."""
    cluster_of = np.empty(len(y), dtype=int)
    for number, rows in enumerate(clusters):
        cluster_of[rows] = number
    first, second = np.triu_indices(len(y), k=1)
    true, ours = np.sign(y[first] - y[second]), np.sign(predicted[first] - predicted[second])
    counted = (true != 0) & (cluster_of[first] != cluster_of[second])
    return float(((ours == true)[counted] + 0.5 * (ours == 0)[counted]).mean()) if counted.any() else None


def _top1_regret(data: _Data, predicted: Array) -> float | None:
    """Outcome lost by running RL from the best-predicted of 8 random candidates, held-out predictions.

    The noisy maximum is cursed: where the store has the outcome on two halves of the problems, the best is picked on one half and
    both it and the choice are valued on the other, and the other way round. Candidates are drawn within a base model.
    """
    halves = _halves(data)
    bases = clusters_of(data.frame["base_model"].to_list()) if "base_model" in data.frame.columns else [np.arange(len(data.y))]
    bases = [rows for rows in bases if len(rows) > 1]
    if not bases:
        return None
    rng, regrets = np.random.default_rng(data.seed), []
    weights = np.array([len(rows) for rows in bases]) / sum(len(rows) for rows in bases)
    for _ in range(CANDIDATE_SETS):
        pool = bases[rng.choice(len(bases), p=weights)]
        drawn = rng.choice(pool, min(SET_SIZE, len(pool)), replace=False)
        choice = drawn[np.argmax(predicted[drawn] + 1e-12 * rng.random(len(drawn)))]
        for pick, value in ((halves[0], halves[1]), (halves[1], halves[0])):
            regrets.append(value[drawn[np.argmax(pick[drawn])]] - value[choice])
    return float(np.mean(regrets))


def _halves(data: _Data) -> list[Array]:
    """The outcome on two halves of the problems; twice the outcome itself where the store does not have them."""
    names = ("outcome_half_1", "outcome_half_2")
    if data.outcome != OUTCOME or not set(names) <= set(data.frame.columns):
        return [data.y, data.y]
    halves = [column(data.frame, name) for name in names]
    return [data.y, data.y] if np.isnan(halves).any() else halves


def _coverage(data: _Data, predictor: Predictor) -> float | None:
    """Share of left-out rows inside the 90 % interval of a forecaster fitted on the other clusters."""
    inside, everything = 0, np.arange(len(data.y))
    outcome = "__outcome"
    frame = data.frame.with_columns(pl.Series(outcome, data.y), pl.Series("__cluster", _numbers(data)))
    X = predictor.matrix(data.frame)
    for rows in data.clusters:
        train = np.setdiff1d(everything, rows)
        try:
            fitted = Forecaster(predictor, outcome=outcome, group="__cluster").fit(frame[train])
            low, high = fitted.intervals(X[rows], 0.9)
        except (UsageError, InputError):
            return None  # too few clusters for an interval of this kind
        inside += int(((low <= data.y[rows]) & (data.y[rows] <= high)).sum())
    return inside / len(data.y)


def _numbers(data: _Data) -> list[int]:
    number = np.empty(len(data.y), dtype=int)
    for index, rows in enumerate(data.clusters):
        number[rows] = index
    return number.tolist()


def _versus(data: _Data, predictor: Predictor, baseline: Predictor) -> dict[str, Any]:
    """Held-out R^2 less the baseline's, its jackknife interval, and a sign-flip test over clusters of the squared errors."""
    ours, theirs = _Refits(data, predictor), _Refits(data, baseline)
    rng = np.random.default_rng(data.seed)
    everything = np.arange(len(data.y))
    difference = ours.squared_errors(everything) - theirs.squared_errors(everything)
    per_cluster = np.array([difference[rows].mean() for rows in data.clusters])
    interval = jackknife(lambda rows: ours.r2(np.sort(rows)) - theirs.r2(np.sort(rows)), data.clusters, rng)
    return {"name": baseline.name, "delta_r2": asdict(interval), "p_value": sign_flip_p(per_cluster, rng)}


class _Refits:
    """Leave-one-cluster-out results of a predictor on subsets of the rows, every fold refitted."""

    def __init__(self, data: _Data, predictor: Predictor) -> None:
        self.data, self.predictor, self.X = data, predictor, predictor.matrix(data.frame)

    def _held_out(self, rows: Rows) -> _HeldOut:
        folds = (np.flatnonzero(np.isin(rows, cluster)) for cluster in self.data.clusters)
        return _held_out(self.predictor, self.X[rows], self.data.y[rows], [fold for fold in folds if len(fold)])

    def squared_errors(self, rows: Rows) -> Array:
        return (self.data.y[rows] - self._held_out(rows).predicted) ** 2

    def r2(self, rows: Rows) -> float:
        return self._held_out(rows).r2(self.data.y[rows])
