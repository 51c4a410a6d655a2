"""Dense-Path REINFORCE on a small SFT run: held to closed forms, to autograd written out by hand, and to exact KL divergences."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from curate import arithmetic
from curate.answers import Verdict, verify
from curate.behaviors import LARGEST_VALUE
from curate.build import build
from curate.config import check_config
from curate.errors import CheckFailed, InputError
from curate.examples import Example, Problem
from curate.recipe import Recipe
from train import checkpoints, dense_path, rendering, sft
from train.configs import DensePathConfig, SftConfig
from train.datasets import open_problems
from train.heldout import in_all_styles
from train.identity import dense_path_run
from train.loss import dense_rewards, returns_to_go
from train.records import RunFolder
from train.sampling import make_sampler

BASE = Path(__file__).parent.parent / "studies/lab/bases/l4-behaved-s0"
RECIPE = {
    "name": "dense",
    "sources": [{"task": "arithmetic", "size": 160, "operations": [2, 4], "traces": 1}],
    "heldout": {"examples": 8},
    "rl_prompts": {"examples": 32, "sources": [{"task": "arithmetic", "size": 32, "operations": [2, 4]}]},
    "variants": [{"name": "short", "select": {"length": "short"}, "budget": {"examples": 96}, "epochs": 4}],
}
SMALL = {"steps": 2, "problems": 4, "group_size": 3, "max_tokens": 60}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A workspace with one SFT run that kept its checkpoints at a half and at nine tenths."""
    folder = tmp_path_factory.mktemp("dense")
    build(check_config(RECIPE, Recipe, origin="test"), folder / "data")
    sft.main(sft_config(folder, keep_shares=(0.5, 0.9)))
    return folder


def sft_config(home: Path, **settings) -> SftConfig:
    return SftConfig(model=str(BASE), dataset=home / "data/short", home=home, batch_tokens=512, **settings)


@pytest.fixture(scope="module")
def start(home) -> RunFolder:
    [folder] = [path.parent for path in home.glob("runs/*/run.json") if json.loads(path.read_text())["stage"] == "sft"]
    return RunFolder(folder)


def config(home: Path, start: RunFolder, **settings) -> DensePathConfig:
    return DensePathConfig(**{"model": start.run.run_id, "dataset": home / "data/short", "home": home, **SMALL, **settings})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def logprobs_by_hand(folder: Path, prompt: list[int], completion: list[int], temperature: float = 1.0) -> torch.Tensor:
    model, _ = checkpoints.load(folder)
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


def test_returns_are_the_discounted_sums_of_what_follows():
    rewards = torch.tensor([[1.0, 2.0, 4.0], [3.0, 0.0, 0.0]])
    assert returns_to_go(rewards).tolist() == [[7.0, 6.0, 4.0], [3.0, 0.0, 0.0]]
    assert returns_to_go(rewards, 0.5).tolist() == [[3.0, 4.0, 4.0], [3.0, 0.0, 0.0]]
    assert torch.equal(returns_to_go(rewards, 0.0), rewards)


