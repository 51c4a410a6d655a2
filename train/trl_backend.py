"""What SFT and GRPO share on TRL: our optimizer and schedule in its trainers, our run folder, states to go on from after a kill.

Written for the TRL that pyproject.toml names: it overrides methods that TRL does not promise to keep.
"""

import contextlib
import copy
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback

from curate.errors import CheckFailed
from curate.files import read_json, write_json
from train import checkpoints
from train.configs import EngineConfig
from train.records import Run, RunFolder
from train.trl_arguments import plain_warnings

Progress = Callable[[int, int, dict[str, float]], None]
Row = Callable[[int, dict[str, float]], tuple[dict[str, float], int]]
"""From a step and what TRL logs of it to our metrics of it and its number of tokens."""
COUNTERS = "forerun.json"
"""The last file written into a state folder: one without it was cut off while it was written."""
PACKAGES = ("trl", "accelerate", "datasets", "peft", "vllm", "deepspeed")


class ForerunTrainer(Trainer):
    """Mixed into TRL's trainers: the optimizer, schedule and checks of the native loops."""

    rate_factor: Callable[[int], float]
    """Factor of the peak learning rate for an optimizer step, counted from 0."""

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weight decay takes every parameter, as in `train.loop.adamw`; transformers would leave out norms and biases."""
        return [name for name, _ in model.named_parameters()]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> torch.optim.lr_scheduler.LRScheduler:
        """The native loop's learning rate, step by step."""
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self.rate_factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Refuse a step whose loss or gradient is not finite, before it is taken."""
        norm = super()._clip_grad_norm(model)
        loss = self._tr_loss.item()
        if not (math.isfinite(loss) and math.isfinite(float(norm))):
            raise CheckFailed(f"loss {loss}, gradient norm {float(norm)}: training diverged")
        return norm

    def weights(self) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
        """The model as it is saved and its weights, gathered from all processes and with adapters merged into a copy."""
        state = self.accelerator.get_state_dict(self.model_wrapped)
        model = self.accelerator.unwrap_model(self.model_wrapped)
        if hasattr(model, "merge_and_unload"):
            model = copy.deepcopy(model).merge_and_unload()
            state = model.state_dict()
        return model, state

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: a state is not a model to publish."""

    def _send_telemetry(self) -> None:
        """None: a run talks to nobody but the vLLM server it was given."""


@dataclass
class Job:
    """A run under way: where it goes, and how far it is."""

    run: Run
    record: RunFolder
    tokenizer: PreTrainedTokenizerBase
    steps: int
    """Of ours: GRPO with `updates` > 1 takes that many optimizer steps each."""
    save_seconds: float
    progress: Progress
    keep: set[int] = field(default_factory=set)
    """Steps whose weights are kept."""
    updates: int = 1
    writes_run: bool = True
    """False where a run that is done is trained again for checkpoints that it lacks."""
    counters: dict[str, Any] = field(default_factory=lambda: {"step": 0, "tokens": 0, "seconds": 0.0})

    @property
    def states(self) -> Path:
        """The folder of TRL's checkpoints, to go on from."""
        return self.record.path / "trl_state"

    def restore(self) -> str | None:
        """The last whole state that a killed run left, its counters taken over; None for a fresh start."""
        whole = sorted(self.states.glob(f"checkpoint-*/{COUNTERS}"), key=lambda path: int(path.parent.name.split("-")[1]))
        if not whole:
            return None
        self.counters = read_json(whole[-1])
        return str(whole[-1].parent)


