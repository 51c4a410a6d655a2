"""Name a run before it is run: its id, parents and factors, from configs alone (torch-free)."""

from typing import Any

from curate.files import content_hash
from train.checkpoints import Checkpoint
from train.configs import DensePathConfig, GrpoConfig, RolloutConfig, SftConfig
from train.datasets import Dataset, Problems
from train.records import Run, run_id


def _without_seed(science: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in science.items() if key != "seed"}


def sft_run(config: SftConfig, start: Checkpoint, dataset: Dataset) -> Run:
    """The SFT run that a config stands for. A cell is recipe x variant x base x hyperparameters, without seeds."""
    epochs = config.epochs or dataset.epochs
    science = {**config.science(), "epochs": epochs}
    cell = {
        "recipe": dataset.recipe,
        "variant": dataset.variant["name"],
        "base": start.base_model,
        "sft": _without_seed(science),
    }
    return Run(
        run_id=run_id("sft", science, dataset.hash, start.id, config.seed),
        stage="sft",
        parent=start.id.__dict__,
        base_model=start.base_model,
        family=start.run.family,
        dataset={"name": dataset.name, "hash": dataset.hash},
        variant={**dataset.variant, "epochs": epochs},
        cell=content_hash(cell, 12),
        config=science,
        data_seed=dataset.seed,
        sft_seed=config.seed,
    )


def grpo_run(config: GrpoConfig, start: Checkpoint, problems: Problems) -> Run:
    """The GRPO run that a config stands for."""
    return _rollout_run("grpo", config, config.science(), start, problems)


def dense_path_run(config: DensePathConfig, start: Checkpoint, reference: Checkpoint, problems: Problems) -> Run:
    """The dense-path run that a config stands for; the reference is named by its run and step, wherever it lies."""
    return _rollout_run("dense_path", config, {**config.science(), "reference": str(reference.id)}, start, problems)


def _rollout_run(stage: str, config: RolloutConfig, science: dict[str, Any], start: Checkpoint, problems: Problems) -> Run:
    """A run on its own rollouts inherits the factors of its start."""
    recipe = {key: value for key, value in science.items() if key not in ("seed", "reference")}
    return Run(
        run_id=run_id(stage, science, problems.hash, start.id, config.seed),
        stage=stage,
        parent=start.id.__dict__,
        base_model=start.base_model,
        family=start.run.family,
        dataset={"name": problems.name, "hash": problems.hash},
        variant=start.run.variant,
        cell=start.run.cell,
        rl_recipe=content_hash(recipe, 12),
        config=science,
        data_seed=start.run.data_seed,
        sft_seed=start.run.sft_seed,
        rl_seed=config.seed,
    )
