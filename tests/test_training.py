"""SFT, GRPO and evaluation on the shipped base: held to transformers, to hand computation, and to what a kill may not change."""

import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_with_min_lr_schedule_with_warmup

from curate import arithmetic
from curate.answers import Verdict, verify
from curate.build import build
from curate.config import check_config
from curate.errors import CheckFailed, InputError
from curate.examples import Example, Problem, example_row, read_examples, write_parquet
from curate.recipe import Recipe
from train import checkpoints, dense_path, evaluate, grpo, sft
from train.cli import run_config
from train.configs import DensePathConfig, EvaluateConfig, GrpoConfig, ProblemSet, SftConfig
from train.datasets import open_dataset, open_problems, problem_set
from train.identity import grpo_run, sft_run
from train.records import RunFolder, vectors
from train.rollout_steps import collapsed, warmed_up
from train.sampling import make_sampler

BASE = Path(__file__).parent.parent / "studies/lab/bases/l4-behaved-s0"
RECIPE = {
    "name": "small",
    "sources": [{"task": "arithmetic", "size": 60, "operations": [2, 4], "traces": 2}],
    "heldout": {"examples": 12},
    "rl_prompts": {"examples": 32, "sources": [{"task": "arithmetic", "size": 32, "operations": [2, 3]}]},
    "variants": [
        {"name": "mixed", "budget": {"examples": 32}, "epochs": 2},
        {"name": "short", "select": {"length": "short"}, "budget": {"examples": 16}},
    ],
}
STOP_SECONDS = 120


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Bitwise equal runs need equal numbers of threads; the processes started here have one as well."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "small"
    build(check_config(RECIPE, Recipe, origin="test"), folder)
    return folder


