"""Dense-Path REINFORCE (arXiv 2510.02493): rollouts are credited token by token with a reward that SFT itself left behind.

The reward of a token is log pi_SFT - log pi_reference, of two frozen models: the checkpoint that training starts from, and the same
SFT run at half of its samples. A token's credit is the sum of its own reward and those after it; a KL penalty holds the policy to the
start. No verifier, critic or preference is asked: the verifier's word is only logged.

What the paper leaves open, and what is done here: the loss is the mean over all tokens of the batch (`dapo` of `train.loss`); one update a
batch; the penalty is Schulman's k3 estimate; no baseline, clipping or whitening unless set. At a temperature other than 1 all three models are taken at it.

Controls, since any training may help: `credit: sparse`, `credit: contrast` (no training), another `reference`, and `train sft` on the same set
for as many updates.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curate.errors import CheckFailed, InputError
from train import checkpoints, rendering
from train.batches import group_by_length
from train.checkpoints import Checkpoint
from train.configs import DensePathConfig
from train.datasets import open_problems
from train.identity import dense_path_run
from train.loop import TrainingState, adamw, optimizer_step, stop_diverged
from train.loss import dense_rewards, policy_loss, returns_to_go
from train.records import Run, RunFolder, workspace
from train.rollout_steps import SharedPrompts, finish, health, problem_order, sample_step, verifier_rewards, warmed_up
from train.sampling import Rollouts, make_sampler

Progress = Callable[[int, int, dict[str, float]], None]
NEAR_HALF = 0.1
"""How far from half of its steps, as a share of them, a kept checkpoint may lie to be the reference."""


@dataclass(frozen=True)
class Step:
    """The rollouts of one step: R = P x G rows."""

    prompts: list[list[int]]
    rollouts: Rollouts
    start_logprobs: Tensor
    """(R, T), of the checkpoint that training starts from; past a row's end arbitrary."""
    rewards: Tensor
    """(R, T), 0 at padding."""
    credit: Tensor
    """(R, T): what each token's log-probability is multiplied with in the loss."""


def main(config: DensePathConfig, progress: Progress = lambda *_: None) -> RunFolder:
    """Train, write the run folder, return it; a run that is done is returned as it is."""
    home = workspace(config.home)
    start, problems = checkpoints.resolve(config.model, home), open_problems(config.dataset)
    reference = checkpoints.resolve(config.reference or halfway(start), home)
    run = dense_path_run(config, start, reference, problems)
    record = RunFolder.of(home, run.run_id)
    if record.is_done:
        return record
    model, tokenizer = checkpoints.load(start.folder, config.device)
    frozen = _frozen(start, config), _frozen(reference, config)
    _check_same_tokens(*frozen, reference)
    if config.credit == "contrast":
        return _contrast(config, model, frozen[1], tokenizer, run, record)
    prompts = {problem.id: rendering.prompt_ids(tokenizer, problem) for problem in problems.rows}
    optimizer, pad = adamw(model, config.learning_rate, config.weight_decay), rendering.pad_id(tokenizer)
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
        asked = [prompts[problem.id] for problem in chosen]
        try:
            rollouts = sample_step(sampler, asked, config, step)
            batch = _credited(asked, rollouts, *frozen, pad, config)
            loss, norm = optimizer_step(model, optimizer, _micro_losses(model, batch, pad, config), rate, config.max_grad_norm)
        except CheckFailed as error:
            stop_diverged(record, run, state, tokenizer, step, error)
        verdicts = verifier_rewards(rollouts, chosen, tokenizer, config.group_size)
        counters["step"] = step + 1
        counters["tokens"] += int(rollouts.lengths.sum())
        counters["seconds"] += time.perf_counter() - began
        metrics = {
            **health(rollouts, verdicts),
            **_reward_metrics(batch, verdicts),
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": rate,
        }
        record.log(step + 1, metrics)
        if step + 1 in config.keep_steps:
            checkpoints.save(model, tokenizer, record.checkpoint(step + 1))
        state.save_if_due(counters)
        progress(step + 1, config.steps, metrics)
    finish(record, run, state, tokenizer, counters)
    return record


def halfway(start: Checkpoint) -> str:
    """`run_id@step` of the checkpoint that the start's SFT run kept at half of its samples.

    Raises:
        InputError: the start is of no SFT run, or its run kept none there.
    """
    if start.run.stage != "sft":
        raise InputError(
            f"reference: expected a checkpoint for a start of stage {start.run.stage}; only an SFT run has a half of its own"
        )
    kept = sorted(int(folder.name) for folder in start.folder.parent.iterdir() if folder.name.isdigit())
    half = start.id.step / 2
    nearest = min(kept, key=lambda step: abs(step - half))
    if abs(nearest - half) > NEAR_HALF * start.id.step:
        raise InputError(
            f"run {start.id.run_id} kept no checkpoint near half of its {start.id.step} steps (it has {kept}): "
            "give its `train sft` command again with --set keep_shares=[0.5], or name a reference"
        )
    return f"{start.id.run_id}@{nearest}"


