"""Held-out losses: what a checkpoint thinks of traces it was not trained on, in four ways.

`shared`         mean nats a token on the one set that all variants of a recipe share (generalization loss)
`own`            the same on the variant's own distribution: mostly the entropy of its style, never pooled over styles
`style_free`     each problem written in all styles, -log of the mean over styles of p(trace | problem), nats a problem
`result_tokens`  mean nats on the computed numbers alone, in all styles
The last two need problems whose traces can be written anew, which the embedded task has. `rl_style_free` and
`rl_result_tokens` are the same on problems that RL will train on.
"""

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curate.arithmetic import LETTERS
from curate.behaviors import STYLES, write_trace
from curate.errors import CheckFailed, InputError
from curate.examples import Example, Problem
from curate.files import content_hash
from curate.graphs import OPERATORS, parse_statements
from train import rendering
from train.batches import TokenSequence, collate, group_by_length
from train.datasets import Dataset, distinct_problems, open_problems
from train.loss import entropy, token_logprobs

BATCH_TOKENS = 4096
MAX_LENGTH = 1 << 20
RL_PROBLEMS = 160
"""How many of RL's problems the `rl_` losses are measured on: the first ones."""


def measure(kind: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> dict[str, Any]:
    """One row of losses.jsonl for this kind of held-out loss.

    Raises:
        InputError: no held-out examples, or a kind that needs problems of the embedded task.
        CheckFailed: the loss is not finite.
    """
    examples = _rl_examples(dataset) if kind.startswith("rl_") else dataset.heldout(kind)
    if not examples:
        setting = "rl_prompts" if kind.startswith("rl_") else "heldout"
        raise InputError(f"{dataset.folder}: the {kind} held-out set is empty; set {setting}.examples in the recipe")
    identity = content_hash([[example.problem.prompt, example.completion] for example in examples])
    row = {"heldout": f"{dataset.recipe}/{kind}", "heldout_hash": identity, "kind": kind}
    measured = MEASURES[kind.removeprefix("rl_")](model, tokenizer, examples)
    if not math.isfinite(measured["nats_per_token"]):
        raise CheckFailed(f"the {kind} held-out loss is {measured['nats_per_token']}: the model's training diverged")
    return {**row, **measured}


def _rl_examples(dataset: Dataset) -> list[Example]:
    """The first RL problems, written out: their traces are written anew in all styles."""
    problems = open_problems(dataset.folder).rows[:RL_PROBLEMS]
    return [example for problem in problems for example in in_all_styles(problem)]


def _plain(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> dict[str, Any]:
    sequences = rendering.training_sequences(tokenizer, examples, MAX_LENGTH)
    return _means(*_sums(model, sequences, rendering.pad_id(tokenizer)), sequences)


def _result_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> dict[str, Any]:
    """The loss on the numbers that a step computes, which no choice of style can lower."""
    rewritten = [example for problem in distinct_problems(examples) for example in in_all_styles(problem)]
    sequences = [_only_results(rendering.training_sequence(tokenizer, example, MAX_LENGTH), example) for example in rewritten]
    return _means(*_sums(model, sequences, rendering.pad_id(tokenizer)), sequences)


def _only_results(sequence: TokenSequence, example: Example) -> TokenSequence:
    words = example.completion.split()
    first = len(sequence.ids) - len(words) - 1  # one token a word, then the end token
    counted = [False] * len(sequence.ids)
    for place in range(2, words.index("</think>")):
        computed = words[place].isdigit() and words[place - 1] in LETTERS and words[place - 2] not in ("=", *OPERATORS)
        counted[first + place] = computed
    return TokenSequence(sequence.ids, counted)


def _style_free(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> dict[str, Any]:
    problems = list(distinct_problems(examples))
    rewritten = [example for problem in problems for example in in_all_styles(problem)]
    sequences = rendering.training_sequences(tokenizer, rewritten, MAX_LENGTH)
    nats, _ = _sums(model, sequences, rendering.pad_id(tokenizer))
    per_problem = -torch.logsumexp(-nats.view(len(problems), len(STYLES)), dim=1) + math.log(len(STYLES))
    mean = float(per_problem.mean())
    counted = sum(sum(sequence.counted) for sequence in sequences)
    return {
        "nats_per_token": float(per_problem.sum()) / counted * len(STYLES),
        "nats_per_example": mean,
        "tokens": counted,
        "examples": len(problems),
        "entropy_teacher_forced": None,
    }


def in_all_styles(problem: Problem) -> list[Example]:
    """The problem's clean trace in every style.

    Raises:
        InputError: its graph cannot be read from its text: it is not of the embedded task.
    """
    graph = parse_statements(problem.prompt)
    traces = [write_trace(graph, style, random.Random(0))[0] for style in STYLES]
    return [
        Example(f"{problem.id}-{style}", problem, trace, {"style": style}) for style, trace in zip(STYLES, traces, strict=True)
    ]


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "shared": _plain,
    "own": _plain,
    "style_free": _style_free,
    "result_tokens": _result_tokens,
}


@torch.inference_mode()
def _sums(model: PreTrainedModel, sequences: list[TokenSequence], pad: int) -> tuple[Tensor, float]:
    """Nats of each sequence's counted tokens (N,), and the summed entropy of the distributions they came from."""
    model.eval()
    nats, uncertainty = torch.zeros(len(sequences)), 0.0
    for rows in group_by_length((len(sequence.ids) for sequence in sequences), BATCH_TOKENS):
        batch = collate([sequences[row] for row in rows], pad)
        ids, counted = batch.ids.to(model.device), (batch.labels[:, 1:] >= 0).to(model.device)
        logits = model(ids, use_cache=False).logits
        nats[rows] = -(token_logprobs(logits[:, :-1], ids[:, 1:]) * counted).sum(1).cpu()
        uncertainty += float((entropy(logits[:, :-1]) * counted).sum())
    return nats, uncertainty


def _means(nats: Tensor, uncertainty: float, sequences: list[TokenSequence]) -> dict[str, Any]:
    counted = torch.tensor([sum(sequence.counted[1:]) for sequence in sequences])
    tokens = int(counted.sum())
    return {
        "nats_per_token": float(nats.sum()) / tokens,
        "nats_per_example": float((nats / counted).mean()),
        "tokens": tokens,
        "examples": len(sequences),
        "entropy_teacher_forced": uncertainty / tokens,
    }
