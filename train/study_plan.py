"""What a study runs: its configuration, and the cells that its bases, variants, grid and seeds make."""

import difflib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from curate.config import Config, read_yaml
from curate.errors import UsageError
from curate.files import content_hash
from train.configs import GrpoConfig, HeldoutKind, ProblemSet, SftConfig

Stage = Literal["build", "sft", "signals", "grpo", "outcome"]
STAGES: tuple[Stage, ...] = ("build", "sft", "signals", "grpo", "outcome")
BASE = "base"
"""In place of a variant: RL starts from the base model itself, without SFT."""


class Seeds(Config):
    """Which seeds each stage runs with."""

    data: tuple[int, ...] = (0,)
    sft: tuple[int, ...] = (0,)
    rl: tuple[int, ...] = (0,)


class RlProblems(Config):
    """How many of the dataset's RL problems are sampled before RL."""

    problems: int = Field(128, ge=1)
    num_samples: int = Field(32, ge=1)


class Measurements(Config):
    """What is measured before RL and after it."""

    signals: ProblemSet
    rl_signals: RlProblems | None = None
    outcome: ProblemSet
    shifted: ProblemSet | None = None
    """After RL alone: problems of another kind."""
    heldout: tuple[HeldoutKind, ...] = ("shared", "own")
    temperature: float = Field(1.0, ge=0)
    max_tokens: int = Field(120, ge=1)
    seed: int = 0


class StudyConfig(Config):
    """`train study`: bases x variants x grid x seeds."""

    name: str
    home: Path | None = None
    bases: tuple[str, ...] = Field(min_length=1)
    """Run ids, model folders, or names of shipped bases."""
    recipe: Path
    """A `curate` recipe; its variants are a factor."""
    sft: dict[str, Any] = {}
    evaluate: Measurements
    grpo: dict[str, Any] = {}
    grid: dict[str, list[Any]] = {}
    """Factors by dotted key (`sft.learning_rate`), crossed; `variant` narrows the recipe's variants."""
    include: list[dict[str, Any]] = []
    """Cells beside the grid, each a mapping of the same keys."""
    exclude: list[dict[str, Any]] = []
    """Cells to leave out: those that agree with every key of one of these mappings."""
    seeds: Seeds = Seeds()
    stages: tuple[Stage, ...] = STAGES


@dataclass(frozen=True)
class Cell:
    """One recipe variant on one base with one choice of settings and seeds."""

    base: str
    variant: str
    overrides: dict[str, Any]
    data_seed: int
    sft_seed: int

    @property
    def name(self) -> str:
        """Everything but the seeds."""
        return content_hash([self.base, self.variant, self.overrides])

    @property
    def label(self) -> str:
        """What the progress lines call it."""
        settings = " ".join(f"{key.partition('.')[2] or key}={value}" for key, value in self.overrides.items())
        seeds = f"data {self.data_seed} sft {self.sft_seed}"
        return " ".join(filter(None, (self.variant, settings, f"({Path(self.base).name}, {seeds})")))


def plan(config: StudyConfig) -> Iterator[Cell]:
    """The cells of a study in the order they are run: seeds outermost, so that a study cut short is still whole."""
    variants = variants_of(config)
    grid = {"variant": variants, **config.grid}
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    points += [{"variant": variants[0], **extra} for extra in config.include]
    for rule in (config.grid, *config.include, *config.exclude):
        _check_keys(rule)
    unknown = [point["variant"] for point in points if point["variant"] not in (*variants, BASE)]
    if unknown:
        raise UsageError(
            f"variant {unknown[0]!r}: the recipe {config.recipe} has {', '.join(variants)}; {BASE!r} is a start without SFT"
        )
    kept = [point for point in points if not any(_agrees(point, rule) for rule in config.exclude)]
    for data_seed, sft_seed, base, point in itertools.product(config.seeds.data, config.seeds.sft, config.bases, kept):
        overrides = {key: value for key, value in point.items() if key != "variant"}
        yield Cell(base, point["variant"], overrides, data_seed, sft_seed)


def variants_of(config: StudyConfig) -> list[str]:
    """Names of the recipe's variants.

    Raises:
        UsageError: it has none.
    """
    names = [variant["name"] for variant in read_yaml(config.recipe).get("variants", [])]
    if not names:
        raise UsageError(f"{config.recipe}: a study needs a recipe with variants")
    return names


def _check_keys(rule: dict[str, Any]) -> None:
    """A misspelt key would otherwise exclude nothing, or be found only once its cell is run."""
    stages: dict[str, type[Config]] = {"sft": SftConfig, "grpo": GrpoConfig}
    known = ["variant", *(f"{stage}.{name}" for stage, settings in stages.items() for name in settings.model_fields)]
    for key in rule:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"key {key!r}: expected variant, sft.<setting> or grpo.<setting>{hint}")


def _agrees(point: dict[str, Any], rule: dict[str, Any]) -> bool:
    return all(point.get(key) == value for key, value in rule.items())


def chosen_stages(config: StudyConfig, wanted: str | None) -> tuple[str, ...]:
    """The stages of `--stages`, or the study's own.

    Raises:
        UsageError: an unknown one.
    """
    if wanted is None:
        return config.stages
    names = tuple(name.strip() for name in wanted.split(","))
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise UsageError(f"--stages: expected some of {', '.join(STAGES)}, came {unknown[0]!r}")
    return names


def sharded(cells: list[Cell], shard: str | None) -> list[Cell]:
    """Every Nth cell from the Ith on, for `I/N`.

    Raises:
        UsageError: not of that form.
    """
    if shard is None:
        return cells
    index, _, count = shard.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UsageError(f"--shard: expected I/N with 0 <= I < N, came {shard!r}")
    return cells[int(index) :: int(count)]
