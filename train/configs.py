"""The settings of every `train` command, torch-free so that a study can plan and name its runs without loading torch.

Fields listed in a class's `PLACES` say where things are or how fast they go; they are not part of a run's
identity. All others are.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from curate.behaviors import Style
from curate.config import Config
from curate.server import Server
from train.engines import Engine, TrlSettings

Device = Literal["cpu", "cuda"]
Purpose = Literal["signals", "rl_signals", "outcome", "outcome_shifted", "other"]
HeldoutKind = Literal["shared", "own", "style_free", "result_tokens", "rl_style_free", "rl_result_tokens"]


class StageConfig(Config):
    """What the configs of all stages share."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"home", "device"})
    LATER: ClassVar[frozenset[str]] = frozenset()
    """Settings that came after runs were published: at their default they are no part of the identity, so that old ids stay."""

    home: Path | None = None
    """Workspace; default $FORERUN_HOME, else ./forerun."""
    device: Device = "cpu"

    def science(self) -> dict[str, Any]:
        """The settings that decide the numbers, JSON-able: what a run is identified by."""
        untouched = {name for name in self.LATER if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude=set(self.PLACES | untouched))


class EngineConfig(StageConfig):
    """What the configs of stages share that either our loop or TRL's trainer runs."""

    LATER: ClassVar[frozenset[str]] = frozenset({"engine", "trl"})

    engine: Engine = "native"
    """`native`: our loops, one process. `trl`: TRL's trainers: several GPUs, bfloat16, LoRA, vLLM (docs/trl.md)."""
    trl: TrlSettings = TrlSettings()
    """Settings of `engine: trl` alone."""

    def science(self) -> dict[str, Any]:
        """As `StageConfig.science`; of the settings of TRL those that are set."""
        found, own = super().science(), self.trl.science()
        return {**{name: value for name, value in found.items() if name != "trl"}, **({"trl": own} if own else {})}

    @model_validator(mode="after")
    def _settings_of_the_engine(self) -> "EngineConfig":
        if self.engine == "native" and self.trl != TrlSettings():
            raise ValueError("trl: these are settings of `engine: trl`; set it, or leave them out")
        if self.trl.lora_rank is None and {"lora_alpha", "lora_targets"} & self.trl.science().keys():
            raise ValueError("trl: lora_alpha and lora_targets need lora_rank")
        return self


class BaseConfig(StageConfig):
    """`train base`: how an embedded base model is made."""

    PLACES: ClassVar[frozenset[str]] = StageConfig.PLACES | {"name", "output", "save_seconds"}

    name: str = "base"
    output: Path | None = None
    """Also write the model folder here, in fp16."""
    layers: int = Field(4, ge=1)
    hidden: int = Field(64, ge=32, multiple_of=32)
    tokens: int = Field(10_000_000, gt=0)
    """Tokens to train on, padding not counted."""
    styles: dict[Style, float] = {"short": 0.3, "long": 0.35, "full": 0.35}
    behaviors: float = Field(0.1, ge=0, le=1)
    """Share of the traces that show each behaviour, independently."""
    disorder: float = Field(2.0, ge=0)
    """A statement of a problem moves down by up to this many places."""
    slip: float = Field(0.05, ge=0, le=1)
    """Probability that a step's result is wrong and carried on; not in the first stage."""
    batch_tokens: int = Field(2048, gt=0)
    matrix_learning_rate: float = Field(1e-2, gt=0)
    """Peak for Muon, which trains the matrices inside the blocks."""
    learning_rate: float = Field(3e-3, gt=0)
    """Peak for AdamW, which trains embeddings, head and norms."""
    seed: int = 0
    save_seconds: float = Field(60.0, ge=0)


