"""Worked solutions in sentences: text with the places of its behaviours, and the sentences that behaviours are written in.

The same sentences serve generated word problems and GSM8K. They come in several phrasings, drawn at random.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from curate.examples import Span
from curate.expressions import Expression, inverse_check, reductions, spelled, value, written

MISSED_BY = (-10, -3, -2, -1, 1, 2, 3, 10)
"""How far a planted slip is from the right result."""


@dataclass
class Prose:
    """A completion being written: its pieces, and the behaviours by white-space positions."""

    text: str = ""
    spans: list[Span] = field(default_factory=list)
    _tokens: int = 0

    def write(self, piece: str, behavior: str | None = None, *, on: str = "\n") -> None:
        """Append a piece after a line break (or `on`), recorded as one span if it is a behaviour."""
        self.text += (on if self.text else "") + piece
        start = self._tokens
        self._tokens += len(piece.split())
        if behavior:
            self.spans.append(Span(behavior, start, self._tokens))

    @property
    def tokens(self) -> int:
        """White-space tokens so far."""
        return self._tokens


ATTEMPTS = (
    "Can I work out {goal} now? That takes {missing}, which I do not know yet, so it has to wait.",
    "Let me try {goal} next. But this depends on {missing}, and I do not have that yet. Back to what I can compute.",
    "What about {goal}? I would first have to know {missing}. Not yet, then: I go back one step.",
    "Maybe I can jump ahead to {goal}. No, {missing} is still missing, so I return to where I was.",
)
BLANK_ATTEMPTS = (
    'Can I already fill in "{goal}"? For that I need "{missing}", which is still open, so it has to wait.',
    'Let me jump ahead to "{goal}". No, I do not know "{missing}" yet, so I go back.',
    'What about "{goal}"? I cannot say yet: first I would have to know "{missing}". Back to the next step.',
)
RESTATEMENTS = ('The problem says: "{given}"', 'Looking at the problem again: "{given}"', 'What is given here: "{given}"')
CONFIRMATIONS = (
    "Let me check: {check}. That is right.",
    "To verify, {check}, as it should be.",
    "Check: {check}. Good.",
)
CORRECTIONS = (
    "Wait, let me check that: {check}. So {bad} is wrong. Once more.",
    "Hmm, {bad} does not look right: {check}. I redo this step.",
    "Checking this step: {check}. That was a slip, so let me do it again.",
)
LAST_CHECKS = (
    "Before I answer, let me verify the last step: {check}. It holds.",
    "One last check: {check}. The result stands.",
)
STEPWISE = ("One operation at a time: {steps}.", "Step by step: {steps}.", "In smaller steps: {steps}.")
IDLE = (
    "So {statement}, as just found.",
    "That gives us {statement}.",
    "We keep in mind that {statement}.",
    "Up to here we know that {statement}.",
)

IDLE_WORDS = 9
"""About the length of an idle sentence."""


def attempt(goal: str, missing: str, rng: random.Random, wordings: Sequence[str] = ATTEMPTS) -> str:
    """A locked quantity is tried, what is missing is named, and the text returns."""
    return rng.choice(wordings).format(goal=goal, missing=missing)


def restatement(given: str, rng: random.Random) -> str:
    """What the problem says of a quantity, quoted."""
    return rng.choice(RESTATEMENTS).format(given=given)


def subgoals(expression: Expression) -> list[str]:
    """What is left after each operation but the last: `8 + 6`. Empty where there is one operation or no short decimal form."""
    forms = [spelled(form) for form in reductions(expression)[1:-1]]
    return [form for form in forms if form] if all(forms) else []


def stepwise(expression: Expression, rng: random.Random) -> str | None:
    """The expression reduced one operation at a time, in a sentence; None where there is one operation."""
    steps = _steps(expression) if subgoals(expression) else None
    return steps and rng.choice(STEPWISE).format(steps=steps)


def confirmation(expression: Expression, result: Fraction, rng: random.Random) -> str | None:
    """A check that comes out right."""
    check = _check(expression, result)
    return check and rng.choice(CONFIRMATIONS).format(check=check)


def last_check(expression: Expression, result: Fraction, rng: random.Random) -> str | None:
    """A check of the last step that comes out right."""
    check = _check(expression, result)
    return check and rng.choice(LAST_CHECKS).format(check=check)


def slip(expression: Expression, result: Fraction, rng: random.Random) -> str | None:
    """A wrong result and the sentence that finds it out, to be followed by the right step.

    None where a number has no short decimal form.
    """
    bad = wrong_result(result, rng)
    found, missed, steps = spelled(expression), written(bad), _steps(expression)
    if not (found and missed and steps):
        return None
    tested = inverse_check(expression, bad)
    if tested and rng.random() < 0.5 and (came := written(value(tested[0]))):
        steps = f"{spelled(tested[0])} = {came}, not {written(tested[1])}"
    return f"{found} = {missed}. {rng.choice(CORRECTIONS).format(check=steps, bad=missed)}"


def wrong_result(result: Fraction, rng: random.Random) -> Fraction:
    """Another result, not far off and not below zero, unless the right one is."""
    return rng.choice([result + by for by in MISSED_BY if result + by >= 0 or result < 0])


def idle(statement: str, rng: random.Random) -> str:
    """A sentence that repeats what is known: a control that tells nothing."""
    return rng.choice(IDLE).format(statement=statement)


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _check(expression: Expression, result: Fraction) -> str | None:
    """`10 - 3 = 7` for `7 + 3 = 10`; a longer expression is done again one operation at a time."""
    tested = inverse_check(expression, result)
    if tested and (left := spelled(tested[0])) and (right := written(tested[1])):
        return f"{left} = {right}"
    return _steps(expression)


def _steps(expression: Expression) -> str | None:
    """`7 + 3 + 4 = 10 + 4 = 14`."""
    forms = [spelled(form) for form in reductions(expression)]
    return " = ".join(map(str, forms)) if all(forms) else None
