"""Samples that pass@k of a fixed problem set takes by unequal designs, against the same n everywhere at the same standard error.

    OMP_NUM_THREADS=1 python benchmarks/adaptive_sampling.py [--pilot 8] [--free] [--batch 8] [--every 3] [--replicates 400]

Truth: simulated success rates, and the laboratory's checkpoints (their 128-sample rates taken for the truth). A pilot plans, the
truth judges: each design's exact variance on the true rates, then the uniform n of that very variance. The pilot is paid for
in `samples / uniform`, unless it is `--free`: counts that were there before. `go on` keeps it as its first batch; with `--free` its new
samples stand against those that uniform adds to the same counts. Two limits stand beside them: the same stop rules
chosen by the true rates themselves, and what no unbiased sequential design goes below. The last lines draw everything anew many times:
bias and spread of the estimates themselves.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from train import rates
from train.adaptive import StopRule, allocate, estimate, go_on, sampling_variance, uniform_samples

LAB = Path(__file__).parent.parent / "studies" / "lab" / "runs" / "evaluations.parquet"
SIMULATED = {"beta(.4, 1)": (0.4, 1), "beta(.3, 2)": (0.3, 2), "beta(1, 3)": (1, 3)}
DESIGNS = ("two stages", "stop rules", "go on")
KEEPS_PILOT = (False, False, True)
LIMITS = ("rates known", "any design")


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
                    for design, ratio in zip(DESIGNS + LIMITS, found.T, strict=True)
                ]
                print(f"{name:12s} k {k:3d} uniform n about {uniform:4d}: {'; '.join(texts)}", flush=True)
    for k in (4, 32) if options.replicates else ():
        _simulate(rng.beta(0.4, 1, 60), k, options, rng)


def _lab(every: int) -> list[np.ndarray]:
    frame = pl.read_parquet(LAB).filter(pl.col("purpose") == "signals")
    runs = frame.group_by(["run_id", "step"], maintain_order=True).agg(pl.col("num_correct") / pl.col("num_samples"))
    return [values.to_numpy() for values in runs["num_correct"]][::every]


def _plans(truth, pilot: int, k: int, variance: float, batch: int, rng) -> tuple[np.ndarray, list[list[StopRule]]]:
    """Correct ones of a pilot of all problems, and the rules of each design that it plans."""
    n, seen = np.full(len(truth), pilot), rng.binomial(pilot, truth)
    points, posterior = rates.fit(n, seen).posterior(n, seen)
    anew = [allocate(points, posterior, k, variance, each) for each in (None, batch)]
    return seen, [*anew, go_on(n, seen, k, variance, batch)]


def _against_uniform(truth, k: int, uniform: int, options: argparse.Namespace, rng) -> list[float]:
    wished = float(sampling_variance(truth, uniform, k).mean())
    _, (*anew, going_on) = _plans(truth, options.pilot, k, wished, options.batch, rng)
    known = allocate(np.clip(truth, 1e-9, 1 - 1e-9), np.eye(len(truth)), k, wished, options.batch)
    put_away = [_share_of_uniform(truth, k, rules, 0 if options.free else options.pilot) for rules in anew]
    kept = _share_of_uniform(truth, k, going_on, 0, options.pilot if options.free else 0)
    return [*put_away, kept, _share_of_uniform(truth, k, known, 0), _least(truth, k, wished) / uniform]


def _share_of_uniform(truth, k: int, rules: list[StopRule], paid: int, kept: int = 0) -> float:
    samples, variance = _moments(rules, truth, k)
    equal = uniform_samples(truth, np.full(len(truth), 1 / len(truth)), k, float(variance.mean()))
    return (paid + samples.mean() - kept) / (equal - kept) if equal > kept else float("nan")  # nan: uniform adds nothing


def _least(truth, k: int, variance: float) -> float:
    """Expected samples a problem below which no unbiased sequential design has this mean variance, even one that knows the rates.

    Wolfowitz (1947): a problem's variance is at least a^2 / E[samples], a = k (1 - p)^(k-1) sqrt(p (1 - p)); samples in proportion
    to a make the least of their sum.
    """
    a = k * (1 - truth) ** (k - 1) * np.sqrt(truth * (1 - truth))
    return float(a.mean() ** 2 / variance)


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
        seen, plans = _plans(truth, options.pilot, k, wished, options.batch, rng)
        drawn = [_sampled(rules, truth, rng, seen if kept else None) for rules, kept in zip(plans, KEEPS_PILOT, strict=True)]
        errors.append([estimate(rules, *counts, k).mean() - value for rules, counts in zip(plans, drawn, strict=True)])
        planned.append([_moments(rules, truth, k)[1].mean() / len(truth) for rules in plans])
    error, spread = np.array(errors), np.sqrt(np.mean(planned, axis=0))
    for i, design in enumerate(DESIGNS):
        z = error[:, i].mean() / (error[:, i].std() / np.sqrt(len(error)))
        print(
            f"simulated, k {k}, {design}: bias {error[:, i].mean():+.5f} (z {z:+.1f}), "
            f"SD {error[:, i].std():.5f}, exact {spread[i]:.5f}, wished {np.sqrt(wished / len(truth)):.5f}"
        )


def _sampled(rules: list[StopRule], truth, rng, first=None):
    """Counts of each problem by its rule; `first`: correct ones of its first batch, where that was drawn already."""
    n, c = np.zeros(len(truth), dtype=int), np.zeros(len(truth), dtype=int)
    for i, (rule, p) in enumerate(zip(rules, truth, strict=True)):
        for batch, size in enumerate(rule.sizes):
            n[i], c[i] = n[i] + size, c[i] + (rng.binomial(size, p) if batch or first is None else first[i])
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
