"""Which loop trains: ours, or TRL's trainers. Settings and lookup only, torch-free; the work is in `trl_sft` and `trl_grpo`."""

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar, Literal

from pydantic import Field

from curate.config import Config
from curate.errors import UsageError

TRL = "1.16."
Engine = Literal["native", "trl"]


class TrlSettings(Config):
    """What TRL can do beside what the run's own settings say. All but `PLACES` may change the numbers and are part of the identity."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"gradient_checkpointing", "vllm_server"})

    lora_rank: int | None = Field(None, ge=1)
    """Train adapters of this rank in place of the weights; the checkpoint holds the weights with the adapters merged in."""
    lora_alpha: float = Field(32.0, gt=0)
    """Adapters count `lora_alpha / lora_rank` times."""
    lora_targets: str | tuple[str, ...] = "all-linear"
    """Modules that get adapters, as peft names them."""
    bf16: bool = False
    """Forward and backward passes in bfloat16; weights and optimizer stay in float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    rollouts: Literal["sampler", "generate", "colocate", "server"] = "sampler"
    """GRPO only. `sampler`: the run's own `sampler`, hence the native loop's rollouts; one process. In place of it:
    `generate`, TRL's own by transformers; `colocate`, `server`, vLLM beside the trainer on the same GPUs, or behind HTTP."""
    vllm_server: str | None = None
    """Base URL of the server."""
    extra: dict[str, Any] = {}
    """Any other argument of TRL's SFTConfig or GRPOConfig, by its name there."""

    def science(self) -> dict[str, Any]:
        """The settings that differ from the defaults and may change the numbers, JSON-able."""
        return self.model_dump(mode="json", exclude=set(self.PLACES), exclude_defaults=True)


def trl_stage(stage: str) -> ModuleType:
    """The module that runs a stage on TRL.

    Raises:
        UsageError: TRL is not installed, or of another version than it was written for.
    """
    if find_spec("trl") is None:
        raise UsageError("engine: trl needs TRL, which is not installed; pip install 'forerun[trl]', or set engine: native")
    if not version("trl").startswith(TRL):
        raise UsageError(f"engine: trl is written for TRL {TRL}x, came {version('trl')}; pip install 'forerun[trl]'")
    return import_module(f"train.trl_{stage}")
