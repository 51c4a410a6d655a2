"""What the loops that train on their own rollouts share: which problems, sampling, the verifier's word, log-probabilities, health."""

import random
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from curate.errors import InputError
from curate.examples import Problem
from train import checkpoints
from train.configs import RolloutConfig
from train.loop import TrainingState
from train.loss import token_logprobs
from train.records import Run, RunFolder
from train.rewards import accuracy_reward
from train.sampling import Rollouts, Sampler, sampling_seed

COLLAPSE_WINDOW = 5


def problem_order(config: RolloutConfig, rows: list[Problem]) -> list[Problem]:
    """The problems of all steps in turn: the whole set in random order, again in another, decided by the seed."""
    if not rows:
        raise InputError(f"{config.dataset}: the problem set is empty; there is nothing to train on")
    needed, order, epoch = config.steps * config.problems, [], 0
    while len(order) < needed:
        order += random.Random(f"{config.seed}/{epoch}").sample(rows, len(rows))
        epoch += 1
    return order[:needed]


def warmed_up(config: RolloutConfig, step: int) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then constant."""
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))


def sample_step(sampler: Sampler, prompts: list[list[int]], config: RolloutConfig, step: int) -> Rollouts:
    """The rollouts of one step, decided by the run's seed and the step."""
    return sampler.sample(
        prompts,
        group_size=config.group_size,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        seed=sampling_seed(config.seed, step),
    )


def verifier_rewards(rollouts: Rollouts, problems: list[Problem], tokenizer: PreTrainedTokenizerBase, group_size: int) -> Tensor:
    """(problems, G): 1.0 where the verifier finds a rollout that ended by itself correct, else 0.0."""
    texts = tokenizer.batch_decode(rollouts.tokens, skip_special_tokens=True)
    rewards = [
        accuracy_reward(text, ground_truth=problems[row // group_size].ground_truth, finished=bool(finished))
        for row, (text, finished) in enumerate(zip(texts, rollouts.finished, strict=True))
    ]
    return torch.tensor(rewards).view(len(problems), group_size)


def coin_rewards(config: RolloutConfig, step: int) -> Tensor:
    """(problems, G): 1.0 or 0.0 by a fair coin, decided by the run's seed and the step."""
    coins = torch.Generator().manual_seed(sampling_seed("reward", config.seed, step))
    return torch.randint(2, (config.problems, config.group_size), generator=coins).float()


class SharedPrompts:
    """Keys and values of a step's prompts, computed once and read by all rollouts of all micro-batches.

    A row's completion is fed after its prompt's last token, so the prompts' own logits are never needed. Micro-batches
    send their gradients to the keys and values as they go; `backward` carries the sums on into the weights.
    """

    def __init__(self, model: PreTrainedModel, prompts: list[list[int]], pad: int) -> None:
        self.model, device = model, model.device
        width = max(2, *map(len, prompts)) - 1
        ids = [prompt[:-1] + [pad] * (width + 1 - len(prompt)) for prompt in prompts]
        self.last = torch.tensor([prompt[-1] for prompt in prompts], device=device)
        self.lengths = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        self.mask = torch.arange(width, device=device) < self.lengths[:, None]
        cache = model.base_model(torch.tensor(ids, device=device), use_cache=True).past_key_values
        self.computed = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        self.read = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self.computed]

    def completion_logprobs(self, prompt_of_row: Tensor, tokens: Tensor, temperature: float) -> Tensor:
        """(R, T) log-probability of each completion token (R, T) at this temperature; past a row's end arbitrary."""
        pairs = zip(self.read[::2], self.read[1::2], strict=True)
        cache = DynamicCache([(keys[prompt_of_row], values[prompt_of_row]) for keys, values in pairs])
        inputs = torch.cat((self.last[prompt_of_row, None], tokens[:, :-1]), dim=1)
        mask = torch.cat((self.mask[prompt_of_row], torch.ones_like(inputs, dtype=torch.bool)), dim=1)
        places = self.lengths[prompt_of_row, None] + torch.arange(inputs.shape[1], device=tokens.device)
        logits = self.model(inputs, past_key_values=cache, attention_mask=mask, position_ids=places).logits
        return token_logprobs(logits / temperature, tokens)

    def backward(self) -> None:
        """Add the prompts' part to the weights' gradients, after the micro-batches' own backward passes."""
        torch.autograd.backward(self.computed, [leaf.grad for leaf in self.read])


def health(rollouts: Rollouts, rewards: Tensor) -> dict[str, float]:
    """What tells a run in good health from a collapsing one."""
    return {
        **reward_shares(rewards),
        "entropy": float((rollouts.entropies * rollouts.lengths).sum() / rollouts.lengths.sum()),
        "mean_tokens": float(rollouts.lengths.float().mean()),
        "truncated_share": float((~rollouts.finished).float().mean()),
    }


def reward_shares(rewards: Tensor) -> dict[str, float]:
    """Mean of (problems, G) rewards, and shares of problems by whether all, some or no rollouts are right."""
    share = rewards.mean(1)
    return {
        "reward_mean": float(rewards.mean()),
        "frac_mixed": float(((share > 0) & (share < 1)).float().mean()),
        "frac_all_correct": float((share == 1).float().mean()),
        "frac_all_wrong": float((share == 0).float().mean()),
    }


def collapsed(rewards: list[float]) -> bool:
    """Whether a run ended far below its start: mean reward of the last 5 steps under half of the first 5's."""
    return len(rewards) >= 2 * COLLAPSE_WINDOW and sum(rewards[-COLLAPSE_WINDOW:]) < sum(rewards[:COLLAPSE_WINDOW]) / 2


def finish(
    record: RunFolder, run: Run, state: TrainingState, tokenizer: PreTrainedTokenizerBase, counters: dict[str, Any]
) -> None:
    """Keep the last weights of a run that went through all its steps, and say how it ended."""
    run.steps, run.tokens, run.seconds = counters["step"], counters["tokens"], counters["seconds"]
    checkpoints.save(state.model, tokenizer, record.checkpoint(run.steps))
    record.finish(run, "collapsed" if collapsed(record.metric("reward_mean")) else "done")
    state.drop()
