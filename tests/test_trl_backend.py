"""Runs on TRL held to the native loops: the same updates, gradients, rewards, rollouts and run folders."""

import importlib.util
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from curate.build import build
from curate.config import check_config
from curate.errors import CheckFailed, InputError, UsageError
from curate.recipe import Recipe
from predict import store
from train import checkpoints, evaluate, grpo, rendering, sft
from train.cli import run_config
from train.configs import EvaluateConfig, GrpoConfig, ProblemSet, SftConfig
from train.datasets import open_dataset, open_problems
from train.identity import grpo_run, sft_run
from train.loop import adamw, warmup_cosine
from train.loss import group_advantages
from train.records import CheckpointId, RunFolder, run_id
from train.rollout_steps import problem_order, sample_step
from train.sampling import make_sampler

pytest.importorskip("trl", reason="TRL is not installed: pip install 'forerun[trl]'")
needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed: pip install 'forerun[lora]'"
)

from train import trl_arguments, trl_backend, trl_grpo, trl_sft  # noqa: E402  # they import TRL

ROOT = Path(__file__).parent.parent
BASE = ROOT / "studies/lab/bases/l4-behaved-s0"
RECIPE = {
    "name": "small",
    "sources": [{"task": "arithmetic", "size": 30, "operations": [2, 4], "traces": 2}],
    "heldout": {"examples": 4},
    "rl_prompts": {"examples": 24, "sources": [{"task": "arithmetic", "size": 24, "operations": [2, 3]}]},
    "variants": [{"name": "mixed", "budget": {"examples": 14}, "epochs": 2}, {"name": "few", "budget": {"examples": 2}}],
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Bitwise equal runs need equal numbers of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "small"
    build(check_config(RECIPE, Recipe, origin="test"), folder)
    return folder


def sft_config(data: Path, workspace: Path, engine: str = "trl", **settings) -> SftConfig:
    small = {"model": str(BASE), "dataset": data / "mixed", "home": workspace, "batch_tokens": 256, "engine": engine}
    return SftConfig(**{**small, **settings})


def grpo_config(data: Path, workspace: Path, engine: str = "trl", **settings) -> GrpoConfig:
    small = {"model": str(BASE), "dataset": data / "mixed", "home": workspace, "steps": 3, "problems": 4, "group_size": 4}
    return GrpoConfig(**{**small, "max_tokens": 60, "engine": engine, **settings})


def rows(record: RunFolder) -> list[dict]:
    return [json.loads(line) for line in (record.path / "metrics.jsonl").read_text().splitlines()]


def weights(record: RunFolder, step: int | None = None) -> dict[str, torch.Tensor]:
    return load_file(record.checkpoint(record.run.steps if step is None else step) / "model.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(((first[name] - second[name]) ** 2).sum()) for name in first))


def gradients(model) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def same_metrics(ours: RunFolder, theirs: RunFolder, tolerance: float) -> None:
    """Every number but times; what a step leaves is a little off, as a sum of floats in another order is."""
    assert len(rows(ours)) == len(rows(theirs)) > 0
    for one, other in zip(rows(ours), rows(theirs), strict=True):
        assert one.keys() == other.keys()
        timed = {name for name in one if name.startswith("seconds")}
        assert {k: v for k, v in other.items() if k not in timed} == pytest.approx(
            {k: v for k, v in one.items() if k not in timed}, rel=tolerance, abs=tolerance
        )


def job_of(config, run, model_tokenizer, steps: int) -> trl_backend.Job:
    record = RunFolder.of(config.home, run.run_id)
    return trl_backend.Job(run, record, model_tokenizer, steps, 60.0, lambda *_: None, updates=getattr(config, "updates", 1))


# Identity and settings


def test_ids_of_native_runs_are_what_they_were_before_there_was_a_choice(data, tmp_path):
    start = checkpoints.resolve(str(BASE), tmp_path)
    science = {"epochs": 2, "max_steps": None, "learning_rate": 0.002, "batch_tokens": 256, "max_length": 512}
    science |= {"warmup_share": 0.05, "final_share": 0.1, "weight_decay": 0.01, "max_grad_norm": 1.0}
    dataset = open_dataset(data / "mixed")
    expected = run_id("sft", science, dataset.hash, CheckpointId(start.id.run_id, 0), 0)
    assert sft_run(sft_config(data, tmp_path, "native"), start, dataset).run_id == expected
    science = {"steps": 3, "problems": 4, "group_size": 4, "learning_rate": 0.0006, "warmup_steps": 5, "temperature": 1.0}
    science |= {"max_tokens": 60, "kl_coef": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0, "loss_type": "dapo"}
    science |= {"scale_rewards": "group", "mixed_groups_only": True, "clip_low": 0.2, "clip_high": 0.2, "updates": 1}
    problems = open_problems(data / "mixed")
    expected = run_id("grpo", science, problems.hash, CheckpointId(start.id.run_id, 0), 0)
    assert grpo_run(grpo_config(data, tmp_path, "native"), start, problems).run_id == expected


def test_what_changes_the_numbers_is_part_of_the_identity_and_what_does_not_is_not(data, tmp_path):
    start, dataset = checkpoints.resolve(str(BASE), tmp_path), open_dataset(data / "mixed")

    def identity(engine="trl", **trl) -> str:
        return sft_run(sft_config(data, tmp_path, engine, trl=trl), start, dataset).run_id

    plain = identity()
    assert identity(gradient_checkpointing=True) == identity(bf16=False) == plain
    changed = [identity("native"), identity(bf16=True), identity(lora_rank=4), identity(lora_rank=8)]
    changed += [identity(lora_rank=8, lora_alpha=8.0), identity(extra={"adam_epsilon": 1e-6})]
    assert len({plain, *changed}) == len(changed) + 1


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (sft_config, {"engine": "native", "trl": {"bf16": True}}, "settings of `engine: trl`"),
        (sft_config, {"trl": {"rollouts": "generate"}}, "SFT samples nothing"),
        (sft_config, {"trl": {"lora_alpha": 8}}, "need lora_rank"),
        (sft_config, {"trl": {"lora_ranks": 8}}, "lora_ranks"),
        (grpo_config, {"sampler": "transformers", "trl": {"rollouts": "generate"}}, "set one of the two"),
        (grpo_config, {"trl": {"rollouts": "server"}}, "go together"),
        (grpo_config, {"trl": {"vllm_server": "http://localhost:1"}}, "go together"),
        (grpo_config, {"trl": {"lora_rank": 4}}, "without adapters"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(data, tmp_path, make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(data, tmp_path, **settings)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (sft_config, {"engine": "native"}),
        (sft_config, {"trl": {"lora_rank": 4, "lora_targets": ["q_proj"], "extra": {"adam_epsilon": 1e-6}}}),
        (grpo_config, {"trl": {"rollouts": "generate", "lora_rank": 4}}),
    ],
)
def test_settings_may_be_written_out_in_full_as_a_study_hands_them_on(data, tmp_path, make, settings):
    config = make(data, tmp_path, **settings)
    assert type(config).model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("make", "settings", "error", "message"),
    [
        (sft_config, {"trl": {"extra": {"learning_rate": 1}}}, UsageError, "extra.learning_rate: the run's own"),
        (
            sft_config,
            {"trl": {"extra": {"packing": True}}},
            UsageError,
            "extra.packing: the run's own settings decide this; take",
        ),
        (sft_config, {"trl": {"extra": {"warmup_steps": 3}}}, UsageError, "set warmup_share or warmup_steps instead"),
        (sft_config, {"trl": {"extra": {"adam_epsilom": 1}}}, UsageError, "did you mean 'adam_epsilon'"),
        (grpo_config, {"trl": {"extra": {"num_generations": 2}}}, UsageError, "extra.num_generations: the run's own"),
        (grpo_config, {"trl": {"rollouts": "colocate"}}, UsageError, "needs vLLM, which is not installed"),
        (sft_config, {"max_length": 20}, InputError, "more than max_length 20; nothing is cut"),
    ],
)
def test_what_trl_cannot_be_given_stops_the_run_before_it_starts(data, tmp_path, make, settings, error, message):
    config = make(data, tmp_path, **settings)
    with pytest.raises(error, match=message):
        (sft if make is sft_config else grpo).main(config)
    assert not list(tmp_path.glob("runs/*/metrics.jsonl"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_an_error(data, tmp_path):
    with pytest.raises(UsageError, match="torch sees no GPU here; set device: cpu"):
        sft.main(sft_config(data, tmp_path, device="cuda"))


def test_a_launcher_may_not_change_the_precision_unseen(data, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as `accelerate launch --mixed_precision bf16` does
    with pytest.raises(UsageError, match=r"told mixed precision bf16, the run says no; set trl.bf16 to agree"):
        sft.main(sft_config(data, tmp_path))


def test_vllm_gets_the_flags_of_trl(data, tmp_path, monkeypatch):
    """The flags alone: vLLM itself needs a GPU."""
    monkeypatch.setattr(trl_grpo, "find_spec", lambda _: True)
    config = grpo_config(data, tmp_path, trl={"rollouts": "server", "vllm_server": "http://gpu:8000", "extra": {"top_p": 0.9}})
    run = grpo_run(config, checkpoints.resolve(str(BASE), tmp_path), open_problems(data / "mixed"))
    own = trl_grpo._own_arguments(config, job_of(config, run, None, 3))
    made = trl_arguments.arguments(trl_grpo.Arguments, config.trl, own)
    assert (made.use_vllm, made.vllm_mode, made.vllm_server_base_url, made.top_p) == (True, "server", "http://gpu:8000", 0.9)
    assert (made.num_generations, made.generation_batch_size, made.temperature, made.max_steps) == (4, 16, 1.0, 3)
    with pytest.raises(UsageError, match="sampler runs in one process, came 2"):
        trl_grpo.rollout_arguments(grpo_config(data, tmp_path).trl, 2)


@pytest.mark.parametrize(("package", "settings"), [("trl", {}), ("peft", {"trl": {"lora_rank": 4}})])
def test_a_package_that_is_missing_is_named_with_its_extra(data, tmp_path, monkeypatch, package, settings):
    monkeypatch.setitem(sys.modules, package, None)  # as Python marks a module that cannot be imported
    with pytest.raises(UsageError, match=rf"needs {package.upper() if package == 'trl' else package}, .*pip install 'forerun\["):
        sft.main(sft_config(data, tmp_path, **settings))


# SFT


@pytest.mark.parametrize("micro_batch_tokens", [2048, 96])
def test_loss_and_gradient_of_an_sft_update_equal_the_native_loops(data, tmp_path, micro_batch_tokens):
    config = sft_config(data, tmp_path, micro_batch_tokens=micro_batch_tokens)
    model, tokenizer = checkpoints.load(BASE)
    sequences = rendering.training_sequences(tokenizer, open_dataset(data / "mixed").train(), config.max_length)
    plan = sorted(sft.update_plan(config, 2, sequences), key=len, reverse=True)  # several examples in the first update
    batch = [sequences[index] for index in plan[0]]
    counted = sum(sum(sequence.counted[1:]) for sequence in batch)
    losses = list(sft._micro_losses(model, batch, counted, rendering.pad_id(tokenizer), config))
    sum(losses).backward()
    expected = gradients(model)

    run = sft_run(config, checkpoints.resolve(str(BASE), tmp_path), open_dataset(data / "mixed"))
    trainer = trl_sft.make_trainer(config, job_of(config, run, tokenizer, len(plan)), checkpoints.load(BASE)[0], sequences, plan)
    loss = first_update(trainer)
    assert len(batch) > 1 and (len(losses) > 1) == (micro_batch_tokens == 96)
    assert loss == pytest.approx(sum(loss.item() for loss in losses), abs=1e-5)
    assert torch.allclose(gradients(trainer.model), expected, rtol=0, atol=1e-5)


def test_the_optimizer_is_the_native_loops(data, tmp_path):
    config = sft_config(data, tmp_path, weight_decay=0.3)
    model, tokenizer = checkpoints.load(BASE)
    sequences = rendering.training_sequences(tokenizer, open_dataset(data / "mixed").train(), config.max_length)
    run = sft_run(config, checkpoints.resolve(str(BASE), tmp_path), open_dataset(data / "mixed"))
    theirs = trl_sft.make_trainer(config, job_of(config, run, tokenizer, 1), model, sequences, [[0]]).create_optimizer()
    [ours] = adamw(model, config.learning_rate, config.weight_decay).param_groups
    [used] = [group for group in theirs.param_groups if group["params"]]
    assert {id(parameter) for parameter in used["params"]} == {id(parameter) for parameter in ours["params"]}
    assert type(theirs) is torch.optim.AdamW
    assert all(used[name] == ours[name] for name in ("lr", "betas", "eps", "weight_decay", "amsgrad"))


def first_update(trainer) -> float:
    """Run TRL's forward and backward passes of the first optimizer step; the summed loss."""
    trainer.create_optimizer()
    parts = trainer.args.gradient_accumulation_steps
    batches, counted = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), parts, trainer.args.device)
    trainer.current_gradient_accumulation_steps = len(batches)
    return sum(float(trainer.training_step(trainer.model, batch, counted)) for batch in batches)


def test_rows_of_trl_are_our_tokens_and_labels(data, tmp_path):
    tokenizer = checkpoints.load(BASE)[1]
    sequences = rendering.training_sequences(tokenizer, open_dataset(data / "mixed").train(), 512)
    made = trl_sft.training_rows(sequences)
    for sequence, row in zip(sequences, made, strict=False):
        assert row["input_ids"] == sequence.ids
        assert [label != -100 for label in row["labels"]] == sequence.counted
        assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))
    assert len(made) == len(sequences) + 1 and set(made[-1]["labels"]) == {-100}


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_update_has_its_own_rows_in_equally_many_passes_for_each_process(processes):
    plan, lengths = [[0, 1, 2, 3], [4], [5, 6]], [10, 12, 9, 30, 11, 10, 10]
    passes = trl_sft.forward_passes(plan, lengths, 24, processes)
    each = len(passes) // len(plan)
    assert len(passes) == each * len(plan) and each % processes == 0
    for number, rows_of_update in enumerate(plan):
        mine = passes[number * each : (number + 1) * each]
        assert sorted(row for group in mine for row in group if row != len(lengths)) == rows_of_update
        assert all(len(group) == 1 or max(lengths[row] for row in group) * len(group) <= 24 for group in mine)


