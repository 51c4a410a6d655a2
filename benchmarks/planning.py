"""Plans for the best run, played on the laboratory's runs: half of the outcomes hidden, M of the hidden runs paid for, regret counted.

    OMP_NUM_THREADS=1 python benchmarks/planning.py [--predictor pass_at_8] [--splits 100]

Regret is what the best hidden run has over the best of the M picked. Beside it: what the plan expected, the M highest by pass@1,
and M drawn by lot. The noise of single outcomes is in all of them, so that no regret here is that of true levels.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

import predict
from predict.planning import plan

LAB = Path(__file__).parent.parent / "studies" / "lab" / "runs"
OUTCOME = "outcome_pass_at_1"


def main() -> None:
    """Print one line a budget."""
    options = _options()
    with tempfile.TemporaryDirectory() as home:
        predict.ingest(Path(home), [LAB])
        runs = predict.load(Path(home))
    rng = np.random.default_rng(0)
    found = np.array([_split(runs, options, rng) for _ in range(options.splits)])
    print(f"{len(runs)} runs, half hidden, {options.splits} splits, {options.predictor}")
    for budget, rows in zip(options.budgets, found.mean(0), strict=True):
        print(f"M {budget}: regret {rows[0]:.4f}, expected {rows[1]:.4f}, highest pass@1 {rows[2]:.4f}, by lot {rows[3]:.4f}")


def _split(runs: pl.DataFrame, options: argparse.Namespace, rng: np.random.Generator) -> list[list[float]]:
    hidden = pl.Series(rng.permutation(len(runs)) < len(runs) // 2)
    half = runs.with_columns(pl.when(hidden).then(None).otherwise(OUTCOME).alias(OUTCOME))
    candidates = runs.filter(hidden)
    outcome = dict(candidates.select("id", OUTCOME).iter_rows())
    best = max(outcome.values())
    by_pass = candidates.sort("pass_at_1", descending=True)["id"].to_list()
    rows = []
    for budget in options.budgets:
        made = plan(half, budget, predictor=options.predictor)
        picked = [pick.id for pick in made.picks]
        lots = [max(rng.choice(list(outcome.values()), budget, replace=False)) for _ in range(50)]
        regrets = [best - max(outcome[name] for name in names) for names in (picked, by_pass[:budget])]
        rows.append([regrets[0], made.worth["expected_regret_measured"], regrets[1], best - float(np.mean(lots))])
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--predictor", default="pass_at_8")
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--budgets", type=int, nargs="+", default=[1, 3, 5])
    return parser.parse_args()


if __name__ == "__main__":
    main()
