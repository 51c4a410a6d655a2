"""The dataset card: README.md of a dataset folder, with the front matter that dataset hubs read."""

from pathlib import PurePath
from typing import Any

import yaml

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))
"""The Hub's words for the number of rows."""
BAR = 40
"""Characters of the longest bar of the histogram."""


def card(manifest: dict[str, Any]) -> str:
    """The text of README.md. No times and no folders stand in it, so that the same build gives the same bytes."""
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(manifest), sort_keys=False)}---",
        f"# {manifest['recipe']['name']} / {manifest['variant']['name']}",
        _summary(manifest),
        _lengths(manifest),
        _behaviors(manifest),
        _provenance(manifest),
        _contamination(manifest),
        _left_out(manifest),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(manifest: dict[str, Any]) -> dict[str, Any]:
    """The Hub's metadata; each set is a configuration of its own, since their columns differ."""
    rows, recipe = manifest["rows"], manifest["recipe"]
    files = {"default": "train", "heldout": "heldout", "rl": "rl"}
    configs = [
        {"config_name": name, "data_files": f"{file}.parquet"} for name, file in files.items() if name == "default" or rows[file]
    ]
    size = next((name for most, name in SIZES if manifest["variant"]["n_examples"] < most), "n>10M")
    licence = {"license": recipe["license"]} if recipe.get("license") else {}
    tags = {"task_categories": ["text-generation"], "tags": ["sft", "forerun"], "size_categories": [size]}
    return {**licence, "pretty_name": f"{recipe['name']} / {manifest['variant']['name']}", **tags, "configs": configs}


def _summary(manifest: dict[str, Any]) -> str:
    variant, unit = manifest["variant"], manifest["recipe"]["tokenizer"]
    counted = "words" if unit == "words" else f"tokens of `{PurePath(unit).name}`"
    lines = [
        f"{variant['n_examples']:,} examples, {manifest['tokens']['train']:,} completion {counted}, for {manifest['epochs']} epoch(s).",
        f"Length mix: {variant['length_mix']}. Content hash: `{manifest['content_hash']}`.",
        f"Problems shared with all other variants of the recipe: {manifest['matched_problem_share']:.0%}.",
    ]
    if manifest.get("length_confounded_with_difficulty"):
        lines.append(
            "Each problem has one trace here, so length and difficulty are confounded: shorter traces are easier problems."
        )
    if recipe_license := manifest["recipe"].get("license"):
        lines.append(f"Licence: {recipe_license}.")
    return "\n".join(lines)


def _lengths(manifest: dict[str, Any]) -> str:
    """The histogram of completion tokens as bars of text."""
    edges, counts = manifest["lengths"]["edges"], manifest["lengths"]["counts"]
    if not counts:
        return ""
    places = len(str(edges[-1]))
    bars = [
        f"{low:>{places}} to {high - 1:>{places}} {'█' * -(-count * BAR // max(counts)):{BAR}} {count}"
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    longest = manifest["longest"]
    note = f"Mean {manifest['lengths']['mean']:.1f}; the longest prompt has {longest['prompt']}, the longest completion {longest['completion']}."
    return "\n".join(["## Lengths", "", "Completion tokens an example:", "", "```", *bars, "```", "", note])


def _behaviors(manifest: dict[str, Any]) -> str:
    rates = manifest["behavior_rates"]
    if not rates:
        return ""
    rows = [
        {"behaviour": name, "share of examples": f"{rate['share']:.1%}", "spans an example": f"{rate['per_example']:.2f}"}
        for name, rate in rates.items()
    ]
    return "## Behaviours\n\n" + table(rows)


def _provenance(manifest: dict[str, Any]) -> str:
    """Where the rows come from: a file by its name and sha256, anything else by its settings."""
    rows = []
    for source in manifest["sources"]:
        named = {key: value for key, value in source.items() if key not in ("path", "sha256") and value is not None}
        name = (
            PurePath(source["path"]).name if source.get("path") else ", ".join(f"{key} {value}" for key, value in named.items())
        )
        rows.append({"source": name, "sha256": f"`{source['sha256']}`" if source.get("sha256") else ""})
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    return f"## Provenance\n\n{table(rows)}\n\nSeed {manifest['seed']}; {versions}."


def _contamination(manifest: dict[str, Any]) -> str:
    """The decontamination table, where the recipe asked for one."""
    if not manifest["recipe"].get("decontaminate"):
        return ""
    found = manifest["contamination"]
    return "## Decontamination\n\n" + (table(found) if found else "No row matched a benchmark.")


def _left_out(manifest: dict[str, Any]) -> str:
    rows, reasons = manifest["rows"], manifest["drop_reasons"]
    account = f"Rows read {rows['read']} = train {rows['train']} + held out {rows['heldout']} + RL {rows['rl']} + ledger {rows['ledger']}."
    if rows["copies"]:
        account += f" Beside them train holds {rows['copies']} copies of its rows in another wording."
    listed = table([{"step and reason": name, "rows": str(count)} for name, count in reasons.items()]) if reasons else ""
    return "\n\n".join(part for part in ("## Rows left out", account, listed) if part)


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table; columns in the order in which rows first name them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column, "")) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