def test_an_sft_run_on_trl_leaves_the_folder_that_a_native_run_leaves(data, tmp_path):
    settings = {"keep_shares": (0.5,), "micro_batch_tokens": 128}
    ours = sft.main(sft_config(data, tmp_path, "native", **settings))
    theirs = sft.main(sft_config(data, tmp_path, **settings))
    same_metrics(ours, theirs, 1e-3)
    assert [row["learning_rate"] for row in rows(theirs)] == [
        0.002 * warmup_cosine(step, theirs.run.steps, 0.05, 0.1) for step in range(theirs.run.steps)
    ]
    run = theirs.run
    assert (run.status, run.engine, run.steps, run.tokens) == ("done", "trl", ours.run.steps, ours.run.tokens)
    assert run.versions.keys() >= {"trl", "accelerate", "torch"} and run.seconds > 0 and run.finished_at
    assert sorted(path.name for path in theirs.path.iterdir()) == ["checkpoints", "metrics.jsonl", "run.json"]
    files = [sorted(path.relative_to(record.path) for path in record.path.rglob("checkpoints/*/*")) for record in (ours, theirs)]
    assert files[0] == files[1]
    for name in ("tokenizer.json", "tokenizer_config.json"):  # what is kept is the start's, not what TRL made of it
        assert (theirs.checkpoint(run.steps) / name).read_text() == (ours.checkpoint(run.steps) / name).read_text()
    halfway = min(int(file.parts[1]) for file in files[1])
    base = {name: tensor.float() for name, tensor in load_file(BASE / "model.safetensors").items()}
    assert halfway < run.steps
    for step in (halfway, run.steps):  # AdamW makes full steps of gradients that are nothing but rounding
        assert distance(weights(ours, step), weights(theirs, step)) < 0.02 * distance(weights(ours, step), base)


