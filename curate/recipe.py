"""The recipe: a YAML file that says where examples come from and which variants are made of them."""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from curate.answers import Verdict
from curate.behaviors import Injection
from curate.config import Config, Count, load_config
from curate.decontaminate import Decontaminate
from curate.dedup import Dedup
from curate.lengths import Budget, Select
from curate.sources import Source


class Verify(Config):
    """Which verdicts drop a row whose own completion is checked against its reference answer."""

    drop: tuple[Verdict, ...] = (Verdict.INCORRECT, Verdict.NO_ANSWER, Verdict.UNPARSABLE, Verdict.TIMEOUT)


class Filters(Config):
    """Bounds on completion tokens."""

    min_tokens: Count | None = None
    max_tokens: Count | None = None

    @model_validator(mode="after")
    def _leave_something(self) -> "Filters":
        if self.min_tokens is not None and self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError("min_tokens is above max_tokens: no row would be left")
        return self


class Heldout(Config):
    """Examples kept out of every variant, one a problem, for the generalization loss."""

    examples: Count
    sources: tuple[Source, ...] = ()
    """Default: the recipe's own sources."""
    seed: int | None = None
    """Default: the recipe's. With sources and a seed of its own, datasets of several data seeds share one held-out set."""


class RlPrompts(Config):
    """Problems for RL, disjoint from training and held-out ones."""

    examples: Count
    sources: tuple[Source, ...] = ()
    """Default: the recipe's own sources."""
    seed: int | None = None
    """Default: the recipe's."""


class Variant(Config):
    """One training set made from the recipe's pool."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    select: Select = Select()
    budget: Budget = Budget()
    epochs: int = Field(1, ge=1)
    inject: Injection | None = None


class Recipe(Config):
    """Everything `curate build` needs."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    seed: int = 0
    tokenizer: str = "words"
    """`words`, or a Hugging Face folder or cached id: its tokens are what budgets and filters count."""
    license: str | None = None
    """SPDX id, for the dataset card."""
    sources: tuple[Source, ...] = Field(min_length=1)
    verify: Verify | None = Verify()
    dedup: Dedup = Dedup()
    decontaminate: Decontaminate | None = None
    filters: Filters = Filters()
    heldout: Heldout | None = None
    rl_prompts: RlPrompts | None = None
    variants: tuple[Variant, ...] = ()
    """Without variants, one dataset of every problem is written, with one trace of each."""

    @model_validator(mode="after")
    def _names_differ(self) -> "Recipe":
        names = [variant.name for variant in self.variants]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"variant names must differ; {sorted(repeated)[0]!r} appears twice")
        return self

    @property
    def every_source(self) -> tuple[Source, ...]:
        """The sources of the pool, of the held-out set and of the RL problems."""
        parts = (part for part in (self.heldout, self.rl_prompts) if part)
        return (*self.sources, *(source for part in parts for source in part.sources))

    @property
    def reference_files(self) -> dict[str, tuple[Path, ...]]:
        """The files that rows are compared with, by the step that does so."""
        return {"dedup": self.dedup.against, "decontaminate": self.decontaminate.against if self.decontaminate else ()}


def _anchor(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its relative paths taken from `folder`."""

    def files(paths: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(folder / path for path in paths)

    update: dict[str, Any] = {"dedup": recipe.dedup.model_copy(update={"against": files(recipe.dedup.against)})}
    if recipe.decontaminate:
        update["decontaminate"] = recipe.decontaminate.model_copy(update={"against": files(recipe.decontaminate.against)})
    for name in ("heldout", "rl_prompts"):
        if part := getattr(recipe, name):
            update[name] = part.model_copy(update={"sources": tuple(source.anchored(folder) for source in part.sources)})
    return recipe.model_copy(update={**update, "sources": tuple(source.anchored(folder) for source in recipe.sources)})


def load_recipe(path: Path, overrides: list[str] | None = None, *, seed: int | None = None) -> Recipe:
    """Read a recipe; relative source paths are taken from the recipe's folder."""
    extra = [f"seed={seed}"] if seed is not None else []
    recipe = load_config(path, Recipe, [*(overrides or []), *extra])
    return _anchor(recipe, path.parent)
