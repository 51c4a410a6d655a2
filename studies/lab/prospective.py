"""The forecasts that were committed before their RL was run, held to what came."""

from collections.abc import Iterator

import polars as pl
from runs_of_study import store

import predict
from predict.intervals import spearman

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