@pytest.fixture(scope="module")
def processes():
    """Real processes, forked from a server that has torch imported: to be killed."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.sft", "train.grpo", "train.dense_path", "train.evaluate"])
    return context


def sft_config(data: Path, workspace: Path, **settings) -> SftConfig:
    return SftConfig(**{"model": str(BASE), "dataset": data / "mixed", "home": workspace, "batch_tokens": 512, **settings})


def grpo_config(data: Path, workspace: Path, **settings) -> GrpoConfig:
    small = {"steps": 2, "problems": 4, "group_size": 4, "max_tokens": 60}
    return GrpoConfig(**{"model": str(BASE), "dataset": data / "mixed", "home": workspace, **small, **settings})


def dense_path_config(data: Path, workspace: Path, **settings) -> DensePathConfig:
    other = str(BASE.parent / "l4-plain-s0")  # for want of an earlier checkpoint
    return DensePathConfig(model=str(BASE), reference=other, dataset=data / "mixed", home=workspace, **settings)


def weights(record: RunFolder, step: int | None = None) -> dict[str, torch.Tensor]:
    return load_file(record.checkpoint(record.run.steps if step is None else step) / "model.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(((first[name] - second[name]) ** 2).sum()) for name in first))


def rows(record: RunFolder, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (record.path / name).read_text().splitlines()]


def fresh_base() -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).state_dict()


def jsonl(path: Path, problems: list[Problem]) -> Path:
    lines = [json.dumps({"question": problem.prompt, "answer": problem.ground_truth}) for problem in problems]
    path.write_text("\n".join(lines) + "\n")
    return path


def with_masked_prompt(tokenizer, example: Example) -> tuple[list[int], list[int]]:
    """Token ids and labels by the chat template alone: -100 on everything before the answer."""
    turns = [{"role": "user", "content": example.problem.prompt}, {"role": "assistant", "content": example.completion}]
    ids = tokenizer.apply_chat_template(turns, return_dict=False)
    prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
    assert ids[: len(prompt)] == prompt
    return ids, [-100] * len(prompt) + ids[len(prompt) :]


def transformers_loss(model, tokenizer, examples: list[Example]) -> torch.Tensor:
    """The loss that transformers itself computes for a padded batch with masked labels."""
    pairs = [with_masked_prompt(tokenizer, example) for example in examples]
    width = max(len(ids) for ids, _ in pairs)
    ids = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in pairs])
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in pairs])
    return model(input_ids=ids, labels=labels).loss


# --- SFT


def test_sft_loss_falls_and_tokens_are_those_of_the_completions(data, tmp_path):
    record = sft.main(sft_config(data, tmp_path, epochs=6))
    losses = record.metric("loss")
    third = len(losses) // 3
    assert sum(losses[-third:]) < 0.5 * sum(losses[:third])
    examples = read_examples(data / "mixed/train.jsonl")
    # the prompt ends with the first word of the completion, <think>; the end token is one more
    assert record.run.tokens == 6 * sum(len(example.completion.split()) for example in examples)
    assert record.run.tokens == sum(row["tokens"] for row in rows(record))


def test_one_sft_step_on_the_whole_set_is_that_of_transformers_and_adamw(data, tmp_path):
    record = sft.main(
        sft_config(
            data, tmp_path, max_steps=1, batch_tokens=10**6, micro_batch_tokens=10**6, learning_rate=1e-3, max_grad_norm=0.5
        )
    )
    model, tokenizer = checkpoints.load(BASE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
    loss = transformers_loss(model, tokenizer, read_examples(data / "mixed/train.jsonl"))
    loss.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5))
    optimizer.step()
    row = rows(record)[0]
    assert row["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-4)
    start = fresh_base()
    assert distance(weights(record), model.state_dict()) < 1e-3 * distance(model.state_dict(), start)


def test_micro_batches_of_any_size_give_the_same_weights(data, tmp_path):
    results = [
        weights(sft.main(sft_config(data, tmp_path / str(size), max_steps=4, learning_rate=3e-4, micro_batch_tokens=size)))
        for size in (10**6, 200, 60)
    ]
    assert distance(results[0], fresh_base()) > 0.01
    assert largest_difference(results[0], results[1]) < 5e-5
    assert largest_difference(results[0], results[2]) < 5e-5


def test_sft_learning_rate_is_a_linear_warm_up_then_the_cosine_of_transformers(data, tmp_path):
    record = sft.main(sft_config(data, tmp_path, epochs=4, warmup_share=0.25, final_share=0.2, learning_rate=1e-3))
    steps, rates = record.run.steps, record.metric("learning_rate")
    warmup = round(0.25 * steps)
    assert warmup >= 2
    assert rates[:warmup] == pytest.approx([1e-3 * (step + 1) / warmup for step in range(warmup)])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    theirs = get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, steps, min_lr_rate=0.2)
    expected = []
    for _ in range(steps):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    assert rates[warmup:] == pytest.approx(expected[warmup:])


def test_epochs_default_to_those_of_the_manifest_and_every_epoch_takes_every_example(data, tmp_path):
    record = sft.main(sft_config(data, tmp_path, batch_tokens=10**6))
    assert record.run.steps == 2
    assert record.run.variant["epochs"] == record.run.config["epochs"] == 2


def test_an_example_longer_than_the_limit_is_refused_not_cut(data, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    longest = max(len(with_masked_prompt(tokenizer, example)[0]) for example in read_examples(data / "mixed/train.jsonl"))
    with pytest.raises(InputError, match=rf"{longest} tokens, more than max_length {longest - 1}"):
        sft.main(sft_config(data, tmp_path, max_length=longest - 1))
    assert sft.main(sft_config(data, tmp_path, max_length=longest, max_steps=1)).is_done


def test_a_trained_checkpoint_opens_as_an_ordinary_model_folder(data, tmp_path):
    record = sft.main(sft_config(data, tmp_path, max_steps=2))
    folder = record.checkpoint(2)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert equal(dict(model.state_dict()), weights(record))
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(BASE).chat_template


# --- Runs: identity, folder, reruns


def test_a_run_that_is_done_is_not_run_again(data, tmp_path):
    for module, config in ((sft, sft_config(data, tmp_path, max_steps=2)), (grpo, grpo_config(data, tmp_path, steps=1))):
        record = module.main(config)
        before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in record.path.rglob("*")}
        assert module.main(config).path == record.path
        assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in record.path.rglob("*")} == before


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_equal_config_and_seed_give_bitwise_equal_weights(data, tmp_path, stage):
    module, config = (sft, sft_config) if stage == "sft" else (grpo, grpo_config)
    first, second = (module.main(config(data, tmp_path / name, seed=3)) for name in ("a", "b"))
    other = module.main(config(data, tmp_path / "a", seed=4))
    assert first.run.run_id == second.run.run_id != other.run.run_id
    assert equal(weights(first), weights(second))
    assert not equal(weights(first), weights(other))
    assert not equal(weights(first), fresh_base())


def test_a_run_folder_has_every_field_of_the_contract(data, tmp_path):
    record = sft.main(sft_config(data, tmp_path, max_steps=2, seed=5))
    trained = grpo.main(grpo_config(data, tmp_path, model=record.run.run_id, steps=1, seed=7))
    manifest = json.loads((data / "mixed/manifest.json").read_text())
    fields = (
        "schema_version run_id stage status parent base_model family dataset variant cell rl_recipe config data_seed sft_seed "
        "rl_seed steps tokens seconds engine versions commit hardware created_at finished_at"
    )
    for folder in (record, trained):
        run = json.loads((folder.path / "run.json").read_text())
        assert set(run) == set(fields.split())
        assert run["schema_version"] == 1
        assert run["run_id"] == folder.path.name
        assert (run["status"], run["family"]) == ("done", "llama")
        assert run["engine"] in ("native", "native, compiled")
        assert run["base_model"] == "l4-behaved-s0"
        assert run["created_at"] < run["finished_at"]
        assert run["seconds"] > 0
        assert set(run["versions"]) >= {"python", "forerun", "torch", "transformers"}
        assert set(run["hardware"]) == {"processor", "vectors", "cores", "threads"}
        assert {path.name for path in folder.path.iterdir()} == {"run.json", "metrics.jsonl", "checkpoints"}
    first, second = (json.loads((folder.path / "run.json").read_text()) for folder in (record, trained))
    assert first["parent"] == {"run_id": checkpoints.weights_hash(BASE), "step": 0}
    assert second["parent"] == {"run_id": first["run_id"], "step": 2}
    assert first["dataset"] == {"name": "small/mixed", "hash": manifest["content_hash"]}
    assert first["variant"] == second["variant"] == {**manifest["variant"], "epochs": 2}
    assert first["cell"] == second["cell"]
    assert (first["data_seed"], first["sft_seed"], first["rl_seed"]) == (0, 5, None)
    assert (second["data_seed"], second["sft_seed"], second["rl_seed"]) == (0, 5, 7)
    assert first["rl_recipe"] is None
    assert len(second["rl_recipe"]) == 12


def canonical_hash(value, length: int = 16) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def test_a_run_id_is_the_hash_that_the_contract_writes_down(data, tmp_path):
    config = sft_config(data, tmp_path, seed=9)
    start, dataset = checkpoints.resolve(str(BASE), tmp_path), open_dataset(data / "mixed")
    places = {"home", "device", "model", "dataset", "micro_batch_tokens", "save_seconds", "keep_shares", "engine", "trl"}
    science = {key: value for key, value in config.model_dump(mode="json").items() if key not in {*places, "seed"}}
    identity = {
        "stage": "sft",
        "config": {**science, "epochs": 2},
        "dataset": json.loads((data / "mixed/manifest.json").read_text())["content_hash"],
        "parent": {"run_id": start.id.run_id, "step": 0},
        "seed": 9,
    }
    assert sft_run(config, start, dataset).run_id == canonical_hash(identity)


OTHER_SFT = {
    "epochs": 3,
    "max_steps": 7,
    "learning_rate": 1e-4,
    "batch_tokens": 513,
    "max_length": 400,
    "warmup_share": 0.2,
    "final_share": 0.3,
    "weight_decay": 0.5,
    "max_grad_norm": 2.0,
    "seed": 1,
}
OTHER_GRPO = {
    "steps": 3,
    "problems": 5,
    "group_size": 6,
    "learning_rate": 1e-4,
    "warmup_steps": 1,
    "temperature": 0.9,
    "max_tokens": 61,
    "reward": "random",
    "loss_type": "grpo",
    "scale_rewards": "none",
    "mixed_groups_only": False,
    "clip_low": 0.1,
    "clip_high": 0.3,
    "updates": 2,
    "kl_coef": 0.1,
    "weight_decay": 0.1,
    "max_grad_norm": 2.0,
    "seed": 1,
}
OTHER_ENGINE = {"engine": "trl"}  # `trl` goes with it: tests/test_trl_backend.py
OTHER_PLACES = {"device": "cuda", "micro_batch_tokens": 77, "save_seconds": 1.0, "home": Path("elsewhere")}


def run_of(config: SftConfig | GrpoConfig, home: Path):
    start = checkpoints.resolve(config.model, home)
    if isinstance(config, SftConfig):
        return sft_run(config, start, open_dataset(config.dataset))
    return grpo_run(config, start, open_problems(config.dataset))


@pytest.mark.parametrize(("make", "others"), [(sft_config, OTHER_SFT), (grpo_config, OTHER_GRPO)], ids=["sft", "grpo"])
def test_a_run_id_changes_with_every_setting_that_decides_numbers_and_with_no_other(data, tmp_path, make, others):
    usual = make(data, tmp_path)
    places = {
        **OTHER_PLACES,
        **({"sampler": "transformers", "keep_steps": (1,)} if make is grpo_config else {"keep_shares": (0.5,)}),
    }
    others = others | OTHER_ENGINE
    assert {*others, *places, "model", "dataset", "trl"} == set(
        type(usual).model_fields
    )  # a new setting has to be put in its place
    identifiers = [run_of(make(data, tmp_path, **{name: value}), tmp_path).run_id for name, value in others.items()]
    assert len({*identifiers, run_of(usual, tmp_path).run_id}) == len(others) + 1
    for name, value in places.items():
        assert run_of(make(data, tmp_path, **{name: value}), tmp_path).run_id == run_of(usual, tmp_path).run_id


def test_a_run_id_does_not_depend_on_where_model_and_data_are_or_how_they_are_named(data, tmp_path):
    shutil.copytree(BASE, tmp_path / "copied-model")
    shutil.copytree(data / "mixed", tmp_path / "copied-data")
    home = tmp_path / "home"
    by_folder = run_of(sft_config(data, home), home).run_id
    base_id = checkpoints.weights_hash(BASE)
    for settings in (
        {"model": "l4-behaved-s0"},
        {"model": base_id},
        {"model": f"{base_id}@0"},
        {"model": str(tmp_path / "copied-model"), "home": tmp_path / "other"},
        {"dataset": tmp_path / "copied-data"},
        {"epochs": 2},  # what the manifest says anyway
    ):
        config = sft_config(data, home, **settings)
        assert run_of(config, config.home).run_id == by_folder
    assert run_of(sft_config(data, home, dataset=data / "short"), home).run_id != by_folder


def test_seeds_change_neither_cell_nor_rl_recipe_and_other_settings_do(data, tmp_path):
    def cell(**settings):
        return run_of(sft_config(data, tmp_path, **settings), tmp_path).cell

    def recipe(**settings):
        return run_of(grpo_config(data, tmp_path, **settings), tmp_path).rl_recipe

    assert cell(seed=1) == cell() != cell(learning_rate=1e-4)
    assert cell(dataset=data / "short") != cell()
    assert recipe(seed=1) == recipe() != recipe(learning_rate=1e-4)


def test_a_base_model_is_found_again_after_it_has_moved(tmp_path):
    shutil.copytree(BASE, tmp_path / "first")
    identifier = checkpoints.resolve(str(tmp_path / "first"), tmp_path).id.run_id
    (tmp_path / "first").rename(tmp_path / "second")
    assert checkpoints.resolve(str(tmp_path / "second"), tmp_path).id.run_id == identifier
    assert checkpoints.resolve(identifier, tmp_path).folder == tmp_path / "second"


def test_an_unfinished_run_is_no_start_for_another(data, tmp_path):
    record = sft.main(sft_config(data, tmp_path, max_steps=1))
    run = record.run
    run.status = "running"
    (record.path / "run.json").write_text(json.dumps(run.__dict__))
    with pytest.raises(InputError, match="has not finished"):
        checkpoints.resolve(run.run_id, tmp_path)
    with pytest.raises(InputError, match=r"no checkpoint of step 7; it has \[1\]"):
        checkpoints.resolve(f"{run.run_id}@7", tmp_path)


# --- Kills


def kill_in_the_middle(processes, stage: str, settings: dict, home: Path, lines: int) -> RunFolder:
    """Start a stage in a process of its own and kill -9 it once it has logged so many more steps."""
    started = sum(path.read_text().count("\n") for path in home.glob("runs/*/metrics.jsonl"))
    process = processes.Process(target=run_config, args=(stage, settings))
    process.start()
    limit = time.monotonic() + STOP_SECONDS
    while sum(path.read_text().count("\n") for path in home.glob("runs/*/metrics.jsonl")) < started + lines:
        assert process.is_alive(), "the run ended before it could be killed"
        assert time.monotonic() < limit
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return RunFolder(next(home.glob("runs/*/metrics.jsonl")).parent)


@pytest.mark.parametrize("save_seconds", [0.0, pytest.param(0.25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage", ["sft", "grpo", "dense_path"])
def test_a_run_killed_twice_ends_with_the_weights_of_an_unbroken_one(data, tmp_path, processes, stage, save_seconds):
    module, config = {"sft": (sft, sft_config), "grpo": (grpo, grpo_config), "dense_path": (dense_path, dense_path_config)}[stage]
    long = {"epochs": 5} if stage == "sft" else {"steps": 12, "problems": 3, "max_tokens": 30}
    unbroken = module.main(config(data, tmp_path / "unbroken", **long))
    broken = config(data, tmp_path / "broken", save_seconds=save_seconds, **long)
    settings = broken.model_dump(mode="json")
    for lines in (2, 4):
        record = kill_in_the_middle(processes, stage, settings, broken.home, lines)
        assert record.run.status == "running"
        with (record.path / "metrics.jsonl").open("a") as handle:
            handle.write('{"step": 99999, "lo')  # as a writer killed within a line leaves it
    created = record.run.created_at
    assert module.main(broken).path == record.path
    assert equal(weights(record), weights(unbroken))
    assert record.run.status == "done"
    assert record.run.created_at == created
    assert (record.run.run_id, record.run.steps, record.run.tokens) == (
        unbroken.run.run_id,
        unbroken.run.steps,
        unbroken.run.tokens,
    )
    loss = "loss" if stage == "sft" else "reward_mean"
    assert record.metric(loss) == unbroken.metric(loss)  # no step lost, none twice, each as if nothing had happened
    assert len(record.metric(loss)) == unbroken.run.steps
    assert {row["step"] for row in rows(record)} == set(range(1, unbroken.run.steps + 1))  # every line is whole
    assert not (record.path / "state.pt").exists()
    assert not list(record.path.rglob("*.partial"))


# --- Divergence


@pytest.mark.parametrize("learning_rate", [1e6, 1e30])
def test_a_diverged_sft_run_fails_and_keeps_finite_weights(data, tmp_path, learning_rate):
    config = sft_config(data, tmp_path, learning_rate=learning_rate, batch_tokens=256)
    with pytest.raises(CheckFailed, match=r"diverged.*kept in.*lower learning_rate") as raised:
        sft.main(config)
    check_failed_run(tmp_path, raised.value)


@pytest.mark.parametrize("settings", [{}, {"warmup_steps": 0}, {"kl_coef": 1.0}, {"sampler": "transformers"}], ids=str)
def test_a_diverged_grpo_run_fails_and_keeps_finite_weights(data, tmp_path, settings):
    config = grpo_config(data, tmp_path, steps=6, learning_rate=1e30, problems=8, max_tokens=40, **settings)
    with pytest.raises(CheckFailed, match=r"diverged.*kept in.*lower learning_rate") as raised:
        grpo.main(config)
    check_failed_run(tmp_path, raised.value)


def check_failed_run(home: Path, error: CheckFailed) -> None:
    record = next(RunFolder(path.parent) for path in home.glob("runs/*/metrics.jsonl"))
    assert record.run.status == "failed"
    assert record.run.finished_at
    assert str(record.checkpoint(record.run.steps)) in str(error)
    assert all(bool(tensor.isfinite().all()) for tensor in weights(record).values())
    assert AutoModelForCausalLM.from_pretrained(record.checkpoint(record.run.steps)) is not None
    assert all(math.isfinite(value) for row in rows(record) for value in row.values())
    assert not record.is_done


def test_the_collapse_rule_by_hand():
    assert not collapsed([1.0] * 5 + [0.0] * 4)  # too short to say
    assert collapsed([1.0] * 5 + [0.0] * 5)
    assert collapsed([0.4] * 5 + [0.9] * 20 + [0.19] * 5)
    assert not collapsed([0.4] * 5 + [0.0] * 20 + [0.2] * 5)  # exactly half
    assert not collapsed([0.0] * 10)


def test_a_run_whose_reward_vanishes_is_called_collapsed_and_counts_as_over(data, tmp_path):
    record = grpo.main(grpo_config(data, tmp_path, steps=10, learning_rate=1.0, problems=8, max_tokens=24))
    rewards = record.metric("reward_mean")
    assert rewards[0] > 0
    assert sum(rewards[-5:]) == 0
    assert record.run.status == "collapsed"
    assert record.is_done


# --- GRPO


@dataclasses.dataclass
class Recording:
    """The real sampler, which also keeps what it was asked and what it wrote."""

    sampler: object
    calls: list = dataclasses.field(default_factory=list)

    @property
    def engine(self) -> str:
        return self.sampler.engine

    def sample(self, prompts, **settings):
        rollouts = self.sampler.sample(prompts, **settings)
        self.calls.append((prompts, rollouts))
        return rollouts


@pytest.fixture
def recording(monkeypatch) -> Recording:
    recorder = Recording(None)

    def make(*arguments):
        recorder.sampler = make_sampler(*arguments)
        return recorder

    monkeypatch.setattr(grpo, "make_sampler", make)
    return recorder


def rewards_of(tokenizer, prompts: list[list[int]], rollouts, group: int, problems: list[Problem]) -> list[list[float]]:
    """Rewards anew: decode each row, verify it against its own prompt's answer."""
    answers = {problem.prompt: problem.ground_truth for problem in problems}
    rewards = []
    for place, prompt in enumerate(prompts):
        question = tokenizer.decode(prompt, skip_special_tokens=True).removesuffix("<think>").strip()
        row = []
        for index in range(place * group, (place + 1) * group):
            ids = rollouts.tokens[index, : rollouts.lengths[index]].tolist()
            correct = verify(tokenizer.decode(ids, skip_special_tokens=True), ground_truth=answers[question]) is Verdict.CORRECT
            row.append(float(correct and ids[-1] == tokenizer.eos_token_id))
        rewards.append(row)
    return rewards


