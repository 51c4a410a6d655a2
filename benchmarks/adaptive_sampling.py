"""Samples that pass@k of a fixed problem set takes by unequal designs, against the same n everywhere at the same standard error.

    OMP_NUM_THREADS=1 python benchmarks/adaptive_sampling.py [--pilot 8] [--free] [--batch 8] [--every 3] [--replicates 400]

Truth: simulated success rates, and the laboratory's checkpoints (their 128-sample rates taken for the truth). A pilot plans, the
truth judges: each design's exact variance on the true rates, then the uniform n of that very variance. The pilot is paid for
in `samples / uniform`, unless it is `--free`: counts that were there before. The last lines draw everything anew many times: bias and spread of the estimates themselves.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from train import rates
from train.adaptive import StopRule, allocate, estimate, sampling_variance, uniform_samples

LAB = Path(__file__).parent.parent / "studies" / "lab" / "runs" / "evaluations.parquet"
SIMULATED = {"beta(.4, 1)": (0.4, 1), "beta(.3, 2)": (0.3, 2), "beta(1, 3)": (1, 3)}
DESIGNS = ("two stages", "stop rules")


def main() -> None:
    """Print one line a set of problems, k and uniform n; then the simulation."""
    options = _options()
    rng = np.random.default_rng(0)
    sets = {name: [rng.beta(a, b, 256) for _ in range(3)] for name, (a, b) in SIMULATED.items()} | {
        "laboratory": _lab(options.every)
    }
    print(
        f"samples / uniform at equal standard error, pilot of {options.pilot} {'free' if options.free else 'paid'} (share of sets at half or less)"
    )
    for name, truths in sets.items():
        for k in (32, 64):
            for uniform in (k, 2 * k, 4 * k, 8 * k):
                found = np.array([_against_uniform(truth, k, uniform, options, rng) for truth in truths])
                texts = [
                    f"{design} {ratio.mean():.2f} [{ratio.min():.2f}, {ratio.max():.2f}] ({(ratio <= 0.5).mean():.0%})"
                    for design, ratio in zip(DESIGNS, found.T, strict=True)
                ]
                print(f"{name:12s} k {k:3d} uniform n about {uniform:4d}: {'; '.join(texts)}", flush=True)
    for k in (4, 32) if options.replicates else ():
        _simulate(rng.beta(0.4, 1, 60), k, options, rng)


def _lab(every: int) -> list[np.ndarray]:
    frame = pl.read_parquet(LAB).filter(pl.col("purpose") == "signals")
    runs = frame.group_by(["run_id", "step"], maintain_order=True).agg(pl.col("num_correct") / pl.col("num_samples"))
    return [values.to_numpy() for values in runs["num_correct"]][::every]


def _plans(truth, pilot: int, k: int, variance: float, batch: int, rng) -> list[list[StopRule]]:
    seen = rng.binomial(pilot, truth)
    points, posterior = rates.fit(np.full(len(truth), pilot), seen).posterior(np.full(len(truth), pilot), seen)
    return [allocate(points, posterior, k, variance, each) for each in (None, batch)]


def _against_uniform(truth, k: int, uniform: int, options: argparse.Namespace, rng) -> list[float]:
    wished = float(sampling_variance(truth, uniform, k).mean())
    ratios = []
    for rules in _plans(truth, options.pilot, k, wished, options.batch, rng):
        samples, variance = _moments(rules, truth, k)
        equal = uniform_samples(truth, np.full(len(truth), 1 / len(truth)), k, float(variance.mean()))
        ratios.append(((0 if options.free else options.pilot) + samples.mean()) / equal)
    return ratios


def _moments(rules: list[StopRule], truth, k: int):
    samples, variance = np.empty(len(truth)), np.empty(len(truth))
    for rule in set(rules):
        mine = np.array([other == rule for other in rules])
        samples[mine], variance[mine] = rule.moments(truth[mine], k)
    return samples, variance


def _simulate(truth, k: int, options: argparse.Namespace, rng) -> None:
    """Pilot, plan, sampling and estimate, drawn anew each time: mean error in Monte-Carlo standard errors, and the spread."""
    value, wished = float((1 - (1 - truth) ** k).mean()), float(sampling_variance(truth, 2 * k, k).mean())
    errors, planned = [], []
    for _ in range(options.replicates):
        both = _plans(truth, options.pilot, k, wished, options.batch, rng)
        errors.append([estimate(rules, *_sampled(rules, truth, rng), k).mean() - value for rules in both])
        planned.append([_moments(rules, truth, k)[1].mean() / len(truth) for rules in both])
    error, spread = np.array(errors), np.sqrt(np.mean(planned, axis=0))
    for i, design in enumerate(DESIGNS):
        z = error[:, i].mean() / (error[:, i].std() / np.sqrt(len(error)))
        print(
            f"simulated, k {k}, {design}: bias {error[:, i].mean():+.5f} (z {z:+.1f}), "
            f"SD {error[:, i].std():.5f}, exact {spread[i]:.5f}, wished {np.sqrt(wished / len(truth)):.5f}"
        )


def _sampled(rules: list[StopRule], truth, rng):
    n, c = np.zeros(len(truth), dtype=int), np.zeros(len(truth), dtype=int)
    for i, (rule, p) in enumerate(zip(rules, truth, strict=True)):
        for size in rule.sizes:
            n[i], c[i] = n[i] + size, c[i] + rng.binomial(size, p)
            if c[i] >= rule.enough:
                break
    return n, c


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pilot", type=int, default=8, help="samples of each problem that plan the rest and are then put away")
    parser.add_argument("--free", action="store_true", help="the pilot is there already: do not count it")
    parser.add_argument("--batch", type=int, default=8, help="samples a stop rule draws at a time")
    parser.add_argument("--every", type=int, default=3, help="take every so many of the laboratory's 45 checkpoints")
    parser.add_argument("--replicates", type=int, default=400)
    return parser.parse_args()


if __name__ == "__main__":
    main()
