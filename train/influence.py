"""Influence between problems (BRIDGE, arXiv 2505.18917): how much an RL step on one problem helps another, before any RL.

To first order a step along the gradient G(q) of one problem's group of rollouts changes the objective of problem q' by
<G(q'), G(q)> times the learning rate. With GRPO's advantages, in a group of which a share a is right,

    G(q) = sqrt(a (1 - a)) d(q),    d(q) = mean of grad log pi(o | q) over right rollouts less that over wrong ones,

so influence is made of rollout accuracy and of co-influence, <d(q'), d(q)>. The paper's K+ and K- are the two halves of d(q); as the
expected score is 0, a K+ + (1 - a) K- = 0: one says the other, and the difference says all. Means are over pairs of *different*
problems, whose rollouts are independent: so they have no bias from sampling noise, and the mean influence within one set estimates the
squared norm of the whole objective's gradient. How the paper estimates its own figure is not published; this estimator is ours.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curate.errors import UsageError
from curate.files import read_jsonl
from train import checkpoints, rendering
from train.batches import group_by_length
from train.configs import InfluenceConfig, ProblemSet
from train.datasets import problem_set
from train.evaluate import Progress
from train.records import RunFolder, workspace
from train.rollout_steps import SharedPrompts, verifier_rewards
from train.sampling import Sampler, make_sampler, sampling_seed

WHOLE_BYTES = 4 << 30
"""What gradients that are kept whole may take."""


@dataclass(frozen=True)
class Gradients:
    """Group gradients of P problems; 0 where all rollouts are right or all wrong."""

    rows: Tensor
    """(P, D), whole or projected."""
    scales: Tensor
    """(P,) sqrt(a (1 - a)), the population standard deviation of a group's rewards."""