def logprobs_of(model, prompt: list[int], completion: list[int], temperature: float) -> torch.Tensor:
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / temperature
    return torch.distributions.Categorical(logits=logits).log_prob(torch.tensor(completion))


def grpo_update_by_hand(config: GrpoConfig, prompts, rollouts, rewards: list[list[float]]):
    """One step of GRPO written out row by row from the papers' formulas; returns the model, the last loss and gradient norm."""
    model, reference = (checkpoints.load(BASE)[0] for _ in range(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    kept = []
    for place, group in enumerate(rewards):
        mean = sum(group) / len(group)
        spread = math.sqrt(sum((reward - mean) ** 2 for reward in group) / (len(group) - 1))
        if spread == 0 and config.mixed_groups_only:
            continue
        for member, reward in enumerate(group):
            row = place * len(group) + member
            completion = rollouts.tokens[row, : rollouts.lengths[row]].tolist()
            advantage = (reward - mean) / (spread + 1e-4) if config.scale_rewards == "group" else reward - mean
            kept.append((prompts[place], completion, advantage, rollouts.logprobs[row, : len(completion)]))
    tokens = sum(len(completion) for _, completion, _, _ in kept)
    for _ in range(config.updates):
        optimizer.zero_grad()
        total = 0.0
        for prompt, completion, advantage, old in kept:
            logprobs = logprobs_of(model, prompt, completion, config.temperature)
            ratio = (logprobs - old).exp()
            bounded = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
            loss = -torch.minimum(ratio * advantage, bounded * advantage)
            if config.kl_coef:
                with torch.no_grad():
                    anchor = logprobs_of(reference, prompt, completion, config.temperature)
                loss = loss + config.kl_coef * ((anchor - logprobs).exp() - (anchor - logprobs) - 1)
            scale = {
                "dapo": 1 / tokens,
                "grpo": 1 / (len(kept) * len(completion)),
                "dr_grpo": 1 / (len(kept) * config.max_tokens),
            }[config.loss_type]
            (loss.sum() * scale).backward()
            total += float((loss.sum() * scale).detach())
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm))
        optimizer.step()
    return model, total, norm


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss_type": "grpo"},
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        {"mixed_groups_only": False},
        {"temperature": 1.3},
        {"updates": 3, "clip_low": 0.05, "clip_high": 0.1},
        {"updates": 2, "kl_coef": 2.0, "loss_type": "grpo"},
        {"micro_batch_tokens": 100},
        {"sampler": "transformers"},
    ],
    ids=lambda settings: " ".join(f"{key}={value}" for key, value in settings.items()) or "default",
)
def test_a_grpo_step_is_the_one_written_out_by_hand(data, tmp_path, recording, settings):
    config = grpo_config(data, tmp_path, steps=1, problems=6, warmup_steps=0, learning_rate=1e-3, **settings)
    record = grpo.main(config)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    [(prompts, rollouts)] = recording.calls
    rewards = rewards_of(tokenizer, prompts, rollouts, 4, open_problems(data / "mixed").rows)
    mixed = [len(set(group)) > 1 for group in rewards]
    assert any(mixed)
    model, loss, norm = grpo_update_by_hand(config, prompts, rollouts, rewards)
    row, everything = rows(record)[0], [reward for group in rewards for reward in group]
    assert row["loss"] == pytest.approx(loss, rel=1e-3, abs=1e-5)
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert row["reward_mean"] == pytest.approx(sum(everything) / 24)
    assert row["frac_mixed"] == pytest.approx(sum(mixed) / 6)
    assert row["frac_all_correct"] == pytest.approx(sum(min(group) == 1 for group in rewards) / 6)
    assert row["frac_all_wrong"] == pytest.approx(sum(max(group) == 0 for group in rewards) / 6)
    assert row["mean_tokens"] == pytest.approx(float(rollouts.lengths.float().mean()))
    ended = [
        tokens[length - 1] == tokenizer.eos_token_id for tokens, length in zip(rollouts.tokens, rollouts.lengths, strict=True)
    ]
    assert row["truncated_share"] == pytest.approx(1 - sum(map(int, ended)) / 24)
    assert distance(weights(record), model.state_dict()) < 0.01 * distance(model.state_dict(), fresh_base())


