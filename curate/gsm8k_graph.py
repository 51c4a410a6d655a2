"""The dependency graph of a GSM8K solution, recovered from its annotations.

    Natalia sold 48/2 = <<48/2=24>>24 clips in May.
    Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.
    #### 72

Each `<<expression=result>>` is a step, and so is a plain equation (`4+6=10 digits`) that lacks its annotation. A number
in an expression that an earlier step gave is that step's result, unless the question states it too and the result has
been used already; any other number is given. A step has a *quote*: its sentence with the sum and its result blanked,
by which the other sentences can speak of it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from curate.expressions import NUMBER, Expression, number, numbers, operators, parse, value
from curate.graphs import NoGraph, ancestry

BLANK = "___"
LONGEST_QUOTE = 25
_ANNOTATION = re.compile(r"<<([^<>]*)=([^<>=]*)>>")
_MONEY = r"[$€£]?"
_PLAIN = re.compile(
    rf"(?<![\w.%/])({_MONEY}(?:{NUMBER})(?:\s*[-–−+*x×/÷]\s*{_MONEY}(?:{NUMBER}))+)\s*=\s*{_MONEY}({NUMBER})(?![\w%/]|\s*[-+*/x=])"
)
_RESULT = re.compile(NUMBER)
_OPENING = re.compile(r"^(?:So|Thus|Then|Therefore|Hence|Finally|Next|First|Now|This means|That means)\b,? *(?:that )?")
_WORDS = dict(
    zip(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
        map(Fraction, range(1, 13)),
        strict=True,
    )
)


@dataclass(frozen=True)
class Step:
    """One computation of a solution."""

    name: str
    line: int
    """Its line, from 0."""
    expression: Expression
    value: Fraction
    operands: tuple[str | Fraction, ...]
    """Names of the steps that gave a number, or the number."""
    exact: bool
    """False where the solution rounds."""
    quote: str | None
    """`Natalia sold ___ clips in May`; None where it cannot be told apart from the sum."""

    @property
    def parents(self) -> tuple[str, ...]:
        """Names of the steps this one needs."""
        return tuple(operand for operand in self.operands if isinstance(operand, str))


@dataclass(frozen=True)
class Solution:
    """A GSM8K solution taken apart."""

    question: str
    lines: tuple[str, ...]
    """Of the worked part, without the line of the answer."""
    answer: str
    """The last line: `#### 72`."""
    steps: tuple[Step, ...]
    query: str
    """Name of the step that gives the answer."""

    @cached_property
    def necessary(self) -> tuple[Step, ...]:
        """The steps that the answer depends on."""
        needed = ancestry({step.name: step.parents for step in self.steps}, self.query)
        return tuple(step for step in self.steps if step.name in needed)

    @cached_property
    def stated(self) -> frozenset[Fraction]:
        """Numbers that the question states."""
        return frozenset(numbers_in(self.question))

    def unexplained(self) -> list[Fraction]:
        """Numbers above 12 in expressions that neither an earlier step nor the question gives."""
        given = [operand for step in self.steps for operand in step.operands if isinstance(operand, Fraction)]
        return [operand for operand in given if operand > 12 and operand not in self.stated]


def recover(question: str, completion: str) -> Solution:
    """Take a solution apart.

    Raises:
        NoGraph: no `####` line, no step with an operation, an annotation that is no true equation, or an answer that no step gives.
    """
    body, mark, reference = completion.rpartition("####")
    if not mark or not body.strip():
        raise NoGraph("expected worked lines and a line '#### answer'")
    try:
        answer = number(reference.strip().strip("$"))
    except ValueError:
        raise NoGraph(f"expected a number after ####, came {reference.strip()!r:.40}") from None
    lines = tuple(body.rstrip("\n").split("\n"))
    steps = _linked(lines, frozenset(numbers_in(question)))
    if not any(operators(step.expression) for step in steps):
        raise NoGraph("no step computes anything from numbers")
    query = next((step.name for step in reversed(steps) if step.value == answer), None)
    if query is None:
        raise NoGraph(f"no step gives the answer {reference.strip()}")
    return Solution(question, lines, f"####{reference}", tuple(steps), query)


def numbers_in(text: str) -> set[Fraction]:
    """Numbers that a text states in digits or, up to twelve, in words; percentages as fractions too."""
    found = {number(match[0]) for match in re.finditer(NUMBER, text)}
    found |= {number(match[1]) / 100 for match in re.finditer(rf"({NUMBER}) ?(?:%|percent)", text)}
    return found | {_WORDS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _WORDS}


def _linked(lines: tuple[str, ...], stated: frozenset[Fraction]) -> list[Step]:
    """The steps in order, each number traced to the latest step that gave it."""
    steps: list[Step] = []
    used: set[str] = set()
    for index, line in enumerate(lines):
        for expression, result, quote in _equations(line):
            operands = tuple(_source(operand, steps, used, stated) for operand in numbers(expression))
            used |= {operand for operand in operands if isinstance(operand, str)}
            exact = value(expression) == result
            steps.append(Step(f"step {len(steps) + 1}", index, expression, result, operands, exact, quote))
    return steps


def _source(operand: Fraction, steps: list[Step], used: set[str], stated: frozenset[Fraction]) -> str | Fraction:
    giver = next((step.name for step in reversed(steps) if step.value == operand), None)
    return operand if giver is None or (giver in used and operand in stated) else giver


def _equations(line: str) -> Iterator[tuple[Expression, Fraction, str | None]]:
    """Expression, result and quote of each equation of a line, annotated or plain, in order."""
    hidden = _ANNOTATION.sub(lambda match: "\0" * len(match[0]), line)
    found = [(match, True) for match in _ANNOTATION.finditer(line)]
    found += [(match, False) for match in _PLAIN.finditer(hidden)]
    for match, annotated in sorted(found, key=lambda item: item[0].start()):
        try:
            expression, result = parse(re.sub(r"[$€£]", "", match[1])), parse(match[2])
            (came,) = numbers(result)
            true = abs(value(expression) - value(result)) <= _rounding(match[2])
        except ValueError as error:
            raise NoGraph(f"{match[0]}: {error}") from None
        if true:
            yield expression, value(result), _quote(line, match, annotated, came, expression)
        elif annotated:
            raise NoGraph(f"{match[0]} is not a true equation")


def _rounding(result: str) -> Fraction:
    """Half a unit of the last place written, and a little for solutions that cut off."""
    return Fraction(6, 10) / 10 ** len(result.strip().partition(".")[2])


def _quote(line: str, match: re.Match[str], annotated: bool, result: Fraction, expression: Expression) -> str | None:
    """The equation's sentence with the sum and its result blanked."""
    start, end = match.span()
    money = re.search(r"[$€£]$", (line[:start] if annotated else match[0].rpartition("=")[2].rstrip("0123456789.,")).rstrip())
    if annotated:
        start = _start_of_sum(line[:start].rstrip("$€£ "), numbers(expression))
        shown = _RESULT.match(line, end)
        if start < 0 or not shown or number(shown[0]) != result:
            return None
        end = shown.end() - shown[0].endswith(",")
    return _sentence(line[:start] + (money[0] if money else "") + BLANK + line[end:])


def _start_of_sum(before: str, operands: tuple[Fraction, ...]) -> int:
    """Where the sum that ends in `=` begins: at the first of its numbers; -1 where they are not all there, in order."""
    if not before.endswith("="):
        return len(before)
    shown = list(_RESULT.finditer(before))[-len(operands) :]
    if len(shown) < len(operands) or tuple(number(match[0]) for match in shown) != operands:
        return -1
    start = shown[0].start()
    return start - len(before[:start]) + len(before[:start].rstrip("($€£"))


def _sentence(text: str) -> str | None:
    """The sentence around the blank without its connective; None if it is long, bare, or holds another equation."""
    sentence = next(part for part in re.split(r"(?<=[.!?])\s+(?=[A-Z$])", text) if BLANK in part)
    sentence = _OPENING.sub("", sentence.strip()).rstrip(" .!,;:")
    words = sentence.split()
    plain = not any(mark in sentence for mark in ("=", "<<", '"', "because"))
    return sentence if plain and 3 <= len(words) <= LONGEST_QUOTE else None