class SftConfig(EngineConfig):
    """`train sft`: supervised fine-tuning on a dataset folder, loss on completions only."""

    PLACES: ClassVar[frozenset[str]] = StageConfig.PLACES | {
        "model",
        "dataset",
        "micro_batch_tokens",
        "save_seconds",
        "keep_shares",
    }

    model: str
    """Where to start: a Hugging Face folder, a run id, or `run_id@step`."""
    dataset: Path
    """A folder written by `curate build`."""
    epochs: int | None = Field(None, ge=1)
    """Passes over the set; default: the manifest's."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many updates; the schedule is laid out for them."""
    learning_rate: float = Field(2e-3, gt=0)
    batch_tokens: int = Field(2048, gt=0)
    """Padded tokens of one update."""
    micro_batch_tokens: int = Field(2048, gt=0)
    """Padded tokens of one forward pass; gradients add up to the whole batch's."""
    max_length: int = Field(512, gt=0)
    """Longest example in tokens; a longer one is an error, never cut."""
    warmup_share: float = Field(0.05, ge=0, le=1)
    final_share: float = Field(0.1, ge=0, le=1)
    """Learning rate at the end of the cosine, as a share of its peak."""
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    seed: int = 0
    save_seconds: float = Field(60.0, ge=0)
    """Save the training state this often, to go on after a kill."""
    keep_shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Keep checkpoints once these shares of all samples were trained on too; .5 is what `train dense-path` takes for its reference."""

    @model_validator(mode="after")
    def _samples_nothing(self) -> "SftConfig":
        if self.trl.rollouts != "sampler" or self.trl.vllm_server:
            raise ValueError("trl: rollouts and vllm_server are settings of GRPO; SFT samples nothing")
        return self


class RolloutConfig(StageConfig):
    """What the stages share that train a checkpoint on its own rollouts."""

    PLACES: ClassVar[frozenset[str]] = StageConfig.PLACES | {
        "model",
        "dataset",
        "micro_batch_tokens",
        "save_seconds",
        "sampler",
        "keep_steps",
    }

    model: str
    """Where to start: a Hugging Face folder, a run id, or `run_id@step`."""
    dataset: Path
    """A dataset folder (its rl.parquet is used) or a file of problems."""
    steps: int = Field(64, ge=1)
    problems: int = Field(24, ge=1)
    """Problems a step."""
    group_size: int = Field(16, ge=1)
    """Rollouts a problem."""
    learning_rate: float = Field(6e-4, gt=0)
    warmup_steps: int = Field(5, ge=0)
    temperature: float = Field(1.0, gt=0)
    max_tokens: int = Field(120, ge=1)
    """Completion limit; a rollout cut at it gets reward 0 from the verifier."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL penalty to the start."""
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    micro_batch_tokens: int = Field(2048, gt=0)
    """Padded completion tokens of one forward pass; gradients add up to the whole batch's."""
    sampler: Literal["native", "transformers"] = "native"
    seed: int = 0
    save_seconds: float = Field(60.0, ge=0)
    keep_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Keep checkpoints after these steps too, to be measured as `run_id@step`."""


class GrpoConfig(EngineConfig, RolloutConfig):
    """`train grpo`: group-relative policy optimisation against the verifier."""

    LATER: ClassVar[frozenset[str]] = EngineConfig.LATER | {"reward"}

    group_size: int = Field(16, ge=2)
    """Rollouts a problem."""
    reward: Literal["verifier", "random"] = "verifier"
    """`random`: a fair coin for every rollout, whatever it says. A control: what improves under it, the verifier did not cause."""
    loss_type: Literal["grpo", "dr_grpo", "dapo"] = "dapo"
    scale_rewards: Literal["group", "none"] = "group"
    mixed_groups_only: bool = True
    """Leave groups of equal rewards out of the batch, and so out of the loss's denominator."""
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.2, gt=0)
    updates: int = Field(1, ge=1)
    """Optimiser updates a batch of rollouts; 1 is on-policy."""

    @model_validator(mode="after")
    def _one_sampler(self) -> "GrpoConfig":
        if self.trl.rollouts != "sampler" and self.sampler != "native":
            raise ValueError(f"sampler: {self.sampler} is not used where trl.rollouts is {self.trl.rollouts}; set one of the two")
        if self.trl.lora_rank and self.trl.rollouts == "sampler" and self.sampler == "native":
            raise ValueError("sampler: the native one reads weights without adapters; set sampler: transformers, or trl.rollouts")
        if (self.trl.rollouts == "server") != (self.trl.vllm_server is not None):
            raise ValueError("trl: rollouts: server and vllm_server (its URL) go together")
        return self


