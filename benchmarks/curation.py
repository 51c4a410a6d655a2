"""CPU seconds and memory of curation beside datatrove and an open-r1-style script, on the same rows; and what each one finds.

    python benchmarks/curation.py --data ../shared/data --peers PEER_PYTHON [--rows 200000] [--peer-rows 20000] [--cli]

Steps: read JSONL; exact duplicates; near-duplicate questions; 8-grams of GSM8K test and MATH-500; lengths; half of the tokens
chosen; write. Rows come from `grown_rows`, which knows what each one is. Every run is a process of its own; seconds are CPU
seconds of all its threads, since the machine may be busy. Peers may run on fewer rows: their seconds are given per row, which
favours them where their cost grows faster than the rows, and burdens them with their imports, some 0.6 s each. `--cli` runs
`curate build` in place of the modules; its seconds are those of the whole command, imports and interpreter included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from curation_peers import Clock, select_and_write
from grown_rows import benchmark_files, write_rows

PEERS = ("datatrove", "datasketch")
KINDS = ("original", "renumbered", "second_trace", "reworded", "repeated", "contaminated")


def by_modules(rows_file: Path, data: Path, work: Path) -> dict[str, Any]:
    """Forerun's dedup and decontaminate modules, with the peers' own selection and writer."""
    clock = Clock()
    import polars as pl

    from curate.decontaminate import Decontaminate, Index
    from curate.dedup import Dedup, exact_key, find_duplicates

    rows = pl.read_ndjson(rows_file)
    clock.lap("read")
    keys = [exact_key(f"{prompt}\n{completion}") for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True)]
    prompt_keys = pl.Series([exact_key(prompt) for prompt in rows["prompt"]])
    frame = rows.drop("completion").with_columns(exact_key=pl.Series(keys), prompt_key=prompt_keys, verified=pl.lit(True))
    found = find_duplicates(frame, Dedup(near=0.8))
    left = rows.filter(~pl.int_range(pl.len()).is_in(found["row"].implode()))
    clock.lap("dedup")
    index = Index.from_files(Decontaminate(against=tuple(benchmark_files(data))))
    questions = left["prompt"].unique(maintain_order=True)
    flagged = questions.gather(index.hits(questions).filter("drop")["row"].unique())
    contaminated = left.filter(pl.col("prompt").is_in(flagged.implode()))["id"]
    clock.lap("decontaminate")
    select_and_write(left.filter(~pl.col("id").is_in(contaminated.implode())).rows(named=True), work / "forerun.jsonl")
    clock.lap("select and write")
    exact = found["reason"] == "exact_duplicate"
    dropped = {"exact": found.filter(exact)["id"], "near": found.filter(~exact)["id"], "contaminated": contaminated}
    return clock.report({name: set(ids) for name, ids in dropped.items()})


RECIPE = """
name: grown
tokenizer: words
sources: [{{path: {rows}, format: messages, reference: optional}}]
verify: null
dedup: {{near: 0.8}}
decontaminate: {{against: [{against}], traces: ignore}}
variants: [{{name: half, select: {{length: varying}}, budget: {{tokens: {tokens}}}}}]
"""


def by_cli(rows_file: Path, data: Path, work: Path) -> dict[str, Any]:
    """`curate build` on a recipe of the same steps; its ledger says what was dropped."""
    import resource

    import polars as pl

    rows = [json.loads(line) for line in rows_file.open(encoding="utf-8")]
    with (work / "messages.jsonl").open("w", encoding="utf-8") as handle:
        for row in rows:
            turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
            handle.write(json.dumps({"id": row["id"], "messages": turns, "ground_truth": row["ground_truth"]}) + "\n")
    tokens = sum(len(row["completion"].split()) for row in rows) // 4
    against = ", ".join(str(path) for path in benchmark_files(data))
    recipe = RECIPE.format(rows=work / "messages.jsonl", against=against, tokens=tokens)
    (work / "recipe.yaml").write_text(recipe)
    subprocess.run([sys.executable, "-m", "curate.cli", "build", work / "recipe.yaml", "-o", work / "out"], check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    ledger = pl.read_parquet(next((work / "out").rglob("ledger.parquet")))
    dropped = {
        "exact": ledger.filter(pl.col("reason") == "exact_duplicate"),
        "near": ledger.filter(pl.col("reason").is_in(["near_duplicate", "conflicting_answer"])),
        "contaminated": ledger.filter(pl.col("step") == "decontaminate"),
    }
    ids = {name: sorted(frame["id"]) for name, frame in dropped.items()}
    return {"seconds": {"all": used.ru_utime + used.ru_stime}, "peak_gb": used.ru_maxrss / 1e6, "dropped": ids}


def main() -> None:
    """Grow the rows, run all three, print speeds and findings."""
    options = _options()
    if options.run:
        print(json.dumps({"modules": by_modules, "cli": by_cli}[options.run](options.rows_file, options.data, options.work)))
        return
    us = "cli" if options.cli else "modules"
    runs = {
        "forerun": (
            options.rows,
            [sys.executable, __file__, "--run", us, "--data", options.data, "--rows-file", "ROWS", "--work"],
        )
    }
    for peer in options.peer or PEERS:
        script = Path(__file__).with_name("curation_peers.py")
        runs[peer] = (options.peer_rows, [options.peers, script, peer, "ROWS", options.data])
    results = {}
    for name, (rows, command) in runs.items():
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            kinds = write_rows(Path(scratch) / "rows.jsonl", options.data, rows)
            (work := Path(scratch) / "work").mkdir()
            filled = [Path(scratch) / "rows.jsonl" if part == "ROWS" else part for part in command]
            results[name] = _measured([*filled, work]), kinds
        _print_speed(name, *results[name], results["forerun"])
    for name, (result, kinds) in results.items():
        _print_findings(name, result, kinds)


def _measured(command: list[Any]) -> dict[str, Any]:
    """The JSON object that the command prints last."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _print_speed(name: str, result: dict[str, Any], kinds: dict[str, str], ours: tuple[dict[str, Any], dict[str, str]]) -> None:
    seconds = sum(result["seconds"].values())
    speed, own = len(kinds) / seconds, len(ours[1]) / sum(ours[0]["seconds"].values())
    steps = ", ".join(f"{step} {value:.2f}" for step, value in result["seconds"].items())
    print(f"{name:11s}{len(kinds):8d} rows{seconds:9.2f} CPU s{speed:9.0f} rows/s{result['peak_gb']:7.2f} GB   ({steps})", end="")
    print("" if name == "forerun" else f"; forerun is {own / speed:.1f} times as fast a row", flush=True)


def _print_findings(name: str, result: dict[str, Any], kinds: dict[str, str]) -> None:
    """Share of each kind of row that each step dropped."""
    total = Counter(kinds.values())
    print(f"\n{name:14s}" + "".join(f"{kind:>14s}" for kind in KINDS))
    for step, ids in result["dropped"].items():
        found = Counter(kinds[row] for row in ids)
        print(f"{step:14s}" + "".join(f"{found[kind] / max(total[kind], 1):14.1%}" for kind in KINDS))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--data",
        type=lambda text: Path(text).resolve(),
        required=True,
        help="folder with gsm8k/, math500/ and math_train_prompts/",
    )
    parser.add_argument("--peers", help="python of an environment with datatrove[processing], spacy, orjson and datasketch")
    parser.add_argument("--peer", action="append", choices=PEERS, help="run this one alone (default: both)")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--peer-rows", type=int, default=20_000)
    parser.add_argument("--cli", action="store_true", help="run `curate build` in place of the modules")
    parser.add_argument("--scratch", type=Path, help="folder for temporary files")
    parser.add_argument("--run", choices=["modules", "cli"], help=argparse.SUPPRESS)
    parser.add_argument("--rows-file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
