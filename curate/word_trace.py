"""Worked English traces of word problems, in three styles, with behaviours injected.

    short   Ana's stamps: 9 + 3 = 12.
    long    Ana's stamps: Leo's beads + 3 = 9 + 3 = 12.
    full    Now Ana's stamps. We know that Leo's beads = 9. So Ana's stamps = 9 + 3 = 12.

Detours follow the released generator of Behavior Injection (arXiv 2505.18917): after a solved step, not first and not
last, a redundant quantity (chance 0.3) or a later one that the answer needs is picked; if its parents are solved it is
computed early, otherwise the attempt fails in words and the next step is the regular one.
"""

import random
from dataclasses import dataclass, field
from fractions import Fraction

from curate import prose
from curate.behaviors import NO_INJECTION, Injection, Style
from curate.examples import Span
from curate.expressions import Expression, spelled
from curate.graphs import Graph, Node
from curate.prose import Prose
from curate.word_reader import WordProblem

REDUNDANT_DETOURS = 0.3


@dataclass
class _Trace:
    """A trace being written."""

    problem: WordProblem
    style: Style
    injection: Injection
    rng: random.Random
    solved: set[str]
    wrong: Fraction | None
    """A result for the last step that is not right; None: all are."""
    prose: Prose = field(default_factory=Prose)

    @property
    def graph(self) -> Graph:
        return self.problem.graph

    def is_unlocked(self, node: Node) -> bool:
        return self.solved.issuperset(node.parents)

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability


def write_word_trace(
    problem: WordProblem, style: Style, rng: random.Random, injection: Injection = NO_INJECTION, *, wrong: bool = False
) -> tuple[str, tuple[Span, ...]]:
    """The worked solution (`<think> ... </think>`, then the boxed answer) and where its behaviours stand.

    Args:
        wrong: the last step's result is wrong and stays so: a control. That step is not checked.
    """
    graph = problem.graph
    leaves = {name for name, node in graph.nodes.items() if node.is_leaf}
    query = graph.nodes[graph.queries[0]]
    answer = Fraction(query.value)
    if wrong:
        answer = prose.wrong_result(answer, rng)
    trace = _Trace(problem, style, injection, rng, leaves, answer if wrong else None)
    trace.prose.write("<think>")
    _write_steps(trace)
    if not wrong and trace.chance(injection.verification) and (check := prose.last_check(_numbers(graph, query), answer, rng)):
        trace.prose.write(check, "verification")
    trace.prose.write("</think>")
    trace.prose.write(f"The answer is \\boxed{{{answer}}}.")
    return trace.prose.text, tuple(trace.prose.spans)


def _write_steps(trace: _Trace) -> None:
    """Solve what is needed in the order stated, as far as parents are solved, with detours on the way."""
    waiting = list(trace.graph.necessary)
    attempted = False
    while waiting:
        node = None if attempted else _detour(trace, waiting)
        attempted = node is not None and not trace.is_unlocked(node)
        if node is None:
            node = next(node for node in waiting if trace.is_unlocked(node))
        elif attempted:
            _write_attempt(trace, node)
            continue
        if node in waiting:
            waiting.remove(node)
        _write_step(trace, node)


def _detour(trace: _Trace, waiting: list[Node]) -> Node | None:
    """Another quantity than the next regular one, by the rate of reflection."""
    if len(waiting) < 2 or len(waiting) == len(trace.graph.necessary) or not trace.chance(trace.injection.reflection):
        return None
    needed = {node.name for node in trace.graph.necessary}
    redundant = [n for n in trace.graph.nodes.values() if n.name not in needed and n.name not in trace.solved]
    if redundant and trace.rng.random() < REDUNDANT_DETOURS:
        return trace.rng.choice(redundant)
    return trace.rng.choice(waiting)


def _write_attempt(trace: _Trace, node: Node) -> None:
    missing = [name for name in node.parents if name not in trace.solved]
    trace.prose.write(prose.attempt(node.name, prose.listed(missing), trace.rng), "reflection")


def _write_step(trace: _Trace, node: Node) -> None:
    if trace.chance(trace.injection.analysis_probability(len(node.operands))):
        trace.prose.write(prose.restatement(trace.problem.statements[node.name], trace.rng), "analysis")
    expression, result = _numbers(trace.graph, node), Fraction(node.value)
    if trace.wrong is not None and node.name in trace.graph.queries:
        _write_result(trace, node, trace.wrong)
    elif not trace.chance(trace.injection.verification):
        _write_result(trace, node, result)
        if trace.chance(trace.injection.filler):
            trace.prose.write(prose.idle(f"{node.name} = {node.value}", trace.rng), "filler", on=" ")
    elif trace.rng.random() < 0.5:
        _write_result(trace, node, result)
        _write_behavior(trace, prose.confirmation(expression, result, trace.rng))
    else:
        planted = prose.slip(expression, result, trace.rng)
        assert planted  # whole numbers always have a short decimal form
        trace.prose.write(f"{node.name}: {planted}", "verification")
        _write_result(trace, node, result)
    trace.solved.add(node.name)


def _write_behavior(trace: _Trace, sentence: str | None) -> None:
    if sentence:
        trace.prose.write(sentence, "verification", on=" ")


def _write_result(trace: _Trace, node: Node, result: Fraction) -> None:
    """The step itself in the trace's style."""
    expression = _numbers(trace.graph, node)
    known = [f"{name} = {trace.graph.nodes[name].value}" for name in node.parents]
    opening = {
        "short": f"{node.name}: ",
        "long": f"{node.name}: {_in_names(node)} = ",
        "full": f"Now {node.name}. We know that {prose.listed(known)}. So {node.name} = ",
    }[trace.style]
    trace.prose.write(f"{opening}{spelled(expression)} =")
    if trace.chance(trace.injection.subgoals):
        for rest in prose.subgoals(expression):
            trace.prose.write(f"{rest} =", "subgoals", on=" ")
    trace.prose.write(f"{result}.", on=" ")


def _numbers(graph: Graph, node: Node) -> Expression:
    """The node's expression in numbers."""
    values = [graph.nodes[o].value if isinstance(o, str) else o for o in node.operands]
    return _bracketed([Fraction(value) for value in values], node.operators)


def _bracketed(operands: list[Fraction], operators: tuple[str, ...]) -> Expression:
    """`a op b op c`, read left to right: brackets stand where the usual rules would read it otherwise."""
    parts: list[Fraction | str] = [operands[0]]
    for place, (sign, operand) in enumerate(zip(operators, operands[1:], strict=True)):
        if sign in "*/" and place and "(" not in parts:
            parts = ["(", *parts, ")"]
        parts += [sign, operand]
    return tuple(parts)


def _in_names(node: Node) -> str:
    words = [str(node.operands[0])]
    for place, (sign, operand) in enumerate(zip(node.operators, node.operands[1:], strict=True)):
        if sign in "*/" and place:
            words = [f"({' '.join(words)})"]
        words += [sign, str(operand)]
    return " ".join(words)
