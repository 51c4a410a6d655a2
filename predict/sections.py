"""The sections of the report: each asks one question of the store and answers with figures, or says what is missing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from curate.errors import ForerunError, InputError
from predict import captions, charts, diagnostics, results, score_charts
from predict.features import OUTCOME, names
from predict.forecasting import Forecaster
from predict.page import Figure, Section
from predict.rollouts import rollout_curve
from predict.scores import Report, Score
from predict.scoring import best_predictor, score


@dataclass
class Material:
    """What all sections read, each computed once."""

    home: Path
    runs: pl.DataFrame
    rl_recipe: str | None
    seed: int

    @cached_property
    def forecasts(self) -> pl.DataFrame:
        """Forecasts beside results."""
        return results.forecast_rows(self.home, self.rl_recipe)

    @cached_property
    def measured(self) -> pl.DataFrame:
        """Checkpoints with an outcome."""
        return self.runs.filter(pl.col(OUTCOME).is_not_null())

    @cached_property
    def scores(self) -> Report:
        """Of the default predictors."""
        return score(self.runs, seed=self.seed)

    @cached_property
    def best(self) -> str:
        """Name of the best predictor."""
        return best_predictor(self.runs, seed=self.seed)

    def score_of(self, name: str, rows: pl.DataFrame) -> Score:
        """Of one signal on all rows that have it: the one among `scores` where that is on as many."""
        known = [one for one in self.scores.predictors if one.name == name and one.n == len(rows)]
        return known[0] if known else score(rows, predictors=[name], seed=self.seed)[name]

    @cached_property
    def called(self) -> dict[str, str]:
        """What a person calls each checkpoint."""
        return names(self.runs)

    @cached_property
    def colour(self) -> str | None:
        """The column that colours points."""
        return charts.grouping(self.measured)

    def labelled(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows with an id, with the checkpoint's name and the colouring column before the rest."""
        words = [self.colour] if self.colour and self.colour not in frame.columns else []
        joined = frame.join(self.runs.select("id", *words), on="id", how="left", maintain_order="left")
        named = joined.with_columns(checkpoint=pl.col("id").replace_strict(self.called, return_dtype=pl.String))
        return named.select("checkpoint", *words, *(name for name in frame.columns if name != "id"), "id")


def sections(material: Material) -> list[Section]:
    """All of them, in the order of the page."""
    return [
        _section("forecasts", "Forecast against result", material, [_forecasts]),
        _scores(material),
        _section("rollouts", "What does a forecast cost, and when is it cheaper than RL?", material, [_rollouts]),
        _section("signals", "Outcome against signals known before RL", material, [_signals]),
        _section("pass-at-k", "pass@k: which k forecasts, and what RL did to it", material, [_ranks, _curves]),
        _section("trust", "May the forecasts be trusted? Residuals and calibration", material, [_residuals, _coverage, _best]),
    ]


def _section(name: str, title: str, material: Material, parts: list[Callable[[Material], list[Figure]]]) -> Section:
    """The figures of all parts; a part that cannot be had says why."""
    figures, missing = list[Figure](), list[str]()
    for part in parts:
        try:
            figures += part(material)
        except ForerunError as error:
            missing.append(str(error))
    return Section(name, title, figures, list(dict.fromkeys(missing)))


def _scores(material: Material) -> Section:
    section = _section("predictors", "How good is each predictor?", material, [_compared])
    if not section.figures:
        return section
    report = material.scores
    notes = [f"Folds: {report.folds}. r2_logo and r2_loo are held-out R² against the training fold's mean, so that mean scores 0; delta_r2 is "
             f"the difference to {report.predictors[0].name}, the practice to beat."]  # fmt: skip
    notes += [*report.notes, *(f"{one.name}: {note}" for one in report.predictors for note in one.notes)]
    return Section(section.name, section.title, section.figures, section.missing, report.frame(), notes)


def _forecasts(material: Material) -> list[Figure]:
    if not len(material.forecasts):
        raise InputError(results.reading(material.forecasts))
    parts = material.forecasts.partition_by("outcome", maintain_order=True)
    return [
        Figure(
            "forecasts" if rows["outcome"][0] == OUTCOME else f"forecasts-{rows['outcome'][0]}",
            charts.forecast_against_result(rows),
            f"Forecasts of {charts.title(rows['outcome'][0])} as circles with 50 and 90 % intervals, results of RL as diamonds.",
            results.reading(rows),
            results.forecast_table(rows),
        )
        for rows in parts
    ]


def _compared(material: Material) -> list[Figure]:
    report = material.scores
    rows = [
        (captions.short(one.name), one.r2_held_out.value, one.r2_held_out.low, one.r2_held_out.high) for one in report.predictors
    ]
    frame = pl.DataFrame(rows, schema=["predictor", "r2", "low", "high"], orient="row", infer_schema_length=None)
    frame = frame.with_columns(pl.col("r2", "low", "high").cast(pl.Float64)).sort("r2", descending=True)
    ceiling = report.ceiling
    named = "noise ceiling" if ceiling and ceiling.freedom else "ceiling of the evaluation"
    chart = score_charts.predictors_compared(frame, ceiling.r2 if ceiling else None, named)
    shows = (
        "Held-out R² of each predictor as a point with its 90 % interval, beside the training mean at 0 and the noise ceiling."
    )
    return [Figure("predictors", chart, shows, captions.compared(report, material.best), frame)]


