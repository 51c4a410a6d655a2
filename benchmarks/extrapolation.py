"""pass@k beyond the samples: coverage, width and interval score of the 90 % interval under generators that are fitted and that are not.

    OMP_NUM_THREADS=1 python benchmarks/extrapolation.py [--problems 128] [--replicates 200]

For each generator: rates are drawn, n samples of each problem are seen, the rest up to k is drawn too and judges. `realised` is the share
solved once all k are drawn; `expected` the mean of 1 - (1 - p)^k over the same problems. The interval (Winkler) score is
width plus 20 times any miss, of the realised value; smaller is better. Rivals: the likelihood taken at its full weight, and the range of
the profile likelihood over all families.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from scipy import special, stats

from train import rates
from train.extrapolate import extrapolate

LAB = Path(__file__).parent.parent / "studies" / "lab" / "runs" / "evaluations.parquet"
FITTED = {
    "beta(.3, 1)": lambda rng, size: rng.beta(0.3, 1, size),
    "beta(1, 3)": lambda rng, size: rng.beta(1, 3, size),
    "zero-inflated .2 beta(.5, 1.5)": lambda rng, size: rng.beta(0.5, 1.5, size) * (rng.random(size) > 0.2),
    "zero-inflated .3 beta(1, 3)": lambda rng, size: rng.beta(1, 3, size) * (rng.random(size) > 0.3),
    "logit-normal(-2, 2)": lambda rng, size: special.expit(rng.normal(-2, 2, size)),
    "logit-normal(-4, 1.5)": lambda rng, size: special.expit(rng.normal(-4, 1.5, size)),
}
NOT_FITTED = {
    "two points .005, .3": lambda rng, size: np.where(rng.random(size) < 0.5, 0.005, 0.3),
    "two points .002, .1": lambda rng, size: np.where(rng.random(size) < 0.5, 0.002, 0.1),
    "two points .02, .6": lambda rng, size: np.where(rng.random(size) < 0.5, 0.02, 0.6),
    "log-uniform .0001 .. 1": lambda rng, size: 10 ** rng.uniform(-4, 0, size),
    "two betas (1, 60), (8, 3)": lambda rng, size: np.where(rng.random(size) < 0.5, rng.beta(1, 60, size), rng.beta(8, 3, size)),
}
HALF_CHI2 = 1.353
"""Half of the .9 quantile of chi-square with one degree of freedom: the drop of a profile log-likelihood."""


def main() -> None:
    """Print a table for 64 -> 256 and one for 32 -> 128, the laboratory's counts last."""
    options = _options()
    for n, k in ((64, 256), (32, 128)):
        print(f"\n{n} -> {k}, {options.problems} problems, {options.replicates} sets each")
        print(
            "| generator | error | covered: realised | expected | width | score | full weight: covered | score | profile: covered | score |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for kind, generators in (("fitted", FITTED), ("not fitted", NOT_FITTED)):
            found = [_print_row(name, _simulated(make, n, k, options)) for name, make in generators.items()]
            _print_means(f"mean of {kind}", found)
    _print_row("laboratory, thinned from 128", _laboratory(32, 128))


def _simulated(make, n: int, k: int, options: argparse.Namespace) -> np.ndarray:
    rng, rows = np.random.default_rng(1), []
    for _ in range(options.replicates):
        rate = make(rng, options.problems)
        seen = rng.binomial(n, rate)
        realised = float(np.mean(seen + rng.binomial(k - n, rate) > 0))
        rows.append(_judged(seen, n, k, realised, float((1 - (1 - rate) ** k).mean())))
    return np.array(rows)


def _laboratory(n: int, k: int) -> np.ndarray:
    """Each checkpoint's 128 samples thinned to n at random; all 128 are the truth, realised and, for want of better, expected."""
    rng = np.random.default_rng(1)
    frame = pl.read_parquet(LAB).filter(pl.col("purpose") == "signals")
    runs = frame.group_by(["run_id", "step"], maintain_order=True).agg("num_correct")["num_correct"]
    counts = [values.to_numpy() for values in runs]
    return np.array([_judged(rng.hypergeometric(c, k - c, n), n, k, *[float(np.mean(c > 0))] * 2) for c in counts])


def _judged(seen, n: int, k: int, realised: float, expected: float) -> list[float]:
    ours = extrapolate(n, seen, k)
    row = [ours.value - realised, *_cover(ours.low, ours.high, realised), ours.low - 1e-9 <= expected <= ours.high + 1e-9]
    for low, high in (_full_weight(n, seen, k), _profile(n, seen, k)):
        row += _cover(low, high, realised)
    return row


def _cover(low: float, high: float, truth: float) -> list[float]:
    """Covered, width, interval score."""
    miss = max(low - truth, truth - high, 0.0)
    return [float(miss < 1e-9), high - low, high - low + 20 * miss]


def _full_weight(n: int, seen, k: int) -> tuple[float, float]:
    kept, rates.TRUST = rates.TRUST, 1.0
    try:
        found = extrapolate(n, seen, k)
    finally:
        rates.TRUST = kept
    return found.low, found.high


def _profile(n: int, seen, k: int) -> tuple[float, float]:
    """Range over all lattice points within the drop, widened by the binomial noise of the unsolved problems."""
    spread, unsolved = rates.fit(np.full(len(seen), n), seen), int((seen == 0).sum())
    chances = spread.expectation(lambda p: np.column_stack([(1 - p) ** n, (1 - p) ** k]))
    near = spread.log_likelihood >= spread.log_likelihood.max() - HALF_CHI2
    solved = 1 - chances[near, 1] / np.maximum(chances[near, 0], 1e-300)
    low, high = stats.binom.ppf(0.05, unsolved, solved.min()), stats.binom.ppf(0.95, unsolved, solved.max())
    return float((len(seen) - unsolved + low) / len(seen)), float((len(seen) - unsolved + high) / len(seen))


def _print_row(name: str, found: np.ndarray) -> np.ndarray:
    error, (_, real, width, score, expected, full, _, full_score, profile, _, profile_score) = (
        np.sqrt((found[:, 0] ** 2).mean()),
        found.mean(0),
    )
    shown = (error, real, expected, width, score, full, full_score, profile, profile_score)
    print(
        f"| {name} | "
        + " | ".join(f"{value:.3f}" if i in (0, 3, 4, 6, 8) else f"{value:.2f}" for i, value in enumerate(shown))
        + " |",
        flush=True,
    )
    return np.array(shown)


def _print_means(name: str, rows: list[np.ndarray]) -> None:
    print(
        f"| **{name}** | "
        + " | ".join(f"{value:.3f}" if i in (0, 3, 4, 6, 8) else f"{value:.2f}" for i, value in enumerate(np.mean(rows, axis=0)))
        + " |"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--problems", type=int, default=128)
    parser.add_argument("--replicates", type=int, default=200)
    return parser.parse_args()


if __name__ == "__main__":
    main()
