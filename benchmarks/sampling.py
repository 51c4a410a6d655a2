"""Tokens per second of the native sampler beside `transformers.generate`: same model, prompts, rows and limit.

    OMP_NUM_THREADS=1 python benchmarks/sampling.py [--model l4-behaved-s0] [--prompts 32] [--group-size 16] [--rounds 3]

The two take turns, so that a busy machine slows both. Tokens are those that the rollouts hold (end token included), not
padding. Rows differ between the two, since their random numbers do; the mean length is printed so that one sees it is the same work.
"""

import argparse
import statistics
import time

import torch
from transformers.utils import logging

from curate import arithmetic
from train import checkpoints, rendering
from train.sampling import make_sampler


def main() -> None:
    """Measure and print one line a round, then the ratio of the medians."""
    options = _options()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    folder = checkpoints.model_folder(options.model)
    model, tokenizer = checkpoints.load(folder)
    model.eval()
    problems = arithmetic.problems(size=options.prompts, operations=(3, 9), split="dev")
    prompts = [rendering.prompt_ids(tokenizer, problem) for problem in problems]
    speeds: dict[str, list[float]] = {"native": [], "transformers": []}
    for name in speeds:
        make_sampler(name, model, tokenizer).sample(prompts[:2], group_size=2, max_tokens=4, temperature=1.0, seed=0)
    for number in range(options.rounds):
        for name, measured in speeds.items():
            began = time.perf_counter()
            rollouts = make_sampler(name, model, tokenizer).sample(
                prompts, group_size=options.group_size, max_tokens=options.max_tokens, temperature=1.0, seed=number
            )
            seconds = time.perf_counter() - began
            lengths = rollouts.lengths.float()
            measured.append(float(lengths.sum()) / seconds)
            print(
                f"{name:14s}{len(lengths):5d} rows {lengths.mean():7.1f} tokens a row {seconds:7.2f} s {measured[-1]:9.0f} tokens/s"
            )
    medians = {name: statistics.median(measured) for name, measured in speeds.items()}
    print(f"median tokens/s: native {medians['native']:.0f}, transformers {medians['transformers']:.0f}", end="; ")
    print(f"ratio {medians['native'] / medians['transformers']:.1f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="l4-behaved-s0", help="a shipped base or a Hugging Face folder of a Llama model")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