DRAWN = {
    **{f"pass_at_{k}": f"pass@{k} after SFT" for k in (1, 8, 64)},
    "early_reward_start+early_reward_slope": "rewards of the first RL steps",
    "gen_loss_style_free": "style-free loss",
    "gen_loss": "generalization loss",
}
"""Of the predictors at their price, those in the figure, beside the ridge; its table has all."""


def _rollouts(material: Material) -> list[Figure]:
    curve = rollout_curve(material.home, rl_recipe=material.rl_recipe, seed=material.seed)
    name = pl.col("predictor").replace_strict(DRAWN, default=pl.col("predictor").map_elements(captions.short, pl.String))
    drawn = pl.col("predictor").is_in(list(DRAWN)) | pl.col("predictor").str.starts_with("ridge(")
    rows = curve.filter(pl.col("widest") & drawn).with_columns(name=name)
    whole = max(curve.filter(pl.col("kind") == "early_rl")["rollouts"], default=None)
    shows = "Held-out R² of predictors over the rollouts spent on a checkpoint; losses, which cost none, at 0; the first RL steps as a dashed line."
    return [Figure("rollouts", score_charts.rollouts(rows, whole), shows, captions.rollouts(curve), curve)]


def _signals(material: Material) -> list[Figure]:
    known = [name for name in charts.SIGNALS if material.measured[name].null_count() < len(material.measured)]
    if not len(material.measured):
        raise InputError("no RL run has ended: there is no outcome to plot against")
    if not known:
        raise InputError("no signal was measured before RL on the checkpoints that have an outcome")
    return [_signal(material, name) for name in known]


def _signal(material: Material, name: str) -> Figure:
    """With few runs the points alone, and the reason in place of the sentence."""
    rows = material.measured.filter(pl.col(name).is_not_null())
    try:
        curve = Forecaster(name, seed=material.seed).fit(rows).response(rows.head(1), name)
        sentence = captions.signal(name, material.score_of(name, rows), curve)
    except ForerunError as error:
        curve, sentence = None, f"{len(rows)} checkpoints have both, too few for a line: {error}."
    chart = charts.outcome_against(rows, name, colour=material.colour, curve=curve)
    line = "" if curve is None else ", with the fitted line and its 90 % band"
    shows = f"{charts.title(OUTCOME)} over {charts.title(name)}, a point a checkpoint{line}."
    return Figure(f"outcome-{name}", chart, shows, sentence, material.labelled(rows.select("id", name, OUTCOME)))


def _ranks(material: Material) -> list[Figure]:
    rows = diagnostics.rank_by_k(material.runs, seed=material.seed)
    losses = [one for one in material.scores.predictors if one.name in ("gen_loss", "gen_loss_style_free") and one.spearman.value]
    lines = pl.DataFrame(
        [(f"{charts.title(one.name).partition(' (')[0]}, sign turned", -(one.spearman.value or 0.0)) for one in losses],
        schema={"words": pl.String, "value": pl.Float64}, orient="row",
    )  # fmt: skip
    shows = "Rank correlation of pass@k before RL with the outcome, over k, with its 90 % band; held-out losses as dashed lines."
    return [Figure("rank-by-k", score_charts.rank_by_k(rows, lines), shows, captions.ranks(rows), rows)]


def _curves(material: Material) -> list[Figure]:
    pairs = results.pass_pairs(material.home, material.runs)
    curves = results.pass_curves(pairs, charts.grouping(pairs))
    shows = "pass@k on the outcome problems over k, before RL dashed and after RL solid, a panel a group of checkpoints."
    changes = results.pass_gains(pairs)
    lost = results.gain_lost(pairs, changes[0].k, changes[1].k) if len(changes) > 1 else None
    return [Figure("pass-at-k", charts.pass_curves(curves), shows, captions.gains(changes, lost), curves)]


def _residuals(material: Material) -> list[Figure]:
    found = diagnostics.residuals(material.runs, material.best, seed=material.seed)
    rows = material.labelled(found.frame)
    shows = f"Measured less predicted outcome over the prediction of {captions.short(material.best)}, a point a checkpoint."
    sentence = captions.missed(found, material.best, material.called)
    return [Figure("residuals", score_charts.residuals(rows, material.colour), shows, sentence, rows)]


def _coverage(material: Material) -> list[Figure]:
    rows = diagnostics.coverage(material.runs, material.best, seed=material.seed)
    recorded = material.forecasts.filter(pl.col("measured").is_not_null())
    forecasts = diagnostics.forecast_coverage(recorded) if len(recorded) else None
    shows = f"Share of held-out results inside the intervals of {captions.short(material.best)} over the nominal share, beside the diagonal."
    table = (
        rows
        if forecasts is None
        else pl.concat([rows.with_columns(of=pl.lit("held-out runs")), forecasts.with_columns(of=pl.lit("forecasts"))])
    )
    return [
        Figure("calibration-intervals", score_charts.coverage(rows, forecasts), shows, captions.covered(rows, forecasts), table)
    ]


def _best(material: Material) -> list[Figure]:
    found = diagnostics.best_reliability(material.runs, material.best, seed=material.seed)
    shows = "Share of candidates that were the best over the probability that they were given, beside the diagonal."
    sentence = captions.best(found, diagnostics.CANDIDATES)
    return [Figure("calibration-best", score_charts.best_reliability(found.frame), shows, sentence, found.frame)]