def test_a_run_on_trl_can_be_measured_stored_and_gone_on_from_and_is_not_run_twice(data, tmp_path, capsys):
    record = sft.main(sft_config(data, tmp_path, dataset=data / "few"))
    reference = f"{record.run.run_id}@{record.run.steps}"
    problems = ProblemSet(set="A", problems=2, num_samples=2, operations=(2, 3))
    evaluate.main(EvaluateConfig(model=reference, home=tmp_path, problems=problems, max_tokens=40))
    assert list(record.path.glob("evaluations/*.parquet"))
    trained = grpo.main(grpo_config(data, tmp_path, model=record.run.run_id, steps=1))
    again = grpo.main(grpo_config(data, tmp_path, "native", model=f"{trained.run.run_id}@1", steps=1))
    assert trained.run.parent == {"run_id": record.run.run_id, "step": record.run.steps}
    assert again.run.parent == {"run_id": trained.run.run_id, "step": 1} and again.run.status == "done"
    assert capsys.readouterr().out == ""  # standard output is the command's
    store.ingest(tmp_path)
    asked = "select stage, status, engine, parent_run_id from runs where engine like 'trl%' order by stage"
    assert store.query(tmp_path, asked).rows() == [
        ("grpo", "done", trained.run.engine, record.run.run_id),
        ("sft", "done", "trl", record.run.parent["run_id"]),
    ]
    before = (trained.path / "run.json").stat().st_mtime_ns, rows(trained)
    assert grpo.main(grpo_config(data, tmp_path, model=record.run.run_id, steps=1)).path == trained.path
    assert sft.main(sft_config(data, tmp_path, dataset=data / "few")).path == record.path
    assert before == ((trained.path / "run.json").stat().st_mtime_ns, rows(trained))