class DensePathConfig(RolloutConfig):
    """`train dense-path`: REINFORCE on a reward a token that SFT itself left behind; no verifier, no critic."""

    PLACES: ClassVar[frozenset[str]] = RolloutConfig.PLACES | {"reference"}  # the checkpoint it names is a part of the identity

    reference: str | None = None
    """Checkpoint whose log-probabilities the reward is relative to; default: the start's own SFT run at half of its samples."""
    group_size: int = Field(4, ge=1)
    """Rollouts a problem."""
    learning_rate: float = Field(3e-4, gt=0)
    credit: Literal["dense", "sparse", "contrast"] = "dense"
    """`sparse`: every token is credited with the reward of the whole rollout. `contrast`: no training, the weights are moved by
    `strength` x (start - reference). Both are controls."""
    strength: float = Field(0.5, ge=0)
    """Of `contrast`."""
    gamma: float = Field(1.0, ge=0, le=1)
    """Discount of later tokens' rewards; the paper's 1 does not discount."""
    clip_reward: float | None = Field(None, gt=0)
    """Clip each token's reward to +- this many nats; the paper does not."""
    baseline: Literal["none", "position"] = "none"
    """`position`: less the batch's mean return at that position of the completion; the paper has none."""
    kl_coef: float = Field(0.1, ge=0)
    """Weight of the KL penalty to the start."""


class ProblemSet(Config):
    """Which problems an evaluation asks: a split of the embedded task, or a file."""

    set: str
    """A split of the embedded task (A, B, dev, ...) or a path to problems (.parquet, .jsonl)."""
    problems: int = Field(256, ge=1)
    """How many; the first so many of the set."""
    skip: int = Field(0, ge=0)
    """Problems to pass over before that: two parts of one set are disjoint."""
    operations: tuple[int, int] = (3, 9)
    """Embedded task only: operations a problem."""
    num_samples: int = Field(64, ge=1)
    """Completions a problem."""


class ServedModel(Server):
    """Where `sampler: server` asks: an OpenAI-compatible server that takes and gives token ids, such as vLLM."""

    model: str | None = None
    """The name it is served under; default: the only one that the server has."""
    parallel: int = Field(16, ge=1, le=256)
    """Requests at once."""
    timeout_seconds: float = Field(600.0, gt=0)
    """For one request, from its start to the last byte."""
    samples_a_request: int = Field(32, ge=1)
    """Completions of one prompt that a request asks for (`n`); how they are split changes no seed."""


class EvaluateConfig(StageConfig):
    """`train evaluate`: sample and verify, and held-out losses."""

    PLACES: ClassVar[frozenset[str]] = StageConfig.PLACES | {"model", "dataset", "sampler", "server", "rollouts"}

    model: str
    """A run id, `run_id@step`, or a Hugging Face folder."""
    problems: ProblemSet | None = None
    """What to sample; none: losses only."""
    purpose: Purpose = "other"
    """`signals` and `rl_signals` (on RL's own problems) may enter a forecast; `outcome` and `outcome_shifted` are forecast."""
    heldout: tuple[HeldoutKind, ...] = ()
    """Held-out losses to measure, on `dataset`."""
    dataset: Path | None = None
    temperature: float = Field(1.0, ge=0)
    max_tokens: int = Field(120, ge=1)
    sampler: Literal["native", "transformers", "server"] = "native"
    server: ServedModel | None = None
    """Of `sampler: server`; default: the only model at `$OPENAI_BASE_URL`."""
    seed: int = 0
    rollouts: bool = False
    """Keep the completions under rollouts/."""

    @model_validator(mode="after")
    def _something_to_do(self) -> "EvaluateConfig":
        if self.problems is None and not self.heldout:
            raise ValueError("nothing to measure: give problems, or heldout with a dataset")
        if self.heldout and self.dataset is None:
            raise ValueError("heldout losses need the dataset folder whose held-out sets they are measured on")
        if self.server is not None and self.sampler != "server":
            raise ValueError(f"the settings under `server` are for sampler: server, came sampler: {self.sampler}")
        return self


