"""The dependency graph of a worked problem: which quantity is computed from which, and how.

A quantity is *unlocked* when all its parents are solved, *locked* otherwise (Behavior Injection,
arXiv 2505.18917, section 4): the injected behaviours are defined on this graph alone.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from curate.errors import InputError

OPERATORS = ("+", "-")
"""What statements of the embedded task may join operands by."""


class NoGraph(InputError):
    """The dependency graph of a worked solution cannot be recovered: the example can only be kept as it is."""

    kept = "kept_without_graph"
    """What such an example is counted as."""


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
        needed = self.ancestry(*self.queries)
        return tuple(node for node in self.nodes.values() if node.name in needed and not node.is_leaf)

    def ancestry(self, *names: str) -> set[str]:
        """These quantities and all that they depend on."""
        return ancestry({name: node.parents for name, node in self.nodes.items()}, *names)

    @property
    def answer(self) -> str:
        """The queried values, separated by spaces."""
        return " ".join(str(self.nodes[name].value) for name in self.queries)


def ancestry(parents: Mapping[str, tuple[str, ...]], *names: str) -> set[str]:
    """These names and all that they depend on, by each one's parents."""
    found: set[str] = set()
    stack = list(names)
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack.extend(parents[name])
    return found


def evaluate(operands: list[int], operators: tuple[str, ...]) -> list[int]:
    """All intermediate values of `operands[0] operators[0] operands[1] ...`, left to right, the result last.

    Raises:
        ArithmeticError: a division that leaves a remainder.
    """
    values = [operands[0]]
    for sign, operand in zip(operators, operands[1:], strict=True):
        values.append(_APPLY[sign](values[-1], operand))
    return values


def _divide(dividend: int, divisor: int) -> int:
    quotient, remainder = divmod(dividend, divisor)
    if remainder:
        raise ArithmeticError(f"{dividend} / {divisor} is not whole")
    return quotient


_APPLY: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": _divide}


def parse_statements(text: str) -> Graph:
    """Read the graph of `k 6 l 7 m = k + 9 ? m`: leaves, operations, and the queried names after `?`.

    Statements may stand in any order.

    Raises:
        InputError: the text is not of that form, a name has no statement, or a quantity depends on itself.
    """
    statements, mark, queries = text.partition("?")
    if not mark or not queries.split():
        raise InputError(f"expected statements, '?' and the names asked for, came {text[:80]!r}")
    tokens = statements.split()
    stated: dict[str, Node] = {}
    position = 0
    while position < len(tokens):
        node, position = _read_statement(tokens, position)
        stated[node.name] = node
    values: dict[str, int] = {}
    asked = tuple(queries.split())
    for name in (*stated, *asked):
        _solve(name, stated, values, ())
    return Graph({name: replace(node, value=values[name]) for name, node in stated.items()}, asked)


def _read_statement(tokens: list[str], start: int) -> tuple[Node, int]:
    """One statement, its value still open unless it is a leaf, and the position after it."""
    name, rest = tokens[start], tokens[start + 1 :]
    if rest and rest[0].isdigit():
        return Node(name, (int(rest[0]),), (), int(rest[0])), start + 2
    if len(rest) < 2 or rest[0] != "=":
        raise InputError(f"statement {name!r}: expected a number or '= expression', came {' '.join(rest[:3])!r}")
    operands, operators, used = [_operand(rest[1])], [], 2
    while used + 1 < len(rest) and rest[used] in OPERATORS:
        operators.append(rest[used])
        operands.append(_operand(rest[used + 1]))
        used += 2
    return Node(name, tuple(operands), tuple(operators), 0), start + 1 + used


def _operand(token: str) -> str | int:
    return int(token) if token.isdigit() else token


def _solve(name: str, stated: dict[str, Node], values: dict[str, int], path: tuple[str, ...]) -> int:
    """The value of a quantity, computed from its parents first."""
    if name in path:
        raise InputError(f"{name!r} depends on itself")
    if name not in stated:
        raise InputError(f"no statement defines {name!r}")
    if name not in values:
        node = stated[name]
        operands = [_solve(o, stated, values, (*path, name)) if isinstance(o, str) else o for o in node.operands]
        values[name] = evaluate(operands, node.operators)[-1]
    return values[name]
