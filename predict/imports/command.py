"""The `predict import` command."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from curate.commands import finish

Form = Literal["lm-eval", "lighteval", "inspect", "trl", "verl", "prime-rl", "nemo", "trackio", "mlflow", "wandb", "csv"]
LINEAGE, READING = "Where the numbers belong", "How the file is read"


def import_logs(
    form: Annotated[Form, typer.Argument(metavar="FORMAT", help="Whose files they are.")],
    path: Annotated[Path, typer.Argument(help="A file or folder that the tool wrote.")],
    home: Annotated[Path | None, typer.Option(help="Workspace folder; default $FORERUN_HOME, else ./forerun.")] = None,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name or id of the run; default: the file's.", rich_help_panel=LINEAGE)
    ] = None,
    stage: Annotated[
        Literal["base", "sft", "grpo", "dense_path"] | None,
        typer.Option(help="Default: what the file speaks of, else the recorded run's, else sft.", rich_help_panel=LINEAGE),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(
            min=0, help="Of the checkpoint measured; default: the file's, else the run's last.", rich_help_panel=LINEAGE
        ),
    ] = None,
    parent: Annotated[
        str | None, typer.Option(metavar="NAME[@STEP]", help="The checkpoint it was trained from.", rich_help_panel=LINEAGE)
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="Model at the root of the lineage.", rich_help_panel=LINEAGE)] = None,
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Training set.", rich_help_panel=LINEAGE)] = None,
    cell: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What near twins share; they are left out together.", rich_help_panel=LINEAGE),
    ] = None,
    rl_recipe: Annotated[
        str | None, typer.Option(metavar="NAME", help="RL settings without the seed; default: imported.", rich_help_panel=LINEAGE)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the training run.", rich_help_panel=LINEAGE)] = None,
    sampling_seed: Annotated[
        int | None, typer.Option(help="Of the evaluation: tells further samples from the same ones.", rich_help_panel=LINEAGE)
    ] = None,
    purpose: Annotated[
        Literal["signals", "rl_signals", "outcome", "outcome_shifted", "other"] | None,
        typer.Option(help="Default: outcome for RL runs, else signals.", rich_help_panel=LINEAGE),
    ] = None,
    heldout: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="eval_loss is on this held-out set, which all candidates share.", rich_help_panel=LINEAGE
        ),
    ] = None,
    status: Annotated[
        Literal["done", "failed", "collapsed"] | None, typer.Option(help="How the training run ended.", rich_help_panel=LINEAGE)
    ] = None,
    started: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When training began (ISO 8601, UTC); default: the log's.", rich_help_panel=LINEAGE),
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(metavar="NAME", help="Problem set: its name, or the one to read.", rich_help_panel=READING)
    ] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="The score that is the verdict.", rich_help_panel=READING)
    ] = None,
    which_filter: Annotated[
        str | None, typer.Option("--filter", metavar="NAME", help="lm-eval's filter, prime-rl's agent.", rich_help_panel=READING)
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="A score from this on is right; default: only 0 and 1 are verdicts.", rich_help_panel=READING),
    ] = None,
    reverify: Annotated[
        bool, typer.Option("--reverify", help="Judge the texts by Forerun's verifier.", rich_help_panel=READING)
    ] = False,
    pick: Annotated[str | None, typer.Option(metavar="NAME", help="Of several runs, this one.", rich_help_panel=READING)] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Read the log of a job that did not succeed.", rich_help_panel=READING)
    ] = False,
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="COL=NAME", help="Column of a table.", rich_help_panel=READING)
    ] = None,
    percent: Annotated[
        list[str] | None, typer.Option(metavar="COL", help="This column is in percent.", rich_help_panel=READING)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and report, write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")] = False,
) -> None:
    """Bring in other tools' evaluations and training logs as runs; the same file again changes nothing."""
    from curate.config import check_config
    from predict.imports.found import Choices
    from predict.imports.lineage import Lineage
    from predict.imports.run import import_logs as carry_in
    from train.records import workspace

    said = {
        "run": run, "stage": stage, "step": step, "parent": parent, "base_model": base_model, "dataset": dataset, "cell": cell,
        "rl_recipe": rl_recipe, "seed": seed, "sampling_seed": sampling_seed, "purpose": purpose, "heldout": heldout, "status": status,
        "started": started,
    }  # fmt: skip
    lineage = check_config(said, Lineage, origin="predict import")
    choices = Choices(
        benchmark=benchmark, metric=metric, filter=which_filter, threshold=threshold, reverify=reverify, pick=pick, partial=partial,
        columns=_columns(columns), percent=tuple(percent or ()),
    )  # fmt: skip
    document = carry_in(form, path, workspace(home), lineage, choices, dry_run=dry_run)
    finish(document, as_json=as_json, text=lambda: _show(document))


def _columns(given: list[str] | None) -> dict[str, str]:
    """`COL=NAME` of each --map; a column's name may hold `=` itself."""
    from curate.errors import UsageError

    result = {}
    for text in given or []:
        column, _, name = text.rpartition("=")
        if not column or not name:
            raise UsageError(f"--map expects COL=NAME, a column of the table and what it stands for, came {text!r}")
        result[column] = name
    return result


def _show(document: dict[str, Any]) -> None:
    for run in document["runs"]:
        print(f"{run['name']}: {'new ' if run['is_new'] else ''}{run['stage']} run {run['run_id']}, {run['steps']} steps")
        for item in run["evaluations"]:
            state = "" if item["is_new"] else " (there already)"
            print(
                f"  {item['benchmark']} @{item['step']}: {item['num_correct']} of {item['num_samples']} samples of {item['problems']} "
                f"problems right by {item['verifier']}, for {item['purpose']}{state}"
            )
        for what in ("metric_steps", "losses", "signals"):
            if run[what]:
                print(f"  {what.replace('_', ' ')}: {run[what]}")
    for note in document["notes"]:
        print(f"note: {note}")
    print("nothing was written (--dry-run)" if document["dry_run"] else "`predict ingest` reads them into the store")
