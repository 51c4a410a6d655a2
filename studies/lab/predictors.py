"""Which signal forecasts the outcome: the primary comparison, every predictor, the choice of k, rollouts, regret, mediators."""

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray
from runs_of_study import checkpoints, of_parts, recipe, store, whole
from sklearn.base import BaseEstimator, RegressorMixin
from within import STRATUM, Within, compared

import predict
from predict.comparing import max_t_p
from predict.diagnostics import rank_by_k
from predict.estimators import LeastSquares
from predict.features import Term
from predict.intervals import clusters_of
from predict.predictors import DEFAULTS, RIDGE, Predictor
from predict.rollouts import by_price

Array = NDArray[np.float64]
Tables = Iterator[tuple[str, pl.DataFrame]]
KS = (1, 2, 4, 8, 16, 32, 64, 128)
PRIMARY = ("pass_at_1", "gen_loss_style_free", "pass_at_64")
MORE = (
    "gen_loss_own",
    "gen_loss_result",
    "rl_loss_style_free",
    "rl_loss_result",
    "expected_signal",
    "entropy_t1",
    "mean_tokens",
    "loss_over_min",
    "coverage_ratio",
    "rl_pass_at_1",
    "rl_pass_at_8",
    "rl_pass_at_32",
    "rl_mixed_share",
    "pass_at_1+gen_loss_style_free+pass_at_64",
    "huber(pass_at_64)",
    "monotone(pass_at_64)",
    "mixed(pass_at_64|base_model)",
)
"""Predictors beside the defaults of `predict score`."""
SIGNALS = (
    *(f"pass_at_{k}" for k in KS),
    *("mixed_share", "expected_signal", "entropy_t1", "mean_tokens"),
    *("gen_loss", "gen_loss_own", "gen_loss_style_free", "gen_loss_result", "rl_loss_style_free", "rl_loss_result"),
    *("rl_pass_at_1", "rl_pass_at_8", "rl_pass_at_32", "rl_mixed_share", "rl_expected_signal"),
)
"""Single signals that are scored within the strata."""


def primary() -> Tables:
    """The protocol's primary comparison: within (length mix x base), a base left out, core and twins, RL seed 0."""
    frame = whole("core", "twins")
    if frame is None:
        return
    rows = Within.of(frame, "outcome_seed_0")
    found = compared(rows, PRIMARY[:1], PRIMARY)
    bases = np.unique(rows.bases)
    yield (
        f"{len(rows.y)} checkpoints, {len(bases)} bases, centred within {' x '.join(STRATUM)}: squared error of "
        f"{{{', '.join(PRIMARY)}}} against {{pass_at_1}}: cut by {found.cut:.3f} (a tenth counts), p = {found.p:.4f}",
        pl.DataFrame(
            {
                "base left out": bases,
                "RMSE pass_at_1": np.sqrt(found.small),
                "RMSE of the three": np.sqrt(found.large),
                "cut": 1 - found.large / found.small,
            }
        ),
    )
    yield "The same within strata, a base left out, single signals and sets", _within_table(rows)


def _within_table(rows: Within) -> pl.DataFrame:
    """Held-out R^2 and correlation of each signal, and the tests against pass@1, adjusted for looking at all of them."""
    sets = [(name,) for name in SIGNALS if not rows.frame[name].null_count()]
    sets += [PRIMARY[1:], PRIMARY, ("gen_loss", "pass_at_64")]
    base = rows.squared_errors(PRIMARY[:1])
    errors = np.stack([rows.squared_errors(names) for names in sets], axis=1)
    p = max_t_p(errors - base[:, None], np.random.default_rng(0))
    table = [
        ("+".join(names), rows.r2(names), rows.correlation(names[0]) if len(names) == 1 else None, 1 - error / base.mean(), one)
        for names, error, one in zip(sets, errors.mean(0), p, strict=True)
    ]
    columns = ["signals", "R2 held out", "correlation", "cut against pass_at_1", "p adjusted"]
    return pl.DataFrame(table, schema=columns, orient="row")


