"""Run a grid of SFT-then-RL runs: plan it, run each stage in a process of one thread, skip what is done (torch-free).

A *chain* is one checkpoint's way through the stages: sft -> signals -> grpo (per RL seed) -> outcome. Chains are
independent, so workers take one each, and a study that was killed goes on where it stood.
"""

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from curate.build import build
from curate.config import check_config, read_yaml, set_key
from curate.errors import CheckFailed, ForerunError, InputError, UsageError
from curate.files import content_hash, read_json, write_json, write_text
from curate.recipe import load_recipe
from train import checkpoints
from train.configs import EvaluateConfig, GrpoConfig, ProblemSet, Purpose, SftConfig
from train.datasets import Dataset, open_dataset, open_problems
from train.identity import grpo_run, sft_run
from train.records import Run, RunFolder, workspace
from train.stage_process import StageProcesses
from train.study_plan import BASE, Cell, StudyConfig, chosen_stages, plan, sharded, variants_of

EXPECTED_SECONDS = {"build": 20.0, "sft": 15.0, "signals": 25.0, "grpo": 60.0, "outcome": 25.0}
"""For the estimate before anything has been timed: the embedded task on one core."""


@dataclass
class Progress:
    """Counts stages, times them, prints one line for each that was run, with the time left."""

    total: dict[str, int]
    silent: bool
    workers: int
    done: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, stage: str, label: str, seconds: float | None) -> None:
        """One stage has ended; `seconds` is None if it was skipped."""
        with self.lock:
            self.done += 1
            self.total[stage] -= 1
            if seconds is not None:
                self.seconds.setdefault(stage, []).append(seconds)
            if not self.silent and seconds is not None:
                left = self.left() / 60
                print(f"[{self.done}] {stage:8s}{label}: {seconds:.0f} s; {left:.0f} min left", file=sys.stderr, flush=True)

    def left(self) -> float:
        """Seconds still needed, from the stages timed so far."""
        return sum(count * self._mean(stage) for stage, count in self.total.items()) / self.workers

    def _mean(self, stage: str) -> float:
        timed = self.seconds.get(stage)
        return sum(timed) / len(timed) if timed else EXPECTED_SECONDS[stage]


def run_study(
    config: StudyConfig,
    *,
    stages: str | None = None,
    workers: int = 1,
    shard: str | None = None,
    dry_run: bool = False,
    silent: bool = False,
) -> dict[str, Any]:
    """Run the study's stages; returns a summary for `--json`.

    Raises:
        UsageError: an unknown stage, shard or setting.
        CheckFailed: some runs failed; the others were finished, and a rerun takes up the failed ones.
    """
    chosen = chosen_stages(config, stages)
    study = _Study(config, chosen)
    cells = sharded(list(plan(config)), shard)
    for cell in cells:
        study.check(cell)
    progress = Progress(_counts(cells, config, chosen), silent, workers)
    summary = {"name": config.name, "cells": len({cell.name for cell in cells}), "checkpoints": len(cells), **progress.total}
    if not silent:
        counts = ", ".join(f"{count} {stage}" for stage, count in progress.total.items())
        print(f"study {config.name}: {len(cells)} checkpoints; {counts}; about {progress.left() / 60:.0f} min", file=sys.stderr)
    if dry_run:
        for cell in cells if not silent else []:
            print(f"  {cell.label}", file=sys.stderr)
        return {**summary, "dry_run": True}
    if "build" in chosen:
        for seed in sorted({cell.data_seed for cell in cells}):
            study.build(seed, progress)
    failures = _run_chains(study, cells, workers, progress)
    if failures:
        raise CheckFailed(f"{len(failures)} of {len(cells)} checkpoints failed:\n" + "\n".join(failures))
    return {**summary, "failed": 0}


def _run_chains(study: "_Study", cells: list[Cell], workers: int, progress: Progress) -> list[str]:
    """Run all chains; a failed one is noted and the others go on."""
    failures = []
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(study.chain, cell, progress): cell.label for cell in cells}
        if "signals" in study.stages:
            futures |= {pool.submit(study.measure_base, base): base for base in study.bases}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, ForerunError):
                    failures.append(f"  {futures[future]}: {error}")
                elif error is not None:
                    raise error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            study.processes.stop()
            raise
    return failures


