"""What the training loops share: learning-rate schedules, gradient steps in micro-batches, states to go on from after a kill."""

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curate.errors import CheckFailed
from curate.files import atomic_file
from train import checkpoints
from train.checkpoints import plain_os_errors, remove_partials
from train.records import Run, RunFolder


def adamw(model: PreTrainedModel, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with betas (0.9, 0.95), the usual pair for language models."""
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay)


def warmup_cosine(step: int, steps: int, warmup_share: float, final_share: float) -> float:
    """Factor of the peak learning rate: linear warm-up, then cosine down to `final_share`. `step` counts from 0."""
    warmup = max(1, round(warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * done))


def optimizer_step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, losses: Iterable[Tensor], rate: float, clip: float
) -> tuple[float, float]:
    """Accumulate gradients of the micro-batch losses, clip, step; returns the summed loss and the gradient norm.

    Raises:
        CheckFailed: loss or gradient is not finite; the weights are as they were.
    """
    optimizer.zero_grad()
    total = 0.0
    for loss in losses:
        loss.backward()
        total += loss.item()
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip))
    if not (math.isfinite(total) and math.isfinite(norm)):
        raise CheckFailed(f"loss {total}, gradient norm {norm}: training diverged")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return total, norm


class TrainingState:
    """Saves weights and optimizers now and then; a killed run goes on from there and ends with the same weights."""

    def __init__(self, path: Path, model: PreTrainedModel, optimizers: list[torch.optim.Optimizer], every_seconds: float) -> None:
        self.path, self.model, self.optimizers = path, model, optimizers
        self.every_seconds, self.saved_at = every_seconds, time.monotonic()

    def restore(self) -> dict[str, Any]:
        """Load what a killed run left; returns its counters, {"step": 0, ...} for a fresh start."""
        remove_partials(self.path)
        if not self.path.exists():
            return {"step": 0, "tokens": 0, "seconds": 0.0}
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return dict(state["counters"])

    def save_if_due(self, counters: dict[str, Any]) -> None:
        """Save if `every_seconds` have passed since the last time."""
        if time.monotonic() - self.saved_at < self.every_seconds:
            return
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        state = {"model": self.model.state_dict(), "optimizers": optimizers, "counters": counters}
        with atomic_file(self.path) as partial, plain_os_errors(self.path), partial.open("wb") as handle:
            torch.save(state, handle)
        self.saved_at = time.monotonic()

    def drop(self) -> None:
        """Remove the state: the run is done."""
        self.path.unlink(missing_ok=True)


def stop_diverged(
    record: RunFolder,
    run: Run,
    state: TrainingState,
    tokenizer: PreTrainedTokenizerBase,
    step: int,
    error: CheckFailed,
) -> NoReturn:
    """Keep the last weights of a run that diverged, mark it failed, and say so."""
    run.steps = step
    checkpoints.save(state.model, tokenizer, record.checkpoint(step))
    record.finish(run, "failed")
    state.drop()
    raise CheckFailed(
        f"run {run.run_id} stopped after step {step}: {error}; the weights of that step are kept in "
        f"{record.checkpoint(step)}; lower learning_rate (now {run.config['learning_rate']})"
    ) from error
