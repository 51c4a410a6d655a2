"""Supervised fine-tuning: cross-entropy on completions, length-bucketed batches, AdamW, warm-up and cosine."""

import bisect
import itertools
import random
import time
from collections.abc import Callable, Iterator

from torch import Tensor
from transformers import PreTrainedModel

from curate.errors import CheckFailed, InputError
from train import checkpoints, rendering
from train.batches import IGNORE, TokenSequence, collate, group_by_length
from train.configs import SftConfig
from train.datasets import open_dataset
from train.engines import trl_stage
from train.identity import sft_run
from train.loop import TrainingState, adamw, optimizer_step, stop_diverged, warmup_cosine
from train.loss import sft_loss
from train.records import RunFolder, workspace

Progress = Callable[[int, int, dict[str, float]], None]


def main(config: SftConfig, progress: Progress = lambda *_: None) -> RunFolder:
    """Train, write the run folder, return it; a run that is done is returned as it is."""
    if config.engine == "trl":
        return trl_stage("sft").main(config, progress)
    home = workspace(config.home)
    start, dataset = checkpoints.resolve(config.model, home), open_dataset(config.dataset)
    run = sft_run(config, start, dataset)
    record = RunFolder.of(home, run.run_id)
    if record.is_done and not config.keep_shares:
        return record
    model, tokenizer = checkpoints.load(start.folder, config.device)
    sequences = rendering.training_sequences(tokenizer, dataset.train(), config.max_length)
    plan = update_plan(config, run.variant["epochs"], sequences)
    missing = missing_steps(record, plan, config.keep_shares)
    done = record.is_done
    if done and not missing:
        return record
    optimizer = adamw(model, config.learning_rate, config.weight_decay)
    if not done:
        record.start(run)
    state = TrainingState(record.path / "state.pt", model, [optimizer], config.save_seconds)
    counters = state.restore()
    pad = rendering.pad_id(tokenizer)
    model.train()
    for step in range(counters["step"], max(missing) if done else len(plan)):
        began = time.perf_counter()
        batch = [sequences[index] for index in plan[step]]
        counted = sum(sum(sequence.counted[1:]) for sequence in batch)
        rate = config.learning_rate * warmup_cosine(step, len(plan), config.warmup_share, config.final_share)
        losses = _micro_losses(model, batch, counted, pad, config)
        try:
            loss, norm = optimizer_step(model, optimizer, losses, rate, config.max_grad_norm)
        except CheckFailed as error:
            stop_diverged(record, run, state, tokenizer, step, error)
        counters["step"] = step + 1
        counters["tokens"] += counted
        counters["seconds"] += time.perf_counter() - began
        if not done:
            record.log(step + 1, {"loss": loss, "grad_norm": norm, "learning_rate": rate, "tokens": counted})
        if step + 1 in missing:
            checkpoints.save(model, tokenizer, record.checkpoint(step + 1))
        state.save_if_due(counters)
        progress(step + 1, len(plan), {"loss": loss})
    if not done:
        run.steps, run.tokens, run.seconds = len(plan), counters["tokens"], counters["seconds"]
        checkpoints.save(model, tokenizer, record.checkpoint(run.steps))
        record.finish(run, "done")
    state.drop()
    return record


def update_plan(config: SftConfig, epochs: int, sequences: list[TokenSequence]) -> list[list[int]]:
    """Which examples each update takes: every epoch in a new order, decided by the seed alone."""
    if not sequences:
        raise InputError(f"{config.dataset}: the training set is empty; there is nothing to train on")
    plan: list[list[int]] = []
    for epoch in range(epochs):
        rng = random.Random(f"{config.seed}/{epoch}")
        plan += group_by_length((len(sequence.ids) for sequence in sequences), config.batch_tokens, rng)
    return plan[: config.max_steps]


def missing_steps(record: RunFolder, plan: list[list[int]], shares: tuple[float, ...]) -> set[int]:
    """The steps of `kept_steps` whose checkpoint a run does not have yet."""
    return {step for step in kept_steps(plan, shares) if not record.checkpoint(step).exists()}


def kept_steps(plan: list[list[int]], shares: tuple[float, ...]) -> set[int]:
    """After how many updates each share of all samples has been trained on, at least."""
    seen = list(itertools.accumulate(map(len, plan)))
    return {bisect.bisect_left(seen, share * seen[-1]) + 1 for share in shares}


def _micro_losses(
    model: PreTrainedModel, batch: list[TokenSequence], counted: int, pad: int, config: SftConfig
) -> Iterator[Tensor]:
    """Losses whose sum is the batch's mean over counted tokens."""
    for indices in group_by_length((len(sequence.ids) for sequence in batch), config.micro_batch_tokens):
        micro = collate([batch[index] for index in indices], pad)
        ids, labels = micro.ids.to(config.device), micro.labels.to(config.device)
        share = int((labels[:, 1:] != IGNORE).sum()) / counted
        yield sft_loss(model(ids, use_cache=False).logits, labels) * share
