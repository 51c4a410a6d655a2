"""Seconds of a GRPO step beside TRL's `GRPOTrainer`: same model, problems, group size, limits, loss and optimiser.

    OMP_NUM_THREADS=1 python benchmarks/grpo_step.py [--model l4-behaved-s0] [--problems 24] [--group-size 16] [--rounds 3]

A step samples a group for each problem, verifies, and makes one update. In every round each runs five steps from the same
start and the median of the last four counts; the two take turns, so that a busy machine slows both. They sample different
completions, so the mean lengths are printed: the work is alike. TRL's micro-batch is 48 rows, which is faster for it here than
the whole batch at once.
"""

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging as transformers_logging
from trl import GRPOConfig, GRPOTrainer

from curate import arithmetic
from curate.examples import Problem, problem_row, write_parquet
from train import checkpoints, grpo
from train.configs import GrpoConfig
from train.rewards import accuracy_reward

STEPS, LEARNING_RATE, MAX_TOKENS, MICRO_BATCH_ROWS = 5, 6e-4, 128, 48


def main() -> None:
    """Measure and print one line a round, then the ratio of the medians."""
    options = _options()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    model = checkpoints.model_folder(options.model)
    problems = arithmetic.problems(size=STEPS * options.problems, operations=(3, 8), split="dev")
    seconds: dict[str, list[float]] = {"forerun": [], "trl": []}
    for number in range(options.rounds):
        for name, run in (("forerun", _ours), ("trl", _theirs)):
            with tempfile.TemporaryDirectory() as scratch:
                steps, lengths = run(Path(scratch), model, problems, options, number)
            seconds[name].append(statistics.median(steps[1:]))
            print(
                f"{name:8s}{seconds[name][-1]:8.2f} s a step, {statistics.mean(lengths[1:]):6.1f} tokens a completion", flush=True
            )
    ours, theirs = (statistics.median(measured) for measured in seconds.values())
    print(f"median seconds a step: forerun {ours:.2f}, trl {theirs:.2f}; ratio {theirs / ours:.1f}")


def _ours(
    home: Path, model: Path, problems: list[Problem], options: argparse.Namespace, seed: int
) -> tuple[list[float], list[float]]:
    rows = home / "rl.parquet"
    write_parquet(rows, "problems", [problem_row(problem, index) for index, problem in enumerate(problems)])
    record = grpo.main(
        GrpoConfig(
            home=home,
            model=str(model),
            dataset=rows,
            steps=STEPS,
            problems=options.problems,
            group_size=options.group_size,
            learning_rate=LEARNING_RATE,
            warmup_steps=0,
            max_tokens=MAX_TOKENS,
            mixed_groups_only=False,  # TRL has no such setting
            seed=seed,
        )
    )
    sampling, update = record.metric("seconds_sampling"), record.metric("seconds_update")
    return [a + b for a, b in zip(sampling, update, strict=True)], record.metric("mean_tokens")


class _Clock(TrainerCallback):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]
        self.lengths: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "completions/mean_length" in logs:
            self.lengths.append(logs["completions/mean_length"])


def _theirs(
    home: Path, model: Path, problems: list[Problem], options: argparse.Namespace, seed: int
) -> tuple[list[float], list[float]]:
    fresh, tokenizer = checkpoints.load(model)
    rows = options.problems * options.group_size
    settings = GRPOConfig(
        output_dir=str(home),
        max_steps=STEPS,
        num_generations=options.group_size,
        per_device_train_batch_size=MICRO_BATCH_ROWS,
        gradient_accumulation_steps=rows // MICRO_BATCH_ROWS,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        max_grad_norm=1.0,
        beta=0.0,
        loss_type="dapo",
        temperature=1.0,
        top_k=0,
        max_completion_length=MAX_TOKENS,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=seed,
    )
    data = [{"prompt": [{"role": "user", "content": p.prompt}], "ground_truth": p.ground_truth} for p in problems]
    clock = _Clock()
    trainer = GRPOTrainer(
        fresh,
        reward_funcs=_reward,
        args=settings,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    clock.times = [time.perf_counter()]
    trainer.train()
    return [later - earlier for earlier, later in zip(clock.times, clock.times[1:], strict=False)], clock.lengths


def _reward(completions: list[Any], ground_truth: list[str], **_: Any) -> list[float]:
    texts = [completion[0]["content"] for completion in completions]
    return [accuracy_reward(text, ground_truth=truth) for text, truth in zip(texts, ground_truth, strict=True)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="l4-behaved-s0", help="a shipped base or a Hugging Face folder of a Llama model")
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
