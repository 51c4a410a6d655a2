"""Pre-train an embedded base model on drills and worked problems drawn on the fly.

One job, one schedule: facts (sums), recall (look a name up), copying (restate a statement) and problems
with traces in all styles, a few of whose steps go wrong and are carried on. The stages only shift the shares.
"""

import math
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from curate.arithmetic import COMMON, LETTERS, draw_graph, statement_words
from curate.behaviors import ALL_BEHAVIORS, BEHAVIORS, LARGEST_VALUE, Injection, write_trace
from curate.errors import OutputExists
from curate.files import content_hash
from curate.graphs import Graph, evaluate
from train import checkpoints, tiny
from train.batches import TokenSequence, collate, group_by_length
from train.configs import BaseConfig
from train.loop import TrainingState
from train.loss import sft_loss
from train.muon import StackedMuon
from train.records import Run, RunFolder, workspace


@dataclass(frozen=True)
class Stage:
    """Shares of items from `start` (a share of all tokens) on, and the operations of its problems."""

    start: float
    facts: float
    recall: float
    copying: float
    problems: float
    most_operations: int


STAGES = (
    Stage(0.00, 0.30, 0.20, 0.25, 0.25, 3),
    Stage(0.10, 0.08, 0.03, 0.09, 0.80, 4),
    Stage(0.35, 0.08, 0.03, 0.09, 0.80, 6),
    Stage(0.50, 0.08, 0.03, 0.03, 0.86, 6),
)
FACT_SHARES = (0.5, 0.3, 0.2)
"""Of facts with one, two and three operations."""
WARMUP_STEPS = 200
CHUNK_ITEMS = 1024

Progress = Callable[[int, int, dict[str, float]], None]


def main(config: BaseConfig, progress: Progress = lambda *_: None) -> RunFolder:
    """Pre-train, keep the model in fp16 under its run folder (and `output`), return the folder."""
    home = workspace(config.home)
    if config.output and config.output.exists():
        raise OutputExists(f"{config.output} exists already; remove it or choose another output")
    began = time.perf_counter()
    unfinished = home / "runs" / f".base-{content_hash(config.science())}.pt"
    llama, counters = pretrain(config, unfinished, progress)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        checkpoints.save(llama.half(), tiny.tokenizer(), folder)
        run = Run(checkpoints.weights_hash(folder), "base", base_model=config.name, family="llama")
        record = RunFolder.of(home, run.run_id)
        run.steps, run.tokens, run.seconds = counters["step"], counters["tokens"], time.perf_counter() - began
        run.cell = f"base/{config.name}"
        run.config = {**config.science(), "folder": str(record.checkpoint(run.steps).resolve())}
        record.start(run)
        for target in filter(None, (record.checkpoint(run.steps), config.output)):
            checkpoints.save(llama, tiny.tokenizer(), target)
        record.finish(run, "done")
    unfinished.unlink(missing_ok=True)
    return record


def pretrain(config: BaseConfig, unfinished: Path, progress: Progress) -> tuple[LlamaForCausalLM, dict[str, Any]]:
    """Train from scratch, or from the state a killed run left at `unfinished`.

    Args:
        progress: called after each chunk with the thousandths done, 1000 and {"loss"}.

    Returns:
        The model in fp32, and {"step", "tokens", "chunk"} counted to the end.
    """
    llama = tiny.model(layers=config.layers, hidden=config.hidden, seed=config.seed)
    optimizers = _optimizers(llama, config)
    state = TrainingState(unfinished, llama, optimizers, config.save_seconds)
    counters = {"chunk": 0, **state.restore()}
    while counters["tokens"] < config.tokens:
        done = counters["tokens"] / config.tokens
        rng = random.Random(f"{config.seed}/{counters['chunk']}")
        items = [_item(rng, done, config) for _ in range(CHUNK_ITEMS)]
        losses = []
        for indices in group_by_length((len(item.ids) for item in items), config.batch_tokens, rng):
            batch = [items[index] for index in indices]
            scale = _schedule(counters["step"], counters["tokens"] / config.tokens)
            losses.append(_train_step(llama, optimizers, batch, scale))
            counters["tokens"] += sum(len(item.ids) for item in batch)
            counters["step"] += 1
        counters["chunk"] += 1
        state.save_if_due(counters)
        progress(min(1000, round(1000 * counters["tokens"] / config.tokens)), 1000, {"loss": sum(losses) / len(losses)})
    return llama, counters


