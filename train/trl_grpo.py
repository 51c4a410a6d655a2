"""`train grpo` with `engine: trl`: our problems, verifier and settings in TRL's GRPOTrainer.

What TRL does otherwise, and what is done about it here:
- it tokenizes prompts with the tokenizer's special tokens: they are tokenized as `train.rendering` does;
- a completion may end with any end token of the model's generation config: here with the tokenizer's alone;
- it multiplies the KL penalty by the ratio of policies, whose gradient counts even where the ratio is 1 (`use_bias_correction_kl`): here it
  does not, unless `trl.extra` says so;
- groups of equal rewards have no advantage, but count in the loss's denominator, and in its KL penalty: with `mixed_groups_only` their
  tokens are masked out and the loss is scaled to the rows that are left; a batch without mixed groups takes no step.
"""

import copy
import time
from importlib.util import find_spec
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset as Rows
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig as Arguments
from trl import GRPOTrainer

from curate.errors import UsageError
from curate.examples import Problem
from train import checkpoints, rendering, trl_arguments, trl_backend
from train.configs import GrpoConfig
from train.datasets import open_problems
from train.engines import TrlSettings
from train.identity import grpo_run
from train.records import RunFolder, workspace
from train.rewards import accuracy_reward
from train.rollout_steps import coin_rewards, collapsed, problem_order, reward_shares, sample_step, warmed_up
from train.sampling import make_sampler
from train.trl_backend import ForerunTrainer, Job, Progress, Recorder


class VerifierGRPOTrainer(ForerunTrainer, GRPOTrainer):
    """GRPOTrainer on our terms."""

    def __init__(self, config: GrpoConfig, **settings: Any) -> None:
        super().__init__(**settings)
        self.config = config
        self.rate_factor = lambda step: warmed_up(config, step // config.updates) / config.learning_rate
        ends = rendering.end_ids(self._tokenizer)
        self.eos_token_ids = ends
        if config.trl.rollouts == "generate":
            self.generation_kwargs["eos_token_id"] = self.generation_config.eos_token_id = ends
        base = self.accelerator.unwrap_model(self.model)
        base = base.get_base_model() if hasattr(base, "get_base_model") else base
        self.sampler = make_sampler(config.sampler, base, self._tokenizer) if config.trl.rollouts == "sampler" else None
        self.sampling_seconds = 0.0
        self.entropy = torch.zeros(2, device=self.accelerator.device)  # nats, tokens

    @property
    def native_step(self) -> int:
        """The step of ours that is under way, counted from 0."""
        return int(self.state.global_step) // self.config.updates

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [rendering.token_ids(self._tokenizer, prompt, "prompt") for prompt in prompts], None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *others: Any, **named: Any) -> Any:
        began = time.perf_counter()
        written = (
            (self._sampled(prompt_ids), None) if self.sampler else super()._generate_single_turn(prompt_ids, *others, **named)
        )
        self.sampling_seconds = time.perf_counter() - began
        return written

    def _sampled(self, prompt_ids: list[list[int]]) -> list[list[int]]:
        """What the native loop would sample at this step; TRL has each prompt `group_size` times in a row."""
        self.model.eval()
        rollouts = sample_step(self.sampler, prompt_ids[:: self.config.group_size], self.config, self.native_step)
        self.model.train()
        return [row[:length] for row, length in zip(rollouts.tokens.tolist(), rollouts.lengths.tolist(), strict=True)]

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: list[list[int]]) -> Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        written = [[len(ids), ids[-1] not in self.eos_token_ids] for ids in completion_ids_list]
        self.written = self.accelerator.gather(torch.tensor(written, device=rewards.device)).float()  # (R, 2) of all processes
        self.rewards = rewards[:, 0].view(-1, self.num_generations)  # (problems, G) of all processes
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        mask, rows = batch["completion_mask"], len(batch["advantages"])
        batch["written"] = mask
        if self.config.mixed_groups_only:
            used = self.mixed.repeat_interleave(self.num_generations)
            mine = used[self.accelerator.process_index * rows :][:rows]
            batch["tool_mask"] = mine[:, None] * torch.ones_like(mask)
            batch["num_items_in_batch"] = self.accelerator.gather((mask * batch["tool_mask"]).sum()).sum()
            batch["scale"] = torch.full((rows,), len(used) / max(1, int(used.sum())), device=mask.device)
        return batch

    @property
    def mixed(self) -> Tensor:
        """(problems,) whether a problem's rollouts have unequal rewards."""
        return self.rewards.max(1).values > self.rewards.min(1).values

    def _get_per_token_logps_and_entropies(self, *others: Any, **named: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*others, **named)
        self.entropies = found[1]
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        if self.state.global_step % self.config.updates == 0:  # of the policy that sampled, as the native loop's
            written = inputs["written"]
            self.entropy += torch.stack(((self.entropies.detach() * written).sum(), written.sum()))
        if self.config.mixed_groups_only and self.config.loss_type != "dapo":  # dapo divides by tokens, which are masked already
            return loss * inputs["scale"][0]
        return loss


