"""The `predict import` command."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from curate.commands import finish

Form = Literal["lm-eval", "lighteval", "inspect", "trl", "verl", "prime-rl", "nemo", "trackio", "mlflow", "wandb", "csv"]


def _lineage(text: str, *names: str, **settings: Any) -> Any:
    """An option of the panel that says where the numbers belong."""
    return typer.Option(*names, help=text, rich_help_panel="Where the numbers belong", **settings)


def _reading(text: str, *names: str, **settings: Any) -> Any:
    """An option of the panel that says how the file is read."""
    return typer.Option(*names, help=text, rich_help_panel="How the file is read", **settings)


Run = Annotated[str | None, _lineage("Name or id of the run; default: the file's.", metavar="NAME")]
Stage = Annotated[
    Literal["base", "sft", "grpo", "dense_path"] | None,
    _lineage("Default: what the file speaks of, else the recorded run's, else sft."),
]
Step = Annotated[int | None, _lineage("Of the checkpoint measured; default: the file's, else the run's last.", min=0)]
Parent = Annotated[str | None, _lineage("The checkpoint it was trained from.", metavar="NAME[@STEP]")]
BaseModel = Annotated[str | None, _lineage("Model at the root of the lineage.")]
Dataset = Annotated[str | None, _lineage("Training set.", metavar="NAME")]
Cell = Annotated[str | None, _lineage("What near twins share; they are left out together.", metavar="NAME")]
RlRecipe = Annotated[str | None, _lineage("RL settings without the seed; default: imported.", metavar="NAME")]
Seed = Annotated[int | None, _lineage("Of the training run.")]
SamplingSeed = Annotated[int | None, _lineage("Of the evaluation: tells further samples from the same ones.")]
Purpose = Annotated[
    Literal["signals", "rl_signals", "outcome", "outcome_shifted", "other"] | None,
    _lineage("Default: outcome for RL runs, else signals."),
]
Heldout = Annotated[str | None, _lineage("eval_loss is on this held-out set, which all candidates share.", metavar="NAME")]
Status = Annotated[Literal["done", "failed", "collapsed"] | None, _lineage("How the training run ended.")]
Started = Annotated[str | None, _lineage("When training began (ISO 8601, UTC); default: the log's.", metavar="TIME")]
Benchmark = Annotated[str | None, _reading("Problem set: its name, or the one to read.", metavar="NAME")]
Metric = Annotated[str | None, _reading("The score that is the verdict.", metavar="NAME")]
Filter = Annotated[str | None, _reading("lm-eval's filter, prime-rl's agent.", "--filter", metavar="NAME")]
Threshold = Annotated[float | None, _reading("A score from this on is right; default: only 0 and 1 are verdicts.")]
Reverify = Annotated[bool, _reading("Judge the texts by Forerun's verifier.", "--reverify")]
Pick = Annotated[str | None, _reading("Of several runs, this one.", metavar="NAME")]
Partial = Annotated[bool, _reading("Read the log of a job that did not succeed.", "--partial")]
Columns = Annotated[list[str] | None, _reading("Column of a table.", "--map", metavar="COL=NAME")]
Percent = Annotated[list[str] | None, _reading("This column is in percent.", metavar="COL")]


def import_logs(
    form: Annotated[Form, typer.Argument(metavar="FORMAT", help="Whose files they are.")],
    path: Annotated[Path, typer.Argument(help="A file or folder that the tool wrote.")],
    home: Annotated[Path | None, typer.Option(help="Workspace folder; default $FORERUN_HOME, else ./forerun.")] = None,
    run: Run = None,
    stage: Stage = None,
    step: Step = None,
    parent: Parent = None,
    base_model: BaseModel = None,
    dataset: Dataset = None,
    cell: Cell = None,
    rl_recipe: RlRecipe = None,
    seed: Seed = None,
    sampling_seed: SamplingSeed = None,
    purpose: Purpose = None,
    heldout: Heldout = None,
    status: Status = None,
    started: Started = None,
    benchmark: Benchmark = None,
    metric: Metric = None,
    which_filter: Filter = None,
    threshold: Threshold = None,
    reverify: Reverify = False,
    pick: Pick = None,
    partial: Partial = False,
    columns: Columns = None,
    percent: Percent = None,
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
