"""The losses, as pure functions of tensors: what the loops and the tests share.

Dimensions: B rows (rollouts or examples), T positions, V vocabulary, G rollouts a group. `mask` is 1.0 at completion tokens.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from train.batches import IGNORE

LossType = Literal["grpo", "dr_grpo", "dapo"]
ScaleRewards = Literal["group", "none"]


def sft_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats per counted token.

    Args:
        logits: (B, T, V); position t predicts token t + 1.
        labels: (B, T), -100 where the loss does not count.
    """
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability in nats of each token under the logits that predict it: (B, T, V), (B, T) -> (B, T)."""
    return -F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view(tokens.shape)


def group_advantages(rewards: Tensor, *, scale: ScaleRewards = "group", epsilon: float = 1e-4) -> Tensor:
    """Reward minus its group's mean, divided by the group's standard deviation (n - 1) plus `epsilon`.

    Args:
        rewards: (groups, G).
        scale: `group` divides (GRPO, arXiv 2402.03300 eq. 4 and TRL's `scale_rewards="group"`), `none` does
            not (Dr. GRPO, arXiv 2503.20783).

    Returns:
        (groups, G); a group of equal rewards gets zeros.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred if scale == "none" else centred / (rewards.std(dim=1, keepdim=True) + epsilon)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    loss_type: LossType = "dapo",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    reference_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
    rows: int | None = None,
    tokens: float | None = None,
    max_tokens: int | None = None,
) -> Tensor:
    """Clipped policy-gradient loss, with TRL's three normalisations.

    `grpo`: mean over rows of the mean over a row's tokens. `dr_grpo`: sum over tokens / (rows x max_tokens).
    `dapo`: sum over tokens / tokens of the whole batch (TRL 1.16, `GRPOTrainer._compute_loss`).
    The KL term is Schulman's k3 estimate, exp(r) - r - 1 with r = reference - policy log-probability.

    Args:
        logprobs, old_logprobs, reference_logprobs, mask: (B, T).
        advantages: (B,) or (B, T) for one value a token.
        rows, tokens: sizes of the whole batch when these rows are a micro-batch of it; gradients of the
            micro-batches then add up to the whole batch's.
        max_tokens: the completion limit; needed by `dr_grpo`.
    """
    if advantages.ndim == 1:
        advantages = advantages[:, None]
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    per_token = -torch.min(ratio * advantages, clipped * advantages)
    if kl_coef:
        if reference_logprobs is None:
            raise ValueError("kl_coef > 0 needs reference_logprobs, came None")
        log_ratio = reference_logprobs - logprobs
        per_token = per_token + kl_coef * (torch.exp(log_ratio) - log_ratio - 1)
    rows = rows or len(logprobs)
    if loss_type == "grpo":
        return ((per_token * mask).sum(1) / mask.sum(1).clamp(min=1.0)).sum() / rows
    if loss_type == "dr_grpo":
        if max_tokens is None:
            raise ValueError("loss_type 'dr_grpo' divides by the completion limit: expected max_tokens, came None")
        return (per_token * mask).sum() / (rows * max_tokens)
    return (per_token * mask).sum() / (tokens or mask.sum().clamp(min=1.0))


def dense_rewards(start_logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor, *, clip: float | None = None) -> Tensor:
    """Reward of each token that an SFT run left behind: log pi_SFT - log pi_reference in nats (arXiv 2510.02493, eq. 5).

    The log-probability of the SFT model is its soft Q function less its value: a reward but for shaping. An earlier checkpoint of the run
    as the reference takes away that every token costs something, which would make short completions best. Over rollouts of
    pi_SFT the expected sum is KL(pi_SFT || pi_reference).

    Args:
        start_logprobs, reference_logprobs, mask: (B, T).
        clip: limit in nats, either way.

    Returns:
        (B, T), 0 where the mask is.
    """
    rewards = (start_logprobs - reference_logprobs) * mask
    return rewards if clip is None else rewards.clamp(-clip, clip)


def returns_to_go(rewards: Tensor, gamma: float = 1.0) -> Tensor:
    """Discounted sum of a token's reward and of those after it: (B, T) -> (B, T), G_t = r_t + gamma G_(t+1)."""
    returns = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    for place in reversed(range(rewards.shape[1])):
        following = rewards[:, place] + gamma * following
        returns[:, place] = following
    return returns


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy in nats of each next-token distribution: (B, T, V) -> (B, T)."""
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)
