"""The store at 10,000 run folders of 500 problems each: how long ingest and the checkpoints view take.

    python benchmarks/ingest.py                 # 10,000 runs, half SFT and half RL: about 1 GB of files in a temporary folder
    python benchmarks/ingest.py --runs 1000

Figures are CPU seconds of `predict ingest` as a process of its own, imports included, and of a query in this one.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from predict import store
from train.records import Run, RunFolder

PROBLEMS, SFT_STEPS, RL_STEPS = 500, 20, 64
ZERO = {"num_no_answer": 0, "num_unparsable": 0, "num_truncated": 0, "mean_tokens": 60.0}
NAMES = ("reward_mean", "loss", "grad_norm", "entropy", "mean_tokens", "frac_mixed", "tokens", "seconds_update")


def metrics(folder: RunFolder, steps: int, names: tuple[str, ...], rng: np.random.Generator) -> None:
    """The lines that RunFolder.log appends, in one write."""
    values = rng.random((steps, len(names))).tolist()
    lines = [json.dumps({"step": step, **dict(zip(names, row, strict=True))}) for step, row in enumerate(values, start=1)]
    (folder.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def evaluation(folder: RunFolder, step: int, purpose: str, num_samples: int, rng: np.random.Generator) -> None:
    """Counts of one sampling job."""
    right = rng.binomial(num_samples, rng.beta(0.5, 0.8, PROBLEMS)).tolist()
    rows = [{"problem_id": f"{purpose}-{i}", "num_samples": num_samples, "num_correct": c, **ZERO} for i, c in enumerate(right)]
    key = {"benchmark": f"arithmetic:{purpose}", "temperature": 1.0, "max_tokens": 128}
    folder.evaluation(step, key, {"num_samples": num_samples, "seed": 0, "purpose": purpose}, rows)


def write_pair(home: Path, index: int, rng: np.random.Generator) -> None:
    """An SFT run with its signals and an RL run with its outcome."""
    sft, rl = (RunFolder.of(home, f"{kind}{index:015x}") for kind in "ab")
    common = {
        "base_model": f"base-{index % 4}",
        "family": "llama",
        "cell": f"cell-{index // 5}",
        "status": "done",
        "created_at": "2026",
    }
    sft.write(Run(sft.path.name, "sft", config={"learning_rate": 1e-5}, steps=SFT_STEPS, variant={"epochs": 2}, **common))
    metrics(sft, SFT_STEPS, NAMES[1:5], rng)
    for kind in ("shared", "own", "style_free", "result_tokens"):
        loss = {"heldout": kind, "heldout_hash": kind, "kind": kind, "nats_per_token": rng.random(), "nats_per_example": 9.0}
        sft.loss(SFT_STEPS, loss)
    sft.signal(SFT_STEPS, "entropy_t1", rng.random(), "sampled")
    evaluation(sft, SFT_STEPS, "signals", 64, rng)
    parent = {"run_id": sft.path.name, "step": SFT_STEPS}
    rl.write(Run(rl.path.name, "grpo", parent=parent, rl_recipe="r", rl_seed=0, steps=RL_STEPS, seconds=9.0, **common))
    metrics(rl, RL_STEPS, NAMES, rng)
    evaluation(rl, RL_STEPS, "outcome", 8, rng)


def ingest(home: Path) -> tuple[float, dict]:
    """CPU seconds of one `predict ingest`, and what it said."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "predict.cli", "ingest", "--home", str(home), "--json"]
    end = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, json.loads(end.stdout)


def main() -> None:
    """Write the folders, then time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for index in range(runs // 2):
            write_pair(home, index, rng)
        for what in ("first", "second, nothing new", "third, 100 new runs"):
            if what.startswith("third"):
                for index in range(runs // 2, runs // 2 + 50):
                    write_pair(home, index, rng)
            seconds, said = ingest(home)
            print(
                f"ingest, {what}: {seconds:.1f} s CPU ({said['runs']} runs, {said['evaluations']} counts, {said['read']} read)",
                flush=True,
            )
        for sql in ("SELECT * FROM checkpoints", "SELECT * FROM rl_runs", "SELECT * FROM pass_at_k"):
            began = time.process_time()
            rows = len(store.query(home, sql))
            print(f"{sql}: {time.process_time() - began:.2f} s CPU, {rows} rows")
        print(f"{store.database(home).stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
