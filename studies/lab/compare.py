"""Compare a rerun of laboratory runs with the shipped ones: what must be equal is equal, what is random lies within its noise.

    python studies/lab/compare.py --home build/study

Runs are matched by their ids, which name everything that decides their numbers. Signals of an SFT checkpoint (losses, counts)
must agree bit for bit where torch and the CPU model are those of the shipped run, else losses to 1e-4 and pass@1 to four
standard errors. Outcomes must agree within three standard deviations of the difference of two RL seeds.
"""

import argparse
import json
from pathlib import Path

import polars as pl
from runs_of_study import store

import predict
from curate.errors import CheckFailed, InputError

LOSSES = (
    "gen_loss",
    "gen_loss_own",
    "gen_loss_style_free",
    "gen_loss_result",
    "rl_loss_style_free",
    "rl_loss_result",
    "entropy_t1",
)
COUNTS = ("pass_at_1", "pass_at_8", "pass_at_64", "mean_tokens")
LOSS_TOLERANCE, STANDARD_ERRORS = 1e-4, 4.0
ROUNDING = 1e-12
"""Equal counts may be averaged in another order."""
SEED_SD = 0.0113
"""Of an outcome over RL seeds, measured in the pilot (docs/laboratory.md)."""


def main() -> None:
    """Print one line a checkpoint; exit code 4 if one differs by more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="workspace of the rerun")
    home = parser.parse_args().home
    predict.ingest(home)
    pairs = checkpoints(home).join(checkpoints(store()), on=["run_id", "rl_recipe"], suffix="_shipped", nulls_equal=True)
    pairs = pairs.filter(pl.col("pass_at_1").is_not_null(), pl.col("pass_at_1_shipped").is_not_null())  # not stopped on the way
    if pairs.is_empty():
        raise InputError(f"{home}: none of its checkpoints is one of the shipped ones; rerun a part of the study first")
    verdicts = [judge(pair) for pair in pairs.to_dicts()]
    for _, line in verdicts:
        print(line)
    failed = sum(not fine for fine, _ in verdicts)
    print(f"{len(verdicts) - failed} of {len(verdicts)} checkpoints agree with the shipped ones")
    if failed:
        raise SystemExit(CheckFailed.exit_code)


def checkpoints(home: Path) -> pl.DataFrame:
    """The checkpoints of a store, with what their SFT ran on."""
    ran_on = predict.query(home, "SELECT run_id, versions, hardware FROM runs")
    platform = [_platform(json.loads(versions), json.loads(hardware)) for _, versions, hardware in ran_on.iter_rows()]
    ran_on = ran_on.select("run_id").with_columns(platform=pl.Series(platform, dtype=pl.String))
    return predict.query(home, "SELECT * FROM checkpoints").join(ran_on, on="run_id", how="left")


def _platform(versions: dict, hardware: dict) -> str:
    """What decides how numbers are rounded; runs from before vectors were recorded do not say theirs."""
    return f"torch {versions.get('torch')}, {hardware.get('processor')} {hardware.get('vectors') or '(vectors not known)'}"


def judge(pair: dict) -> tuple[bool, str]:
    """Whether a rerun checkpoint agrees with the shipped one, and the line that says so."""
    same = pair["platform"] == pair["platform_shipped"]
    losses, counts = (largest_difference(pair, columns) for columns in (LOSSES, COUNTS))
    error = STANDARD_ERRORS * (max(pair["pass_at_1"] * (1 - pair["pass_at_1"]), 0.01) / 256) ** 0.5
    off = abs(pair["pass_at_1"] - pair["pass_at_1_shipped"])
    signals = losses == 0 and counts <= ROUNDING if same else losses <= LOSS_TOLERANCE and off <= error
    outcome, expected = pair["outcome_pass_at_1"], pair["outcome_pass_at_1_shipped"]
    known = outcome is not None and expected is not None
    ended = not known or abs(outcome - expected) <= 3 * 2**0.5 * SEED_SD
    told = f"outcome {outcome:.4f} (shipped {expected:.4f})" if known else "no outcome to compare"
    kind = "bit for bit" if same else f"on {pair['platform']}, shipped on {pair['platform_shipped']}"
    line = f"{'ok  ' if signals and ended else 'DIFF'} {pair['base_model']} {pair['variant'] or 'no SFT'} {pair['run_id']}: "
    return signals and ended, f"{line}losses differ by {losses:.1e}, counts by {counts:.1e} ({kind}); {told}"


def largest_difference(pair: dict, columns: tuple[str, ...]) -> float:
    """Over the columns that both have."""
    both = [(pair[name], pair[f"{name}_shipped"]) for name in columns if pair.get(name) is not None]
    return max((abs(ours - theirs) for ours, theirs in both if theirs is not None), default=0.0)


if __name__ == "__main__":
    main()