def test_checkpoints_asked_for_later_are_made_without_touching_the_run(data, tmp_path):
    record = sft.main(sft_config(data, tmp_path))
    before = (record.path / "run.json").read_text(), rows(record), weights(record)
    sft.main(sft_config(data, tmp_path, keep_shares=(0.5,)))
    [halfway] = {int(path.name) for path in (record.path / "checkpoints").iterdir()} - {record.run.steps}
    assert before[:2] == ((record.path / "run.json").read_text(), rows(record)) and equal(before[2], weights(record))
    kept = sft.main(sft_config(data, tmp_path / "other", keep_shares=(0.5,)))
    assert equal(weights(record, halfway), weights(kept, halfway))


# GRPO


def grpo_trainer(config: GrpoConfig):
    """A trainer on the shipped base, a second model of equal weights, the problems of the first step."""
    problems = open_problems(config.dataset)
    run = grpo_run(config, checkpoints.resolve(str(BASE), config.home), problems)
    model, tokenizer = checkpoints.load(BASE)
    order = problem_order(config, problems.rows)
    trainer = trl_grpo.make_trainer(config, job_of(config, run, tokenizer, config.steps), model, order)
    return trainer, checkpoints.load(BASE)[0], tokenizer, order[: config.problems]


def native_batch(config: GrpoConfig, model, tokenizer, chosen):
    """Rollouts, rewards and gradient rows of the native loop's first step."""
    prompts = [rendering.prompt_ids(tokenizer, problem) for problem in chosen]
    rollouts = sample_step(make_sampler("native", model, tokenizer), prompts, config, 0)
    rewards = grpo._rewards(rollouts, chosen, tokenizer, config, 0)
    return rollouts, rewards, grpo._gradient_rows(rollouts, rewards, prompts, config)


