"""Name a run before it is run: its id, parents and factors, from configs alone (torch-free)."""

from typing import Any

from curate.files import content_hash
from train.checkpoints import Checkpoint
from train.configs import GrpoConfig, SftConfig
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
    """The RL run that a config stands for; it inherits the factors of its start."""
    science = config.science()
    return Run(
        run_id=run_id("grpo", science, problems.hash, start.id, config.seed),
        stage="grpo",
        parent=start.id.__dict__,
        base_model=start.base_model,
        family=start.run.family,
        dataset={"name": problems.name, "hash": problems.hash},
        variant=start.run.variant,
        cell=start.run.cell,
        rl_recipe=content_hash(_without_seed(science), 12),
        config=science,
        data_seed=start.run.data_seed,
        sft_seed=start.run.sft_seed,
        rl_seed=config.seed,
    )
