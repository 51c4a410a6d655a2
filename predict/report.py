"""The report: tables and figures of a store, as one HTML page with its figures beside it as SVG and PNG."""

import html
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from curate.files import atomic_folder, write_text
from predict import charts, store
from predict.features import OUTCOME, load, names
from predict.scoring import Report, score

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#1a1a1a}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left;min-width:16em;max-width:22em;overflow-wrap:break-word}figure{display:inline-block;margin:0 1rem 1rem 0;vertical-align:top}figure svg{max-width:100%;height:auto}
.wide{overflow-x:auto}code{background:#f3f3f3;padding:.1rem .3rem}"""


def write(home: Path, output: Path, *, force: bool = False, rl_recipe: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Write `index.html` and `figures/` into the folder `output`.

    Returns:
        The paths written and how many runs they show.

    Raises:
        OutputExists: `output` is there and `force` is false.
        InputError: no store, or too few runs with an outcome to score anything.
    """
    runs = load(home, rl_recipe)
    with atomic_folder(output, force=force) as partial:
        report = score(runs, seed=seed)
        forecasts = store.query(home, "SELECT * FROM forecasts ORDER BY created_at, point DESC")
        figures = _figures(home, runs, forecasts)
        (partial / "figures").mkdir()
        for name, chart in figures.items():
            chart.save(str(partial / "figures" / f"{name}.svg"))
            chart.save(str(partial / "figures" / f"{name}.png"), scale_factor=2)
        write_text(partial / "index.html", _page(partial, runs, report, forecasts, list(figures)))
    return {"output": str(output / "index.html"), "runs": report.n_runs, "figures": sorted(figures)}


def _figures(home: Path, runs: pl.DataFrame, forecasts: pl.DataFrame) -> dict[str, alt.TopLevelMixin]:
    shown = [name for name in charts.SIGNALS if runs[name].null_count() < len(runs)]
    figures: dict[str, Any] = {f"outcome-{name}": charts.outcome_against(runs, name) for name in shown}
    curves = pass_curves(home)
    if len(curves):
        figures["pass-at-k"] = charts.pass_curves(curves)
    if len(forecasts):
        figures["forecasts"] = charts.forecast_against_result(forecasts)
    return figures


def pass_curves(home: Path) -> pl.DataFrame:
    """pass@k on the outcome problems before and after RL, mean over the checkpoints of a variant."""
    return store.query(
        home,
        """SELECT c.variant, CASE WHEN r.stage = 'sft' THEN 'before RL' ELSE 'after RL' END AS "when", p.k, avg(p.value) AS value
           FROM pass_at_k p JOIN runs r USING (run_id)
           JOIN checkpoints c ON c.run_id = CASE WHEN r.stage = 'sft' THEN r.run_id ELSE r.parent_run_id END
           WHERE p.purpose = 'outcome' AND p.value IS NOT NULL AND c.outcome_pass_at_1 IS NOT NULL
           GROUP BY ALL ORDER BY ALL""",
    )


def _page(folder: Path, runs: pl.DataFrame, report: Report, forecasts: pl.DataFrame, figures: list[str]) -> str:
    measured = int(runs[OUTCOME].is_not_null().sum())
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Forerun</title><style>{STYLE}</style><h1>Forerun report</h1>",
        f"<p>{len(runs)} SFT checkpoints, {measured} of them with a measured RL outcome ({report.n_runs} RL runs).</p>",
    ]
    if len(forecasts):
        parts += ["<h2>Forecast beside result</h2>", f"<p>{reading(forecasts)}</p>", _table(forecast_table(forecasts))]
    parts += [
        "<h2>How good is each predictor?</h2>",
        f"<p>Folds: {html.escape(report.folds)}. <code>r2_logo</code> is held-out R² against the training fold's mean, so that "
        "<code>mean</code> scores 0; <code>delta_r2</code> is the difference to the first predictor, the practice to beat.</p>",
        _table(report.frame()),
        "<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in report.notes) + "</ul>",
        "<h2>Figures</h2>",
        *(f"<figure>{(folder / 'figures' / f'{name}.svg').read_text(encoding='utf-8')}</figure>" for name in figures),
    ]
    return "\n".join([*parts, "</html>"])


def forecast_table(forecasts: pl.DataFrame) -> pl.DataFrame:
    """The columns a person reads: what was forecast, and what happened."""
    called = names(forecasts)
    return forecasts.select(
        pl.col("id").replace_strict(called, return_dtype=pl.String).alias("checkpoint"),
        pl.col("pass_at_1").alias("pass@1 after SFT"),
        pl.col("point").alias("forecast"),
        pl.Series(
            "90 % interval", [f"{low:.3f} .. {high:.3f}" for low, high in forecasts.select("low", "high").iter_rows()], pl.String
        ),
        pl.col("p_best").alias("P(best)"),
        pl.col("start_pass_at_1").alias("before RL"),
        pl.col("measured").alias("after RL"),
        (pl.col("measured") - pl.col("point")).alias("error"),
        pl.col("inside"),
    )


def reading(forecasts: pl.DataFrame) -> str:
    """The forecasts in one or two sentences."""
    if not len(forecasts):
        return "No forecast has been written yet: `predict rank` writes one for the checkpoints without an outcome."
    known = forecasts.filter(pl.col("measured").is_not_null())
    if not len(known):
        return f"{len(forecasts)} forecasts; RL has not been run on any of them yet."
    error = float((known["measured"] - known["point"]).abs().mean())  # type: ignore[arg-type]
    gain = float((known["measured"] - known["start_pass_at_1"]).mean() or 0.0)  # type: ignore[arg-type]
    inside = int(known["inside"].sum())
    before = int(known["before_rl"].sum())
    return (
        f"Mean absolute error {error:.3f} over {len(known)} forecasts; {inside} of {len(known)} results lie inside their 90 % interval; "
        f"RL moved pass@1 by {gain:+.3f} on average. {before} of {len(known)} forecasts were written before their RL run began."
    )


def _table(frame: pl.DataFrame) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in frame.columns)
    rows = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in frame.iter_rows())
    return f"<div class=wide><table><tr>{head}</tr>{rows}</table></div>"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return html.escape(str(value)).replace(",", ",<wbr>")  # a long list of columns may wrap after its commas