def test_rewards_are_differences_of_log_probabilities_clipped_where_asked():
    of_start, of_reference = torch.tensor([[-1.0, -0.5, -9.0]]), torch.tensor([[-3.0, -0.75, -1.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    assert dense_rewards(of_start, of_reference, mask).tolist() == [[2.0, 0.25, 0.0]]
    assert dense_rewards(of_start, of_reference, mask, clip=1.0).tolist() == [[1.0, 0.25, 0.0]]


def test_a_kept_half_is_what_a_run_with_half_of_the_samples_ends_with(home, start):
    """Equal but for the learning rate's schedule: the plan says when half of the samples have been seen."""
    kept = sorted(int(folder.name) for folder in (start.path / "checkpoints").iterdir())
    plan = [json.loads(line) for line in (start.path / "metrics.jsonl").read_text().splitlines()]
    tokens = [row["tokens"] for row in plan]
    assert kept[-1] == len(plan)
    assert sum(tokens[: kept[0]]) / sum(tokens) == pytest.approx(0.5, abs=0.06)
    assert sum(tokens[: kept[1]]) / sum(tokens) == pytest.approx(0.9, abs=0.06)
    assert dense_path.halfway(checkpoints.resolve(start.run.run_id, home)) == f"{start.run.run_id}@{kept[0]}"


def test_what_is_kept_does_not_change_a_run_and_a_finished_run_makes_up_for_it(home, start, tmp_path):
    plain = sft.main(sft_config(home).model_copy(update={"home": tmp_path}))
    last = plain.run.steps
    assert plain.run.run_id == start.run.run_id
    assert [folder.name for folder in (plain.path / "checkpoints").iterdir()] == [str(last)]
    ended = {
        name: (plain.path / name).read_bytes() for name in ("run.json", "metrics.jsonl", f"checkpoints/{last}/model.safetensors")
    }
    again = sft.main(sft_config(home, keep_shares=(0.5,)).model_copy(update={"home": tmp_path}))
    assert ended == {name: (plain.path / name).read_bytes() for name in ended}  # other runs may have started from it
    half = int(dense_path.halfway(checkpoints.resolve(again.run.run_id, tmp_path)).partition("@")[2])
    for step in (half, last):
        ours, theirs = weights(again.checkpoint(step)), weights(start.checkpoint(step))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class Recording:
    """The real sampler, which also keeps what it wrote."""

    def __init__(self, *arguments) -> None:
        self.sampler, self.calls = make_sampler(*arguments), []
        self.engine = self.sampler.engine

    def sample(self, prompts, **settings):
        self.calls.append((prompts, self.sampler.sample(prompts, **settings)))
        return self.calls[-1][1]


@pytest.fixture
def recording(monkeypatch) -> list[Recording]:
    made: list[Recording] = []

    def make(*arguments):
        made.append(Recording(*arguments))
        return made[-1]

    monkeypatch.setattr(dense_path, "make_sampler", make)
    return made


@pytest.mark.parametrize(
    "settings",
    [{}, {"gamma": 0.9, "kl_coef": 0.0}, {"credit": "sparse"}, {"baseline": "position"}, {"clip_reward": 0.05}, {"micro_batch_tokens": 64, "seed": 1}, {"temperature": 0.7}],
    ids=str,
)  # fmt: skip
def test_a_step_is_the_one_written_out_by_hand(home, start, tmp_path, recording, settings):
    """AdamW on -mean over tokens of credit x log-probability; at the first step the KL penalty has no gradient."""
    made = dense_path.main(config(home, start, steps=1, warmup_steps=0, max_grad_norm=1e9, **settings))
    [(prompts, rollouts)] = recording[0].calls
    half = start.path / "checkpoints" / dense_path.halfway(checkpoints.resolve(start.run.run_id, home)).partition("@")[2]
    whole = start.checkpoint(start.run.steps)
    rows = [rollouts.tokens[row, : rollouts.lengths[row]].tolist() for row in range(len(rollouts.tokens))]
    asked = [prompts[row // SMALL["group_size"]] for row in range(len(rows))]
    with torch.no_grad():
        heat = settings.get("temperature", 1.0)
        pairs = list(zip(asked, rows, strict=True))
        rewards = [logprobs_by_hand(whole, *pair, heat) - logprobs_by_hand(half, *pair, heat) for pair in pairs]
    rewards = [row.clamp(-settings.get("clip_reward", 99.0), settings.get("clip_reward", 99.0)) for row in rewards]
    gamma = settings.get("gamma", 1.0)
    credit = [torch.stack([sum(gamma**k * row[t + k] for k in range(len(row) - t)) for t in range(len(row))]) for row in rewards]
    if settings.get("credit") == "sparse":
        credit = [row.sum().repeat(len(row)) for row in rewards]
    if settings.get("baseline") == "position":
        at = [[row[t] for row in credit if t < len(row)] for t in range(max(map(len, credit)))]
        credit = [row - torch.stack([torch.stack(at[t]).mean() for t in range(len(row))]) for row in credit]
    model, _ = checkpoints.load(whole)
    total = 0.0
    for prompt, row, weight in zip(asked, rows, credit, strict=True):
        logits = model(torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1]
        total = total - ((logits / heat).log_softmax(-1).gather(1, torch.tensor(row)[:, None])[:, 0] * weight).sum()
    (total / sum(map(len, rows))).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    [logged] = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    assert logged["grad_norm"] == pytest.approx(float(norm), rel=1e-3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=made.run.config["learning_rate"], betas=(0.9, 0.95), weight_decay=0.0)
    optimizer.step()
    moved = weights(made.checkpoint(1))
    before, expected = weights(whole), model.state_dict()
    off = sum(float(((moved[name] - expected[name]) ** 2).sum()) for name in moved) ** 0.5
    gone = sum(float(((before[name] - expected[name]) ** 2).sum()) for name in moved) ** 0.5
    assert off < 0.02 * gone
    assert logged["dense_reward_mean"] == pytest.approx(float(torch.stack([row.sum() for row in rewards]).mean()), abs=1e-3)
    assert logged["kl"] == pytest.approx(0.0, abs=1e-3)
    told = within_problems(rewards, rollouts, prompts, start.path, home)
    assert logged.get("reward_correlation") == (None if told is None else pytest.approx(told, abs=1e-3))


def within_problems(rewards, rollouts, prompts, folder: Path, home: Path) -> float | None:
    """Correlation of the summed reward with being right, both less their problem's mean; None where either does not vary."""
    _, tokenizer = checkpoints.load(folder / "checkpoints" / str(RunFolder(folder).run.steps))
    answers = {tuple(rendering.prompt_ids(tokenizer, one)): one.ground_truth for one in open_problems(home / "data/short").rows}
    summed = torch.stack([row.sum() for row in rewards]).view(-1, SMALL["group_size"])
    texts = tokenizer.batch_decode(rollouts.tokens, skip_special_tokens=True)
    asked = [answers[tuple(prompts[row // SMALL["group_size"]])] for row in range(len(texts))]
    right = [verify(text, ground_truth=answer) is Verdict.CORRECT for text, answer in zip(texts, asked, strict=True)]
    verdicts = (torch.tensor(right) & rollouts.finished).float().view_as(summed)
    pair = [(one - one.mean(1, keepdim=True)).flatten().numpy() for one in (summed, verdicts)]
    return float(np.corrcoef(*pair)[0, 1]) if all(one.any() for one in pair) else None


def test_the_penalty_holds_the_policy_to_its_start(home, start):
    def gone(coefficient: float) -> float:
        record = dense_path.main(config(home, start, steps=8, problems=8, kl_coef=coefficient, learning_rate=1e-3))
        return record.metric("kl")[-1]

    assert gone(10.0) < 0.7 * gone(0.0)


def test_the_expected_reward_at_the_start_is_the_divergence_from_the_reference(home, start):
    """E of the summed reward over the start's own rollouts = sum over tokens of the exact KL of the two next-token distributions."""
    model, tokenizer = checkpoints.load(start.checkpoint(start.run.steps))
    earlier, _ = checkpoints.load(BASE)
    problem = open_problems(home / "data/short").rows[0]
    prompt = rendering.prompt_ids(tokenizer, problem)
    rollouts = make_sampler("native", model.eval(), tokenizer).sample(
        [prompt], group_size=512, max_tokens=60, temperature=1.0, seed=3
    )
    ids = torch.cat((torch.tensor(prompt).repeat(512, 1), rollouts.tokens), dim=1)
    with torch.no_grad():
        ours, theirs = (one(ids).logits[:, len(prompt) - 1 : -1].log_softmax(-1) for one in (model, earlier))
    exact = ((ours.exp() * (ours - theirs)).sum(-1) * rollouts.mask).sum(1)
    picked = [one.gather(2, rollouts.tokens[..., None])[..., 0] for one in (ours, theirs)]
    summed = dense_rewards(*picked, rollouts.mask).sum(1)
    error = float((summed - exact).std() / 512**0.5)
    assert float(exact.mean()) > 0.1
    assert abs(float((summed - exact).mean())) < 4 * error


def test_a_corrupted_number_is_rewarded_less_than_the_rest(home, start):
    """The paper's figure 1: put a wrong result into a right trace; the reward falls there."""
    whole = start.checkpoint(start.run.steps)
    half = start.checkpoint(int(dense_path.halfway(checkpoints.resolve(start.run.run_id, home)).partition("@")[2]))
    at_fault, elsewhere = [], []
    _, tokenizer = checkpoints.load(whole)
    for problem in arithmetic.problems(size=24, operations=(2, 4), split="dev", seed=5):
        prompt, row, place = corrupted(tokenizer, problem)
        with torch.no_grad():
            rewards = logprobs_by_hand(whole, prompt, row) - logprobs_by_hand(half, prompt, row)
        at_fault.append(float(rewards[place]))
        elsewhere += [float(value) for other, value in enumerate(rewards) if other < place]
    below = sum((fault < other) + 0.5 * (fault == other) for fault in at_fault for other in elsewhere)
    auroc = below / (len(at_fault) * len(elsewhere))
    assert auroc > 0.6


def corrupted(tokenizer, problem: Problem) -> tuple[list[int], list[int], int]:
    """Prompt, a short right trace with one wrong result, and its place in the trace."""
    example: Example = next(one for one in in_all_styles(problem) if one.meta["style"] == "short")
    words = example.completion.split()
    ids = rendering.training_sequence(tokenizer, example, 512).ids
    prompt = rendering.prompt_ids(tokenizer, problem)
    row = ids[len(prompt) :]
    first = len(row) - len(words) - 1
    numbers = [place for place, word in enumerate(words[: words.index("</think>")]) if word.isdigit()]
    place = random.Random(problem.id).choice(numbers)
    wrong = str((int(words[place]) + 7) % (LARGEST_VALUE + 1))
    row[first + place] = tokenizer.convert_tokens_to_ids(wrong)
    return prompt, row, first + place


def test_the_contrast_moves_the_weights_on_and_trains_nothing(home, start):
    record = dense_path.main(config(home, start, credit="contrast", strength=0.25))
    half = dense_path.halfway(checkpoints.resolve(start.run.run_id, home)).partition("@")[2]
    whole, earlier, moved = (
        weights(start.checkpoint(start.run.steps)),
        weights(start.checkpoint(int(half))),
        weights(record.checkpoint(0)),
    )
    for name, weight in whole.items():
        torch.testing.assert_close(moved[name], 1.25 * weight - 0.25 * earlier[name])
    assert (record.run.steps, record.run.status) == (0, "done")


def test_equal_runs_are_equal_and_the_reference_is_a_part_of_their_name(home, start, tmp_path):
    first, place = dense_path.main(config(home, start)), checkpoints.resolve(start.run.run_id, home)
    problems = open_problems(home / "data/short")

    def named(**settings) -> str:
        made = config(home, start, **settings)
        reference = checkpoints.resolve(made.reference or dense_path.halfway(place), home)
        return dense_path_run(made, place, reference, problems).run_id

    assert named() == first.run.run_id == named(reference=dense_path.halfway(place))
    ids = [named(), named(reference=str(BASE)), named(credit="sparse"), named(gamma=0.9), named(kl_coef=0.0), named(seed=1)]
    assert len(set(ids)) == len(ids)
    stored = weights(first.checkpoint(2))
    (first.path / "run.json").unlink()
    (first.path / "metrics.jsonl").unlink()
    again = weights(dense_path.main(config(home, start)).checkpoint(2))
    assert all(torch.equal(stored[name], again[name]) for name in stored)


def test_what_has_no_half_says_how_to_get_one(home, start, tmp_path):
    with pytest.raises(InputError, match="stage base"):
        dense_path.main(config(home, start, model=str(BASE)))
    plain = sft.main(sft_config(home).model_copy(update={"home": tmp_path}))
    with pytest.raises(InputError, match=r"keep_shares=\[0.5\]"):
        dense_path.main(config(home, plain).model_copy(update={"home": tmp_path}))
    late = plain.checkpoint(round(0.65 * plain.run.steps))
    shutil.copytree(plain.checkpoint(plain.run.steps), late)
    with pytest.raises(InputError, match="no checkpoint near half"):
        dense_path.halfway(checkpoints.resolve(plain.run.run_id, tmp_path))
    near = late.rename(plain.checkpoint(round(0.58 * plain.run.steps)))
    assert dense_path.halfway(checkpoints.resolve(plain.run.run_id, tmp_path)) == f"{plain.run.run_id}@{near.name}"


def test_a_reference_of_another_vocabulary_is_refused(home, start, tmp_path):
    folder = tmp_path / "other"
    model, tokenizer = checkpoints.load(BASE)
    model.resize_token_embeddings(model.config.vocab_size + 8)
    checkpoints.save(model, tokenizer, folder)
    with pytest.raises(InputError, match="tokens, the start"):
        dense_path.main(config(home, start, reference=str(folder)))


def test_a_diverged_run_fails_and_keeps_finite_weights(home, start, tmp_path):
    """A reference with infinite logits gives rewards that are not finite."""
    folder = tmp_path / "broken"
    model, tokenizer = checkpoints.load(BASE)
    checkpoints.save(model, tokenizer, folder)
    broken = {name: weight * float("nan") for name, weight in weights(folder).items()}
    save_file(broken, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckFailed, match="diverged"):
        dense_path.main(config(home, start, reference=str(folder)))
