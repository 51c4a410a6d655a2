"""The report: one self-contained HTML page, and its figures beside it as SVG, PNG and CSV."""

from pathlib import Path
from typing import Any

from curate.files import atomic_folder, write_text
from predict.features import OUTCOME, load
from predict.page import Figure, page
from predict.rendering import inline, png, svg
from predict.sections import Material, sections


def write(home: Path, output: Path, *, force: bool = False, rl_recipe: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Write `index.html` and `figures/` into the folder `output`.

    A figure that the store's runs do not allow is replaced by the reason, on the page and under `missing`.

    Returns:
        output (the page), runs (RL runs with an outcome), checkpoints, figures (names), missing (section and reason).

    Raises:
        OutputExists: `output` is there and `force` is false. InputError: no store. UsageError: several RL recipes, none chosen.
    """
    runs = load(home, rl_recipe)
    with atomic_folder(output, force=force) as partial:
        (partial / "figures").mkdir()
        material = Material(home, runs, rl_recipe, seed)
        made = sections(material)
        figures = [figure for section in made for figure in section.figures]
        drawings = {figure.name: _save(partial / "figures", figure) for figure in figures}
        command = f"predict report --seed {seed}" + (f" --rl-recipe {rl_recipe}" if rl_recipe else "")
        text = page("Forerun report: where RL takes a checkpoint", _facts(material), made, drawings, command)
        write_text(partial / "index.html", text)
    return {
        "output": str(output / "index.html"),
        "runs": int(material.measured["n_rl_seeds"].sum()),
        "checkpoints": len(runs),
        "figures": [figure.name for figure in figures],
        "missing": {section.name: section.missing for section in made if section.missing},
    }


def _save(folder: Path, figure: Figure) -> str:
    """Write the three files of a figure; its SVG for the page."""
    drawn = svg(figure.chart)
    write_text(folder / f"{figure.name}.svg", drawn)
    (folder / f"{figure.name}.png").write_bytes(png(drawn))
    write_text(folder / f"{figure.name}.csv", figure.table.write_csv())
    return inline(drawn, figure.name, figure.alt)


def _facts(material: Material) -> str:
    measured, bases = material.measured, material.runs["base_model"].drop_nulls().n_unique()
    recipes = ", ".join(measured["rl_recipe"].drop_nulls().unique().sort())
    runs = int(measured["n_rl_seeds"].sum())
    return (
        f"{len(material.runs)} SFT checkpoints of {bases} base model{'s' if bases != 1 else ''}; {len(measured)} of them have an RL outcome ({runs} RL runs"
        f"{f', RL recipe {recipes}' if recipes else ''}; {material.runs[OUTCOME].null_count()} wait for RL); {len(material.forecasts)} forecasts on record."
    )
