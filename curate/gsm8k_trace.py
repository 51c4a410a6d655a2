"""GSM8K solutions with behaviours: sentences are put between the original lines, which stay as they are.

The graph says what may be attempted too early, what is missing for it, and which sum a check belongs to. No sentence
gives away a number that the solution has not reached.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from curate import prose
from curate.behaviors import Injection
from curate.examples import Span
from curate.expressions import NUMBER, number, operators, spelled, written
from curate.gsm8k_graph import Solution, Step, numbers_in
from curate.prose import Prose


@dataclass
class _Trace:
    """A solution being written again, line by line."""

    solution: Solution
    injection: Injection
    rng: random.Random
    prose: Prose = field(default_factory=Prose)
    attempted: bool = False
    """Whether an attempt stands before the latest line: never twice in a row."""

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability


def write_gsm8k_trace(
    solution: Solution, rng: random.Random, injection: Injection, *, wrong: bool = False
) -> tuple[str, tuple[Span, ...]]:
    """The solution with behaviours between its lines, and where they stand.

    Args:
        wrong: the last step's result and the answer are wrong and stay so: a control. That step is not checked.
    """
    trace = _Trace(solution, injection, rng)
    query = next(step for step in solution.steps if step.name == solution.query)
    bad = prose.wrong_result(query.value, rng) if wrong else None
    for index, line in enumerate(solution.lines):
        here = [step for step in solution.steps if step.line == index]
        trace.attempted = _write_attempt(trace, index) if here else trace.attempted
        after = [_write_before(trace, step, checked=not (wrong and step is query)) for step in here]
        trace.prose.write(_with_result(line, query.value, bad) if bad is not None and query in here else line)
        for sentence, behavior in after:
            if sentence:
                trace.prose.write(sentence, behavior)
    if not wrong and trace.chance(injection.verification) and query.exact:
        _write(trace, prose.last_check(query.expression, query.value, rng), "verification")
    trace.prose.write(solution.answer if bad is None else f"#### {written(bad)}")
    return trace.prose.text, tuple(trace.prose.spans)


def statement(step: Step) -> str | None:
    """`48 / 2 = 24`; None where a number has no short decimal form or the solution rounds."""
    found, result = spelled(step.expression), written(step.value)
    return f"{found} = {result}" if found and result and step.exact and operators(step.expression) else None


def _write(trace: _Trace, sentence: str | None, behavior: str) -> None:
    if sentence:
        trace.prose.write(sentence, behavior)


def _write_before(trace: _Trace, step: Step, *, checked: bool) -> tuple[str | None, str]:
    """What comes before the step's line: the question restated, a slip found out, its operations one by one.

    Returns:
        What comes after the line (a check or an idle sentence, or None), and its behaviour.
    """
    if trace.chance(trace.injection.analysis_probability(len(step.operands))) and (given := _given(trace.solution, step)):
        trace.prose.write(prose.restatement(given, trace.rng), "analysis")
    known, after = statement(step), None
    verified = trace.chance(trace.injection.verification) and checked
    if known and verified and trace.rng.random() < 0.5:
        after = prose.confirmation(step.expression, step.value, trace.rng)
    elif known and verified:
        _write(trace, prose.slip(step.expression, step.value, trace.rng), "verification")
    if known and trace.chance(trace.injection.subgoals):
        _write(trace, prose.stepwise(step.expression, trace.rng), "subgoals")
    if known and not verified and trace.chance(trace.injection.filler):
        return prose.idle(known, trace.rng), "filler"
    return after, "verification"


def _write_attempt(trace: _Trace, line: int) -> bool:
    """Try a later step that needs one not yet done: by the rate of reflection, where both can be quoted."""
    begun = any(step.line < line for step in trace.solution.steps)
    if not begun or trace.attempted or not trace.chance(trace.injection.reflection):
        return False
    candidates = list(_locked(trace.solution, line))
    if not candidates:
        return False
    goal, missing = trace.rng.choice(candidates)
    trace.prose.write(prose.attempt(goal, missing, trace.rng, prose.BLANK_ATTEMPTS), "reflection")
    return True


def _locked(solution: Solution, line: int) -> Iterator[tuple[str, str]]:
    """Quotes of each needed step after this line that is locked, and of the step it waits for."""
    open_steps = {step.name: step for step in solution.steps if step.line >= line}
    secret = {step.value for step in open_steps.values()} - solution.stated
    for step in solution.necessary:
        missing = next((open_steps[name] for name in step.parents if name in open_steps), None)
        if step.line <= line or missing is None or not (step.quote and missing.quote) or step.quote == missing.quote:
            continue
        if not secret & numbers_in(f"{step.quote} {missing.quote}"):
            yield step.quote, missing.quote


def _given(solution: Solution, step: Step) -> str | None:
    """The sentence of the question that states most of the step's given numbers."""
    given = {operand for operand in step.operands if not isinstance(operand, str)}
    sentences = re.split(r"(?<=[.!?])\s+", solution.question.strip())
    best = max(sentences, key=lambda sentence: len(given & numbers_in(sentence)))
    return best if given & numbers_in(best) else None


def _with_result(line: str, right: Fraction, bad: Fraction) -> str:
    """The line with the result wrong wherever it follows `=` or its annotation."""

    def replaced(match: re.Match[str]) -> str:
        return f"{match[1]}{written(bad)}" if number(match[2]) == right else match[0]

    return re.sub(rf"((?:=|>>)\s*[$€£]?)({NUMBER})", replaced, line)
