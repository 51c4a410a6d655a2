"""The row types: a Problem (what is asked and the right answer) and an Example (a problem with one worked trace)."""

import hashlib
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its reference answer."""

    id: str
    """Unique within a source; stable under reordering of the source."""
    prompt: str
    """The question, verbatim: becomes the user turn."""
    ground_truth: str
    """The correct answer as text, as the verifier compares it."""
    source: str
    """Name of where it came from."""
    meta: dict[str, Any] = field(default_factory=dict, compare=False)
    """JSON-able facts about the problem (operations, level, ...)."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where an injected behaviour stands: tokens [start, end) of the completion split on white space."""

    behavior: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Example:
    """A problem with one worked solution: a row for supervised training."""

    id: str
    problem: Problem
    completion: str
    """The assistant turn, thinking included."""
    meta: dict[str, Any] = field(default_factory=dict, compare=False)
    """JSON-able facts about the trace (style, behaviours, ...)."""
    spans: tuple[Span, ...] = ()


def text_id(text: str, length: int = 16) -> str:
    """A stable id from a text: first `length` hex digits of its sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]
