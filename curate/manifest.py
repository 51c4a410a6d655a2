"""The manifest of a dataset folder: what is in it, how it came about, and enough to make it again."""

from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from curate.answers import versions as verifier_versions
from curate.config import check_config
from curate.dataset_files import Facts
from curate.errors import CheckFailed, InputError
from curate.examples import Problem
from curate.files import content_hash, read_json, sha256_file
from curate.lengths import distance, has_several_traces, quantile_values, target
from curate.pool import Pool
from curate.recipe import Recipe, Variant

if TYPE_CHECKING:
    from curate.build import Chosen

SCHEMA_VERSION = 1
HISTOGRAM_BINS = 20


def code_versions() -> dict[str, str]:
    """What of this program can change a dataset."""
    return {"forerun": version("forerun"), **verifier_versions()}


def source_facts(recipe: Recipe) -> list[dict[str, Any]]:
    """Where each source and reference file is, and what pins its content."""
    references = [
        {"used_by": step, "path": str(path), "sha256": sha256_file(path)}
        for step, files in recipe.reference_files.items()
        for path in files
    ]
    return [*(source.facts() for source in recipe.every_source), *references]


def make_manifest(
    recipe: Recipe,
    sources: list[dict[str, Any]],
    pool: Pool,
    made: "Chosen",
    facts: Facts,
    injected: dict[str, Any],
    ledger: pl.DataFrame,
    heldout: list[dict[str, Any]],
    own: list[dict[str, Any]],
    rl: list[Problem],
    matched: float,
) -> dict[str, Any]:
    """What is in the folder and how it came about. Only `sources` names paths."""
    variant, lengths = made.variant, sorted(facts.lengths)
    reasons = Counter(f"{step}.{reason}" for step, reason in ledger.select("step", "reason").iter_rows())
    counts = {"heldout": len(heldout), "rl": len(rl), "ledger": len(ledger)}
    return {
        "schema_version": SCHEMA_VERSION,
        "content_hash": facts.content_hash,
        "heldout_hash": content_hash(heldout),
        "heldout_own_hash": content_hash(own),
        "rl_hash": content_hash([[problem.prompt, problem.ground_truth] for problem in rl]),
        "seed": recipe.seed,
        "epochs": variant.epochs,
        "variant": _variant(variant, len(lengths)),
        "recipe": _without_paths(recipe.model_dump(mode="json")),
        "sources": sources,
        "rows": _rows(pool, len(lengths), injected.get("copies_added", 0)) | counts,
        "tokens": {"selected": int(made.train["tokens"].sum()), "train": sum(lengths)},
        "steps": pool.steps,
        "drop_reasons": dict(sorted(reasons.items())),
        "contamination": _contamination(pool),
        "lengths": length_histogram(lengths),
        "longest": _longest(facts),
        "matched_problem_share": matched,
        "length_confounded_with_difficulty": variant.select.length != "varying" and not has_several_traces(pool.examples),
        "distance_to_pool": distance(lengths, pool.examples["tokens"].to_list()),
        "distance_to_target": _distance_to_target(pool, made),
        "injection": injected,
        "behavior_rates": _behavior_rates(facts),
        "versions": code_versions(),
    }


def _variant(variant: Variant, examples: int) -> dict[str, Any]:
    behaviors = variant.inject.model_dump(mode="json") if variant.inject else {}
    return {"name": variant.name, "n_examples": examples, "length_mix": variant.select.length, "behaviors": behaviors}


def _rows(pool: Pool, written: int, copies: int) -> dict[str, int]:
    """What was read, and what of it is trained on: augmentation writes copies beside."""
    return {"read": pool.rows_read, "train": written - copies, "copies": copies}


def _longest(facts: Facts) -> dict[str, int]:
    return {
        "prompt": facts.longest_prompt,
        "completion": max(facts.lengths, default=0),
        "row": facts.longest_row,
        "row_bytes": facts.longest_bytes,
    }


