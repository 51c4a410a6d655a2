"""Influence between problems: held to autograd by hand, to finite differences, to sums over all pairs, and to samples with a known gradient."""

import json
import math
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from curate.errors import UsageError
from train import checkpoints, influence, rendering
from train.cli import main
from train.configs import InfluenceConfig
from train.datasets import problem_set
from train.influence import Gradients, Measure, flattened, influences
from train.rewards import accuracy_reward
from train.sampling import make_sampler, sampling_seed

BASE = Path(__file__).parent.parent / "studies/lab/bases/l4-behaved-s0"
PROBLEMS = {"set": "A", "problems": 6, "operations": [2, 3], "num_samples": 8}


def config(**settings) -> InfluenceConfig:
    return InfluenceConfig.model_validate({"model": str(BASE), "problems": PROBLEMS, "max_tokens": 60, **settings})


def measure(settings: InfluenceConfig) -> Measure:
    model, tokenizer = checkpoints.load(BASE)
    return Measure(settings, model.eval(), tokenizer, make_sampler("native", model, tokenizer), lambda *_: None)


@pytest.fixture(scope="module")
def groups():
    """The rollouts that a measurement sees: prompt, rows of tokens without padding, rewards."""
    settings, tool = config(), measure(config())
    problems = problem_set(settings.problems).rows
    prompts = [rendering.prompt_ids(tool.tokenizer, problem) for problem in problems]
    rollouts = tool.sampler.sample(
        prompts, group_size=8, max_tokens=60, temperature=1.0, seed=sampling_seed("influence", 0, "problems")
    )
    found = []
    for index, problem in enumerate(problems):
        rows = range(8 * index, 8 * index + 8)
        written = [rollouts.tokens[row, : rollouts.lengths[row]].tolist() for row in rows]
        texts = [tool.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in written]
        rewards = [
            accuracy_reward(text, ground_truth=problem.ground_truth, finished=bool(rollouts.finished[row]))
            for row, text in zip(rows, texts, strict=True)
        ]
        found.append((prompts[index], written, rewards))
    return found


def logprob(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None]).sum()


def score_by_hand(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
    parts = torch.autograd.grad(logprob(model, prompt, completion), list(model.parameters()))
    return torch.cat([part.flatten() for part in parts])


def test_a_groups_gradient_is_its_accuracy_term_times_right_less_wrong_scores(groups):
    """sqrt(a (1 - a)) (mean score of right rollouts - of wrong ones), each rollout differentiated by itself."""
    measured = measure(config()).gradients("problems", config().problems)
    model, _ = checkpoints.load(BASE)
    mixed = 0
    for (prompt, written, rewards), row, scale in zip(groups, measured.rows, measured.scales, strict=True):
        share = sum(rewards) / len(rewards)
        assert float(scale) == pytest.approx(math.sqrt(share * (1 - share)))
        if 0 < share < 1:
            scores = [score_by_hand(model, prompt, completion) for completion in written]
            right, wrong = (
                torch.stack([score for score, reward in zip(scores, rewards, strict=True) if reward == wanted]).mean(0)
                for wanted in (1, 0)
            )
            expected = math.sqrt(share * (1 - share)) * (right - wrong)
            torch.testing.assert_close(row, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
            mixed += 1
        else:
            assert not row.any()
    assert mixed >= 2


def test_an_inner_product_is_what_a_small_step_on_one_problem_does_to_another(groups):
    """Central differences of the mean advantage x log-probability of one group's rollouts along another group's gradient."""
    measured = measure(config()).gradients("problems", config().problems)
    first, second = (measured.scales > 0).nonzero()[:2, 0].tolist()
    model, _ = checkpoints.load(BASE)
    model.double()
    prompt, written, rewards = groups[second]
    share = sum(rewards) / len(rewards)
    advantages = [(reward - share) / math.sqrt(share * (1 - share)) for reward in rewards]
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach()

    def objective(step: float) -> float:
        torch.nn.utils.vector_to_parameters(before + step * measured.rows[first].double(), model.parameters())
        with torch.no_grad():
            values = [logprob(model, prompt, completion) for completion in written]
        return float(sum(a * value for a, value in zip(advantages, values, strict=True)) / len(values))

    slope = (objective(1e-4) - objective(-1e-4)) / 2e-4
    assert slope == pytest.approx(float(measured.rows[first] @ measured.rows[second]), rel=1e-3)


def test_micro_batches_change_nothing():
    whole, parts = (
        measure(config(micro_batch_tokens=size)).gradients("problems", config().problems).rows for size in (1 << 20, 64)
    )
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))