def test_the_learning_rate_of_rl_rises_linearly_and_stays(data, tmp_path):
    config = grpo_config(data, tmp_path, learning_rate=0.5, warmup_steps=4)
    assert [warmed_up(config, step) for step in range(6)] == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    logged = [row["learning_rate"] for row in rows(grpo.main(config.model_copy(update={"learning_rate": 1e-4})))]
    assert logged == pytest.approx([2.5e-5, 5e-5])


def test_logged_entropy_is_the_mean_over_all_sampled_tokens(data, tmp_path, recording):
    record = grpo.main(grpo_config(data, tmp_path, steps=1, problems=3))
    [(prompts, rollouts)] = recording.calls
    model, total = checkpoints.load(BASE)[0], 0.0
    for row, length in enumerate(rollouts.lengths.tolist()):
        prompt = prompts[row // 4]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + rollouts.tokens[row, :length].tolist()])).logits[0, len(prompt) - 1 : -1]
        total += float(torch.distributions.Categorical(logits=logits).entropy().sum())
    assert record.metric("entropy") == pytest.approx([total / int(rollouts.lengths.sum())], rel=1e-4)
    assert record.run.tokens == int(rollouts.lengths.sum())


@pytest.mark.parametrize("mixed_only", [True, False])
@pytest.mark.parametrize("always", ["right", "wrong"])
def test_equal_rewards_leave_the_weights_untouched(tmp_path, always, mixed_only):
    problems = arithmetic.problems(size=6, operations=(1, 1), split="dev")
    if always == "wrong":
        problems = [dataclasses.replace(problem, ground_truth="77") for problem in problems]
    else:  # greedy enough that every rollout of a group is the same
        problems = solved_greedily(problems)
    file = jsonl(tmp_path / "problems.jsonl", problems)
    config = GrpoConfig(
        model=str(BASE),
        dataset=file,
        home=tmp_path,
        steps=2,
        problems=3,
        group_size=4,
        max_tokens=40,
        temperature=0.01,
        learning_rate=0.01,
        mixed_groups_only=mixed_only,
    )
    record = grpo.main(config)
    assert record.metric("reward_mean") == [float(always == "right")] * 2
    assert record.metric("frac_mixed") == [0.0, 0.0]
    assert record.metric("grad_norm") == [0.0, 0.0]
    assert equal(weights(record), fresh_base())


def test_random_rewards_are_a_fair_coin_that_no_completion_can_sway(data, tmp_path):
    random = grpo.main(grpo_config(data, tmp_path, reward="random", group_size=16, temperature=0.01))
    for reward in random.metric("reward_mean"):  # 64 coins a step
        assert abs(reward - 0.5) < 4 * 0.5 / 8
    again = grpo.main(grpo_config(data, tmp_path / "again", reward="random", group_size=16, temperature=0.01))
    assert random.metric("reward_mean") == again.metric("reward_mean")
    assert random.run.run_id != grpo.main(grpo_config(data, tmp_path, group_size=16, temperature=0.01)).run.run_id


def solved_greedily(problems: list[Problem]) -> list[Problem]:
    """Those whose answer the base writes when it always takes the likeliest token."""
    model, tokenizer = checkpoints.load(BASE)
    solved = []
    for problem in problems:
        turns = [{"role": "user", "content": problem.prompt}]
        prompt = torch.tensor([tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)])
        output = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=40)
        text = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
        if verify(text, ground_truth=problem.ground_truth) is Verdict.CORRECT:
            solved.append(problem)
    assert solved
    return solved


