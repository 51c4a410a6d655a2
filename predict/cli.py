"""The `predict` command: ingest, export, sql, score, rank, plan, samples, forecasts, report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from curate.commands import finish, run_app
from predict.imports.command import import_logs
from predict.printing import Format, print_rows
from predict.printing import plain as _plain
from predict.printing import shown as _shown

if TYPE_CHECKING:
    import polars as pl

    from predict.features import Direction
    from predict.problems import ProblemScores
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
OnePredictor = Annotated[
    str | None, typer.Option("--predictor", help="Default: the one with the best held-out R^2 on the runs so far.")
]
Seed = Annotated[int, typer.Option(help="Of splits and resampling.")]


app.command("import")(import_logs)


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
        list[Path] | None,
        typer.Argument(
            metavar="[PATH ...]", help="Packed studies, workspaces, run folders, or folders that hold them; recorded as sources."
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE", help="Forget this recorded source (its files stay), or remove the imported run of this name or id."
        ),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Read run folders and packed studies into the store; what is recorded once is looked at again each time."""
    from predict import store

    counts = store.ingest(_workspace(home), paths or [], drop=drop or [])

    def text() -> None:
        stages = ", ".join(f"{count} {stage}" for stage, count in counts["stages"].items())
        place = store.database(_workspace(home))
        for path in counts["dropped"]:
            print(f"dropped {path}")
        print(f"{counts['runs']} runs ({stages}), {counts['checkpoints']} checkpoints, {counts['new_runs']} new: {place}")
        if again := counts["made_again"]:
            print(
                f"note: {len(again)} run(s) came twice, made on different machines that round differently, such as {again[0]}: "
                "this workspace's own numbers are used, or else those of the first source"
            )
        if waiting := counts["without_run_json"]:
            print(f"note: {len(waiting)} folder(s) beside the runs hold no run.json and were left out, such as {waiting[0]}")

    finish(counts, as_json=as_json, text=text)


@app.command()
def export(
    output: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the packed study.")],
    home: Home = None,
    force: Annotated[bool, typer.Option(help="Replace an output that exists, unless runs would be lost.")] = False,
    as_json: AsJson = False,
) -> None:
    """Pack the store as a folder of Parquet files with checksums."""
    from predict import store

    facts = store.export(_workspace(home), output, force=force)
    finish(facts, as_json=as_json, text=lambda: print(f"{facts['runs']} runs, {facts['bytes'] / 1e6:.2f} MB: {output}"))


@app.command()
def sql(
    query: Annotated[
        str | None,
        typer.Argument(
            metavar='"SELECT ..."', help="One SELECT; without it, the views and columns are listed with their meaning."
        ),
    ] = None,
    home: Home = None,
    form: Annotated[Format, typer.Option("--format", help="json prints a bare array of rows.")] = "table",
    as_json: AsJson = False,
) -> None:
    """Ask the store; it is opened read-only. Worked queries: docs/sql.md."""
    from predict import store

    frame = store.query(_workspace(home), query) if query else store.describe(_workspace(home))
    if as_json:
        finish({"columns": frame.columns, "rows": _plain(frame)}, as_json=True, text=lambda: None)
    else:
        print_rows(frame, form)


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
    crossed: Annotated[
        bool, typer.Option("--crossed", help="Resample the problems too: spearman_crossed; for a store's counts.")
    ] = False,
    rollouts: Annotated[
        bool, typer.Option("--rollouts", help="Also at every price in rollouts, beside early RL; for a store's counts.")
    ] = False,
    seed: Seed = 0,
    rl_recipe: Recipe = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """How good is each predictor on runs whose outcome is known?"""
    from curate.errors import UsageError
    from predict.scoring import score as run

    if csv and not predictors:
        raise UsageError("--csv needs at least one --predictor: a column of the table, the baseline first")
    if csv and rollouts:
        raise UsageError("--rollouts needs the counts by problem of a store; a table of runs does not have them")
    report = run(
        _runs(csv, home, rl_recipe), outcome=outcome, predictors=predictors, group=_group(group, csv), seed=seed,
        directions=_directions(directions), percent=percent or (), problems=_problems(csv, home, rl_recipe) if crossed else None,
    )  # fmt: skip
    if not rollouts:
        finish(report.to_dict(), as_json=as_json, text=lambda: _print_scores(report))
        return
    from predict.rollouts import rollout_curve

    curve = rollout_curve(_workspace(home), predictors, outcome=outcome, group=_group(group, csv), seed=seed, rl_recipe=rl_recipe)

    def text() -> None:
        _print_scores(report)
        _print_rollouts(curve)

    finish({**report.to_dict(), "rollouts": _plain(curve)}, as_json=as_json, text=text)


def _group(named: str | None, csv: Path | None) -> str | None:
    """A table is scored by single rows unless a group is named, even where it has the columns of a store."""
    return "none" if csv and named is None else named


