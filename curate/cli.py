"""The `curate` command: build, check, stats, sources, schema."""

import json
from pathlib import Path
from typing import Annotated

import typer

from curate.commands import finish, run_app

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]
DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="A folder written by `curate build`.")]


@app.callback()
def _root() -> None:
    """Build SFT sets whose length, budget and behaviour are exactly what a recipe says."""


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Where rows come from and which variants are made.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: <home>/datasets/<recipe name>.")] = None,
    home: Annotated[Path | None, typer.Option(help="Workspace folder; default $FORERUN_HOME, else ./forerun.")] = None,
    seed: Annotated[int | None, typer.Option(help="In place of the recipe's seed.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; a.b reaches into a.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an output that exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write one dataset folder a variant."""
    from curate.build import build as run
    from curate.recipe import load_recipe

    loaded = load_recipe(recipe, overrides, seed=seed)
    target = output or workspace(home) / "datasets" / loaded.name
    summary = run(loaded, target, force=force)

    def text() -> None:
        print(f"{summary['rows_read']} rows read; {summary['heldout']} held out, {summary['rl']} for RL; {target}")
        for name, held in summary["variants"].items():
            print(f"  {name:16s}{held['examples']:8d} examples {held['tokens']:10d} tokens")

    finish(summary, as_json=as_json, text=text)


def workspace(home: Path | None) -> Path:
    """The workspace folder: `home`, else $FORERUN_HOME, else ./forerun."""
    import os

    return home or Path(os.environ.get("FORERUN_HOME") or "forerun")


@app.command()
def check(
    dataset: DatasetFolder,
    max_length: Annotated[int | None, typer.Option(min=1, help="The trainer's limit in the recipe's tokens.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read a dataset folder back: hashes, row accounts, disjoint sets, and what a length limit would cut."""
    from curate.check import check_dataset

    report = check_dataset(dataset, max_length)
    finish(report, as_json=as_json, text=lambda: print("\n".join(f"{key}: {value}" for key, value in report.items())))


@app.command()
def stats(dataset: DatasetFolder, as_json: AsJson = False) -> None:
    """Show rows, tokens, lengths and behaviours of a dataset folder."""
    from curate.check import read_manifest

    manifest = read_manifest(dataset)
    shown = {
        key: manifest[key] for key in ("rows", "tokens", "lengths", "behavior_rates", "drop_reasons", "matched_problem_share")
    }
    finish(shown, as_json=as_json, text=lambda: print(json.dumps(shown, indent=2)))


@app.command()
def sources(as_json: AsJson = False) -> None:
    """List the kinds of sources a recipe may name."""
    from curate.sources import KINDS

    finish(
        {"sources": KINDS}, as_json=as_json, text=lambda: print("\n".join(f"{kind:12s}{what}" for kind, what in KINDS.items()))
    )


@app.command()
def schema() -> None:
    """Print the JSON Schema of a recipe."""
    from curate.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2))


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