def test_kept_checkpoints_are_those_that_a_shorter_run_ends_with(data, tmp_path):
    long = grpo.main(grpo_config(data, tmp_path / "long", steps=3, keep_steps=(1, 2), group_size=8))
    short = grpo.main(grpo_config(data, tmp_path / "short", steps=2, group_size=8))
    assert equal(weights(long, 2), weights(short))
    assert not equal(weights(long, 1), weights(long, 2))
    assert sorted(path.name for path in (long.path / "checkpoints").iterdir()) == ["1", "2", "3"]


@pytest.mark.parametrize("from_file", [False, True])
def test_two_parts_of_a_problem_set_are_the_whole_and_differ_in_hash(from_file, tmp_path):
    name = str(jsonl(tmp_path / "mine.jsonl", arithmetic.problems(size=30, split="dev"))) if from_file else "dev"
    whole, first, second = (
        problem_set(ProblemSet(set=name, problems=count, skip=skip)) for count, skip in ((30, 0), (20, 0), (10, 20))
    )
    assert first.rows + second.rows == whole.rows
    assert len({whole.hash, first.hash, second.hash}) == 3


def test_every_step_logs_the_signs_of_health(data, tmp_path):
    record = grpo.main(grpo_config(data, tmp_path, steps=3))
    wanted = {"reward_mean", "frac_mixed", "entropy", "mean_tokens", "truncated_share", "loss", "grad_norm", "learning_rate"}
    assert [row["step"] for row in rows(record)] == [1, 2, 3]
    assert all(wanted <= set(row) for row in rows(record))
    assert record.metric("learning_rate") == pytest.approx([6e-4 / 5, 6e-4 * 2 / 5, 6e-4 * 3 / 5])  # warm-up of 5 steps


