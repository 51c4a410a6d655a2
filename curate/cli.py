"""The `curate` command: build, check, diff, card, stats, sources, schema."""

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
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE.yaml", help="Where rows come from and which variants are made.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option("--from", metavar="MANIFEST", help="In place of a recipe: make a dataset again from its manifest."),
    ] = None,
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
    from curate.errors import UsageError
    from curate.manifest import check_replayed, recipe_of
    from curate.recipe import load_recipe

    if (recipe is None) == (replay is None):
        raise UsageError("expected a recipe, or --from with the manifest of a dataset: give exactly one of them")
    if replay and (overrides or seed is not None):
        raise UsageError("--from makes the same dataset again: --set and --seed do not go with it")
    loaded = load_recipe(recipe, overrides, seed=seed) if recipe else recipe_of(replay or Path())
    target = output or workspace(home) / "datasets" / loaded.name
    summary = run(loaded, target, force=force)
    if replay:
        check_replayed(replay, target)

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
    trainer: Annotated[
        list[str] | None, typer.Option(help="trl, verl, llamafactory, axolotl or open-instruct; again for more. Default: all.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="The trainer's limit in tokens; default: its own.")] = None,
    template: Annotated[
        str | None, typer.Option(help="Chat template: a tokenizer folder, a .jinja file, chatml, qwen3 or r1-distill.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read a dataset folder back: hashes, row accounts, disjoint sets, and what trainers would see, cut or drop of it."""
    from curate.check import check_dataset, check_trainers
    from curate.errors import CheckFailed
    from curate.loading import load_with_libraries
    from curate.seen import in_text

    counts = check_dataset(dataset)
    report = {
        **counts,
        "loads": load_with_libraries(dataset, counts["train"]),
        **check_trainers(dataset, trainer, max_length, template),
    }
    failures = report.pop("failures")
    if failures and not as_json:
        print(in_text(report))
    if failures:
        raise CheckFailed(f"{dataset}: " + "\n  ".join(failures))
    finish(report, as_json=as_json, text=lambda: print(in_text(report)))


@app.command()
def diff(
    dataset: DatasetFolder,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="The folder to compare it with.")],
    as_json: AsJson = False,
) -> None:
    """Explain how two dataset folders differ: settings, rows and why, texts, lengths, behaviours, sources."""
    from curate.diff import compare, in_text

    report = compare(dataset, other)
    finish(report, as_json=as_json, text=lambda: print(in_text(report)))


@app.command()
def card(
    dataset: DatasetFolder,
    write: Annotated[bool, typer.Option(help="Write it to the folder's README.md too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the dataset card of a folder."""
    from curate.card import card as text_of
    from curate.check import read_manifest
    from curate.files import write_text

    text = text_of(read_manifest(dataset))
    if write:
        write_text(dataset / "README.md", text)
    finish({"card": text}, as_json=as_json, text=lambda: print(text, end=""))


@app.command()
def stats(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET|FILE", help="A folder written by `curate build`, or any file of traces.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="How a file is read, as in a recipe's source: columns.prompt=instruction."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show rows, tokens, lengths, and the behaviours that the traces show."""
    from curate.stats import in_text
    from curate.stats import stats as facts_of

    facts = facts_of(dataset, overrides or ())
    finish(facts, as_json=as_json, text=lambda: print(in_text(facts)))


@app.command()
def sources(as_json: AsJson = False) -> None:
    """List the kinds of sources a recipe may name: the fields they need, and an example of each."""
    from curate.kinds import KINDS

    def text() -> None:
        for kind, facts in KINDS.items():
            print(f"{kind:18s}{facts['fields']}\n{'':18s}{facts['example']}")

    finish({"sources": KINDS}, as_json=as_json, text=text)


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