def _behavior_rates(facts: Facts) -> dict[str, dict[str, float]]:
    """Share of the rows that show each behaviour, and its spans a row."""
    rows = len(facts.lengths)
    return {
        name: {"share": facts.showing[name] / rows, "per_example": facts.spans[name] / rows} for name in sorted(facts.showing)
    }


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items() if key not in ("path", "against")}
    return [_without_paths(inner) for inner in value] if isinstance(value, list) else value


def length_histogram(lengths: list[int]) -> dict[str, Any]:
    """Counts of completion tokens in equal bins."""
    if not lengths:
        return {"edges": [], "counts": [], "mean": None}
    width = max(1, -(-(lengths[-1] + 1) // HISTOGRAM_BINS))
    counts = Counter(length // width for length in lengths)
    bins = lengths[-1] // width + 1
    edges = [width * edge for edge in range(bins + 1)]
    return {"edges": edges, "counts": [counts[b] for b in range(bins)], "mean": sum(lengths) / len(lengths)}


def _distance_to_target(pool: Pool, made: "Chosen") -> dict[str, float] | None:
    """How far the selected lengths are from the distribution that the mix aims at; None where it aims at none."""
    quantiles = target(pool.examples, made.variant.select)
    if not quantiles:
        return None
    return distance(made.train["tokens"].to_list(), quantile_values(quantiles, len(made.train)).tolist())


def _contamination(pool: Pool) -> list[dict[str, Any]]:
    """Rows hit and rows dropped, by benchmark, part and kind of match; the evidence is in contamination.parquet."""
    if pool.contamination.is_empty():
        return []
    groups = pool.contamination.group_by("benchmark", "part", "kind").agg(
        rows=pl.col("row").n_unique(), dropped=pl.col("row").filter("drop").n_unique()
    )
    return groups.sort("benchmark", "part", "kind").to_dicts()


def recipe_of(manifest: Path) -> Recipe:
    """The recipe that a manifest records, with its files where they were.

    Raises:
        InputError: no such manifest, or a file is gone or has changed since.
    """
    recorded = read_json(manifest)
    try:
        data, facts = recorded["recipe"], iter(recorded["sources"])
        parts = [data[name] for name in ("heldout", "rl_prompts") if data[name]]
        for source in [*data["sources"], *(source for part in parts for source in part["sources"])]:
            fact = next(facts)
            if "path" in fact:
                source["path"] = _unchanged(fact)
        _restore_references(data, list(facts))
    except (KeyError, TypeError, StopIteration):
        raise InputError(f"{manifest}: expected a manifest that `curate build` wrote; build the dataset again") from None
    return check_config(data, Recipe, origin=str(manifest))


def check_replayed(manifest: Path, output: Path) -> None:
    """See that a dataset made again is the one that the manifest records.

    Raises:
        CheckFailed: its rows differ: another version of the program or its libraries made it.
    """
    recorded = read_json(manifest)
    folder = output / recorded["variant"]["name"] if recorded["recipe"]["variants"] else output
    made = read_json(folder / "manifest.json")
    differing = [part for part in ("content_hash", "heldout_hash", "rl_hash") if made[part] != recorded[part]]
    if differing:
        versions = f"then {recorded['versions']}, now {made['versions']}"
        raise CheckFailed(f"{folder}: the rows differ from those of {manifest} ({', '.join(differing)}); versions: {versions}")


def _restore_references(data: dict[str, Any], facts: list[dict[str, Any]]) -> None:
    """Files that rows are compared with: first those of dedup, then the benchmarks."""
    own = [fact for fact in facts if fact["used_by"] == "dedup"]
    benchmarks = [fact for fact in facts if fact["used_by"] == "decontaminate"]
    data["dedup"]["against"] = [_unchanged(fact) for fact in own]
    if benchmarks:
        data["decontaminate"]["against"] = [_unchanged(fact) for fact in benchmarks]


def _unchanged(fact: dict[str, Any]) -> str:
    path = Path(fact["path"])
    if not path.exists():
        raise InputError(f"{path}: the dataset was made from this file, which is not there any more")
    if sha256_file(path) != fact["sha256"]:
        raise InputError(f"{path}: the file has changed since the dataset was made from it")
    return str(path)