def _counts(cells: list[Cell], config: StudyConfig, stages: tuple[str, ...]) -> dict[str, int]:
    per_stage = {
        "build": len({cell.data_seed for cell in cells}),
        "sft": len(cells),
        "signals": len(cells),
        "grpo": len(cells) * len(config.seeds.rl),
        "outcome": len(cells) * len(config.seeds.rl),
    }
    return {stage: per_stage[stage] for stage in stages}


class _Study:
    """Knows the files of one study and runs its stages."""

    def __init__(self, config: StudyConfig, stages: tuple[str, ...]) -> None:
        self.config, self.stages = config, stages
        self.home = workspace(config.home)
        self.jobs = self.home / "studies" / config.name
        self.locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        """One a run or evaluation: two cells that differ in RL settings alone share their SFT run."""
        self.processes = StageProcesses()
        self.bases = {name: checkpoints.resolve(name, self.home) for name in config.bases}

    def datasets(self, seed: int) -> Path:
        """Where the recipe's variants are built for one data seed."""
        return self.home / "datasets" / f"{self.config.name}-seed{seed}"

    def build(self, seed: int, progress: Progress) -> None:
        """Build the recipe's datasets for one data seed."""
        folder, label = self.datasets(seed), f"data {seed}"
        recipe, built_from = read_yaml(self.config.recipe), self.jobs / f"recipe-seed{seed}.json"
        if folder.exists():
            if built_from.exists() and read_json(built_from) != recipe:
                raise InputError(f"{folder} was built before {self.config.recipe} changed; remove it or rename the study")
            progress.report("build", label, None)
            return
        began = time.monotonic()
        build(load_recipe(self.config.recipe, seed=seed), folder)
        write_json(built_from, recipe)
        progress.report("build", label, time.monotonic() - began)

    def check(self, cell: Cell) -> None:
        """Check the settings of a cell before anything is run.

        Raises:
            UsageError: an unknown setting, or a value that it cannot have.
        """
        self._sft_config(cell, Path("dataset"))
        self._grpo_config(cell, "model", Path("dataset"), 0)
        if cell.variant == BASE and (wrong := [key for key in cell.overrides if key.startswith("sft.")]):
            raise UsageError(f"{wrong[0]}: a cell of variant {BASE!r} has no SFT; leave the key out")

    def measure_base(self, base: str) -> None:
        """Sample the signal problems from a base model: what SFT adds or takes is judged against it."""
        self._evaluate_once(self._evaluate_config("signals", self.bases[base].id.run_id, None))

    def chain(self, cell: Cell, progress: Progress) -> None:
        """Take one checkpoint through the chosen stages.

        Raises:
            ForerunError: a stage failed; what it printed is the message.
        """
        dataset = open_dataset(self._dataset_of(cell))
        start_id = self._start(cell, dataset, progress)
        if "signals" in self.stages:
            self._measure("signals", start_id, cell, progress, dataset.folder)
        for rl_seed in self.config.seeds.rl:
            if not {"grpo", "outcome"} & set(self.stages):
                break
            grpo = self._grpo_config(cell, start_id, dataset.folder, rl_seed)
            start = checkpoints.resolve(start_id, self.home)
            rl_run = grpo_run(grpo, start, open_problems(grpo.dataset))
            if "grpo" in self.stages:
                self._train("grpo", grpo, rl_run, cell, progress)
            if "outcome" in self.stages:
                kept = [f"{rl_run.run_id}@{step}" for step in grpo.keep_steps if step < grpo.steps]
                self._measure("outcome", rl_run.run_id, cell, progress, dataset.folder, [start_id, *kept])

    def _dataset_of(self, cell: Cell) -> Path:
        """The cell's dataset folder; for a start without SFT any variant's, since the held-out and the RL set are in each."""
        folder = self.datasets(cell.data_seed)
        return folder / (cell.variant if cell.variant != BASE else variants_of(self.config)[0])

    def _start(self, cell: Cell, dataset: Dataset, progress: Progress) -> str:
        """The run id of the checkpoint that RL starts from, trained if that is one of the stages."""
        base = self.bases[cell.base]
        if cell.variant == BASE:
            if "sft" in self.stages:
                progress.report("sft", cell.label, None)
            return base.id.run_id
        sft = self._sft_config(cell, dataset.folder)
        run = sft_run(sft, base, dataset)
        if "sft" in self.stages:
            self._train("sft", sft, run, cell, progress)
        return run.run_id

    def _sft_config(self, cell: Cell, dataset: Path) -> SftConfig:
        base = {k: v for k, v in self.config.sft.items() if (k, v) != ("epochs", "from_variant")}
        data = {"sft": {**base, "model": str(self.bases[cell.base].folder), "dataset": str(dataset)}}
        return check_config(_overridden(data, cell, "sft", self.home, cell.sft_seed), SftConfig, origin="sft")

    def _grpo_config(self, cell: Cell, model: str, dataset: Path, seed: int) -> GrpoConfig:
        data = {"grpo": {**self.config.grpo, "model": model, "dataset": str(dataset)}}
        return check_config(_overridden(data, cell, "grpo", self.home, seed), GrpoConfig, origin="grpo")

    def _train(self, stage: str, config: SftConfig | GrpoConfig, run: Run, cell: Cell, progress: Progress) -> None:
        with self.locks[run.run_id]:
            done = RunFolder.of(self.home, run.run_id).is_done
            took = None if done else self._stage(stage, run.run_id, config.model_dump(mode="json"))
        progress.report(stage, cell.label, took)

    def _measure(
        self,
        stage: Literal["signals", "outcome"],
        run_id: str,
        cell: Cell,
        progress: Progress,
        dataset: Path,
        others: Iterable[str] = (),
    ) -> None:
        """Signals of an SFT checkpoint; or the outcome of an RL run and, on the same problems, of `others`: its start, kept steps."""
        wanted = self.config.evaluate
        jobs: list[tuple[Purpose, str]] = [(stage, target) for target in (*others, run_id)]
        if stage == "signals" and wanted.rl_signals:
            jobs.append(("rl_signals", run_id))
        if stage == "outcome" and wanted.shifted:
            jobs.append(("outcome_shifted", run_id))
        took = [self._evaluate_once(self._evaluate_config(purpose, target, dataset)) for purpose, target in jobs]
        done = [seconds for seconds in took if seconds is not None]
        progress.report(stage, cell.label, sum(done) if done else None)

    def _evaluate_once(self, config: EvaluateConfig) -> float | None:
        """Seconds of the evaluation, None if it was done before."""
        settings = config.model_dump(mode="json")
        marker = self.jobs / "done" / f"{config.purpose}-{content_hash(settings)}.json"
        with self.locks[marker.name]:
            record = RunFolder.of(self.home, config.model.partition("@")[0])
            if marker.exists() and any(record.path.glob("evaluations/*.parquet")):
                return None
            took = self._stage("evaluate", f"{config.purpose}-{config.model}", settings)
            write_json(marker, {"run_id": config.model, "seconds": took})
            return took

    def _evaluate_config(self, purpose: Purpose, run_id: str, dataset: Path | None) -> EvaluateConfig:
        wanted = self.config.evaluate
        problems = {"signals": wanted.signals, "outcome": wanted.outcome, "outcome_shifted": wanted.shifted}
        if wanted.rl_signals and dataset:
            problems["rl_signals"] = ProblemSet(set=str(dataset / "rl.parquet"), **wanted.rl_signals.model_dump())
        losses = dataset is not None and purpose == "signals"
        return EvaluateConfig(
            home=self.home,
            model=run_id,
            problems=problems[purpose],
            purpose=purpose,
            heldout=wanted.heldout if losses else (),
            dataset=dataset if losses else None,
            temperature=wanted.temperature,
            max_tokens=wanted.max_tokens,
            seed=wanted.seed,
        )

    def _stage(self, stage: str, name: str, settings: dict[str, Any]) -> float:
        """Write the stage's config file and run it in a process of its own; returns seconds."""
        write_text(self.jobs / "configs" / f"{stage}-{name}.yaml", yaml.safe_dump(settings, sort_keys=False))
        return self.processes.run(stage, settings)


def _overridden(data: dict[str, Any], cell: Cell, stage: str, home: Path, seed: int) -> dict[str, Any]:
    for key, value in cell.overrides.items():
        if key.startswith(f"{stage}."):
            data = set_key(data, key, value)
    settings: dict[str, Any] = data[stage]
    return {**settings, "home": str(home), "seed": seed}