def scored() -> Tables:
    """Every predictor and baseline by leave-cell-out and leave-base-out."""
    if whole("core", "twins", "behaviors") is None:
        return
    frame = of_parts("core", "twins", "behaviors", "starts", "doses")
    names = [*DEFAULTS, *MORE]
    for group in ("cell", "base_model"):
        report = predict.score(frame, predictors=names, group=group)
        head = f"{report.n} checkpoints, {report.n_groups} groups, one {group} left out"
        ceiling = report.ceiling
        if ceiling:
            shown = ", ".join(
                f"{label} {value:.3f}"
                for label, value in (("R2", ceiling.r2), ("within", ceiling.r2_within))
                if value is not None
            )
            head += f"; noise ceiling: {shown} ({ceiling.freedom} degrees of freedom)"
        yield head, _scores(report)


def _scores(report: predict.Report) -> pl.DataFrame:
    rows = [
        {
            "predictor": one.name,
            "Spearman": one.spearman.value,
            "low": one.spearman.low,
            "high": one.spearman.high,
            "R2": one.r2_logo,
            "R2 within": one.r2_within,
            "R2 between": one.r2_between,
            "MAE": one.mae_loo,
            "cover 90": one.coverage_90,
            "p adjusted": (one.versus_baseline or {}).get("p_value_adjusted"),
            "n": one.n,
        }
        for one in report.predictors
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def which_k() -> Tables:
    """Which k of pass@k: over all, within strata, and by the group size of RL."""
    frame = whole("core", "twins")
    if frame is None:
        return
    rows = Within.of(frame)
    within = pl.DataFrame(
        {
            "k": KS,
            "R2 within, base left out": [rows.r2((f"pass_at_{k}",)) for k in KS],
            "correlation within": [rows.correlation(f"pass_at_{k}") for k in KS],
        }
    )
    ranked = rank_by_k(frame).drop("lead").rename({"lead_low": "lead over k = 1: low", "lead_high": "high "})
    yield "Group size 16, core and twins", within.join(ranked, on="k", how="left")
    sizes = {8: checkpoints(group_size=8, problems=48), 16: of_parts("core"), 32: checkpoints(group_size=32, problems=12)}
    if all(len(sized) for sized in sizes.values()):
        shared = set.intersection(*(set(sized["id"]) for sized in sizes.values()))
        columns = {
            f"group {size}": _correlations(sized.filter(pl.col("id").is_in(sorted(shared)))) for size, sized in sizes.items()
        }
        yield (
            f"The same {len(shared)} checkpoints at three group sizes: correlation of pass@k with the outcome, each less its base's mean",
            pl.DataFrame({"k": KS, **columns}),
        )


def _correlations(frame: pl.DataFrame) -> list[float]:
    """Correlation of pass@k with the outcome, both less their base's mean, for each of KS."""
    centred = frame.select(
        pl.col(name) - pl.col(name).mean().over("base_model") for name in ("outcome_pass_at_1", *(f"pass_at_{k}" for k in KS))
    )
    return [float(np.corrcoef(centred["outcome_pass_at_1"], centred[f"pass_at_{k}"])[0, 1]) for k in KS]


def rollouts() -> Tables:
    """Quality against the rollouts that were spent to get it, beside RL's own first steps."""
    if whole("core", "twins") is None:
        return
    curve = predict.rollout_curve(store(), rl_recipe=recipe())
    signals, early = by_price(curve)
    yield f"Held-out R2 by rollouts a checkpoint, one cell left out, all {curve['n'].max()} checkpoints: signals", signals
    yield "The first steps of RL", early


def regret() -> Tables:
    """Points of pass@1 after RL that are lost by choosing among 8 checkpoints of a base, the predictor fitted on other bases."""
    frame = whole("core", "twins", "behaviors")
    if frame is None:
        return
    names = [
        *(
            "identity(pass_at_1)",
            "identity(pass_at_64)",
            "mean",
            "label(length_mix)",
            "gen_loss",
            "gen_loss_style_free",
            "pass_at_8",
        ),
        *("pass_at_64", "gen_loss_style_free+pass_at_64", "+".join(PRIMARY), RIDGE),
    ]
    report = predict.score(frame, predictors=[*names, _validated()], group="base_model")
    ends = ("value", "low", "high")
    rows = [
        {"predictor": one.name, **{f"{top} {end}": getattr(value, end) for top, value in one.regret.items() for end in ends}}
        for one in report.predictors
    ]
    yield (
        f"Loss in pass@1 (0..1); {report.n} checkpoints of {report.n_groups} bases; random sets of 8 within a base",
        pl.DataFrame(rows),
    )


class Validated(RegressorMixin, BaseEstimator):
    """Least squares on the set of columns that forecasts best on bases left out of the training rows themselves.

    The last column is the code of the base; `sets` are the columns to choose from.
    """

    def __init__(self, sets: tuple[tuple[int, ...], ...] = ((0,),)) -> None:
        self.sets = sets

    def fit(self, X: Array, y: Array) -> "Validated":
        """(n, d + 1) and (n,)."""
        clusters = clusters_of(X[:, -1].tolist())
        errors = [((y - self._held_out(X[:, columns], y, clusters)) ** 2).sum() for columns in self.sets]
        self.columns_ = list(self.sets[int(np.argmin(errors))])
        self.model_ = LeastSquares().fit(X[:, self.columns_], y)
        return self

    @staticmethod
    def _held_out(X: Array, y: Array, clusters: list[NDArray[np.int64]]) -> Array:
        predicted = np.empty(len(y))
        for rows in clusters:
            rest = np.setdiff1d(np.arange(len(y)), rows)
            predicted[rows] = LeastSquares().fit(X[rest], y[rest]).predict(X[rows])
        return predicted

    def predict(self, X: Array) -> Array:
        """(n, d + 1) -> (n,)."""
        return self.model_.predict(X[:, self.columns_])


def _validated() -> Predictor:
    """Chooses among single signals, and pairs with the style-free loss, on bases other than the one it is held to."""
    names = ("pass_at_1", "pass_at_8", "pass_at_64", "mixed_share", "gen_loss", "gen_loss_style_free")
    loss = names.index("gen_loss_style_free")
    sets = (*((i,) for i in range(len(names))), *((i, loss) for i in range(loss)))
    return Predictor("validated on other bases", tuple(map(Term, names)), Validated(sets), grouping="base_model")


def mediators() -> Tables:
    """Whether a signal says more than the level that RL starts from, the length of what is written, and how much of it is cut off."""
    frame = whole("core", "twins")
    if frame is None:
        return
    rows = Within.of(frame)
    known: list[tuple[str, ...]] = [
        (),
        PRIMARY[:1],
        ("pass_at_1", "mean_tokens"),
        ("pass_at_1", "mean_tokens", "truncated_share"),
    ]
    if "style_long_share" in rows.frame.columns and not rows.frame["style_long_share"].null_count():
        known.append(("pass_at_1", "style_long_share", "style_full_share"))
    table = []
    for covariates in known:
        for signal in ("gen_loss_style_free", "pass_at_8", "pass_at_64", "mixed_share"):
            found = compared(rows, covariates, (*covariates, signal))
            table.append(
                (", ".join(covariates) or "stratum's mean", signal, rows.r2(covariates), rows.r2((*covariates, signal)), found.p)
            )
    columns = ["known", "added", "R2 known", "R2 with it", "p"]
    yield "Within strata, a base left out", pl.DataFrame(table, schema=columns, orient="row")


def shifted() -> Tables:
    """The same scores for pass@1 after RL on problems of another kind."""
    frame = whole("core", "twins", "behaviors")
    if frame is None:
        return
    names = [
        *("pass_at_1", "mean", "label(length_mix)", "pass_at_8", "pass_at_64", "mixed_share", "gen_loss", "gen_loss_style_free")
    ]
    names += ["gen_loss_style_free+pass_at_64", RIDGE]
    report = predict.score(frame, outcome="outcome_shifted_pass_at_1", predictors=names, group="cell")
    yield f"outcome_shifted_pass_at_1, {report.n} checkpoints, one cell left out", _scores(report)
    rows = Within.of(frame, "outcome_shifted_pass_at_1")
    signals = ("pass_at_1", "pass_at_8", "pass_at_64", "gen_loss_style_free")
    yield "Within strata, a base left out", pl.DataFrame({"signal": signals, "R2": [rows.r2((name,)) for name in signals]})