def _optimizers(llama: LlamaForCausalLM, config: BaseConfig) -> list[torch.optim.Optimizer]:
    matrices, others = [], []
    for name, weight in llama.named_parameters():
        (matrices if weight.ndim == 2 and ".layers." in name else others).append(weight)
    optimizers = [
        StackedMuon(matrices, lr=config.matrix_learning_rate),
        torch.optim.AdamW(others, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.01),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def _schedule(step: int, done: float) -> float:
    """Linear warm-up, then cosine in tokens to 5 % of the peak."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def _train_step(
    llama: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], items: list[TokenSequence], scale: float
) -> float:
    batch = collate(items, tiny.PAD)
    loss = sft_loss(llama(batch.ids, use_cache=False).logits, batch.labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(llama.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = scale * group["peak"]
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _item(rng: random.Random, done: float, config: BaseConfig) -> TokenSequence:
    stage = max((stage for stage in STAGES if done >= stage.start), key=lambda stage: stage.start)
    kinds: tuple[Callable[[], TokenSequence], ...] = (
        lambda: _facts(rng),
        lambda: _recall(rng),
        lambda: _copying(rng, stage, config),
        lambda: _worked(rng, stage, config),
    )
    return rng.choices(kinds, (stage.facts, stage.recall, stage.copying, stage.problems))[0]()


def _sequence(words: list[str], counted: list[bool]) -> TokenSequence:
    return TokenSequence([tiny.BOS, *(tiny.WORD_IDS[word] for word in words)], [False, *counted])


def _facts(rng: random.Random) -> TokenSequence:
    """8 x `= A op B [op C [op D]] letter R`; the loss counts R alone."""
    words: list[str] = []
    counted: list[bool] = []
    for _ in range(8):
        fact = _fact(rng, operations=rng.choices((1, 2, 3), FACT_SHARES)[0])
        words += fact
        counted += [False] * (len(fact) - 1) + [True]
    return _sequence(words, counted)


def _fact(rng: random.Random, operations: int) -> list[str]:
    while True:
        operands = [rng.randint(0, LARGEST_VALUE) for _ in range(operations + 1)]
        operators = tuple(rng.choice("+-") for _ in range(operations))
        values = evaluate(operands, operators)
        if all(0 <= value <= LARGEST_VALUE for value in values):
            pairs = [word for pair in zip(operators, map(str, operands[1:]), strict=True) for word in pair]
            return ["=", str(operands[0]), *pairs, rng.choice(LETTERS), str(values[-1])]


def _recall(rng: random.Random) -> TokenSequence:
    """7 letter-number pairs, then the pairs twice more in random order; the loss counts the recalled numbers."""
    pairs = [(letter, str(rng.randint(0, LARGEST_VALUE))) for letter in rng.sample(LETTERS, 7)]
    again = [*rng.sample(pairs, 7), *rng.sample(pairs, 7)]
    words = [word for pair in pairs for word in pair] + ["<think>"] + [word for pair in again for word in pair]
    return _sequence(words, [False] * 15 + [False, True] * 14)


def _copying(rng: random.Random, stage: Stage, config: BaseConfig) -> TokenSequence:
    """A problem's statements, then its operations again in random order; the loss counts what follows `x =`."""
    graph = _graph(rng, stage, config)
    statements = [statement_words(node) for node in graph.nodes.values()]
    words = [word for statement in statements for word in statement] + ["<think>"]
    counted = [False] * len(words)
    for statement in rng.sample(statements, len(statements)):
        if len(statement) > 2:
            words += statement
            counted += [False, False] + [True] * (len(statement) - 2)
    return _sequence(words, counted)


def _worked(rng: random.Random, stage: Stage, config: BaseConfig) -> TokenSequence:
    """A problem with its trace; the loss counts what follows `<think>`."""
    graph = _graph(rng, stage, config)
    style = rng.choices(list(config.styles), list(config.styles.values()))[0]
    slip = config.slip if stage.start > 0 else 0.0
    trace, _ = write_trace(graph, style, rng, _some_behaviors(rng, config.behaviors), slip=slip)
    question = _question(graph)
    response = [*trace.split()[1:], "<eos>"]
    return _sequence([*question, *response], [False] * len(question) + [True] * len(response))


def _graph(rng: random.Random, stage: Stage, config: BaseConfig) -> Graph:
    return draw_graph(rng, rng.randint(1, stage.most_operations), replace(COMMON, disorder=config.disorder))


def _question(graph: Graph) -> list[str]:
    words = [word for node in graph.nodes.values() for word in statement_words(node)]
    return [*words, "?", *graph.queries, "<think>"]


def _some_behaviors(rng: random.Random, share: float) -> Injection:
    """Each behaviour at its usual rate with probability `share`, independently."""
    rates = ALL_BEHAVIORS.model_dump()
    return Injection(**{name: rates[name] for name in BEHAVIORS if rng.random() < share})