def drawn(count: int, dimensions: int, seed: int, *, unmixed: int = 0) -> Gradients:
    rng = np.random.default_rng(seed)
    rows, scales = rng.normal(size=(count, dimensions)) + 0.5, rng.uniform(0.2, 0.5, count)
    rows[:unmixed], scales[:unmixed] = 0, 0
    return Gradients(torch.tensor(rows, dtype=torch.float32), torch.tensor(scales, dtype=torch.float32))


def by_pairs(targets: Gradients, problems: Gradients, pairs: list[tuple[int, int]]) -> dict[str, float]:
    products = {pair: float(targets.rows[pair[0]] @ problems.rows[pair[1]]) for pair in pairs}
    scales = {(i, j): float(targets.scales[i] * problems.scales[j]) for i, j in pairs}
    together = [scales[pair] * (products[pair] / scales[pair]) for pair in pairs if scales[pair] > 0]  # weight x d . d'
    of_targets, of_problems = {i for i, _ in pairs}, {j for _, j in pairs}
    squares = [
        np.mean([float(s.rows[i] @ s.rows[i]) for i in some]) for s, some in ((targets, of_targets), (problems, of_problems))
    ]
    mean = np.mean(list(products.values()))
    return {
        "influence": mean,
        "co_influence": sum(together) / sum(scales.values()),
        "gradient_agreement": mean / math.sqrt(squares[0] * squares[1]),
    }


def jackknife(values: list[float]) -> float:
    return (len(values) - 1) / len(values) * float(np.sum((np.array(values) - np.mean(values)) ** 2))


def test_within_one_set_the_figures_are_means_over_pairs_of_different_problems():
    some = drawn(7, 5, 1, unmixed=2)
    figures = influences(some)
    expected = by_pairs(some, some, list(permutations(range(7), 2)))
    for name, figure in figures.items():
        left_out = [by_pairs(some, some, list(permutations(set(range(7)) - {i}, 2)))[name] for i in range(7)]
        assert figure["value"] == pytest.approx(expected[name], rel=1e-5)
        assert figure["se"] == pytest.approx(math.sqrt(jackknife(left_out)), rel=1e-4)


def test_between_two_sets_they_are_means_over_all_pairs():
    problems, targets = drawn(5, 4, 2), drawn(3, 4, 3, unmixed=1)
    figures = influences(problems, targets)
    expected = by_pairs(targets, problems, list(product(range(3), range(5))))
    for name, figure in figures.items():
        by_target = [by_pairs(targets, problems, list(product(set(range(3)) - {i}, range(5))))[name] for i in range(3)]
        by_problem = [by_pairs(targets, problems, list(product(range(3), set(range(5)) - {j})))[name] for j in range(5)]
        assert figure["value"] == pytest.approx(expected[name], rel=1e-5)
        assert figure["se"] == pytest.approx(math.sqrt(jackknife(by_target) + jackknife(by_problem)), rel=1e-4)


@pytest.mark.parametrize("size", [0.2, 2.0])
def test_influence_is_the_squared_length_of_the_mean_gradient_without_bias_and_its_error_is_not_too_small(size):
    """Gradients of known mean: the squared length of the sample mean would be 40 / 12 too high. By how much the jackknife may be
    too large is known: variance twice the true one where noise is all (Efron and Stein 1981), equal where the mean is long."""
    rng, truth = np.random.default_rng(5), np.full(40, size)
    values, variances = [], []
    for _ in range(400):
        rows = torch.tensor(truth + rng.normal(size=(12, 40)), dtype=torch.float32)
        figure = influences(Gradients(rows, torch.full((12,), 0.5)))["influence"]
        values.append(figure["value"])
        variances.append(figure["se"] ** 2)
    assert abs(np.mean(values) - truth @ truth) < 4 * stats.sem(values)
    first, second = 4 * float(truth @ truth) / 12, 2 * 40 / (12 * 11)  # Hoeffding's two parts of the variance, sigma = 1
    assert np.var(values, ddof=1) == pytest.approx(first + second, rel=0.2)
    assert np.mean(variances) == pytest.approx(first + 2 * second, rel=0.2)


