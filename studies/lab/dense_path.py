"""Does the reward that SFT left behind improve a checkpoint, and more than its controls do?

    curate build studies/lab/recipe.yaml -o build/dense/data --set seed=3
    python studies/lab/dense_path.py --home build/dense --dataset build/dense/data/vary-768

One SFT run a base, and from it: dense-path REINFORCE, each control that the paper lacks (the reward summed over a rollout, weights moved on
without training, SFT gone on with for as many updates), other references, gamma < 1. pass@1 at temperature 1 on problems of B before and after;
what is done is not done again.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import torch
from transformers.utils import logging

from predict.printing import print_rows
from train import dense_path, evaluate, sft
from train.configs import DensePathConfig, EvaluateConfig, ProblemSet, SftConfig
from train.records import RunFolder

BASES = ("l4-behaved-s0", "l4-plain-s0", "l5-behaved-s0", "l5-plain-s1")
SHARES = (0.25, 0.5, 0.75)
OUTCOME = ProblemSet(set="B", problems=400, num_samples=8)


def main() -> None:
    """Train what is not there, measure it, print a row a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--bases", nargs="+", default=BASES)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    rows = [row for base in options.bases for row in of_base(base, options)]
    table = pl.DataFrame(rows)
    start = table.filter(method="start").select("base", before="pass_at_1")
    gained = table.join(start, on="base").with_columns(gain=pl.col("pass_at_1") - pl.col("before"))
    by_method = gained.group_by("method", maintain_order=True).agg(
        pl.len().alias("runs"), pl.col("pass_at_1", "gain").mean(), pl.col("gain").min().alias("least"), pl.col("gain").max().alias("most"),
        pl.col("tokens", "reward", "kl", "correlation").mean(),
    )  # fmt: skip
    print_rows(by_method.with_columns(pl.col(pl.Float64).round(3)), "md")


def of_base(base: str, options: argparse.Namespace) -> Iterator[dict]:
    """The start and every method from it: base, method, seed, pass@1, mean tokens, the last step's reward and KL, and how the reward goes with being right."""
    shared = {"dataset": options.dataset, "home": options.home}
    start = sft.main(SftConfig(model=base, **shared, keep_shares=SHARES))
    identifier = start.run.run_id
    yield measured(start, base, "start", 0)
    kept = {share: f"{identifier}@{step}" for share, step in zip(SHARES, _kept(start), strict=True)}
    longer = sft.main(
        SftConfig(model=identifier, **shared, max_steps=options.steps, epochs=1 + options.steps, learning_rate=1e-3)
    )
    yield measured(longer, base, f"SFT for {options.steps} more updates", 0)
    methods: dict[str, dict] = {
        "contrast": {"credit": "contrast"},
        "dense": {},
        "dense, gamma .9": {"gamma": 0.9},
        "sparse": {"credit": "sparse"},
        "dense, reference at a quarter": {"reference": kept[0.25]},
        "dense, reference at three quarters": {"reference": kept[0.75]},
        "dense, reference without SFT": {"reference": base},
    }
    for seed in options.seeds:
        for name, settings in methods.items():
            config = DensePathConfig(
                model=identifier, **shared, steps=options.steps, learning_rate=options.learning_rate, seed=seed, **settings
            )  # fmt: skip
            yield measured(dense_path.main(config), base, name, seed)


def _kept(start: RunFolder) -> list[int]:
    return sorted(int(folder.name) for folder in (start.path / "checkpoints").iterdir())[:-1]


def measured(record: RunFolder, base: str, method: str, seed: int) -> dict:
    """One row: the outcome of a run."""
    run = record.run
    home = record.path.parent.parent
    evaluate.main(EvaluateConfig(model=f"{run.run_id}@{run.steps}", home=home, problems=OUTCOME, purpose="outcome"))
    counts = pl.concat([pl.read_parquet(path) for path in record.path.glob(f"evaluations/{run.steps}-*.parquet")])
    trained = run.stage == "dense_path" and run.steps > 0
    correlations = record.metric("reward_correlation") if trained else []
    return {
        "base": base, "method": method, "seed": seed, "pass_at_1": float((counts["num_correct"] / counts["num_samples"]).mean()),
        "tokens": float(counts["mean_tokens"].mean()),
        "reward": record.metric("dense_reward_mean")[-1] if trained else None, "kl": record.metric("kl")[-1] if trained else None,
        "correlation": sum(correlations) / len(correlations) if correlations else None,
    }  # fmt: skip


if __name__ == "__main__":
    main()
