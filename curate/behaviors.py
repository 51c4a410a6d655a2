"""Write worked traces of a problem's graph, with behaviours injected and their places recorded.

The behaviours follow Behavior Injection (arXiv 2505.18917, section 4 and its released generator):
*reflection* attempts a locked quantity, names what is missing and returns; *subgoals* reduce an
expression one operation at a time; *analysis* restates what the problem says of a quantity, by a
probability that grows with its number of parents. *Verification* is ours: a step is checked, or a
planted slip is noticed and redone. Questions never change; every trace is written anew from the graph.
"""

import random
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, model_validator

from curate.config import Config
from curate.endpoint import Endpoint
from curate.examples import Example, Span
from curate.graphs import Graph, Node, NoGraph, evaluate, parse_statements

Style = Literal["short", "long", "full"]
STYLES: tuple[Style, ...] = ("short", "long", "full")
BEHAVIORS = ("reflection", "verification", "subgoals", "analysis")
LARGEST_VALUE = 15

Probability = Annotated[float, Field(ge=0, le=1)]


Method = Literal["graph", "permute_premises", "chain", "wrong_answer", "length_matched", "endpoint"]
MOST_COPIES = 16


class Injection(Config):
    """How often each behaviour is written (probabilities per step), and how.

    A dump leaves `method`, `copies` and `endpoint` out where they have their defaults.
    """

    share: Probability = 1.0
    """Share of the examples that get behaviours at all; drawn by the caller."""
    reflection: Probability = 0.0
    """Chance, after a solved step, to attempt a later quantity; never twice in a row."""
    verification: Probability = 0.0
    """Chance that a step is checked (half of them after a planted slip), and of one re-check before the answer."""
    subgoals: Probability = 0.0
    """Chance that an expression of three or more operands is reduced one operation at a time."""
    analysis: tuple[Probability, ...] = ()
    """Chance to restate a quantity's expression, indexed by its number of parents; the last one holds beyond."""
    filler: Probability = 0.0
    """Chance, after a step, of an idle check: always right, so it tells nothing. A control of equal length."""
    method: Method = Field("graph", exclude_if=lambda method: method == "graph")
    """`graph`: behaviours on the solution's dependency graph. Baselines of BRIDGE, without behaviours: `permute_premises`
    (the question's premises in another order, PP-Aug), `chain` (the steps in another possible order, RC-Aug). Controls:
    `wrong_answer` (as `graph`, but the answer is wrong), `length_matched` (idle sentences, as long as `graph` would be).
    `endpoint`: a language model rewrites the trace."""
    copies: int = Field(1, ge=1, le=MOST_COPIES, exclude_if=lambda copies: copies == 1)
    """Baselines only: versions of each example, each in another order; BRIDGE has 4."""
    endpoint: Endpoint | None = Field(None, exclude_if=lambda endpoint: endpoint is None)

    @model_validator(mode="after")
    def _agrees(self) -> "Injection":
        baseline = self.method in ("permute_premises", "chain")
        if baseline and self.rates:
            raise ValueError(f"{self.method} is a baseline without behaviours: drop {sorted(self.rates)[0]}")
        if not baseline and self.copies > 1:
            raise ValueError("copies go with the methods permute_premises and chain alone")
        if (self.method == "endpoint") != (self.endpoint is not None):
            raise ValueError("the method endpoint and the settings under `endpoint` go together: give both or none")
        if self.method in ("endpoint", "length_matched") and not set(self.rates) & set(BEHAVIORS):
            raise ValueError(f"{self.method} needs at least one of {', '.join(BEHAVIORS)} above 0")
        return self

    @property
    def rates(self) -> dict[str, float]:
        """The behaviours (and filler) that are written at all, with their largest probability."""
        rates = {name: getattr(self, name) for name in ("reflection", "verification", "subgoals", "filler")}
        return {name: rate for name, rate in {**rates, "analysis": max(self.analysis, default=0.0)}.items() if rate > 0}

    def analysis_probability(self, parents: int) -> float:
        """The ladder's value for a quantity with this many parents."""
        return self.analysis[min(parents, len(self.analysis) - 1)] if self.analysis else 0.0


NO_INJECTION = Injection()
ALL_BEHAVIORS = Injection(reflection=0.2, verification=0.3, subgoals=1.0, analysis=(0.0, 0.1, 0.4, 0.8))
"""The rates that the embedded base models are pre-trained on, in a tenth of their traces."""


@dataclass
class _Trace:
    """A trace being written: tokens so far, spans, and the values as the trace has them."""

    graph: Graph
    style: Style
    injection: Injection
    rng: random.Random
    slip: float
    tokens: list[str] = field(default_factory=lambda: ["<think>"])
    spans: list[Span] = field(default_factory=list)
    values: dict[str, int] = field(default_factory=dict)

    def write(self, *tokens: str, behavior: str | None = None) -> None:
        """Append tokens, recorded as one span if they are a behaviour."""
        if behavior:
            self.spans.append(Span(behavior, len(self.tokens), len(self.tokens) + len(tokens)))
        self.tokens.extend(tokens)

    def is_unlocked(self, node: Node) -> bool:
        """Whether all its parents are solved."""
        return all(name in self.values for name in node.parents)

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability


