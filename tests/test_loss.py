"""Losses and advantages held to TRL's own code and to closed forms."""

import math
from types import SimpleNamespace

import pytest
import torch

from train.loss import entropy, group_advantages, policy_loss, sft_loss, token_logprobs

B, T, LIMIT = 6, 7, 9


@pytest.fixture
def rollouts() -> SimpleNamespace:
    torch.manual_seed(3)
    lengths = torch.tensor([7, 3, 5, 1, 7, 2])
    return SimpleNamespace(
        logprobs=-torch.rand(B, T) * 3,
        old=-torch.rand(B, T) * 3,
        reference=-torch.rand(B, T) * 3,
        advantages=torch.randn(B),
        mask=(torch.arange(T) < lengths[:, None]).float(),
    )


def trl_loss(rollouts, loss_type: str, beta: float) -> float:
    """The loss that TRL's own `GRPOTrainer._compute_loss` gives for these tensors."""
    from collections import defaultdict

    from trl import GRPOTrainer

    trainer = SimpleNamespace(
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        beta=beta,
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=0.2,
        top_entropy_quantile=1.0,
        importance_sampling_level="token",
        off_policy_mask_threshold=None,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        tools=None,
        max_completion_length=LIMIT,
        current_gradient_accumulation_steps=1,
        _current_train_step_time=0.0,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *a, **k: (rollouts.logprobs, torch.zeros(B, T), None),
    )
    trainer.get_off_policy_mask = None
    inputs = {
        "prompt_ids": torch.zeros(B, 1, dtype=torch.long),
        "prompt_mask": torch.ones(B, 1),
        "completion_ids": torch.zeros(B, T, dtype=torch.long),
        "completion_mask": rollouts.mask,
        "advantages": rollouts.advantages,
        "old_per_token_logps": rollouts.old,
        "ref_per_token_logps": rollouts.reference,
        "num_items_in_batch": rollouts.mask.sum(),
    }
    return float(GRPOTrainer._compute_loss(trainer, None, inputs))


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_policy_loss_equals_trl(rollouts, loss_type, beta):
    ours = policy_loss(
        rollouts.logprobs,
        rollouts.old,
        rollouts.advantages,
        rollouts.mask,
        loss_type=loss_type,
        reference_logprobs=rollouts.reference,
        kl_coef=beta,
        max_tokens=LIMIT,
    )
    assert float(ours) == pytest.approx(trl_loss(rollouts, loss_type, beta), rel=1e-6)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_micro_batches_add_up_to_the_whole_batch(rollouts, loss_type):
    def loss(part, **sizes):
        return policy_loss(
            rollouts.logprobs[part],
            rollouts.old[part],
            rollouts.advantages[part],
            rollouts.mask[part],
            loss_type=loss_type,
            max_tokens=LIMIT,
            **sizes,
        )

    whole = loss(slice(None))
    sizes = {"rows": B, "tokens": float(rollouts.mask.sum())}
    assert float(loss(slice(0, 4), **sizes) + loss(slice(4, B), **sizes)) == pytest.approx(float(whole), rel=1e-6)


def test_advantages_of_a_group_by_hand():
    """Rewards 1 0 0 0: mean 1/4, standard deviation (n - 1) 1/2, as in TRL's scale_rewards='group'."""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    advantages = group_advantages(rewards)
    assert advantages[0].tolist() == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3])
    assert advantages[1].tolist() == [0.0] * 4
    assert group_advantages(rewards, scale="none")[0].tolist() == [0.75, -0.25, -0.25, -0.25]


def test_on_policy_gradient_is_the_reinforce_gradient():
    """At ratio 1 the gradient of the loss is -advantage / tokens for every token, clipped or not."""
    logprobs = torch.tensor([[-1.0, -2.0], [-0.5, -1.5]], requires_grad=True)
    advantages, mask = torch.tensor([1.5, -0.5]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    policy_loss(logprobs, logprobs.detach(), advantages, mask).backward()
    assert torch.allclose(logprobs.grad, -advantages[:, None] * mask / 3)


def test_sft_loss_of_a_uniform_model_is_log_vocabulary():
    labels = torch.tensor([[-100, -100, 3, 1], [-100, 2, 2, -100]])
    assert float(sft_loss(torch.zeros(2, 4, 11), labels)) == pytest.approx(math.log(11))


def test_sft_loss_counts_only_labelled_tokens():
    """One counted token whose next-token probability is e^2 / (e^2 + 4)."""
    logits = torch.zeros(1, 3, 5)
    logits[0, 1, 4] = 2.0
    labels = torch.tensor([[-100, -100, 4]])
    assert float(sft_loss(logits, labels)) == pytest.approx(math.log((math.e**2 + 4) / math.e**2))


def test_token_logprobs_and_entropy_of_a_known_distribution():
    logits = torch.tensor([[[0.0, math.log(3.0)], [0.0, 0.0]]])
    logprobs = token_logprobs(logits, torch.tensor([[1, 0]]))
    assert logprobs[0].tolist() == pytest.approx([math.log(0.75), math.log(0.5)])
    expected = [-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), math.log(2)]
    assert entropy(logits)[0].tolist() == pytest.approx(expected)


def test_kl_without_a_reference_is_refused(rollouts):
    with pytest.raises(ValueError, match="reference_logprobs"):
        policy_loss(rollouts.logprobs, rollouts.old, rollouts.advantages, rollouts.mask, kl_coef=0.1)
