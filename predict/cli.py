"""The `predict` command: ingest, export, sql, score, rank, forecasts, report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from curate.commands import finish, run_app

if TYPE_CHECKING:
    import polars as pl

    from predict.features import Direction
    from predict.scoring import Report

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

Home = Annotated[Path | None, typer.Option(help="Workspace folder; default $FORERUN_HOME, else ./forerun.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]
Csv = Annotated[
    Path | None, typer.Option("--csv", metavar="FILE", help="A table of runs (CSV or Parquet) in place of the store.")
]
Outcome = Annotated[str, typer.Option(metavar="COL", help="Column of the RL outcome.")]
Group = Annotated[
    str | None, typer.Option(metavar="COL", help="Clusters left out whole; default: cell in a store, single rows in a table.")
]
Recipe = Annotated[str | None, typer.Option("--rl-recipe", metavar="HASH", help="Use the outcomes of this RL recipe.")]
Percent = Annotated[
    list[str] | None, typer.Option("--percent", metavar="COL", help="This column is in percent, small values included.")
]
Seed = Annotated[int, typer.Option(help="Of splits and resampling.")]


@app.callback()
def _root() -> None:
    """Forecast where RL will take an SFT checkpoint; score predictors; ask the store of runs."""


def _workspace(home: Path | None) -> Path:
    from train.records import workspace

    return workspace(home)


def _runs(csv: Path | None, home: Path | None, rl_recipe: str | None) -> "pl.DataFrame":
    from predict.features import load, read_table

    return read_table(csv) if csv else load(_workspace(home), rl_recipe)


@app.command()
def ingest(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH ...]", help="Run folders or packed studies to record as sources.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Read run folders and packed studies into the store; what is recorded once is read again each time."""
    from predict import store

    counts = store.ingest(_workspace(home), paths or [])

    def text() -> None:
        stages = ", ".join(f"{count} {stage}" for stage, count in counts["stages"].items())
        print(
            f"{counts['runs']} runs ({stages}), {counts['checkpoints']} checkpoints, {counts['new_runs']} new: {store.database(_workspace(home))}"
        )

    finish(counts, as_json=as_json, text=text)


@app.command()
def export(
    output: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the packed study.")],
    home: Home = None,
    force: Annotated[bool, typer.Option(help="Replace an output that exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Pack the store as a folder of Parquet files with checksums."""
    from predict import store

    facts = store.export(_workspace(home), output, force=force)
    finish(facts, as_json=as_json, text=lambda: print(f"{facts['runs']} runs, {facts['bytes'] / 1e6:.2f} MB: {output}"))


@app.command()
def sql(
    query: Annotated[
        str | None, typer.Argument(metavar='"SELECT ..."', help="One SELECT; without it, the views and columns are listed.")
    ] = None,
    home: Home = None,
    form: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="json prints a bare array of rows.")
    ] = "table",
    as_json: AsJson = False,
) -> None:
    """Ask the store; it is opened read-only."""
    from predict import store

    frame = store.query(_workspace(home), query) if query else store.describe(_workspace(home))
    if as_json:
        finish({"columns": frame.columns, "rows": _plain(frame)}, as_json=True, text=lambda: None)
    elif form == "json":
        import json

        print(json.dumps(_plain(frame), allow_nan=False))
    else:
        print(frame.write_csv() if form == "csv" else _shown(frame), end="" if form == "csv" else "\n")


def _plain(frame: "pl.DataFrame") -> list[dict[str, Any]]:
    """Rows as JSON values; NaN and infinities become null."""
    rows: list[dict[str, Any]] = [_plain_value(row) for row in frame.to_dicts()]
    return rows


def _plain_value(value: Any) -> Any:
    import math
    from decimal import Decimal

    if isinstance(value, dict):
        return {name: _plain_value(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain_value(part) for part in value]
    if isinstance(value, Decimal):  # what DuckDB makes of 1.5 and of the sum of a whole column
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, type(None))) else str(value)


def _shown(frame: "pl.DataFrame") -> str:
    """A table for a person: all columns, three decimals."""
    import polars as pl

    with pl.Config(
        tbl_rows=60, tbl_cols=-1, tbl_width_chars=240, fmt_str_lengths=60, float_precision=3,
        tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, tbl_formatting="ASCII_MARKDOWN",
    ):  # fmt: skip
        return str(frame)