def main(config: InfluenceConfig, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Measure a checkpoint, add the figures to its signals, return them with their standard errors.

    Raises:
        UsageError: gradients kept whole would take too much memory.
        InputError: no such checkpoint or problem set.
    """
    home = workspace(config.home)
    checkpoint = checkpoints.resolve(config.model, home)
    model, tokenizer = checkpoints.load(checkpoint.folder, config.device)
    _check_size(config, sum(weights.numel() for weights in model.parameters()))
    measure = Measure(config, model.eval(), tokenizer, make_sampler(config.sampler, model, tokenizer), progress)
    problems = measure.gradients("problems", config.problems)
    targets = measure.gradients("targets", config.targets) if config.targets else None
    document = {"problems": len(problems.rows), "mixed": int((problems.scales > 0).sum()), **influences(problems, targets)}
    _record(RunFolder.of(home, checkpoint.id.run_id), checkpoint.id.step, config, document)
    return {"run_id": checkpoint.id.run_id, "step": checkpoint.id.step, **document}


def _check_size(config: InfluenceConfig, parameters: int) -> None:
    problems = config.problems.problems + (config.targets.problems if config.targets else 0)
    needed = 4 * problems * parameters
    if config.dimensions is None and needed > WHOLE_BYTES:
        raise UsageError(
            f"dimensions: expected a number for a model of this size: kept whole, the gradients of {problems} problems in "
            f"{parameters:,} parameters take {needed / 2**30:.1f} GiB of at most {WHOLE_BYTES / 2**30:.0f}; "
            "set dimensions: 8192 to project each on so many random directions"
        )


@dataclass(frozen=True)
class Measure:
    """What it takes to differentiate a checkpoint's rollouts."""

    config: InfluenceConfig
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sampler: Sampler
    progress: Progress

    def gradients(self, role: str, wanted: ProblemSet) -> Gradients:
        """Sample a group for each problem and differentiate it; `role` tells the random numbers of two sets apart."""
        config, problems, size = self.config, problem_set(wanted).rows, wanted.num_samples
        prompts = [rendering.prompt_ids(self.tokenizer, problem) for problem in problems]
        seed = sampling_seed("influence", config.seed, role)
        rollouts = self.sampler.sample(
            prompts, group_size=size, max_tokens=config.max_tokens, temperature=config.temperature, seed=seed
        )
        rewards = verifier_rewards(rollouts, problems, self.tokenizer, size)
        scales = rewards.std(dim=1, correction=0)
        rows = torch.zeros(len(problems), config.dimensions or sum(weights.numel() for weights in self.model.parameters()))
        for index in range(len(problems)):
            if scales[index] > 0:
                group = slice(index * size, (index + 1) * size)
                advantages = (rewards[index] - rewards[index].mean()) / scales[index]
                self.differentiate(prompts[index], rollouts.tokens[group], rollouts.mask[group], advantages)
                rows[index] = flattened(self.model.parameters(), config.dimensions)
            self.progress(index + 1, len(problems), {"frac_mixed": float((scales[: index + 1] > 0).float().mean())})
        return Gradients(rows, scales)

    def differentiate(self, prompt: list[int], tokens: Tensor, mask: Tensor, advantages: Tensor) -> None:
        """Leave the gradient of mean over a group of advantage x log pi(completion | prompt) in the weights' `grad`.

        Args:
            tokens, mask: (N, T). advantages: (N,).
        """
        self.model.zero_grad(set_to_none=False)
        lengths = mask.sum(1).long().tolist()
        shared = SharedPrompts(self.model, [prompt], rendering.pad_id(self.tokenizer))
        for rows in group_by_length(lengths, self.config.micro_batch_tokens):
            width = max(lengths[row] for row in rows)
            same = torch.zeros(len(rows), dtype=torch.long, device=tokens.device)
            logprobs = shared.completion_logprobs(same, tokens[rows, :width], self.config.temperature)
            totals = (logprobs * mask[rows, :width]).sum(1)
            ((totals * advantages[rows].to(totals.device)).sum() / len(lengths)).backward()  # type: ignore[no-untyped-call]
        shared.backward()


def flattened(parameters: Iterable[Tensor], dimensions: int | None) -> Tensor:
    """The parameters' gradients as one vector: (all parameters,), or a sketch of it (dimensions,).

    The sketch adds each number, with a random sign, to a random place (count sketch, Charikar et al. 2002): inner products stay right on
    average, with a variance of at most (|x|^2 |y|^2 + <x, y>^2) / dimensions. Signs and places are the same in every call.
    """
    parts = [torch.zeros(one.numel()) if one.grad is None else one.grad.flatten().float().cpu() for one in parameters]
    if dimensions is None:
        return torch.cat(parts)
    generator, sketch = torch.Generator().manual_seed(0), torch.zeros(dimensions)
    for part in parts:
        draws = torch.randint(2 * dimensions, (len(part),), generator=generator)
        sketch.index_add_(0, draws // 2, torch.where(draws % 2 == 0, part, -part))
    return sketch


def influences(problems: Gradients, targets: Gradients | None = None) -> dict[str, dict[str, float | None]]:
    """`influence`, `co_influence` and `gradient_agreement`, each {value, se}; None where too few groups are mixed to say.

    Means over pairs of a target and a problem; within one set, of different problems. `co_influence` weights a pair's d . d' by
    sqrt(a (1 - a)) of both groups, so that times the mean of these weights it is `influence`. `gradient_agreement` is the influence over the mean squared length of a group's gradient, free of the
    model's scale: 1 / (1 + B) for the simple noise scale B of McCandlish et al. (arXiv 1812.06162), a group taken as one example.
    Standard errors: jackknife over problems and, where there are any, targets; too large, by up to sqrt(2), where a figure is mostly noise
    (Efron and Stein 1981).
    """
    pairs = Pairs.of(problems, targets)
    values, errors = pairs.figures(*pairs.all), pairs.standard_errors()
    return {name: {"value": _known(value), "se": _known(errors[name])} for name, value in values.items()}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Pairs:
    """What the figures are made of, for T targets and P problems."""

    products: Tensor
    """(T, P) inner products of group gradients."""
    scales: Tensor
    """(T, P) products of both groups' sqrt(a (1 - a))."""
    lengths: tuple[Tensor, Tensor]
    """(T,) and (P,) squared lengths of the gradients."""
    within: bool
    """The targets are the problems: a pair is of different ones."""

    @classmethod
    def of(cls, problems: Gradients, targets: Gradients | None) -> "Pairs":
        """All pairs of two sets, or within one."""
        others = targets or problems
        return cls(
            (others.rows @ problems.rows.T).double(),
            torch.outer(others.scales, problems.scales).double(),
            (others.rows.square().sum(1).double(), problems.rows.square().sum(1).double()),
            targets is None,
        )

    @property
    def all(self) -> tuple[Tensor, Tensor]:
        """(T,) and (P,) ones: weights that leave nothing out."""
        return torch.ones_like(self.lengths[0]), torch.ones_like(self.lengths[1])

    def figures(self, of_targets: Tensor, of_problems: Tensor) -> dict[str, float]:
        """The figures with these weights (T,), (P,); NaN where there is nothing to divide by."""
        weights = torch.outer(of_targets, of_problems)
        if self.within:
            weights.fill_diagonal_(0)
        influence = (weights * self.products).sum() / weights.sum()
        co_influence = (weights * self.products).sum() / (weights * self.scales).sum()
        means = [(w * lengths).sum() / w.sum() for w, lengths in zip((of_targets, of_problems), self.lengths, strict=True)]
        agreement = influence / (means[0] * means[1]).sqrt()
        return {"influence": float(influence), "co_influence": float(co_influence), "gradient_agreement": float(agreement)}

    def standard_errors(self) -> dict[str, float]:
        """By leaving out one problem, or one target, at a time."""
        of_targets, of_problems = self.all
        kept = [1 - one for one in torch.eye(len(of_problems), dtype=torch.float64)]
        left_out = [[self.figures(one if self.within else of_targets, one) for one in kept]]
        if not self.within:
            left_out.append([self.figures(1 - one, of_problems) for one in torch.eye(len(of_targets), dtype=torch.float64)])
        return {name: math.sqrt(sum(_jackknife([one[name] for one in side]) for side in left_out)) for name in left_out[0][0]}


def _jackknife(values: list[float]) -> float:
    """Variance of a figure from its values with one unit left out at a time."""
    mean = sum(values) / len(values)
    return (len(values) - 1) / len(values) * sum((value - mean) ** 2 for value in values)


def _record(record: RunFolder, step: int, config: InfluenceConfig, document: dict[str, Any]) -> None:
    """Add the figures that are known to the signals, unless the same was measured before."""
    path = record.path / "signals.jsonl"
    rows = [row for _, row in read_jsonl(path, torn_tail=True)] if path.exists() else []
    known = {(row["step"], row["name"], row["method"]) for row in rows}
    for name in ("influence", "co_influence", "gradient_agreement"):
        value, method = document[name]["value"], _method(config)
        if value is not None and (step, name, method) not in known:
            record.signal(step, name, value, method)


def _method(config: InfluenceConfig) -> str:
    sets = [f"{one.set}, {one.problems} problems x {one.num_samples}" for one in (config.targets, config.problems) if one]
    sketch = f", projected on {config.dimensions}" if config.dimensions else ""
    return f"{' from '.join(sets)}, temperature {config.temperature:g}, seed {config.seed}{sketch}"


def table(document: dict[str, Any]) -> str:
    """What the command prints."""
    lines = [f"{document['run_id']}@{document['step']}: {document['mixed']} of {document['problems']} groups are mixed"]
    for name in ("influence", "co_influence", "gradient_agreement"):
        value, error = document[name]["value"], document[name]["se"]
        shown = (
            "not known: too few groups are mixed"
            if value is None
            else f"{value:.4g}" + (f" +- {error:.2g}" if error is not None else "")
        )
        lines.append(f"{name:20s}{shown}")
    return "\n".join(lines)
