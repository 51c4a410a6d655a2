"""How two dataset folders differ, and why: settings, rows, texts, lengths, behaviours, sources."""

from collections import Counter
from pathlib import Path
from typing import Any

from curate.check import read_manifest
from curate.examples import Example, read_examples, read_problems, read_table
from curate.lengths import TokenCounter, distance

IDS_SHOWN = 5
CONTEXT = 30
"""Characters shown on each side of where two texts part."""
QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)


def compare(a: Path, b: Path) -> dict[str, Any]:
    """What differs between two folders written by `curate build`.

    Returns:
        `same` (equal content hash), `settings` and `sources` (what differs: {key: [a, b]}), `sets` (whether the held-out and the RL
        set are the same), `only_a` and `only_b` ({rows, ids, why}), `changed` ({rows, ids, first}), `lengths`, `behaviors`.

    Raises:
        InputError: a folder is none, or a file of it is missing or malformed.
    """
    one, other = _Side(a), _Side(b)
    return {
        "a": str(a),
        "b": str(b),
        "same": one.manifest["content_hash"] == other.manifest["content_hash"],
        "settings": _differing(_settings(one.manifest), _settings(other.manifest)),
        "sources": _differing(_sources(one.manifest), _sources(other.manifest)),
        "sets": {
            name: one.manifest[key] == other.manifest[key] for name, key in (("heldout", "heldout_hash"), ("rl", "rl_hash"))
        },
        "common": len(one.rows.keys() & other.rows.keys()),
        "only_a": _missing(one, other),
        "only_b": _missing(other, one),
        "changed": _changed(one, other),
        "lengths": _lengths(one, other),
        "behaviors": _differing(_behaviors(one.manifest), _behaviors(other.manifest)),
    }


class _Side:
    """One folder: its manifest, its training rows by id, and where other rows of its sources went."""

    def __init__(self, folder: Path) -> None:
        self.manifest = read_manifest(folder)
        self.rows = {example.id: example for example in read_examples(folder / "train.jsonl")}
        self._ledger = {row["id"]: row for row in read_table(folder / "ledger.parquet")}
        self._heldout = {example.id for example in read_examples(folder / "heldout.parquet")}
        self._rl = {problem.prompt for problem in read_problems(folder / "rl.parquet")}

    def why_not(self, example: Example) -> str:
        """Why an example is not in this training set."""
        if example.id in self._heldout:
            return "held out"
        if example.problem.prompt in self._rl:
            return "in the RL set"
        entry = self._ledger.get(example.id)
        if entry is None:
            return "not among the rows read"
        return f"{entry['step']}.{entry['reason']}"


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names; lists stay whole unless they hold mappings."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(place): item for place, item in enumerate(value)}
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {name: inner for part, item in value.items() for name, inner in _flat(item, f"{key}.{part}".lstrip(".")).items()}


def _settings(manifest: dict[str, Any]) -> dict[str, Any]:
    """The recipe, with the folder's own variant alone, and its seed and versions."""
    recipe = {key: value for key, value in manifest["recipe"].items() if key != "variants"}
    own = [variant for variant in manifest["recipe"].get("variants", []) if variant["name"] == manifest["variant"]["name"]]
    return _flat({**recipe, "variant": own[0] if own else {}, "seed": manifest["seed"], "versions": manifest["versions"]})


def _sources(manifest: dict[str, Any]) -> dict[str, Any]:
    """The facts of each source, its path aside where a hash tells what it holds."""
    return _flat(
        [
            {key: value for key, value in source.items() if key != "path" or "sha256" not in source}
            for source in manifest["sources"]
        ]
    )


def _behaviors(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: rate["share"] for name, rate in manifest["behavior_rates"].items()}


def _differing(a: dict[str, Any], b: dict[str, Any]) -> dict[str, list[Any]]:
    """Keys whose values differ, None where a side has no such key."""
    return {key: [a.get(key), b.get(key)] for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}


def _missing(here: _Side, there: _Side) -> dict[str, Any]:
    """Rows of one training set that the other lacks, and why, by the other's ledger."""
    ids = sorted(here.rows.keys() - there.rows.keys())
    why = Counter(there.why_not(here.rows[identity]) for identity in ids)
    return {"rows": len(ids), "ids": ids[:IDS_SHOWN], "why": dict(why.most_common())}