def _problems(csv: Path | None, home: Path | None, rl_recipe: str | None) -> "ProblemScores":
    from curate.errors import UsageError
    from predict.problems import problem_scores

    if csv:
        raise UsageError("--crossed needs the counts by problem of a store; a table of runs does not have them")
    return problem_scores(_workspace(home), rl_recipe=rl_recipe)


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


def _print_rollouts(curve: "pl.DataFrame") -> None:
    import polars as pl

    from predict import captions
    from predict.rollouts import by_price

    forecasts, early = by_price(curve)
    print("\nheld-out R^2 by rollouts spent on a checkpoint, on as many problems as they allow (--json: all layouts and figures)")
    print(_shown(forecasts.with_columns(pl.col("predictor").map_elements(captions.short, pl.String))))
    if len(early):
        print("held-out R^2 of RL's own first rewards")
        print(_shown(early))
    print(captions.rollouts(curve))


@app.command()
def rank(
    csv: Csv = None,
    outcome: Outcome = "outcome_pass_at_1",
    predictor: OnePredictor = None,
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
    chosen = predictor or best_predictor(runs, outcome=outcome, group=_group(group, csv), seed=seed, percent=percent or ())
    forecaster = Forecaster(chosen, outcome=outcome, group=_group(group, csv), seed=seed)
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
def plan(
    budget: Annotated[int, typer.Option(metavar="M", help="RL runs to pay for.")],
    csv: Csv = None,
    objective: Annotated[
        Literal["best", "calibrate"], typer.Option(help="Hold the best candidate, or teach the predictor most.")
    ] = "best",
    outcome: Outcome = "outcome_pass_at_1",
    predictor: OnePredictor = None,
    group: Group = None,
    percent: Percent = None,
    seed: Seed = 0,
    rl_recipe: Recipe = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Which M checkpoints without an outcome to run RL on, and why."""
    from predict.planning import plan as make

    made = make(
        _runs(csv, home, rl_recipe), budget, objective=objective, predictor=predictor, outcome=outcome, group=_group(group, csv),
        percent=percent or (), seed=seed,
    )  # fmt: skip

    def text() -> None:
        print(f"{len(made.picks)} of {made.n_candidates} candidates, objective {objective}: {made.predictor}, {made.n_runs} runs")
        print(_shown(made.frame().drop("reason")))
        for pick in made.picks:
            print(f"{pick.name}: {pick.reason}")
        print(made.words)
        for note in made.notes:
            print(f"note: {note}")

    finish(made.to_dict(), as_json=as_json, text=text)


@app.command()
def samples(
    se: Annotated[float, typer.Option(metavar="S", help="Standard error of pass@k that is wanted, such as 0.01.")],
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Checkpoint in the store: <run_id>@<step>.")] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Counts: num_samples, num_correct, one row a problem.")
    ] = None,
    benchmark: Annotated[str | None, typer.Option(help="Of the store's counts, where the checkpoint has several.")] = None,
    k: Annotated[int, typer.Option("--k", help="Of pass@k.")] = 64,
    target: Annotated[
        Literal["fixed", "population"], typer.Option("--set", help="These very problems, or new ones of the same kind.")
    ] = "population",
    batch: Annotated[int, typer.Option(help="Samples a stop rule draws of a problem at a time.")] = 8,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """What brings pass@k to a standard error: more samples, on which problems, or more problems."""
    from curate.errors import UsageError
    from predict import precision

    if (run is None) == (csv is None):
        raise UsageError("expected either --run RUN or --csv FILE: the counts to plan from")
    counts = precision.read_counts(csv) if csv else precision.stored_counts(_workspace(home), run or "", benchmark)
    advice = precision.advise(counts, se, k, target, batch)

    def text() -> None:
        now = "" if advice.se_now is None else f", now {advice.se_now:.4f}"
        print(f"pass@{k} of {advice.problems} problems, {target} set: standard error wanted {se:g}{now}")
        for design in advice.designs:
            print(f"{design.new_samples:9d} samples  {design.name}: {design.words}")
        for line in [*([] if advice.designs else [advice.words]), *(f"note: {note}" for note in advice.notes)]:
            print(line)

    finish(advice.to_dict(), as_json=as_json, text=text)


@app.command()
def forecasts(home: Home = None, as_json: AsJson = False) -> None:
    """What was forecast, and what happened."""
    from predict.results import forecast_rows, forecast_table, reading

    rows = forecast_rows(_workspace(home))

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
    """Write figures (SVG, PNG, CSV) and one HTML page that reads them; docs/report.md."""
    from predict import report as module

    target = output or _workspace(home) / "report"
    facts = module.write(_workspace(home), target, force=force or output is None, rl_recipe=rl_recipe, seed=seed)

    def text() -> None:
        print(f"report on {facts['runs']} RL runs, {len(facts['figures'])} figures: {facts['output']}")
        for section, reasons in facts["missing"].items():
            for reason in reasons:
                print(f"missing in {section}: {reason}")

    finish(facts, as_json=as_json, text=text)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
