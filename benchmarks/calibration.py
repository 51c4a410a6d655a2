"""Do forecasts know their limits? Simulated studies: coverage and interval score of 90 % intervals, calibration of P(best).

    python benchmarks/calibration.py                 # 4,200 studies, and 420 of another predictor
    python benchmarks/calibration.py --studies 60    # of each kind and size

A study is n runs with a measured outcome (mean of two RL seeds) and eight candidates. Its kind is what the straight line of the
forecaster gets right or wrong: linear, saturating, heteroscedastic, or linear with one collapsed run drawn exchangeably over the n runs
and the first candidate, on which coverage is counted there. In studies of few bases the runs of a base share part of their misfit, and the
candidate is of a new base.
"""

import argparse
import time

import numpy as np
import polars as pl

import predict
from predict.calibration import brier_score, interval_figures, log_skill, reliability
from predict.forecasting import DRAWS, LEVELS, p_best
from predict.intervals import clusters_of
from predict.prediction import t_intervals

KINDS = ("linear", "saturating", "heteroscedastic", "outlier")
SIZES = (9, 12, 18, 30, 60)
CANDIDATES = 8
BASES = (4, 8, 12)
RUNS_OF_BASE = 6
SHARED = (0.0, 0.3, 0.7)


def study(kind: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Signal, true level, measured outcome and the sd over two RL seeds, (n + CANDIDATES,) each."""
    x = rng.uniform(0.2, 0.8, n + CANDIDATES)
    line = 0.5 * x if kind != "saturating" else 0.35 * -np.expm1(-6 * (x - 0.2))
    misfit = 0.03 * (3 * (x - 0.2) + 0.1 if kind == "heteroscedastic" else 1.0)
    level = 0.2 + line + misfit * rng.standard_normal(len(x))
    if kind == "outlier":
        level[rng.integers(0, n + 1)] -= 0.3
    seeds = level + 0.02 * rng.standard_normal((2, len(x)))
    return x, level, seeds.mean(axis=0), seeds.std(axis=0, ddof=1)


def one(kind: str, n: int, rng: np.random.Generator, predictor: str = "pass_at_64") -> dict:
    """Figures of one simulated study."""
    x, level, y, sd = study(kind, n, rng)
    table = pl.DataFrame({"pass_at_64": x, "outcome_pass_at_1": y, "outcome_sd": sd, "n_rl_seeds": 2})
    forecaster = predict.Forecaster(predictor).fit(table[:n])
    counted = slice(n, n + 1) if kind == "outlier" else slice(n, None)
    truth, new = y[counted], x[counted, None]
    low, high = forecaster.intervals(new, 0.9)
    found = interval_figures(truth, low, high)
    line = interval_figures(truth, *t_intervals(x[:n, None], y[:n], new, [0.9])[0])
    probability = np.maximum(p_best(forecaster.true_levels(x[n:, None])), 1 / DRAWS)  # draws cannot tell less from 0
    probability /= probability.sum()
    best = int(level[n:].argmax())
    return {
        "kind": kind, "n": n, "coverage": found.coverage, "width": found.width, "score": found.score, "score_line": line.score,
        "brier": brier_score(probability, best), "skill": log_skill(probability, best), "p_best": probability.tolist(), "best": best,
    }  # fmt: skip


def few_bases(bases: int, shared: float, rng: np.random.Generator) -> dict:
    """Whether 90 and 50 % intervals held a run of a new base: rows taken as independent, and a base's rows as sharing an error."""
    base = np.repeat(np.arange(bases + 1), RUNS_OF_BASE)
    x = np.sqrt(0.7) * rng.standard_normal(bases + 1)[base] + np.sqrt(0.3) * rng.standard_normal(len(base))
    misfit = np.sqrt(shared) * rng.standard_normal(bases + 1)[base] + np.sqrt(1 - shared) * rng.standard_normal(len(base))
    seen, new, y = base < bases, int(len(base) - 1), x + misfit
    kinds = {"rows": None, "by base": clusters_of(base[seen].tolist())}
    row: dict = {"bases": bases, "shared": shared}
    found = {kind: t_intervals(x[seen, None], y[seen], x[[new], None], LEVELS, clusters) for kind, clusters in kinds.items()}
    for place, level in enumerate(LEVELS):
        for kind, intervals in found.items():
            (low,), (high,) = intervals[place]
            row |= {f"{level:.0%} {kind}": float(low <= y[new] <= high), f"width {level:.0%} {kind}": float(high - low)}
    return row


def figures(rows: pl.DataFrame, by: str | None = None) -> pl.DataFrame:
    """Coverage with its standard error, width, interval score beside the t interval's, and the skill of P(best)."""
    columns = [
        pl.len().alias("studies"), pl.col("coverage").mean(), (pl.col("coverage").std() / pl.len().sqrt()).alias("se"),
        pl.col("width", "score", "score_line").mean(), (pl.col("score").mean() / pl.col("score_line").mean()).alias("ratio"),
        pl.col("brier").mean(), pl.col("skill").mean(), (pl.col("skill").std() / pl.len().sqrt()).alias("se_skill"),
    ]  # fmt: skip
    return rows.group_by(by, maintain_order=True).agg(columns) if by else rows.select(columns)


def best_table(rows: pl.DataFrame) -> pl.DataFrame:
    """How often candidates given about one probability were the best."""
    happened = np.concatenate([np.arange(CANDIDATES) == best for best in rows["best"]])
    return reliability(np.concatenate(rows["p_best"].to_list()), happened)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=210, help="of each kind and size")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start, rng = time.process_time(), np.random.default_rng(options.seed)
    each = range(options.studies)
    rows = pl.DataFrame([one(kind, n, rng) for kind in KINDS for n in SIZES for _ in each])
    bent = pl.DataFrame([one("saturating", n, rng, "saturating(pass_at_64)") for n in SIZES[1:] for _ in each[::2]])
    of_bases = np.random.default_rng(options.seed)
    few = pl.DataFrame(
        [few_bases(bases, part, of_bases) for bases in BASES for part in SHARED for _ in range(10 * options.studies)]
    )
    wrong = pl.col("kind").is_in(["saturating", "heteroscedastic"])
    tables = {
        "Pooled": figures(rows),
        "By kind": figures(rows, "kind"),
        "By size": figures(rows, "n"),
        "Linear, where the t interval is right, by size": figures(rows.filter(kind="linear"), "n"),
        "Saturating, forecast by saturating(pass_at_64)": figures(bent, "n"),
        f"Few bases of {RUNS_OF_BASE} runs, by the share of the misfit that a base's runs share": few.group_by(
            "bases", "shared", maintain_order=True
        ).mean(),
        "P(best) of eight, pooled": best_table(rows),
        "P(best) of eight where the straight line is right (linear)": best_table(rows.filter(kind="linear")),
        "P(best) of eight where it is wrong (saturating, heteroscedastic)": best_table(rows.filter(wrong)),
        "P(best) of eight, saturating by saturating(pass_at_64)": best_table(bent),
    }
    print(f"{len(rows) + len(bent)} studies, {time.process_time() - start:.0f} s of CPU, seed {options.seed}")
    with pl.Config(tbl_rows=60, tbl_cols=-1, float_precision=3, tbl_formatting="ASCII_MARKDOWN", tbl_hide_column_data_types=True,
                   tbl_hide_dataframe_shape=True, tbl_width_chars=160):  # fmt: skip
        for title, table in tables.items():
            print(f"\n{title}:\n\n{table}")
    calm = rows.filter(pl.col("kind") != "outlier")
    print(f"\nlog skill over 1/8, without the outlier studies: {calm['skill'].mean():.3f} nats a study")


if __name__ == "__main__":
    main()