def _changed(one: _Side, other: _Side) -> dict[str, Any]:
    """Rows of one id whose texts differ, and the place where the first of them parts."""
    ids = [identity for identity in sorted(one.rows.keys() & other.rows.keys()) if _text(one, identity) != _text(other, identity)]
    first = _parting(_text(one, ids[0]), _text(other, ids[0])) if ids else None
    return {"rows": len(ids), "ids": ids[:IDS_SHOWN], "first": first}


def _text(side: _Side, identity: str) -> str:
    return f"{side.rows[identity].problem.prompt}\n{side.rows[identity].completion}"


def _parting(a: str, b: str) -> list[str]:
    place = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return [text[max(0, place - CONTEXT) : place + CONTEXT] for text in (a, b)]


def _lengths(one: _Side, other: _Side) -> dict[str, Any]:
    """Completion lengths on both sides and how far apart they are: in the recipes' tokens where they agree, else in words.

    Wasserstein distance in tokens, and the Kolmogorov-Smirnov statistic.
    """
    units = {side.manifest["recipe"]["tokenizer"] for side in (one, other)}
    unit = units.pop() if len(units) == 1 else "words"
    count = TokenCounter(unit)
    a, b = (count.all([example.completion for example in side.rows.values()]) for side in (one, other))
    apart = distance(a, b) or dict.fromkeys(("wasserstein_tokens", "kolmogorov_smirnov"))
    return {
        "unit": unit,
        "a": _spread(a, one.manifest["epochs"]),
        "b": _spread(b, other.manifest["epochs"]),
        **apart,
    }


def _spread(lengths: list[int], epochs: int) -> dict[str, Any]:
    import numpy as np

    quantiles = {f"{q:g}": float(np.quantile(lengths, q)) for q in QUANTILES} if lengths else {}
    mean = sum(lengths) / len(lengths) if lengths else None
    seen = sum(lengths) * epochs
    return {
        "rows": len(lengths),
        "tokens": sum(lengths),
        "epochs": epochs,
        "tokens_seen": seen,
        "mean": mean,
        "quantiles": quantiles,
    }


def in_text(report: dict[str, Any]) -> str:
    """The comparison for a person."""
    lines = [f"a: {report['a']}", f"b: {report['b']}"]
    if report["same"]:
        lines.append("the training sets are the same, row by row")
    lines += [f"the {name} set {'is' if same else 'is NOT'} the same" for name, same in report["sets"].items()]
    for title in ("settings", "sources", "behaviors"):
        lines += [f"{title}:"] * bool(report[title])
        lines += [f"  {key}: {_short(a)} -> {_short(b)}" for key, (a, b) in report[title].items()]
    lines += _rows_in_text(report)
    lengths = report["lengths"]
    lines.append(f"completion lengths in {lengths['unit']}:")
    for side in ("a", "b"):
        spread = lengths[side]
        quantiles = " / ".join(f"{value:.0f}" for value in spread["quantiles"].values())
        seen = f"{spread['tokens']} x {spread['epochs']} epoch(s) = {spread['tokens_seen']} tokens"
        lines.append(f"  {side}: {spread['rows']} rows, {seen}; min / 10 % / median / 90 % / max {quantiles}")
    if lengths["wasserstein_tokens"] is not None:
        lines.append(
            f"  apart: Wasserstein {lengths['wasserstein_tokens']:.2f}, Kolmogorov-Smirnov {lengths['kolmogorov_smirnov']:.3f}"
        )
    return "\n".join(lines)


def _rows_in_text(report: dict[str, Any]) -> list[str]:
    lines = [f"rows in both: {report['common']}, of which {report['changed']['rows']} with another text"]
    if report["changed"]["first"]:
        a, b = report["changed"]["first"]
        lines += [f"  {report['changed']['ids'][0]}: {a!r}", f"  {' ' * len(report['changed']['ids'][0])}  {b!r}"]
    for side, other in (("a", "b"), ("b", "a")):
        part = report[f"only_{side}"]
        lines.append(f"rows only in {side}: {part['rows']}" + (f" ({', '.join(part['ids'])}, ...)" if part["rows"] else ""))
        lines += [f"  {rows} in {other}: {reason}" for reason, rows in part["why"].items()]
    return lines


def _short(value: Any) -> str:
    text = "none" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
