"""Influence between problems (docs/influence.md) of every SFT checkpoint of a workspace that has weights, kept as signals.

    train study studies/lab/protocol.yaml --home build/influence --workers 2 --stages build,sft
    python studies/lab/influence.py --home build/influence [--shard 0/2]

What was measured before is passed over.
"""

import argparse
import sys
import time
from pathlib import Path

from transformers.utils import logging

from curate.files import read_jsonl
from train import influence
from train.configs import InfluenceConfig
from train.records import RunFolder

SETTINGS = {"problems": {"set": "A", "problems": 128, "num_samples": 16}, "max_tokens": 128}


def checkpoints_of(home: Path) -> list[str]:
    """SFT runs that ended, with their weights here."""
    folders = [RunFolder(path.parent) for path in sorted(home.glob("runs/*/run.json"))]
    runs = [(folder, folder.run) for folder in folders if folder.is_done]
    return [run.run_id for folder, run in runs if run.stage == "sft" and folder.checkpoint(run.steps).exists()]


def measured(home: Path, run_id: str) -> bool:
    """Whether the run has its influence."""
    path = RunFolder.of(home, run_id).path / "signals.jsonl"
    return path.exists() and any(row["name"] == "influence" for _, row in read_jsonl(path, torn_tail=True))


def main() -> None:
    """Measure this shard's checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--shard", default="0/1", help="I/N: every N-th checkpoint, from the I-th")
    arguments = parser.parse_args()
    first, every = map(int, arguments.shard.split("/"))
    logging.disable_progress_bar()
    for run_id in checkpoints_of(arguments.home)[first::every]:
        if not measured(arguments.home, run_id):
            began = time.perf_counter()
            document = influence.main(InfluenceConfig.model_validate({**SETTINGS, "model": run_id, "home": arguments.home}))
            print(influence.table(document), f"{time.perf_counter() - began:.1f} s", sep="\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
