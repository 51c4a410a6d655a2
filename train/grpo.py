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

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curate.errors import CheckFailed, InputError
from curate.examples import Problem
from curate.files import content_hash
from train import checkpoints, rendering
from train.batches import group_by_length
from train.configs import GrpoConfig
from train.datasets import open_problems
from train.identity import grpo_run
from train.loop import TrainingState, adamw, optimizer_step, stop_diverged
from train.loss import group_advantages, policy_loss, token_logprobs
from train.records import RunFolder, workspace
from train.rewards import accuracy_reward
from train.sampling import Rollouts, Sampler, make_sampler

Progress = Callable[[int, int, dict[str, float]], None]
COLLAPSE_WINDOW = 5


@dataclass(frozen=True)
class Step:
    """The rollouts of one step that carry gradient: R rows, `prompts[i]` the prompt of row i."""

    prompts: list[list[int]]
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
    record.start(run)
    state = TrainingState(record.path / "state.pt", model, [optimizer], config.save_seconds)
    counters = state.restore()
    sampler = make_sampler(config.sampler, model, tokenizer)
    order = _problem_order(config, problems.rows)
    for step in range(counters["step"], config.steps):
        began = time.perf_counter()
        chosen = order[step * config.problems : (step + 1) * config.problems]
        rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
        try:
            rollouts = _sample(sampler, [prompts[problem.id] for problem in chosen], config, step)
            sampled = time.perf_counter()
            rewards = _rewards(rollouts, chosen, tokenizer, config)
            batch = _gradient_rows(rollouts, rewards, [prompts[problem.id] for problem in chosen], config)
            learned = _update(model, optimizer, batch, rate, reference, rendering.pad_id(tokenizer), config)
        except CheckFailed as error:
            stop_diverged(record, run, state, tokenizer, step, error)
        ended = time.perf_counter()
        counters["step"] = step + 1
        counters["tokens"] += int(rollouts.lengths.sum())
        counters["seconds"] += ended - began
        timing = {"seconds_sampling": sampled - began, "seconds_update": ended - sampled}
        metrics = {**_health(rollouts, rewards), **learned, "learning_rate": rate, **timing}
        record.log(step + 1, metrics)
        state.save_if_due(counters)
        progress(step + 1, config.steps, metrics)
    run.steps, run.tokens, run.seconds = config.steps, counters["tokens"], counters["seconds"]
    checkpoints.save(model, tokenizer, record.checkpoint(run.steps))
    record.finish(run, "collapsed" if collapsed(record.metric("reward_mean")) else "done")
    state.drop()
    return record


def collapsed(rewards: list[float]) -> bool:
    """Whether a run ended far below its start: mean reward of the last 5 steps under half of the first 5's."""
    return len(rewards) >= 2 * COLLAPSE_WINDOW and sum(rewards[-COLLAPSE_WINDOW:]) < sum(rewards[:COLLAPSE_WINDOW]) / 2


def _problem_order(config: GrpoConfig, rows: list[Problem]) -> list[Problem]:
    """The problems of all steps in turn: the whole set in random order, again in another, decided by the seed."""
    if not rows:
        raise InputError(f"{config.dataset}: the problem set is empty; there is nothing to train on")
    needed, order, epoch = config.steps * config.problems, [], 0
    while len(order) < needed:
        order += random.Random(f"{config.seed}/{epoch}").sample(rows, len(rows))
        epoch += 1
    return order[:needed]


def _sample(sampler: Sampler, prompts: list[list[int]], config: GrpoConfig, step: int) -> Rollouts:
    return sampler.sample(
        prompts,
        group_size=config.group_size,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        seed=int(content_hash([config.seed, step], 12), 16),
    )