@dataclass(frozen=True)
class Delimiters:
    """The texts that budget forcing reads and writes; the model's tokenizer turns them into tokens."""

    start: str
    """Opens the thinking: appended to a prompt that does not end with it already. Empty: never."""
    end: str
    """Where this text begins, the thinking ends."""
    forced_exit: str
    """Follows thinking that was cut at its budget: the end and the ask for the answer. A line feed before it is not doubled."""
    wait: str
    """Takes the place of an end of thinking that is suppressed."""


DELIMITERS = {
    "embedded": Delimiters("<think>", "</think>", "</think> ans", "Wait"),
    "think": Delimiters("<think>\n", "</think>", "\n</think>\n\nFinal Answer:", "Wait"),
}
"""Presets: the embedded task, whose traces end `</think> ans ...`, and chat models that write `<think>` ... `</think>`."""


class BudgetConfig(StageConfig):
    """`train budget`: budget forcing. Accuracy and tokens of one checkpoint against its thinking budget."""

    PLACES: ClassVar[frozenset[str]] = StageConfig.PLACES | {"model", "sampler"}

    model: str
    """A run id, `run_id@step`, or a Hugging Face folder."""
    problems: ProblemSet
    """What to sample."""
    budgets: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Thinking tokens at most. One at or above `max_tokens` never binds."""
    waits: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    """How often the end of thinking is suppressed, at most; each budget is measured with each."""
    delimiters: Literal["embedded", "think"] = "embedded"
    """The preset; the next four replace parts of it."""
    start: str | None = None
    end: str | None = Field(None, min_length=1)
    forced_exit: str | None = None
    wait: str | None = Field(None, min_length=1)
    answer_tokens: int = Field(32, ge=1)
    """Limit of an answer that was asked for, its end token included."""
    max_tokens: int = Field(120, ge=1)
    """Limit of a completion that is not cut at a budget, its thinking, waits and own answer together."""
    temperature: float = Field(1.0, ge=0)
    sampler: Literal["native", "transformers"] = "native"
    seed: int = 0

    @property
    def texts(self) -> Delimiters:
        """The delimiters in force."""
        preset = asdict(DELIMITERS[self.delimiters])
        return Delimiters(**{name: text if (own := getattr(self, name)) is None else own for name, text in preset.items()})

    @model_validator(mode="after")
    def _agrees(self) -> "BudgetConfig":
        for name in ("budgets", "waits"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: expected each value once, came {list(values)}")
        if self.texts.end not in self.texts.forced_exit:
            raise ValueError(f"forced_exit: expected a text that holds the end of thinking {self.texts.end!r}")
        return self


class InfluenceConfig(StageConfig):
    """`train influence`: how much a step of RL on one problem helps another."""

    PLACES: ClassVar[frozenset[str]] = StageConfig.PLACES | {"model", "sampler", "micro_batch_tokens"}

    model: str
    """A run id, `run_id@step`, or a Hugging Face folder."""
    problems: ProblemSet
    """What RL trains on; `num_samples` is the group size."""
    targets: ProblemSet | None = None
    """What RL is to help with; none: the problems themselves, each for every other."""
    dimensions: int | None = Field(None, ge=64)
    """Random directions that each gradient is projected on; none: it is kept whole, which takes 4 bytes a parameter and problem."""
    temperature: float = Field(1.0, gt=0)
    max_tokens: int = Field(120, ge=1)
    micro_batch_tokens: int = Field(2048, gt=0)
    """Padded completion tokens of one forward pass; gradients add up."""
    sampler: Literal["native", "transformers"] = "native"
    seed: int = 0

    @model_validator(mode="after")
    def _has_groups(self) -> "InfluenceConfig":
        for name, wanted in (("problems", self.problems), ("targets", self.targets)):
            if wanted is not None and (wanted.num_samples < 2 or wanted.problems < 2):
                raise ValueError(
                    f"{name}: expected at least 2 problems and num_samples of at least 2, since rollouts of one problem "
                    f"are compared, came problems: {wanted.problems}, num_samples: {wanted.num_samples}"
                )
        return self


CONFIGS: dict[str, type[StageConfig]] = {
    "base": BaseConfig,
    "sft": SftConfig,
    "grpo": GrpoConfig,
    "dense_path": DensePathConfig,
    "evaluate": EvaluateConfig,
    "budget": BudgetConfig,
    "influence": InfluenceConfig,
}
"""The config of each stage, by the name of its command and module."""