def test_grpo_goes_through_its_problems_once_an_epoch_and_in_another_order_the_next(data, tmp_path, recording):
    problems = arithmetic.problems(size=6, operations=(1, 2), split="dev")
    file = jsonl(tmp_path / "problems.jsonl", problems)
    grpo.main(grpo_config(data, tmp_path, dataset=file, steps=6, problems=2, group_size=2, max_tokens=4))
    asked = [tuple(prompt) for prompts, _ in recording.calls for prompt in prompts]
    assert len(set(asked[:6])) == len(set(asked[6:])) == 6
    assert asked[:6] != asked[6:]


@pytest.mark.slow
def test_grpo_raises_the_reward_of_the_shipped_base(data, tmp_path):
    """Pass@1 on 100 problems of another split rises by more than three standard errors of the difference."""
    record = grpo.main(grpo_config(data, tmp_path, steps=12, problems=12, group_size=8, learning_rate=2e-3, seed=1))
    wanted = {"set": "B", "problems": 100, "num_samples": 8, "operations": (2, 3)}
    accuracies = []
    for model in (str(BASE), record.run.run_id):
        folder = evaluate.main(EvaluateConfig(model=model, home=tmp_path, problems=wanted, max_tokens=60))
        counts = pq.read_table(next(folder.path.glob("evaluations/*.parquet"))).to_pydict()
        accuracies.append(sum(counts["num_correct"]) / sum(counts["num_samples"]))
    assert accuracies[1] > accuracies[0] + 3 * math.sqrt(2 * 0.25 / 800)
    rewards = record.metric("reward_mean")
    assert sum(rewards[-4:]) > sum(rewards[:4])


# --- Evaluation


