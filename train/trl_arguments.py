"""TRL's arguments and adapters, out of a run's settings; what the two cannot both have is refused."""

import contextlib
import dataclasses
import difflib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainingArguments

from curate.errors import UsageError
from train.configs import GrpoConfig, SftConfig
from train.engines import TrlSettings

OWNED = {
    **dict.fromkeys(("num_train_epochs", "max_steps"), "epochs, max_steps or steps"),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio"), "warmup_share or warmup_steps"),
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps"), "micro_batch_tokens"),
    **dict.fromkeys(("generation_batch_size", "steps_per_generation"), "problems and group_size"),
    **dict.fromkeys(("max_length", "truncation_mode"), "max_length"),
    **dict.fromkeys(
        ("save_strategy", "save_steps", "save_total_limit", "save_only_model"), "save_seconds, keep_shares or keep_steps"
    ),
    **dict.fromkeys(("resume_from_checkpoint", "output_dir", "logging_steps", "logging_strategy", "logging_nan_inf_filter")),
    **dict.fromkeys(("packing", "padding_free", "eval_packing", "dataset_kwargs", "dataset_text_field", "completion_only_loss")),
    **dict.fromkeys(("assistant_only_loss", "eos_token", "pad_token", "chat_template_path", "chat_template_kwargs")),
    **dict.fromkeys(("auto_find_batch_size", "remove_unused_columns", "average_tokens_across_devices", "shuffle_dataset")),
    **dict.fromkeys(("do_eval", "eval_strategy", "eval_steps", "eval_on_start", "load_best_model_at_end", "push_to_hub")),
    **dict.fromkeys(
        ("reward_weights", "multi_objective_aggregation", "sync_ref_model", "model_init_kwargs", "optim_target_modules")
    ),
}
"""Arguments of TRL that `trl.extra` may not set, as the run decides on them, and the setting of ours that does, if one does."""


def common_arguments(config: SftConfig | GrpoConfig, output: Path, steps: int) -> dict[str, Any]:
    """TrainingArguments of both trainers; `steps` counts the optimizer's.

    Raises:
        UsageError: a GPU is asked for where there is none; TRL would train on the CPU instead.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device: cuda, but torch sees no GPU here; set device: cpu")
    return {
        "output_dir": str(output),
        "max_steps": steps,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "seed": config.seed,
        "use_cpu": config.device == "cpu",
        "bf16": config.trl.bf16,
        "gradient_checkpointing": config.trl.gradient_checkpointing,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "average_tokens_across_devices": True,
    }


def arguments(kind: type[TrainingArguments], settings: TrlSettings, own: dict[str, Any], **defaults: Any) -> Any:
    """TRL's arguments: `own`, then the user's extra ones, then `defaults` that differ from TRL's.

    Raises:
        UsageError: an extra argument that TRL does not know, or that the run decides on; a launcher that sets another precision.
    """
    known = {entry.name for entry in dataclasses.fields(kind) if entry.init}
    for name in settings.extra:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"trl.extra.{name}: {kind.__name__} of TRL has no such argument{hint}")
        if name in own or name in OWNED:
            instead = OWNED.get(name)
            hint = f"set {instead} instead" if instead else "take it out"
            raise UsageError(f"trl.extra.{name}: the run's own settings decide this; {hint}")
    defaults |= {"report_to": "none", "disable_tqdm": True, "optim": "adamw_torch"}
    defaults |= {"dataloader_pin_memory": not own["use_cpu"], "ddp_find_unused_parameters": False}
    with plain_warnings():
        made = kind(**{**defaults, **settings.extra, **own})
    precision = "bf16" if made.bf16 else "fp16" if made.fp16 else "no"
    if made.mixed_precision != precision:
        raise UsageError(
            f"accelerate was told mixed precision {made.mixed_precision}, the run says {precision}; set trl.bf16 to agree"
        )
    return made


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Keep quiet what transformers will name otherwise in its version 6."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def adapters(settings: TrlSettings) -> Any:
    """The adapters to train in place of the weights, or None.

    Raises:
        UsageError: peft is not installed, or the weights are spread over processes.
    """
    if settings.lora_rank is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError:
        raise UsageError("trl.lora_rank needs peft, which is not installed; pip install 'forerun[lora]'") from None
    if PartialState().distributed_type in ("FSDP", "DEEPSPEED"):
        raise UsageError("trl.lora_rank: adapters are not merged where FSDP or DeepSpeed spreads the weights; use plain torchrun")
    targets = settings.lora_targets if isinstance(settings.lora_targets, str) else list(settings.lora_targets)
    return LoraConfig(r=settings.lora_rank, lora_alpha=settings.lora_alpha, target_modules=targets, task_type="CAUSAL_LM")