def _rewards(rollouts: Rollouts, problems: list[Problem], tokenizer: PreTrainedTokenizerBase, config: GrpoConfig) -> Tensor:
    """(problems, G) rewards of the verifier."""
    texts = tokenizer.batch_decode(rollouts.tokens, skip_special_tokens=True)
    rewards = [
        accuracy_reward(text, ground_truth=problems[row // config.group_size].ground_truth, finished=bool(finished))
        for row, (text, finished) in enumerate(zip(texts, rollouts.finished, strict=True))
    ]
    return torch.tensor(rewards).view(len(problems), config.group_size)


def _gradient_rows(rollouts: Rollouts, rewards: Tensor, prompts: list[list[int]], config: GrpoConfig) -> Step:
    """Rows with their advantages; with `mixed_groups_only`, those of groups with unequal rewards."""
    advantages = group_advantages(rewards, scale=config.scale_rewards).flatten()
    mixed = (rewards.max(1).values > rewards.min(1).values).repeat_interleave(config.group_size)
    rows = mixed.nonzero()[:, 0] if config.mixed_groups_only else torch.arange(len(advantages))
    rows_on = rows.to(rollouts.tokens.device)
    return Step(
        [prompts[row // config.group_size] for row in rows.tolist()],
        rollouts.tokens[rows_on],
        rollouts.mask[rows_on],
        rollouts.logprobs[rows_on],
        advantages[rows].to(rollouts.tokens.device),
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
    totals = [len(prompt) + length for prompt, length in zip(batch.prompts, lengths, strict=True)]
    loss = partial(
        policy_loss,
        loss_type=config.loss_type,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        kl_coef=config.kl_coef,
        rows=len(totals),
        tokens=float(sum(lengths)),
        max_tokens=config.max_tokens,
    )
    for rows in group_by_length(totals, config.micro_batch_tokens):
        width = max(lengths[row] for row in rows)
        inputs = _MicroBatch(batch, rows, lengths, pad)
        logprobs = inputs.completion_logprobs(model, config.temperature)
        with torch.no_grad():
            anchor = inputs.completion_logprobs(reference, config.temperature) if reference else None
        old = batch.logprobs[rows, :width] if config.updates > 1 else logprobs.detach()
        yield loss(logprobs, old, batch.advantages[rows], batch.mask[rows, :width], reference_logprobs=anchor)


class _MicroBatch:
    """Prompt and completion of some rows as one right-padded tensor, and where the completions stand in it."""

    def __init__(self, batch: Step, rows: list[int], lengths: list[int], pad: int) -> None:
        width = max(len(batch.prompts[row]) + lengths[row] for row in rows)
        self.ids = torch.full((len(rows), width), pad, device=batch.tokens.device)
        self.first = torch.tensor([len(batch.prompts[row]) for row in rows], device=batch.tokens.device)
        self.longest = max(lengths[row] for row in rows)
        for place, row in enumerate(rows):
            start, end = len(batch.prompts[row]), len(batch.prompts[row]) + lengths[row]
            self.ids[place, :start] = torch.tensor(batch.prompts[row])
            self.ids[place, start:end] = batch.tokens[row, : lengths[row]]

    def completion_logprobs(self, model: PreTrainedModel, temperature: float) -> Tensor:
        """(rows, longest) log-probability of each completion token at this temperature; past a row's end arbitrary."""
        logits = model(self.ids, use_cache=False).logits
        logprobs = token_logprobs(logits if temperature == 1 else logits / temperature, self.ids)
        places = self.first[:, None] - 1 + torch.arange(self.longest, device=self.ids.device)
        return logprobs.gather(1, places.clamp_(max=logprobs.shape[1] - 1))


def _health(rollouts: Rollouts, rewards: Tensor) -> dict[str, float]:
    """What tells a run in good health from a collapsing one."""
    share = rewards.mean(1)
    return {
        "reward_mean": float(rewards.mean()),
        "frac_mixed": float(((share > 0) & (share < 1)).float().mean()),
        "frac_all_correct": float((share == 1).float().mean()),
        "frac_all_wrong": float((share == 0).float().mean()),
        "entropy": float((rollouts.entropies * rollouts.lengths).sum() / rollouts.lengths.sum()),
        "mean_tokens": float(rollouts.lengths.float().mean()),
        "truncated_share": float((~rollouts.finished).float().mean()),
    }