class Recorder(TrainerCallback):
    """Writes the run folder as the native loops do; of several processes only the main one writes."""

    def __init__(self, job: Job, trainer: ForerunTrainer, row: Row) -> None:
        trainer.remove_callback(PrinterCallback)  # standard output is the command's
        trainer.add_callback(self)
        self.job, self.trainer, self.row = job, trainer, row
        self.main = trainer.accelerator.is_main_process
        self.saved_at = self.began = time.monotonic()
        self.seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock of an optimizer step."""
        self.began = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop it."""
        self.seconds += time.monotonic() - self.began

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        """Write a step's row, keep its weights if asked for, have the state saved if it is time."""
        if not logs or "loss" not in logs or state.global_step % self.job.updates:
            return
        step = state.global_step // self.job.updates
        metrics, tokens = self.row(step, {**logs, "seconds": self.seconds})
        counters = self.job.counters
        counters.update(step=step, tokens=counters["tokens"] + tokens, seconds=counters["seconds"] + self.seconds)
        self.seconds = 0.0
        if self.main and self.job.writes_run:
            self.job.record.log(step, metrics)
        if step in self.job.keep:
            keep_weights(self.trainer, self.job, step)
        control.should_save = self._due()
        if self.main:
            self.job.progress(step, self.job.steps, metrics)

    def _due(self) -> bool:
        """Whether it is time to save; the main process's clock decides for all."""
        due = [time.monotonic() - self.saved_at >= self.job.save_seconds]
        return bool(broadcast_object_list(due)[0])

    def on_save(self, *_: Any, **__: Any) -> None:
        """Mark the state that was just saved as whole, then remove those before it."""
        self.trainer.accelerator.wait_for_everyone()
        if self.main:
            latest = self.job.states / f"checkpoint-{self.trainer.state.global_step}"
            write_json(latest / COUNTERS, self.job.counters)
            for folder in self.job.states.glob("checkpoint-*"):
                if folder != latest:
                    shutil.rmtree(folder)
        self.saved_at = time.monotonic()


def keep_weights(trainer: ForerunTrainer, job: Job, step: int) -> None:
    """Write the weights as they are to the folder of that step."""
    model, state = trainer.weights()
    if trainer.accelerator.is_main_process:
        checkpoints.save(model, job.tokenizer, job.record.checkpoint(step), state)
    trainer.accelerator.wait_for_everyone()


def start(job: Job) -> None:
    """Write run.json for a run that begins or goes on, with the versions of what it runs on."""
    if job.writes_run and PartialState().is_main_process:
        job.record.start(job.run)
        job.run.versions = {**job.run.versions, **_versions()}
        job.record.write(job.run)


def train(trainer: ForerunTrainer, job: Job, ended: Callable[[], str] = lambda: "done") -> RunFolder:
    """Train to the end, from a state if a kill left one, and finish the run folder; `ended` says how it ended.

    Raises:
        CheckFailed: the run diverged; its last weights are kept.
    """
    try:
        with plain_warnings():
            trainer.train(resume_from_checkpoint=job.restore())
    except CheckFailed as error:
        raise _failed(trainer, job, error) from error
    if job.writes_run:
        _finish(trainer, job, ended)
    if trainer.accelerator.is_main_process:
        shutil.rmtree(job.states, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return job.record


def _finish(trainer: ForerunTrainer, job: Job, ended: Callable[[], str]) -> None:
    run, counters = job.run, job.counters
    run.steps, run.tokens, run.seconds = counters["step"], counters["tokens"], counters["seconds"]
    keep_weights(trainer, job, run.steps)
    if trainer.accelerator.is_main_process:
        job.record.finish(run, ended())


def _failed(trainer: ForerunTrainer, job: Job, error: CheckFailed) -> CheckFailed:
    """Keep the last weights of a run that diverged, mark it failed, and say so."""
    job.run.steps = job.counters["step"]
    keep_weights(trainer, job, job.run.steps)
    if trainer.accelerator.is_main_process:
        job.record.finish(job.run, "failed")
        shutil.rmtree(job.states, ignore_errors=True)
    return CheckFailed(
        f"run {job.run.run_id} stopped after step {job.run.steps}: {error}; the weights of that step are kept in "
        f"{job.record.checkpoint(job.run.steps)}; lower learning_rate (now {job.run.config['learning_rate']})"
    )


@contextlib.contextmanager
def main_process_first(config: EngineConfig) -> Iterator[None]:
    """Let the main process go first: a model folder new to the workspace is recorded once."""
    with PartialState(cpu=config.device == "cpu").main_process_first():
        yield


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