def evaluation(home: Path, **settings) -> tuple[RunFolder, dict]:
    """Evaluate and return the folder and the counts of its newest file."""
    wanted = {"set": "A", "problems": 10, "num_samples": 6, "operations": (2, 5)}
    config = {"model": str(BASE), "home": home, "problems": wanted, "max_tokens": 50, **settings}
    record = evaluate.main(EvaluateConfig(**config))
    newest = max(record.path.glob("evaluations/*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    return record, {"path": newest, **pq.read_table(newest).to_pydict()}


def test_counts_add_up_to_what_the_kept_completions_say(tmp_path):
    record, counts = evaluation(tmp_path, rollouts=True, max_tokens=30)
    kept = pq.read_table(next(record.path.glob("rollouts/*.parquet"))).to_pylist()
    problems = {p.id: p for p in arithmetic.problems(size=10, operations=(2, 5), split="A")}
    assert counts["problem_id"] == list(problems)
    assert set(counts["num_samples"]) == {6}
    verdicts = {Verdict.CORRECT: "num_correct", Verdict.NO_ANSWER: "num_no_answer", Verdict.UNPARSABLE: "num_unparsable"}
    for place, identifier in enumerate(problems):
        own = [row for row in kept if row["problem_id"] == identifier]
        assert len(own) == 6
        expected = dict.fromkeys([*verdicts.values(), "num_truncated"], 0)
        for row in own:
            verdict = verify(row["completion"], ground_truth=problems[identifier].ground_truth)
            verdict = verdict if row["finished"] else Verdict.NO_ANSWER
            expected["num_truncated"] += not row["finished"]
            if verdict in verdicts:
                expected[verdicts[verdict]] += 1
        assert {name: counts[name][place] for name in expected} == expected
        assert counts["mean_tokens"][place] == pytest.approx(sum(row["tokens"] for row in own) / 6)
    assert 0 < sum(counts["num_truncated"]) < 60
    assert sum(counts["num_correct"]) > 0


def test_an_evaluation_file_names_its_key_and_provenance(tmp_path):
    record, counts = evaluation(tmp_path, purpose="signals", seed=3)
    sidecar = json.loads(counts["path"].with_suffix(".json").read_text())
    assert json.loads(pq.read_schema(counts["path"]).metadata[b"forerun"]) == sidecar
    key = "benchmark split problem_set_hash prompt_template verifier verifier_version temperature top_p max_tokens budget"
    assert set(sidecar["key"]) == set(key.split())
    assert set(sidecar["provenance"]) >= {"num_samples", "seed", "purpose", "engine", "versions", "commit", "hardware"}
    pairs = [[p.prompt, p.ground_truth] for p in arithmetic.problems(size=10, operations=(2, 5), split="A")]
    assert sidecar["key"]["problem_set_hash"] == canonical_hash(pairs)
    assert counts["path"].name == f"0-{canonical_hash(sidecar['key'], 8)}-3.parquet"
    assert set(counts["run_id"]) == {record.path.name} == {checkpoints.weights_hash(BASE)}
    [entropy] = [row for row in rows(record, "signals.jsonl") if row["name"] == "entropy_t1"]
    assert 0 < entropy["value"] < math.log(58)


def test_evaluations_are_immutable_and_more_samples_need_another_seed(tmp_path):
    wanted = {"set": "A", "problems": 10, "operations": (2, 5)}
    _, first = evaluation(tmp_path, seed=0)
    content = first["path"].read_bytes()
    _, again = evaluation(tmp_path, seed=0)
    assert again["path"] == first["path"]
    with pytest.raises(InputError, match=r"holds 6 samples.*immutable.*another seed"):
        evaluation(tmp_path, seed=0, problems={**wanted, "num_samples": 12})
    assert first["path"].read_bytes() == content
    _, other = evaluation(tmp_path, seed=1, problems={**wanted, "num_samples": 12})
    assert other["path"] != first["path"]
    assert set(other["num_samples"]) == {12}
    assert first["path"].read_bytes() == content


def test_equal_seeds_count_the_same_in_every_workspace(tmp_path):
    (_, first), (_, second) = (evaluation(tmp_path / name, seed=5) for name in "ab")
    assert {key: value for key, value in first.items() if key != "path"} == {k: v for k, v in second.items() if k != "path"}
    assert first["num_correct"] != evaluation(tmp_path / "a", seed=6)[1]["num_correct"]


def test_a_completion_cut_right_after_its_answer_is_truncated_and_not_correct(tmp_path):
    """The very completion that counts as correct with room for its end token counts as cut without it."""
    [problem, *_] = solved_greedily(arithmetic.problems(size=8, operations=(2, 2), split="dev"))
    file = jsonl(tmp_path / "one.jsonl", [problem])
    wanted = {"set": str(file), "problems": 1, "num_samples": 1}
    _, whole = evaluation(tmp_path, problems=wanted, temperature=0, rollouts=True)
    assert (whole["num_correct"], whole["num_truncated"]) == ([1], [0])
    record, cut = evaluation(tmp_path, problems=wanted, temperature=0, max_tokens=int(whole["mean_tokens"][0]) - 1, rollouts=True)
    texts = [pq.read_table(path)["completion"].to_pylist() for path in record.path.glob("rollouts/*.parquet")]
    assert texts[0] == texts[1]  # the same words, the right answer among them
    assert (cut["num_correct"], cut["num_truncated"], cut["num_no_answer"]) == ([0], [1], [1])


def test_the_heldout_loss_is_the_loss_of_transformers(data, tmp_path):
    record = evaluate.main(EvaluateConfig(model=str(BASE), home=tmp_path, dataset=data / "short", heldout=("shared", "own")))
    measured = {row["kind"]: row for row in rows(record, "losses.jsonl")}
    model, tokenizer = checkpoints.load(BASE)
    for kind, name in (("shared", "heldout.parquet"), ("own", "heldout_own.parquet")):
        examples = read_examples(data / "short" / name)
        counts = [sum(label >= 0 for label in with_masked_prompt(tokenizer, example)[1]) for example in examples]
        with torch.no_grad():
            means = [float(transformers_loss(model, tokenizer, [example])) for example in examples]
            together = float(transformers_loss(model, tokenizer, examples))
        row = measured[kind]
        assert (row["step"], row["examples"], row["tokens"]) == (0, len(examples), sum(counts))
        assert row["nats_per_token"] == pytest.approx(together, rel=1e-4)
        assert row["nats_per_token"] == pytest.approx(
            sum(mean * count for mean, count in zip(means, counts, strict=True)) / sum(counts), rel=1e-4
        )
        assert row["nats_per_example"] == pytest.approx(sum(means) / len(means), rel=1e-4)
        assert row["entropy_teacher_forced"] == pytest.approx(teacher_forced_entropy(model, tokenizer, examples), rel=1e-4)
        pairs = [[example.problem.prompt, example.completion] for example in examples]
        assert row["heldout_hash"] == canonical_hash(pairs)
    assert measured["shared"]["heldout_hash"] != measured["own"]["heldout_hash"]


@torch.no_grad()
def teacher_forced_entropy(model, tokenizer, examples: list[Example]) -> float:
    entropies = []
    for example in examples:
        ids, labels = with_masked_prompt(tokenizer, example)
        distribution = torch.distributions.Categorical(logits=model(torch.tensor([ids])).logits[0, :-1])
        entropies.append(distribution.entropy()[torch.tensor(labels[1:]) >= 0])
    return float(torch.cat(entropies).mean())


def test_style_free_and_result_losses_of_one_problem_by_hand(data, tmp_path):
    """All three traces of one problem written out by hand: -log of their mean probability, and the nats of the two results."""
    prompt = "a 3 c 5 b = a + 4 d = b - c ? d"
    traces = [
        "<think> b 7 d 2 </think> ans 2",
        "<think> b = 3 + 4 b 7 d = 7 - 5 d 2 </think> ans 2",
        "<think> b = a 3 + 4 b 7 d = b 7 - c 5 d 2 </think> ans 2",
    ]
    problem = Problem("p", prompt, "2", "arithmetic", {"operations": 2})
    shutil.copytree(data / "mixed", tmp_path / "one")
    write_parquet(tmp_path / "one/heldout.parquet", "examples", [example_row(Example("e", problem, traces[0]))])
    kinds = ("style_free", "result_tokens")
    record = evaluate.main(EvaluateConfig(model=str(BASE), home=tmp_path, dataset=tmp_path / "one", heldout=kinds))
    measured = {row["kind"]: row for row in rows(record, "losses.jsonl")}
    model, tokenizer = checkpoints.load(BASE)
    sums, results = [], []
    for trace in traces:
        words = trace.split()
        ids = tokenizer.convert_tokens_to_ids(["<bos>", *prompt.split(), *words, "<eos>"])
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        nats = [-float(logprobs[place - 1, ids[place]]) for place in range(1, len(ids))]
        first = len(prompt.split())  # the index in `nats` of <think>, which belongs to the prompt
        sums.append(sum(nats[first + 1 :]))
        computed = [place for place in range(2, len(words)) if words[place - 2] not in ("=", "+", "-")]
        computed = [p for p in computed if (words[p - 1], words[p]) in (("b", "7"), ("d", "2"))]
        results += [nats[first + place] for place in computed]
    assert len(results) == 6
    expected = -math.log(sum(math.exp(-nats) for nats in sums) / 3)
    assert measured["style_free"]["nats_per_example"] == pytest.approx(expected, rel=1e-4)
    assert measured["style_free"]["examples"] == 1
    assert measured["result_tokens"]["nats_per_token"] == pytest.approx(sum(results) / 6, rel=1e-4)
    assert measured["result_tokens"]["tokens"] == 6


@pytest.mark.parametrize(
    "settings", [{"heldout": ("shared",)}, {"heldout": ("style_free",)}, {"sampler": "transformers"}, {"temperature": 0}], ids=str
)
def test_a_model_of_broken_weights_fails_the_evaluation_and_leaves_no_numbers(data, tmp_path, settings):
    model, tokenizer = checkpoints.load(BASE)
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    checkpoints.save(model, tokenizer, tmp_path / "broken")
    wanted = {} if "heldout" in settings else {"problems": {"set": "A", "problems": 2, "num_samples": 2}}
    with pytest.raises(CheckFailed, match="diverged"):
        evaluate.main(EvaluateConfig(model=str(tmp_path / "broken"), home=tmp_path, dataset=data / "mixed", **wanted, **settings))
    assert not [path for name in ("evaluations/*", "losses.jsonl", "signals.jsonl") for path in tmp_path.glob(f"runs/*/{name}")]


def test_a_loss_is_measured_once_and_a_torn_line_does_not_spoil_the_next(data, tmp_path):
    def measure(*kinds: str) -> RunFolder:
        return evaluate.main(EvaluateConfig(model=str(BASE), home=tmp_path, dataset=data / "mixed", heldout=kinds))

    record = measure("shared")
    measure("shared")
    assert [row["kind"] for row in rows(record, "losses.jsonl")] == ["shared"]
    with (record.path / "losses.jsonl").open("a") as handle:
        handle.write('{"step": 0, "kind": "ow')
    measure("own")
    assert [row["kind"] for row in rows(record, "losses.jsonl")] == ["shared", "own"]


def test_the_order_of_examples_of_equal_length_depends_on_the_seed_alone(data, tmp_path):
    """The first batch's loss differs between seeds and not between calls that leave Python's own generator elsewhere."""
    firsts = []
    for place, seed in enumerate((0, 0, 1)):
        random.seed(place)
        record = sft.main(sft_config(data, tmp_path / str(place), seed=seed, batch_tokens=200, max_steps=3))
        firsts.append(record.metric("loss"))
    assert firsts[0] == firsts[1] != firsts[2]


def test_one_variable_sets_the_vectors_of_torch_and_of_the_compiled_attention():
    """One name, `AMD EPYC` say, is given to processors with and without AVX-512, which round differently."""
    if vectors() not in ("avx512f", "avx2"):
        pytest.skip("this processor has neither AVX2 nor AVX-512")
    code = "from train import attention, records; print(records.vectors(), attention._lanes(attention.compiled_library()))"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert found.split() == ["avx2", "8"]