def write_trace(
    graph: Graph,
    style: Style,
    rng: random.Random,
    injection: Injection = NO_INJECTION,
    *,
    slip: float = 0.0,
) -> tuple[str, tuple[Span, ...]]:
    """The worked solution as text (`<think> ... </think> ans ...`) and where its behaviours stand.

    Args:
        slip: probability that a step's result is replaced by a random value and carried on. Only base
            pre-training uses it, so that a model sees traces go wrong; later values are clamped to 0..15.
    """
    trace = _Trace(graph, style, injection, rng, slip)
    trace.values = {node.name: node.value for node in graph.nodes.values() if node.is_leaf}
    _write_steps(trace)
    if trace.chance(injection.verification):
        node = graph.nodes[rng.choice(graph.queries)]
        result = str(trace.values[node.name])
        trace.write("Wait", node.name, "=", *_substituted(trace, node), node.name, result, behavior="verification")
    trace.write("</think>", "ans", *(str(trace.values[name]) for name in graph.queries))
    return " ".join(trace.tokens), tuple(trace.spans)


def _write_steps(trace: _Trace) -> None:
    """Solve what is needed: the earliest stated quantity whose parents are solved, or one that a reflection leads to."""
    waiting = list(trace.graph.necessary)
    attempted = False
    while waiting:
        node = None if attempted or len(waiting) < 2 or not _detours(trace, waiting) else trace.rng.choice(waiting)
        if node is None:
            node = next(node for node in waiting if trace.is_unlocked(node))
            attempted = False
        elif not trace.is_unlocked(node):
            missing = next(name for name in node.parents if name not in trace.values)
            trace.write("try", node.name, "need", missing, "back", behavior="reflection")
            towards = trace.graph.ancestry(missing)
            node = next(node for node in waiting if node.name in towards and trace.is_unlocked(node))
            attempted = True
        waiting.remove(node)
        _write_step(trace, node)


def _detours(trace: _Trace, waiting: list[Node]) -> bool:
    """Whether to attempt another quantity now: only after a solved step, as in the released generator."""
    return len(waiting) < len(trace.graph.necessary) and trace.chance(trace.injection.reflection)


def _write_step(trace: _Trace, node: Node) -> None:
    if trace.chance(trace.injection.analysis_probability(len(node.parents))):
        trace.write("given", node.name, "=", *_expression(node), behavior="analysis")
    operands = [_value(trace, operand) for operand in node.operands]
    partial = [max(0, min(LARGEST_VALUE, value)) for value in evaluate(operands, node.operators)]
    if trace.style != "short":
        trace.write(node.name, "=", *_written(trace, node))
        if len(operands) > 2 and trace.chance(trace.injection.subgoals):
            _write_subgoals(trace, node, partial)
    result = trace.rng.randint(0, LARGEST_VALUE) if trace.chance(trace.slip) else partial[-1]
    _write_result(trace, node, result)
    trace.values[node.name] = result


def _write_subgoals(trace: _Trace, node: Node, partial: list[int]) -> None:
    """`-> S op C op D -> T op D`: the first operation carried out, then the next, until one is left."""
    for done in range(1, len(node.operators)):
        values = [partial[done], *(_value(trace, operand) for operand in node.operands[done + 1 :])]
        rest = _interleave([[str(value)] for value in values], node.operators[done:])
        trace.write("->", *rest, behavior="subgoals")


def _write_result(trace: _Trace, node: Node, result: int) -> None:
    """Write `x r`, possibly checked, possibly after a planted slip that the check finds."""
    check = ("check", *_substituted(trace, node), str(result))
    if not trace.chance(trace.injection.verification):
        trace.write(node.name, str(result))
        if trace.chance(trace.injection.filler):
            trace.write(*check, "ok", behavior="filler")
    elif trace.rng.random() < 0.5:
        trace.write(node.name, str(result))
        trace.write(*check, "ok", behavior="verification")
    else:
        bad = trace.rng.choice([value for value in range(LARGEST_VALUE + 1) if value != result])
        trace.write(node.name, str(bad), *check, "wrong", node.name, str(result), behavior="verification")


def _value(trace: _Trace, operand: str | int) -> int:
    return trace.values[operand] if isinstance(operand, str) else operand


def _interleave(operands: list[list[str]], operators: tuple[str, ...]) -> list[str]:
    tokens = list(operands[0])
    for operator, operand in zip(operators, operands[1:], strict=True):
        tokens += [operator, *operand]
    return tokens


def _expression(node: Node) -> list[str]:
    """`u op w`: names, as the problem states it."""
    return _interleave([[str(operand)] for operand in node.operands], node.operators)


def _substituted(trace: _Trace, node: Node) -> list[str]:
    """`A op B`: values."""
    return _interleave([[str(_value(trace, operand))] for operand in node.operands], node.operators)


def _written(trace: _Trace, node: Node) -> list[str]:
    """The right-hand side in the trace's style: `long` gives values, `full` each name with its value."""
    if trace.style == "long":
        return _substituted(trace, node)
    pairs = [[o, str(trace.values[o])] if isinstance(o, str) else [str(o)] for o in node.operands]
    return _interleave(pairs, node.operators)


def inject(example: Example, injection: Injection, rng: random.Random) -> Example:
    """The same problem with its trace written anew in the same style, behaviours injected, spans recorded.

    Raises:
        NoGraph: the example is not one of the embedded task: no style, or no graph that can be read from its text.
    """
    if example.meta.get("style") not in STYLES:
        raise NoGraph(f"example {example.id}: not a trace of the embedded task")
    graph = parse_statements(example.problem.prompt)
    completion, spans = write_trace(graph, example.meta["style"], rng, injection)
    return with_trace(example, completion, spans)


def with_trace(example: Example, completion: str, spans: tuple[Span, ...]) -> Example:
    """The same problem with another trace."""
    meta = {**example.meta, "behaviors": sorted({span.behavior for span in spans})}
    return Example(example.id, example.problem, completion, meta, spans)
