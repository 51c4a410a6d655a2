"""Pre-train an embedded base model on drills and worked problems drawn on the fly.

One job, one schedule: facts (sums), recall (look a name up), copying (restate a statement) and problems
with traces in all styles, a few of whose steps go wrong and are carried on. The stages only shift the shares.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import Field
from transformers import LlamaForCausalLM

from curate.arithmetic import LETTERS, draw_graph, statement_words
from curate.behaviors import ALL_BEHAVIORS, BEHAVIORS, LARGEST_VALUE, Injection, Style, write_trace
from curate.config import Config
from curate.graphs import Graph, evaluate
from train import tiny
from train.batches import TokenSequence, collate, group_by_length
from train.loss import sft_loss
from train.muon import StackedMuon


class BaseConfig(Config):
    """`train base`: how an embedded base model is made."""

    name: str = "base"
    layers: int = Field(4, ge=1)
    hidden: int = Field(64, ge=32, multiple_of=32)
    tokens: int = Field(11_000_000, gt=0)
    """Tokens to train on, padding not counted."""
    styles: dict[Style, float] = {"short": 0.3, "long": 0.35, "full": 0.35}
    behaviors: float = Field(0.1, ge=0, le=1)
    """Share of the traces that show each behaviour, independently."""
    slip: float = Field(0.05, ge=0, le=1)
    """Probability that a step's result is wrong and carried on; not in the first stage."""
    batch_tokens: int = Field(2048, gt=0)
    matrix_learning_rate: float = Field(1e-2, gt=0)
    """Peak for Muon, which trains the matrices inside the blocks."""
    learning_rate: float = Field(3e-3, gt=0)
    """Peak for AdamW, which trains embeddings, head and norms."""
    seed: int = 0


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
WARMUP_STEPS = 200
CHUNK_ITEMS = 1024

Progress = Callable[[float, dict[str, float]], None]


def pretrain(config: BaseConfig, progress: Progress) -> tuple[LlamaForCausalLM, int]:
    """Train from scratch; returns the model and the number of steps.

    Args:
        progress: called after each chunk with the share done and {"loss", "tokens"}.
    """
    llama = tiny.model(layers=config.layers, hidden=config.hidden, seed=config.seed)
    optimizers = _optimizers(llama, config)
    step = seen = chunk = 0
    while seen < config.tokens:
        rng = random.Random(f"{config.seed}/{chunk}")
        items = [_item(rng, seen / config.tokens, config) for _ in range(CHUNK_ITEMS)]
        losses = []
        for indices in group_by_length((len(item.ids) for item in items), config.batch_tokens, rng):
            batch = [items[i] for i in indices]
            scale = _schedule(step, seen / config.tokens)
            losses.append(_train_step(llama, optimizers, batch, scale))
            seen += sum(len(item.ids) for item in batch)
            step += 1
        chunk += 1
        progress(min(1.0, seen / config.tokens), {"loss": sum(losses) / len(losses), "tokens": float(seen)})
    return llama, step


def _optimizers(llama: LlamaForCausalLM, config: BaseConfig) -> list[torch.optim.Optimizer]:
    matrices, others = [], []
    for name, weight in llama.named_parameters():
        (matrices if weight.ndim == 2 and ".layers." in name else others).append(weight)
    return [
        StackedMuon(matrices, lr=config.matrix_learning_rate),
        torch.optim.AdamW(others, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.01),
    ]


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
            group["lr"] = scale * group.setdefault("peak", group["lr"])
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _item(rng: random.Random, done: float, config: BaseConfig) -> TokenSequence:
    stage = max((stage for stage in STAGES if done >= stage.start), key=lambda stage: stage.start)
    kinds: tuple[Callable[[], TokenSequence], ...] = (
        lambda: _facts(rng),
        lambda: _recall(rng),
        lambda: _copying(rng, stage.most_operations),
        lambda: _worked(rng, stage, config),
    )
    return rng.choices(kinds, (stage.facts, stage.recall, stage.copying, stage.problems))[0]()


def _sequence(words: list[str], counted: list[bool]) -> TokenSequence:
    return TokenSequence([tiny.BOS, *(tiny.WORD_IDS[word] for word in words)], [False, *counted])


def _facts(rng: random.Random) -> TokenSequence:
    """8 x `= A op B [op C] letter R`, two operations in 40 %; the loss counts R alone."""
    words: list[str] = []
    counted: list[bool] = []
    for _ in range(8):
        fact = _fact(rng, operations=2 if rng.random() < 0.4 else 1)
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


def _copying(rng: random.Random, most_operations: int) -> TokenSequence:
    """A problem's statements, then its operations again in random order; the loss counts what follows `x =`."""
    graph = draw_graph(rng, rng.randint(1, most_operations))
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
    graph = draw_graph(rng, rng.randint(1, stage.most_operations))
    style = rng.choices(list(config.styles), list(config.styles.values()))[0]
    slip = config.slip if stage.start > 0 else 0.0
    trace, _ = write_trace(graph, style, rng, _some_behaviors(rng, config.behaviors), slip=slip)
    question = _question(graph)
    response = [*trace.split()[1:], "<eos>"]
    return _sequence([*question, *response], [False] * len(question) + [True] * len(response))


def _question(graph: Graph) -> list[str]:
    words = [word for node in graph.nodes.values() for word in statement_words(node)]
    return [*words, "?", *graph.queries, "<think>"]


def _some_behaviors(rng: random.Random, share: float) -> Injection:
    """Each behaviour at its usual rate with probability `share`, independently."""
    rates = ALL_BEHAVIORS.model_dump()
    return Injection(**{name: rates[name] for name in BEHAVIORS if rng.random() < share})