def test_rollouts_rewards_and_advantages_of_trl_are_the_native_loops(data, tmp_path):
    config = grpo_config(data, tmp_path, max_tokens=24)
    trainer, model, tokenizer, chosen = grpo_trainer(config)
    rollouts, rewards, _ = native_batch(config, model, tokenizer, chosen)
    batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    assert torch.equal(batch["completion_ids"], rollouts.tokens)
    assert torch.equal(batch["completion_mask"], rollouts.mask.long())
    assert torch.equal(trainer.rewards, rewards)
    assert (~rollouts.finished).any() and not trainer.rewards.flatten()[~rollouts.finished].any()  # cut at the limit: nothing
    assert torch.allclose(batch["advantages"], group_advantages(rewards).flatten(), atol=1e-5)
    prompts = [rendering.prompt_ids(tokenizer, problem) for problem in chosen for _ in range(config.group_size)]
    asked = [ids[mask.bool()].tolist() for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)]
    assert asked == prompts


def test_a_right_answer_that_was_cut_before_its_end_token_gets_nothing(data, tmp_path):
    tokenizer = checkpoints.load(BASE)[1]
    example = open_dataset(data / "mixed").train()[0]
    sequence = rendering.training_sequence(tokenizer, example, 512)
    whole = [token for token, counted in zip(sequence.ids, sequence.counted, strict=True) if counted]
    reward = trl_grpo._reward(grpo_config(data, tmp_path), tokenizer)
    truths = [example.problem.ground_truth, example.problem.ground_truth, "1" + example.problem.ground_truth]
    assert reward(completion_ids=[whole, whole[:-1], whole], ground_truth=truths, prompts=[], completions=[]) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("mixed_groups_only", [True, False])
