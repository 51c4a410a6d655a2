"""`train sft` with `engine: trl`: the updates of `train.sft`, example for example, taken by TRL's SFTTrainer."""

import copy
import math
from typing import Any

from accelerate import PartialState
from datasets import Dataset as Rows
from torch.utils.data import DataLoader
from trl import SFTConfig as Arguments
from trl import SFTTrainer

from train import checkpoints, rendering, trl_arguments, trl_backend
from train.batches import IGNORE, TokenSequence, group_by_length
from train.configs import SftConfig
from train.datasets import open_dataset
from train.identity import sft_run
from train.loop import warmup_cosine
from train.records import RunFolder, workspace
from train.sft import missing_steps, update_plan
from train.trl_backend import ForerunTrainer, Job, Progress, Recorder


class PlannedSFTTrainer(ForerunTrainer, SFTTrainer):
    """SFTTrainer that takes its batches from a plan in place of a sampler."""

    micro_batches: list[list[int]]
    """Row numbers of every forward pass in turn; processes take turns."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process's forward passes."""
        mine = self.micro_batches[self.args.process_index :: self.args.world_size]
        return DataLoader(self.train_dataset, batch_sampler=mine, collate_fn=self.data_collator)


def main(config: SftConfig, progress: Progress) -> RunFolder:
    """See `train.sft.main`."""
    home = workspace(config.home)
    with trl_backend.main_process_first(config):
        start, dataset = checkpoints.resolve(config.model, home), open_dataset(config.dataset)
    run = sft_run(config, start, dataset)
    record = RunFolder.of(home, run.run_id)
    if record.is_done and not config.keep_shares:
        return record
    model, tokenizer = checkpoints.load(start.folder)
    sequences = rendering.training_sequences(tokenizer, dataset.train(), config.max_length)
    plan = update_plan(config, run.variant["epochs"], sequences)
    missing = missing_steps(record, plan, config.keep_shares)
    done = record.is_done
    if done and not missing:
        return record
    run.engine = "trl"
    job = Job(run, record, tokenizer, max(missing) if done else len(plan), config.save_seconds, progress, missing)
    job.writes_run = not done
    trainer = make_trainer(config, job, model, sequences, plan)
    trl_backend.start(job)
    return trl_backend.train(trainer, job)


def make_trainer(
    config: SftConfig, job: Job, model: Any, sequences: list[TokenSequence], plan: list[list[int]]
) -> PlannedSFTTrainer:
    """The trainer of a plan, which says for each update the numbers of the sequences that it takes."""
    world = PartialState().num_processes
    passes = forward_passes(plan, [len(sequence.ids) for sequence in sequences], config.micro_batch_tokens, world)
    own = {
        **trl_arguments.common_arguments(config, job.states, job.steps * job.updates),
        "per_device_train_batch_size": max(map(len, passes)),
        "gradient_accumulation_steps": len(passes) // len(plan) // world,
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    trainer = PlannedSFTTrainer(
        model=model,
        args=trl_arguments.arguments(Arguments, config.trl, own),
        train_dataset=training_rows(sequences),
        processing_class=copy.deepcopy(job.tokenizer),  # TRL gives it a padding token; what is saved stays as it came
        peft_config=trl_arguments.adapters(config.trl),
    )
    trainer.micro_batches = passes
    trainer.rate_factor = lambda step: warmup_cosine(step, len(plan), config.warmup_share, config.final_share)
    trainer.model_accepts_loss_kwargs = True  # have it count the tokens of an update, which TRL's loss divides by

    def row(step: int, logs: dict[str, float]) -> tuple[dict[str, float], int]:
        counted = sum(sum(sequences[index].counted[1:]) for index in plan[step - 1])
        return {**{name: logs[name] for name in ("loss", "grad_norm", "learning_rate")}, "tokens": counted}, counted

    Recorder(job, trainer, row)
    return trainer


def training_rows(sequences: list[TokenSequence]) -> Rows:
    """Tokens and labels as the native loop has them, and a last row without loss for processes that have nothing to do."""
    labels = [[token if counts else IGNORE for token, counts in zip(s.ids, s.counted, strict=True)] for s in sequences]
    shortest = min((sequence.ids for sequence in sequences), key=len)
    ids = [*(sequence.ids for sequence in sequences), shortest]
    return Rows.from_dict({"input_ids": ids, "labels": [*labels, [IGNORE] * len(shortest)]})


def forward_passes(plan: list[list[int]], lengths: list[int], micro_batch_tokens: int, processes: int) -> list[list[int]]:
    """Every update's rows in as many forward passes as the update that needs most, a multiple of `processes`.

    Updates that need fewer get passes over the row without loss, number `len(lengths)`.
    """
    updates = []
    for rows in plan:
        groups = group_by_length((lengths[row] for row in rows), micro_batch_tokens)
        updates.append([[rows[index] for index in group] for group in groups])
    wanted = math.ceil(max(map(len, updates)) / processes) * processes
    return [group for groups in updates for group in _in_parts(groups, wanted, idle=len(lengths))]


def _in_parts(groups: list[list[int]], wanted: int, idle: int) -> list[list[int]]:
    """Halve the largest groups until there are `wanted`; what cannot be halved is filled up with the idle row."""
    while len(groups) < wanted and len(largest := max(groups, key=len)) > 1:
        groups.remove(largest)
        groups += [largest[::2], largest[1::2]]
    return groups + [[idle]] * (wanted - len(groups))