def _frozen(checkpoint: Checkpoint, config: DensePathConfig) -> PreTrainedModel:
    return checkpoints.load(checkpoint.folder, config.device)[0].eval().requires_grad_(False)


def _check_same_tokens(start: PreTrainedModel, reference: PreTrainedModel, named: Checkpoint) -> None:
    """Log-probabilities of one token are comparable only where both models count the same tokens."""
    sizes = [model.get_input_embeddings().num_embeddings for model in (start, reference)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"reference {named.id}: it knows {sizes[1]} tokens, the start {sizes[0]}; take a checkpoint of the same base model"
        )


def _credited(
    prompts: list[list[int]],
    rollouts: Rollouts,
    start: PreTrainedModel,
    reference: PreTrainedModel,
    pad: int,
    config: DensePathConfig,
) -> Step:
    """Score every token by the two frozen models, and give it its credit."""
    of_start, of_reference = (_logprobs(model, prompts, rollouts, pad, config) for model in (start, reference))
    mask = rollouts.mask
    rewards = dense_rewards(of_start, of_reference, mask, clip=config.clip_reward)
    credit = returns_to_go(rewards, config.gamma) if config.credit == "dense" else rewards.sum(1, keepdim=True) * mask
    if config.baseline == "position":
        credit = credit - (credit.sum(0) / mask.sum(0).clamp(min=1)) * mask
    return Step(prompts, rollouts, of_start, rewards, credit)


@torch.no_grad()
def _logprobs(model: PreTrainedModel, prompts: list[list[int]], rollouts: Rollouts, pad: int, config: DensePathConfig) -> Tensor:
    """(R, T) log-probability of each written token under a frozen model; past a row's end arbitrary."""
    shared, found = SharedPrompts(model, prompts, pad), torch.zeros_like(rollouts.logprobs)
    for rows, prompt_of_row, width in _micro_batches(rollouts, config):
        logprobs = shared.completion_logprobs(prompt_of_row, rollouts.tokens[rows, :width], config.temperature)
        found[rows, :width] = logprobs
    return found


def _micro_losses(model: PreTrainedModel, batch: Step, pad: int, config: DensePathConfig) -> Iterator[Tensor]:
    """REINFORCE with the KL penalty: losses of micro-batches, which add up to the mean over all tokens."""
    rollouts, shared = batch.rollouts, SharedPrompts(model, batch.prompts, pad)
    mask, tokens = rollouts.mask, float(rollouts.lengths.sum())
    for rows, prompt_of_row, width in _micro_batches(rollouts, config):
        logprobs = shared.completion_logprobs(prompt_of_row, rollouts.tokens[rows, :width], config.temperature)
        yield policy_loss(
            logprobs,
            logprobs.detach(),  # one update a batch: the ratio is 1, and its gradient that of the log-probability
            batch.credit[rows, :width],
            mask[rows, :width],
            reference_logprobs=batch.start_logprobs[rows, :width],
            kl_coef=config.kl_coef,
            tokens=tokens,
        )
    shared.backward()


def _micro_batches(rollouts: Rollouts, config: DensePathConfig) -> Iterator[tuple[list[int], Tensor, int]]:
    """Rows of like length, the prompt of each, and their longest completion."""
    lengths = rollouts.lengths.tolist()
    for rows in group_by_length(lengths, config.micro_batch_tokens):
        prompt_of_row = torch.tensor(rows, device=rollouts.tokens.device) // config.group_size
        yield rows, prompt_of_row, max(lengths[row] for row in rows)


def _reward_metrics(batch: Step, verdicts: Tensor) -> dict[str, float]:
    """The reward of whole rollouts and how far the policy has gone from its start, in nats; how the reward goes with the verifier's.

    That correlation is within problems: a hard problem has long rollouts, of much reward, that are wrong.
    """

    def centred(rewards: Tensor) -> Tensor:
        return (rewards - rewards.mean(1, keepdim=True)).flatten()

    whole, verified = (centred(rewards.cpu().view(verdicts.shape)) for rewards in (batch.rewards.sum(1), verdicts))
    told = {
        "dense_reward_mean": float(batch.rewards.sum(1).mean()),
        "kl": float(((batch.rollouts.logprobs - batch.start_logprobs) * batch.rollouts.mask).sum(1).mean()),
    }
    if whole.any() and verified.any():
        told["reward_correlation"] = float(torch.corrcoef(torch.stack((whole, verified)))[0, 1])
    return told


def _contrast(
    config: DensePathConfig,
    model: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
    record: RunFolder,
) -> RunFolder:
    """The control without training: weights moved on along the way from the reference to the start; its only step is 0."""
    record.start(run)
    with torch.no_grad():
        for weight, earlier in zip(model.parameters(), reference.parameters(), strict=True):
            weight.add_(config.strength * (weight - earlier))
    checkpoints.save(model, tokenizer, record.checkpoint(0))
    record.finish(run, "done")
    return record