@pytest.mark.parametrize(
    ("loss_type", "kl_coef"), [("grpo", 0.3), ("dr_grpo", 0.0), ("dr_grpo", 0.3), ("dapo", 0.0), ("dapo", 0.3)]
)
def test_loss_and_gradient_of_a_grpo_update_equal_the_native_loops(data, tmp_path, loss_type, kl_coef, mixed_groups_only):
    settings = {"loss_type": loss_type, "mixed_groups_only": mixed_groups_only, "micro_batch_tokens": 240, "kl_coef": kl_coef}
    config = grpo_config(data, tmp_path, scale_rewards="none" if loss_type == "dr_grpo" else "group", **settings)
    trainer, model, tokenizer, chosen = grpo_trainer(config)
    for moved in (trainer.model, model):  # away from the reference, so that there is a KL penalty
        noise = torch.Generator().manual_seed(0)
        for parameter in moved.parameters():
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=noise)
    rollouts, rewards, batch = native_batch(config, model, tokenizer, chosen)
    mixed = rewards.max(1).values > rewards.min(1).values
    assert 0 < int(mixed.sum()) < len(mixed)  # both kinds of group are in the batch
    expected, reference = 0.0, checkpoints.load(BASE)[0] if kl_coef else None
    for loss in grpo._micro_losses(model, batch, reference, rendering.pad_id(tokenizer), config):
        loss.backward()
        expected += loss.item()
    loss = first_update(trainer)
    assert trainer.args.gradient_accumulation_steps == 4
    assert loss == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(gradients(trainer.model), gradients(model), rtol=0, atol=1e-5)
    entropy = (rollouts.entropies * rollouts.lengths).sum() / rollouts.lengths.sum()
    assert float(trainer.entropy[0] / trainer.entropy[1]) == pytest.approx(float(entropy), abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"keep_steps": (2,)},
        {"kl_coef": 0.2, "temperature": 0.8, "loss_type": "grpo", "learning_rate": 0.001},
        {"updates": 2, "clip_high": 0.28, "learning_rate": 0.001},
        {"reward": "random", "steps": 2, "weight_decay": 0.1},
    ],
)
def test_a_grpo_run_on_trl_is_the_native_run_but_for_rounding(data, tmp_path, settings):
    ours = grpo.main(grpo_config(data, tmp_path, "native", **settings))
    theirs = grpo.main(grpo_config(data, tmp_path, **settings))
    same_metrics(ours, theirs, 2e-3)
    run = theirs.run
    assert (run.status, run.steps, run.tokens) == ("done", ours.run.steps, ours.run.tokens)
    assert run.engine == f"trl, {ours.run.engine}" and run.rl_seed == 0 and run.run_id != ours.run.run_id
    kept = sorted(int(path.name) for path in (theirs.path / "checkpoints").iterdir())
    assert kept == sorted({*settings.get("keep_steps", ()), run.steps})
    assert sorted(path.name for path in theirs.path.iterdir()) == ["checkpoints", "metrics.jsonl", "run.json"]


