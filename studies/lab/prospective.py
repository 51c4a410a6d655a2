"""The forecasts that were committed before their RL was run, held to what came."""

from collections.abc import Iterator

import polars as pl
from runs_of_study import of_parts, store

import predict
from predict.intervals import spearman
from predict.predictors import parse

FROZEN = "rl_loss_style_free"
"""The rule that PROTOCOL.md freezes; the others were forecast beside it for comparison."""
FORECASTS = """SELECT f.*, c.base_model, c.cell FROM forecasts f
LEFT JOIN (SELECT DISTINCT run_id || '@' || step AS id, base_model, cell FROM checkpoints) c USING (id)
WHERE measured IS NOT NULL ORDER BY predictor, base_model, variant, sft_learning_rate, id"""


def scored() -> Iterator[tuple[str, pl.DataFrame]]:
    """Error, coverage, rank correlation and regret of each frozen rule, once."""
    frame = predict.query(store(), FORECASTS)
    if frame.is_empty():
        return
    yield "By rule", pl.DataFrame([_summary(rows) for _, rows in frame.group_by("predictor", maintain_order=True)])
    columns = [
        "base_model",
        "variant",
        "sft_learning_rate",
        "epochs",
        "pass_at_1",
        "point",
        "low",
        "high",
        "measured",
    ]
    yield f"By checkpoint, {FROZEN}", frame.filter(predictor=FROZEN).select(*columns, "before_rl")
    lines = [rows for (name,), rows in frame.group_by("predictor", maintain_order=True) if parse(str(name)).linear]
    yield "Afterwards: the same points, in intervals that let a base's rows share an error", pl.DataFrame(map(_afterwards, lines))


def _afterwards(frozen: pl.DataFrame) -> dict[str, object]:
    """A frozen rule fitted again on the rows it was fitted on, its intervals as the library makes them now."""
    runs = of_parts("core", "starts", "behaviors", "twins")
    fitted = predict.Forecaster(frozen["predictor"][0], outcome="outcome_seed_0", group="base_model").fit(runs)
    now = fitted.forecast(of_parts("prospective")).frame().select("id", "point", "low", "high", "low_50", "high_50")
    both = frozen.select("id", "measured", old="point", frozen=pl.col("high") - pl.col("low")).join(now, on="id")
    figures = both.select(
        (pl.col("point") - pl.col("old")).abs().max().alias("points differ by"),
        pl.col("frozen").mean().alias("width 90 frozen"),
        (pl.col("high") - pl.col("low")).mean().alias("width 90"),
        pl.col("measured").is_between("low_50", "high_50").mean().alias("inside 50"),
        pl.col("measured").is_between("low", "high").mean().alias("inside 90"),
    )
    return {"predictor": frozen["predictor"][0], **figures.row(0, named=True)}


def _summary(rows: pl.DataFrame) -> dict[str, object]:
    error = rows["measured"] - rows["point"]
    inside_50 = rows.select(pl.col("measured").is_between("low_50", "high_50").mean()).item()
    best = rows.group_by("base_model").agg(
        (pl.col("measured").max() - pl.col("measured").get(pl.col("point").arg_max())).alias("regret"), pl.len().alias("n")
    )
    return {
        "predictor": rows["predictor"][0],
        "n": len(rows),
        "all before RL": bool(rows["before_rl"].all()),
        "MAE": error.abs().mean(),
        "MAE of pass@1 alone": (rows["measured"] - rows["pass_at_1"]).abs().mean(),
        "bias": error.mean(),
        "inside 50": inside_50,
        "inside 90": rows["inside"].mean(),
        "Spearman": spearman(rows["point"].to_numpy(), rows["measured"].to_numpy()),
        "regret within base": best.filter(pl.col("n") > 1)["regret"].mean(),
    }