def test_a_sketch_keeps_inner_products_on_average_and_spreads_as_the_formula_says():
    """Vectors of a mean that is not 0: without random signs the sum would be 200 too high. Their numbers come in a new order each time."""
    rng = np.random.default_rng(6)
    found, size = [], 64
    first, second = rng.normal(0.2, 1, 600), rng.normal(0.2, 1, 600)
    for _ in range(300):
        order, pair = rng.permutation(600), []
        for vector in (first, second):
            weights = torch.zeros(600, requires_grad=True)
            weights.grad = torch.tensor(vector[order], dtype=torch.float32)
            pair.append(flattened([weights], size))
        found.append(float(pair[0] @ pair[1]))
    exact = float(first @ second)
    bound = math.sqrt((first @ first * (second @ second) + exact**2) / size)
    assert abs(np.mean(found) - exact) < 4 * stats.sem(found)
    assert np.std(found) == pytest.approx(bound, rel=0.2)


def test_where_no_group_is_mixed_influence_is_zero_and_nothing_else_is_said():
    figures = influences(Gradients(torch.zeros(4, 3), torch.zeros(4)))
    assert figures["influence"] == {"value": 0.0, "se": 0.0}
    assert figures["co_influence"] == figures["gradient_agreement"] == {"value": None, "se": None}


def written(tmp_path: Path, **settings) -> list[str]:
    file = tmp_path / "influence.yaml"
    file.write_text(json.dumps({"model": str(BASE), "problems": PROBLEMS, "max_tokens": 60, **settings}), encoding="utf-8")
    return ["influence", str(file), "--home", str(tmp_path / "home")]


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["train", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_the_command_prints_and_keeps_the_figures_once(tmp_path, monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, *written(tmp_path), "--json")
    document = json.loads(out)
    assert code == 0
    assert document["problems"] == 6
    assert run(monkeypatch, capsys, *written(tmp_path))[0] == 0
    [folder] = (tmp_path / "home/runs").iterdir()
    rows = [json.loads(line) for line in (folder / "signals.jsonl").read_text().splitlines()]
    assert {row["name"]: row["value"] for row in rows} == {
        name: document[name]["value"] for name in ("influence", "co_influence", "gradient_agreement")
    }
    assert len(rows) == 3
    assert {row["method"] for row in rows} == {"A, 6 problems x 8, temperature 1, seed 0"}


def test_targets_get_rollouts_of_their_own(tmp_path, monkeypatch, capsys):
    """The same problems as targets: pairs of a problem with itself are of two groups, so no figure is of one group with itself."""
    settings = config(targets=PROBLEMS)
    tool = measure(settings)
    problems, targets = tool.gradients("problems", settings.problems), tool.gradients("targets", settings.targets)
    assert not torch.equal(problems.rows, targets.rows)
    _, out, _ = run(monkeypatch, capsys, *written(tmp_path, targets=PROBLEMS), "--json")
    assert json.loads(out)["influence"]["value"] == pytest.approx(float((targets.rows @ problems.rows.T).mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"problems": {**PROBLEMS, "num_samples": 1}}, "num_samples of at least 2"),
        ({"targets": {**PROBLEMS, "problems": 1}}, "targets: expected at least 2 problems"),
        ({"dimensions": 8}, "dimensions"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message, tmp_path, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, *written(tmp_path, **settings))
    assert code == 2
    assert message in err


def test_gradients_too_large_to_keep_whole_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(influence, "WHOLE_BYTES", 1 << 20)
    with pytest.raises(UsageError, match=r"gradients of 6 problems in [\d,]+ parameters take .* set dimensions: 8192"):
        influence.main(config())
