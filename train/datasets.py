"""Open what `curate` wrote: the SFT set with its factors, the held-out sets, the problems for RL and evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from curate import arithmetic
from curate.errors import InputError
from curate.examples import Example, Problem, read_examples, read_problems
from curate.files import content_hash, read_json
from train.configs import ProblemSet


@dataclass(frozen=True)
class Dataset:
    """A dataset folder: one variant of a recipe."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """`recipe/variant`."""
        return f"{self.recipe}/{self.variant['name']}"

    @property
    def recipe(self) -> str:
        """Name of the recipe that built it."""
        return str(self.manifest["recipe"]["name"])

    @property
    def hash(self) -> str:
        """Content hash of the training rows and epochs."""
        return str(self.manifest["content_hash"])

    @property
    def epochs(self) -> int:
        """Passes over the set that its budget stands for."""
        return int(self.manifest["epochs"])

    @property
    def seed(self) -> int:
        """The recipe's seed: `data_seed`."""
        return int(self.manifest["seed"])

    @property
    def variant(self) -> dict[str, Any]:
        """The factors that a study varies: name, n_examples, length_mix, behaviors."""
        return dict(self.manifest["variant"])

    def train(self) -> list[Example]:
        """The training examples in order."""
        return read_examples(self.folder / "train.jsonl")

    def heldout(self, kind: str) -> list[Example]:
        """The held-out examples: `shared` by all variants of the recipe, or the variant's `own`."""
        return read_examples(self.folder / ("heldout_own.parquet" if kind == "own" else "heldout.parquet"))


@dataclass(frozen=True)
class Problems:
    """A named list of problems."""

    name: str
    split: str
    rows: list[Problem]

    @cached_property
    def hash(self) -> str:
        """Hash of the prompts and reference answers, in order."""
        return content_hash([[problem.prompt, problem.ground_truth] for problem in self.rows])


def open_dataset(folder: Path) -> Dataset:
    """Open a folder that `curate build` wrote.

    Raises:
        InputError: not such a folder.
    """
    if not (folder / "manifest.json").exists():
        variants = sorted(path.parent.name for path in folder.glob("*/manifest.json"))
        hint = f"; it holds the variants {', '.join(variants)}: name one" if variants else "; build it with `curate build`"
        raise InputError(f"{folder}: expected a dataset folder with manifest.json{hint}")
    return Dataset(folder, read_json(folder / "manifest.json"))


def open_problems(source: Path) -> Problems:
    """The RL problems of a dataset folder, or the problems of one file."""
    file = source / "rl.parquet" if source.is_dir() else source
    rows = read_problems(file)
    return Problems(open_dataset(source).recipe if source.is_dir() else source.stem, "rl", rows)


def problem_set(wanted: ProblemSet) -> Problems:
    """The first `wanted.problems` of a split of the embedded task, or of a file.

    Raises:
        InputError: neither a split nor a file, or fewer problems than asked for.
    """
    last = wanted.skip + wanted.problems
    if wanted.set in arithmetic.SPLITS:
        rows = arithmetic.problems(size=last, operations=wanted.operations, split=wanted.set)
        return Problems(f"arithmetic:{wanted.set}", wanted.set, rows[wanted.skip :])
    file = Path(wanted.set)
    if not file.exists():
        splits = ", ".join(arithmetic.SPLITS)
        raise InputError(f"problem set {wanted.set!r}: expected one of {splits}, or a file of problems; there is no such file")
    rows = read_problems(file)
    if len(rows) < last:
        asked = f"{wanted.problems} problems were asked for" + (f" after the first {wanted.skip}" if wanted.skip else "")
        raise InputError(f"{file}: {asked}, it has {len(rows)}; set problems: {max(0, len(rows) - wanted.skip)}")
    return Problems(file.stem, file.stem, rows[wanted.skip : last])


def distinct_problems(examples: list[Example]) -> Iterator[Problem]:
    """The distinct problems of some examples, in order."""
    seen: set[str] = set()
    for example in examples:
        if example.problem.id not in seen:
            seen.add(example.problem.id)
            yield example.problem