def test_a_batch_without_mixed_groups_takes_no_step(data, tmp_path):
    """AdamW would move the weights by the momentum of the steps before."""
    record = grpo.main(grpo_config(data, tmp_path, problems=1, steps=8, keep_steps=tuple(range(1, 9)), weight_decay=0.1))
    mixed = [row["frac_mixed"] for row in rows(record)]
    still = mixed.index(0.0, mixed.index(1.0))
    assert rows(record)[still]["loss"] == rows(record)[still]["grad_norm"] == 0.0 and rows(record)[still]["entropy"] > 0
    assert equal(weights(record, still), weights(record, still + 1))
    moved = mixed.index(1.0, 1)
    assert not equal(weights(record, moved), weights(record, moved + 1))


def test_trl_samples_by_itself_where_it_is_asked_to(data, tmp_path):
    record = grpo.main(grpo_config(data, tmp_path, trl={"rollouts": "generate"}, steps=2, max_tokens=30))
    assert record.run.engine == "trl, generate" and record.run.status == "done" and len(rows(record)) == 2
    assert all(0 < row["mean_tokens"] <= 30 and 0 < row["entropy"] < 3 for row in rows(record))
    assert record.run.tokens == sum(round(row["mean_tokens"] * 16) for row in rows(record))


def test_a_run_that_diverges_fails_and_keeps_finite_weights(data, tmp_path):
    config = sft_config(data, tmp_path, learning_rate=1e30)
    with pytest.raises(CheckFailed, match=r"diverged.*kept in.*lower learning_rate"):
        sft.main(config)
    [path] = tmp_path.glob("runs/*/metrics.jsonl")
    record = RunFolder(path.parent)
    assert record.run.status == "failed" and record.run.steps == len(rows(record)) > 0
    assert all(bool(tensor.isfinite().all()) for tensor in weights(record).values())
    assert not (record.path / "trl_state").exists()


# Going on after a kill


def broken_off(stage, config, after: int) -> RunFolder:
    """Break a run off in the middle of a step, as Ctrl-C does; the state of the step before is there."""

    def interrupt(step: int, *_) -> None:
        if step == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.main(config, interrupt)
    return RunFolder(next(config.home.glob("runs/*/metrics.jsonl")).parent)


@pytest.mark.parametrize(
    ("stage", "make", "settings"),
    [
        (sft, sft_config, {"micro_batch_tokens": 128}),
        (grpo, grpo_config, {"steps": 4, "max_tokens": 24, "updates": 2}),
        (grpo, grpo_config, {"steps": 4, "max_tokens": 24, "trl": {"rollouts": "generate"}, "micro_batch_tokens": 240}),
    ],
)
def test_a_run_that_was_broken_off_ends_with_the_weights_of_an_unbroken_one(data, tmp_path, stage, make, settings):
    unbroken = stage.main(make(data, tmp_path / "unbroken", **settings))
    config = make(data, tmp_path / "broken", save_seconds=0, **settings)
    record = broken_off(stage, config, 3)
    torn = record.path / "trl_state/checkpoint-99"  # as a kill while it is written leaves it
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    (record.path / "metrics.jsonl").open("a").write('{"step": 9, "lo')
    created = record.run.created_at
    assert record.run.status == "running"
    seen: list[int] = []
    stage.main(config, lambda step, *_: seen.append(step))
    assert seen == list(range(3, unbroken.run.steps + 1))
    assert equal(weights(record), weights(unbroken))
    metric = "loss" if stage is sft else "reward_mean"
    assert record.metric(metric) == unbroken.metric(metric) and len(record.metric(metric)) == unbroken.run.steps
    run = record.run
    assert (run.status, run.tokens, run.steps, run.created_at) == ("done", unbroken.run.tokens, unbroken.run.steps, created)
    assert not (record.path / "trl_state").exists()


def test_a_run_whose_last_checkpoint_could_not_be_written_needs_no_step_more(data, tmp_path):
    config = sft_config(data, tmp_path / "broken", dataset=data / "few", save_seconds=0)
    record = RunFolder.of(config.home, sft.main(config).run.run_id)
    whole = weights(record), rows(record)
    shutil.rmtree(config.home)
    record.path.mkdir(parents=True)
    (record.path / "checkpoints").write_text("in the way")
    with pytest.raises(OSError, match="checkpoints"):
        sft.main(config)
    assert record.run.status == "running"
    (record.path / "checkpoints").unlink()
    sft.main(config, lambda step, *_: pytest.fail(f"step {step} was taken again"))
    assert record.run.status == "done" and equal(weights(record), whole[0]) and rows(record) == whole[1]


