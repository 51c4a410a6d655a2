"""The dependency graph of a worked problem: which quantity is computed from which, and how.

A quantity is *unlocked* when all its parents are solved, *locked* otherwise (Behavior Injection,
arXiv 2505.18917, section 4): the injected behaviours are defined on this graph alone.
"""

from dataclasses import dataclass
from functools import cached_property

from curate.errors import InputError

OPERATORS = ("+", "-")


@dataclass(frozen=True, slots=True)
class Node:
    """One quantity: `operands[0] operators[0] operands[1] ...`, left to right; a leaf is one number."""

    name: str
    operands: tuple[str | int, ...]
    """Names of parents, or integer constants."""
    operators: tuple[str, ...]
    value: int

    @property
    def parents(self) -> tuple[str, ...]:
        """Names this quantity is computed from, in the order of the expression."""
        return tuple(operand for operand in self.operands if isinstance(operand, str))

    @property
    def is_leaf(self) -> bool:
        """Given by the problem, not computed."""
        return not self.operators


@dataclass(frozen=True)
class Graph:
    """The quantities of a problem in the order it states them, and those it asks for."""

    nodes: dict[str, Node]
    queries: tuple[str, ...]

    @cached_property
    def necessary(self) -> tuple[Node, ...]:
        """The operations that the queries depend on, in statement order; distractors are left out."""
        needed: set[str] = set()
        stack = list(self.queries)
        while stack:
            name = stack.pop()
            if name not in needed:
                needed.add(name)
                stack.extend(self.nodes[name].parents)
        return tuple(node for node in self.nodes.values() if node.name in needed and not node.is_leaf)

    @property
    def answer(self) -> str:
        """The queried values, separated by spaces."""
        return " ".join(str(self.nodes[name].value) for name in self.queries)


def evaluate(operands: list[int], operators: tuple[str, ...]) -> list[int]:
    """All intermediate values of `operands[0] operators[0] operands[1] ...`, the result last."""
    values = [operands[0]]
    for operator, operand in zip(operators, operands[1:], strict=True):
        values.append(values[-1] + operand if operator == "+" else values[-1] - operand)
    return values


def parse_statements(text: str) -> Graph:
    """Read the graph of `k 6 l 7 m = k + 9 ? m`: leaves, operations, and the queried names after `?`.

    Raises:
        InputError: the text is not of that form, or uses a name before it is stated.
    """
    statements, mark, queries = text.partition("?")
    if not mark or not queries.split():
        raise InputError(f"expected statements, '?' and the names asked for, came {text[:80]!r}")
    tokens = statements.split()
    nodes: dict[str, Node] = {}
    position = 0
    while position < len(tokens):
        node, position = _parse_statement(tokens, position, nodes)
        nodes[node.name] = node
    asked = tuple(queries.split())
    unknown = [name for name in asked if name not in nodes]
    if unknown:
        raise InputError(f"the question asks for {unknown[0]!r}, which no statement defines")
    return Graph(nodes, asked)


def _parse_statement(tokens: list[str], start: int, nodes: dict[str, Node]) -> tuple[Node, int]:
    name, rest = tokens[start], tokens[start + 1 :]
    if rest and rest[0].isdigit():
        return Node(name, (int(rest[0]),), (), int(rest[0])), start + 2
    if len(rest) < 2 or rest[0] != "=":
        raise InputError(f"statement {name!r}: expected a number or '= expression', came {' '.join(rest[:3])!r}")
    operands, operators, used = [_operand(rest[1], nodes)], [], 2
    while used + 1 < len(rest) and rest[used] in OPERATORS:
        operators.append(rest[used])
        operands.append(_operand(rest[used + 1], nodes))
        used += 2
    values = [nodes[o].value if isinstance(o, str) else o for o in operands]
    result = evaluate(values, tuple(operators))[-1]
    return Node(name, tuple(operands), tuple(operators), result), start + 1 + used


def _operand(token: str, nodes: dict[str, Node]) -> str | int:
    if token.isdigit():
        return int(token)
    if token not in nodes:
        raise InputError(f"{token!r} is used before it is stated")
    return token
