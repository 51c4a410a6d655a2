"""GRPO: sample groups, verify, turn rewards into advantages within the group, take a clipped policy-gradient step.

How the default departs from the GRPO paper (arXiv 2402.03300):
- the loss is summed over all tokens of the batch and divided by their number (`dapo`, arXiv 2503.14476),
  not averaged per rollout first; `loss_type: grpo` gives the paper's;
- no KL penalty unless `kl_coef` is set;
- groups whose rewards are all equal carry no gradient and are left out of the denominator too
  (`mixed_groups_only`), as DAPO's dynamic sampling leaves them out of the batch, without sampling others instead;
- one update a batch, hence on-policy: the ratio is 1 and the clip idle unless `updates` > 1.
A rollout cut at the token limit gets reward 0.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curate.errors import CheckFailed
from curate.examples import Problem
from train import checkpoints, rendering
from train.batches import group_by_length
from train.configs import GrpoConfig
from train.datasets import open_problems
from train.engines import trl_stage
from train.identity import grpo_run
from train.loop import TrainingState, adamw, optimizer_step, stop_diverged
from train.loss import group_advantages, policy_loss
from train.records import RunFolder, workspace
from train.rollout_steps import (
    SharedPrompts,
    coin_rewards,
    finish,
    health,
    problem_order,
    sample_step,
    verifier_rewards,
    warmed_up,
)
from train.sampling import Rollouts, make_sampler

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Step:
    """The rollouts of one step that carry gradient: R rows over the P prompts that have any."""

    prompts: list[list[int]]
    prompt_of_row: Tensor
    """(R,) indices into `prompts`."""
    tokens: Tensor
    """(R, T)."""
    mask: Tensor
    """(R, T)."""
    logprobs: Tensor
    """(R, T), of the sampler: the old policy where `updates` > 1."""
    advantages: Tensor
    """(R,)."""


def main(config: GrpoConfig, progress: Progress = lambda *_: None) -> RunFolder:
    """Train, write the run folder, return it; a run that is done is returned as it is."""
    if config.engine == "trl":
        return trl_stage("grpo").main(config, progress)
    home = workspace(config.home)
    start, problems = checkpoints.resolve(config.model, home), open_problems(config.dataset)
    run = grpo_run(config, start, problems)
    record = RunFolder.of(home, run.run_id)
    if record.is_done:
        return record
    model, tokenizer = checkpoints.load(start.folder, config.device)
    reference = checkpoints.load(start.folder, config.device)[0].eval() if config.kl_coef else None
    prompts = {problem.id: rendering.prompt_ids(tokenizer, problem) for problem in problems.rows}
    optimizer = adamw(model, config.learning_rate, config.weight_decay)
    sampler = make_sampler(config.sampler, model, tokenizer)
    run.engine = sampler.engine
    record.start(run)
    state = TrainingState(record.path / "state.pt", model, [optimizer], config.save_seconds)
    counters = state.restore()
    order = problem_order(config, problems.rows)
    for step in range(counters["step"], config.steps):
        began = time.perf_counter()
        chosen = order[step * config.problems : (step + 1) * config.problems]
        rate = warmed_up(config, step)
        try:
            rollouts = sample_step(sampler, [prompts[problem.id] for problem in chosen], config, step)
            sampled = time.perf_counter()
            rewards = _rewards(rollouts, chosen, tokenizer, config, step)
            batch = _gradient_rows(rollouts, rewards, [prompts[problem.id] for problem in chosen], config)
            learned = _update(model, optimizer, batch, rate, reference, rendering.pad_id(tokenizer), config)
        except CheckFailed as error:
            stop_diverged(record, run, state, tokenizer, step, error)
        ended = time.perf_counter()
        counters["step"] = step + 1
        counters["tokens"] += int(rollouts.lengths.sum())
        counters["seconds"] += ended - began
        timing = {"seconds_sampling": sampled - began, "seconds_update": ended - sampled}
        metrics = {**health(rollouts, rewards), **learned, "learning_rate": rate, **timing}
        record.log(step + 1, metrics)
        if step + 1 in config.keep_steps:
            checkpoints.save(model, tokenizer, record.checkpoint(step + 1))
        state.save_if_due(counters)
        progress(step + 1, config.steps, metrics)
    finish(record, run, state, tokenizer, counters)
    return record


def _rewards(
    rollouts: Rollouts, problems: list[Problem], tokenizer: PreTrainedTokenizerBase, config: GrpoConfig, step: int
) -> Tensor:
    """(problems, G) rewards of the verifier, or of a coin."""
    if config.reward == "random":
        return coin_rewards(config, step)
    return verifier_rewards(rollouts, problems, tokenizer, config.group_size)


def _gradient_rows(rollouts: Rollouts, rewards: Tensor, prompts: list[list[int]], config: GrpoConfig) -> Step:
    """Rows with their advantages; with `mixed_groups_only`, those of groups with unequal rewards."""
    advantages = group_advantages(rewards, scale=config.scale_rewards).flatten()
    mixed = (rewards.max(1).values > rewards.min(1).values).repeat_interleave(config.group_size)
    rows = mixed.nonzero()[:, 0] if config.mixed_groups_only else torch.arange(len(advantages))
    used, prompt_of_row = (rows // config.group_size).unique(return_inverse=True)
    there = rows.to(rollouts.tokens.device)
    return Step(
        [prompts[index] for index in used.tolist()],
        prompt_of_row.to(there.device),
        rollouts.tokens[there],
        rollouts.mask[there],
        rollouts.logprobs[there],
        advantages[rows].to(there.device),
    )


def _update(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    batch: Step,
    rate: float,
    reference: PreTrainedModel | None,
    pad: int,
    config: GrpoConfig,
) -> dict[str, float]:
    """`config.updates` optimiser steps on one batch of rollouts; no rows, no step."""
    if not batch.prompts:
        return {"loss": 0.0, "grad_norm": 0.0}
    model.train()
    loss = norm = 0.0
    for _ in range(config.updates):
        losses = _micro_losses(model, batch, reference, pad, config)
        loss, norm = optimizer_step(model, optimizer, losses, rate, config.max_grad_norm)
    model.eval()
    return {"loss": loss, "grad_norm": norm}


def _micro_losses(
    model: PreTrainedModel, batch: Step, reference: PreTrainedModel | None, pad: int, config: GrpoConfig
) -> Iterator[Tensor]:
    """Losses of micro-batches of rows of like length, which add up to the whole batch's."""
    lengths = batch.mask.sum(1).long().tolist()
    loss = partial(
        policy_loss,
        loss_type=config.loss_type,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        kl_coef=config.kl_coef,
        rows=len(lengths),
        tokens=float(sum(lengths)),
        max_tokens=config.max_tokens,
    )
    shared = SharedPrompts(model, batch.prompts, pad)
    anchor = None
    if reference:
        with torch.no_grad():
            anchor = SharedPrompts(reference, batch.prompts, pad)
    for rows in group_by_length(lengths, config.micro_batch_tokens):
        width = max(lengths[row] for row in rows)
        of_rows = batch.prompt_of_row[rows], batch.tokens[rows, :width], config.temperature
        logprobs = shared.completion_logprobs(*of_rows)
        with torch.no_grad():
            reference_logprobs = anchor.completion_logprobs(*of_rows) if anchor else None
        old = batch.logprobs[rows, :width] if config.updates > 1 else logprobs.detach()
        yield loss(logprobs, old, batch.advantages[rows], batch.mask[rows, :width], reference_logprobs=reference_logprobs)
    shared.backward()