@app.command()
def score(
    csv: Csv = None,
    outcome: Outcome = "outcome_pass_at_1",
    predictors: Annotated[
        list[str] | None,
        typer.Option(
            "--predictor", help="A, A+B, log(A), mean, ridge(A,B), huber(A), identity(A), label(A); the first is the baseline."
        ),
    ] = None,
    group: Group = None,
    directions: Annotated[
        list[str] | None, typer.Option("--direction", metavar="COL=up|down", help="Where a column's name does not say.")
    ] = None,
    percent: Percent = None,
    seed: Seed = 0,
    rl_recipe: Recipe = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """How good is each predictor on runs whose outcome is known?"""
    from predict.scoring import score as run

    if csv and not predictors:
        from curate.errors import UsageError

        raise UsageError("--csv needs at least one --predictor: a column of the table, the baseline first")
    report = run(
        _runs(csv, home, rl_recipe), outcome=outcome, predictors=predictors, group=group, seed=seed,
        directions=_directions(directions), percent=percent or (),
    )  # fmt: skip
    finish(report.to_dict(), as_json=as_json, text=lambda: _print_scores(report))


def _directions(given: list[str] | None) -> "dict[str, Direction]":
    from curate.errors import UsageError

    result: dict[str, Direction] = {}
    for text in given or []:
        name, _, way = text.rpartition("=")
        if not name or way not in ("up", "down"):
            raise UsageError(f"--direction expects COL=up or COL=down, came {text!r}")
        result[name] = "up" if way == "up" else "down"
    return result


def _print_scores(report: "Report") -> None:
    print(f"{report.n} checkpoints, {report.n_groups} groups; outcome {report.outcome}; {report.folds}")
    print(_shown(report.frame()))
    for note in [*report.notes, *(f"{s.name}: {note}" for s in report.predictors for note in s.notes)]:
        print(f"note: {note}")


@app.command()
def rank(
    csv: Csv = None,
    outcome: Outcome = "outcome_pass_at_1",
    predictor: Annotated[str | None, typer.Option(help="Default: the one with the best held-out R^2 on the runs so far.")] = None,
    group: Group = None,
    percent: Percent = None,
    seed: Seed = 0,
    rl_recipe: Recipe = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Forecast the rows without an outcome, best first, and write the forecast down."""
    from curate.files import write_json
    from predict.features import as_fractions, with_ids
    from predict.forecasting import Forecaster
    from predict.scoring import best_predictor

    runs = with_ids(_runs(csv, home, rl_recipe))
    chosen = predictor or best_predictor(runs, outcome=outcome, group=group, seed=seed, percent=percent or ())
    forecaster = Forecaster(chosen, outcome=outcome, group=group, seed=seed)
    runs, notes = as_fractions(runs, [*forecaster.predictor.numeric, outcome], percent or ())
    forecast = forecaster.fit(runs).forecast(runs.filter(runs[outcome].is_null()))
    document = {**forecast.to_dict(), "notes": [*notes, *forecast.notes]}
    path = _workspace(home) / "forecasts" / f"{document['forecast_id']}.json"
    write_json(path, {"schema_version": 1, "ok": True, **document})

    def text() -> None:
        print(f"{document['predictor']} fitted on {document['fitted_on']['n']} runs; forecast of {outcome}:")
        print(_shown(_named(forecast.frame(), runs)))
        for abstention in forecast.abstentions:
            print(f"note: {abstention['words']}; {abstention['cost']}")
        print(f"written to {path}")

    finish(document, as_json=as_json, text=text)


def _named(candidates: "pl.DataFrame", runs: "pl.DataFrame") -> "pl.DataFrame":
    """Candidates with a name that a person knows, where the runs have one."""
    import polars as pl

    from predict.features import names

    if "variant" not in runs.columns:
        return candidates
    known = names(runs)
    return candidates.with_columns(checkpoint=pl.col("id").replace_strict(known, return_dtype=pl.String)).select(
        "id", "checkpoint", pl.exclude("id", "checkpoint")
    )


@app.command()
def forecasts(home: Home = None, as_json: AsJson = False) -> None:
    """What was forecast, and what happened."""
    from predict import store
    from predict.report import forecast_table, reading

    rows = store.query(_workspace(home), "SELECT * FROM forecasts ORDER BY created_at, point DESC")

    def text() -> None:
        if len(rows):
            print(_shown(forecast_table(rows)))
        print(reading(rows))

    finish({"forecasts": _plain(rows)}, as_json=as_json, text=text)


@app.command()
def report(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Default: <home>/report, which is replaced.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an output that exists.")] = False,
    rl_recipe: Recipe = None,
    seed: Seed = 0,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write tables and figures as one HTML page."""
    from predict import report as module

    target = output or _workspace(home) / "report"
    facts = module.write(_workspace(home), target, force=force or output is None, rl_recipe=rl_recipe, seed=seed)
    finish(facts, as_json=as_json, text=lambda: print(f"report on {facts['runs']} RL runs: {facts['output']}"))


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