@pytest.mark.slow
def test_a_run_on_trl_that_was_killed_goes_on(data, tmp_path):
    """A real process and a real SIGKILL."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    unbroken = sft.main(sft_config(data, tmp_path / "unbroken", epochs=8))
    config = sft_config(data, tmp_path / "broken", epochs=8, save_seconds=0)
    process = context.Process(target=run_config, args=("sft", config.model_dump(mode="json")))
    process.start()
    while not (list(config.home.glob("runs/*/trl_state/checkpoint-*/forerun.json"))):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    record = sft.main(config)
    assert record.run.status == "done" and equal(weights(record), weights(unbroken))


# LoRA, several processes


@needs_peft
@pytest.mark.parametrize(
    ("stage", "make", "settings"),
    [
        (sft, sft_config, {}),
        (grpo, grpo_config, {"sampler": "transformers", "max_tokens": 40, "kl_coef": 0.1, "learning_rate": 0.01}),
    ],
)
def test_adapters_are_merged_into_the_checkpoint(data, tmp_path, stage, make, settings):
    """Each matrix has moved by a matrix of the adapters' rank; nothing else has moved."""
    record = stage.main(make(data, tmp_path, trl={"lora_rank": 2, "lora_alpha": 4.0}, **settings))
    base, trained = load_file(BASE / "model.safetensors"), weights(record)
    assert trained.keys() == base.keys() and record.run.status == "done" and "peft" in record.run.versions
    moved = {name for name in base if not torch.equal(base[name].float(), trained[name])}
    assert moved == {name for name in base if name.endswith("proj.weight")}
    ranks = {int(torch.linalg.matrix_rank(trained[name] - base[name].float(), rtol=1e-3)) for name in moved}
    assert ranks <= {1, 2} and 2 in ranks
    assert checkpoints.load(record.checkpoint(record.run.steps))[0]  # an ordinary model folder


@needs_peft
def test_adapters_go_on_after_a_run_was_broken_off(data, tmp_path):
    settings = {"trl": {"lora_rank": 2}}
    unbroken = sft.main(sft_config(data, tmp_path / "unbroken", **settings))
    config = sft_config(data, tmp_path / "broken", save_seconds=0, **settings)
    record = broken_off(sft, config, 3)
    sft.main(config)
    assert equal(weights(record), weights(unbroken))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "settings"), [("sft", []), ("grpo", ["trl.rollouts=generate", "reward=random"])])
def test_two_processes_take_the_updates_of_one_and_one_of_them_writes(data, tmp_path, stage, settings):
    make, module = (sft_config, sft) if stage == "sft" else (grpo_config, grpo)
    config = make(data, tmp_path, steps=2) if stage == "grpo" else make(data, tmp_path)
    values = [*settings, f"model={BASE}", f"dataset={data / 'mixed'}", "engine=trl"]
    values += ["steps=2", "problems=4", "group_size=4", "max_tokens=60"] if stage == "grpo" else ["batch_tokens=256"]
    (tmp_path / "config.yaml").write_text("{}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "train.cli", stage]
    command += [str(tmp_path / "config.yaml"), "--home", str(tmp_path / "two"), *(f"--set={value}" for value in values)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{stage} ") == 1
    record = RunFolder(next((tmp_path / "two").glob("runs/*/metrics.jsonl")).parent)
    assert record.run.status == "done"
    if stage == "sft":
        same_metrics(module.main(config), record, 1e-3)
    else:
        assert [(row["step"], row["reward_mean"] <= 1, row["mean_tokens"] > 0) for row in rows(record)] == [
            (1, True, True),
            (2, True, True),
        ]
        coins = grpo.main(grpo_config(data, tmp_path, "native", steps=2, reward="random"))
        assert record.metric("frac_mixed") == coins.metric("frac_mixed")  # the coins of all processes are those of one
    assert sorted(path.name for path in record.path.iterdir()) == ["checkpoints", "metrics.jsonl", "run.json"]