class NoStepWithoutGradient(TrainerCallback):
    """A batch without mixed groups leaves weights and optimizer alone; AdamW would move them by its momentum."""

    def __init__(self, trainer: VerifierGRPOTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Take the gradients, zeros, away: AdamW passes over weights without one."""
        if self.trainer.config.mixed_groups_only and not bool(self.trainer.mixed.any()):
            self.trainer.model_wrapped.zero_grad(set_to_none=True)


def main(config: GrpoConfig, progress: Progress) -> RunFolder:
    """See `train.grpo.main`."""
    home = workspace(config.home)
    with trl_backend.main_process_first(config):
        start, problems = checkpoints.resolve(config.model, home), open_problems(config.dataset)
    run = grpo_run(config, start, problems)
    record = RunFolder.of(home, run.run_id)
    if record.is_done:
        return record
    model, tokenizer = checkpoints.load(start.folder)
    job = Job(run, record, tokenizer, config.steps, config.save_seconds, progress, set(config.keep_steps), config.updates)
    trainer = make_trainer(config, job, model, problem_order(config, problems.rows))
    run.engine = f"trl, {trainer.sampler.engine if trainer.sampler else config.trl.rollouts}"
    trl_backend.start(job)
    return trl_backend.train(trainer, job, lambda: "collapsed" if collapsed(record.metric("reward_mean")) else "done")


def make_trainer(config: GrpoConfig, job: Job, model: PreTrainedModel, order: list[Problem]) -> VerifierGRPOTrainer:
    """The trainer over the problems of all steps in turn."""
    prompts = [rendering.prompt_text(job.tokenizer, problem.prompt) for problem in order]
    trainer = VerifierGRPOTrainer(
        config,
        model=model,
        reward_funcs=_reward(config, job.tokenizer),
        args=trl_arguments.arguments(Arguments, config.trl, _own_arguments(config, job), use_bias_correction_kl=False),
        train_dataset=Rows.from_dict({"prompt": prompts, "ground_truth": [problem.ground_truth for problem in order]}),
        processing_class=copy.deepcopy(job.tokenizer),  # TRL gives it a padding token; what is saved stays as it came
        peft_config=trl_arguments.adapters(config.trl),
    )
    trainer.add_callback(NoStepWithoutGradient(trainer))
    Recorder(job, trainer, lambda _, logs: _row(trainer, logs))
    return trainer


def _own_arguments(config: GrpoConfig, job: Job) -> dict[str, Any]:
    """GRPOConfig of the run's settings."""
    world = PartialState().num_processes
    rows = rows_at_once(config, world)
    return {
        **trl_arguments.common_arguments(config, job.states, job.steps * job.updates),
        **rollout_arguments(config.trl, world),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": config.problems * config.group_size // world // rows,
        "num_generations": config.group_size,
        "num_iterations": config.updates,
        "max_completion_length": config.max_tokens,
        "temperature": config.temperature,
        "beta": config.kl_coef,
        "epsilon": config.clip_low,
        "epsilon_high": config.clip_high,
        "loss_type": config.loss_type,
        "scale_rewards": config.scale_rewards,
        "shuffle_dataset": False,
    }


def rollout_arguments(settings: TrlSettings, processes: int) -> dict[str, Any]:
    """Who samples.

    Raises:
        UsageError: our samplers among several processes, or vLLM where it is not installed.
    """
    if settings.rollouts == "sampler" and processes > 1:
        raise UsageError(f"trl.rollouts: sampler runs in one process, came {processes}; set generate, colocate or server")
    if settings.rollouts in ("sampler", "generate"):
        return {"use_vllm": False}
    if find_spec("vllm") is None:
        raise UsageError(f"trl.rollouts: {settings.rollouts} needs vLLM, which is not installed; docs/trl.md says how")
    return {"use_vllm": True, "vllm_mode": settings.rollouts, "vllm_server_base_url": settings.vllm_server}


def rows_at_once(config: GrpoConfig, processes: int) -> int:
    """Rows of a forward pass: as many as `micro_batch_tokens` allows at full length, a divisor of a process's share.

    Raises:
        UsageError: the rows of a step cannot be shared out evenly.
    """
    rows = config.problems * config.group_size
    if rows % processes:
        raise UsageError(f"problems x group_size = {rows} rollouts a step: expected a multiple of the {processes} processes")
    share = rows // processes
    return max(
        d for d in range(1, share + 1) if share % d == 0 and (d == 1 or d * config.max_tokens <= config.micro_batch_tokens)
    )


def _reward(config: GrpoConfig, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The verifier, or a coin, as a reward function of TRL; it gets the rows of this process."""
    ends = rendering.end_ids(tokenizer)

    def verifier(completion_ids: list[list[int]], ground_truth: list[str], **_: Any) -> list[float]:
        texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        rows = zip(texts, completion_ids, ground_truth, strict=True)
        return [accuracy_reward(text, ground_truth=truth, finished=ids[-1] in ends) for text, ids, truth in rows]

    def coin(completion_ids: list[list[int]], trainer_state: Any, **_: Any) -> list[float]:
        coins = coin_rewards(config, trainer_state.global_step // config.updates).flatten().tolist()
        return coins[PartialState().process_index * len(completion_ids) :][: len(completion_ids)]

    return verifier if config.reward == "verifier" else coin


def _row(trainer: VerifierGRPOTrainer, logs: dict[str, float]) -> tuple[dict[str, float], int]:
    """Our metrics of a step, over the rollouts of all processes, and their number of tokens."""
    nats, tokens = trainer.accelerator.reduce(trainer.entropy, reduction="sum").tolist()
    trainer.entropy.zero_()
    metrics = {
        **reward_shares(trainer.rewards),
        "entropy": nats / max(1.0, tokens),
        "mean_tokens": float(trainer.written[:, 0].mean()),
        "truncated_share": float(trainer.written[:, 1].mean()),
        **{name: logs[name] for name in ("loss", "grad_norm", "learning_rate")},
        "seconds_sampling": trainer.sampling_seconds,
        "seconds_update": logs["seconds"] - trainer.sampling_seconds,
    }
    return metrics, int(trainer.written[:, 0].sum())
