"""Count reasoning behaviours in any traces, by patterns.

The definitions of verification, backtracking and subgoal setting are those of Gandhi et al. (arXiv 2503.01307, section 3),
who let a language model count them; *reflection* and *analysis* are those of Behavior Injection (arXiv 2505.18917, section 4).
Counting by key words follows the studies of self-reflection in R1-Zero-like training (arXiv 2503.20783, appendix), whose
lists (recheck, rethink, re-evaluate, double-check, verify again, ...) are taken up here. Patterns see wording, not thought: a
check without such words is missed, and `wait` in a story would count. Precision and recall: docs/behaviors.md.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from curate.examples import Example, Span

_AGAIN = r"(?:check|verify|compute|calculate|count|think|evaluate|examine|assess|consider|read|analy[sz]e)"
_TERM = r"\(?\$?\d[\d.,]*\)?"
_SUM = rf"{_TERM}(?: ?[-+*/×÷] ?{_TERM})+"

PATTERNS: dict[str, tuple[str, ...]] = {
    # A quantity is tried or looked ahead to, found out of reach, and left for later.
    "reflection": (
        r"\b(?:do(?:es)? not|don't|cannot|can't|can not) (?:yet )?(?:know|have|say|compute|find|determine|work out)\b[^.?!]*\byet\b",
        r"\b(?:still|as yet) (?:open|missing|unknown|undetermined|not known)\b",
        r"\b(?:not yet|so (?:it|this|that) (?:has|will have) to wait|come back to (?:this|that|it)|leave (?:this|that|it) for later)\b",
        r"\b(?:would|will|must|need to|have to) first (?:have to |need to )?(?:know|find|compute|determine|work out)\b",
        r"\bfirst I (?:would have to|must|need to|have to) (?:know|find|compute|determine)\b",
        r"\b(?:cannot|can't) say yet\b|\b(?:jump|skip|look) ahead\b",
    ),
    # What was done is found wrong and given up: "this approach won't work because", "let me try again".
    "backtracking": (
        r"\b(?:that|this|it|which) (?:is|was|seems|looks) (?:wrong|incorrect|not right|a slip|a mistake|an error)\b",
        r"\b(?:is|was) (?:wrong|incorrect)\b|\bdoes(?: not|n't) (?:(?:look|seem) right|make sense|add up|fit|match)\b",
        r"\b(?:won't|will not|cannot) work\b|\bdead end\b",
        r"\b(?:try|do|start) (?:it |this |that )?(?:again|over)\b|\bredo\b|\bonce more\b",
        r"\b(?:try|use|consider) (?:a|another|some other) (?:different )?(?:approach|way|method|idea)\b|\bon second thought\b",
        r"\bI (?:have |must have |may have )?made (?:a |an )?(?:mistake|error|slip)\b|\bscratch that\b",
    ),
    # A result is checked: "let me check my answer", "let's verify this result". A bare "wait" or "hmm" is left out: in half of
    # the places where real traces say it, nothing is checked.
    "verification": (
        r"\b(?:let me|let's|let us|I(?:'ll| will| should| can)?|we(?: can| should|'ll)?) (?:just |quickly )?(?:check|verify)\b|\bto verify\b",
        r"\b(?:double|cross)[- ]?check(?:ing|ed)?\b|\bre-?check(?:ing|ed)?\b",
        rf"\b{_AGAIN} (?:it |this |that )?again\b|\bre-?(?:evaluat|examin|assess|comput|calculat|consider|think)\w*",
        r"\b(?:as a )?(?:check|sanity check|verification|checking)(?: (?:this|the|my|our) \w+)?:",
        r"\b(?:last|final|quick) check\b",
    ),
    # A computation is cut into parts: "first, I need to find ..., then ...", one operation at a time.
    "subgoals": (
        r"\bstep by step:|\bone (?:operation|step) at a time\b|\bin smaller steps\b|\bbreak (?:this|it|the problem) (?:down|into)\b",
        r"\b(?:first|next|now),? (?:I|we|let me|let's|let us) (?:need to|will|can|have to|must)?\s?(?:find|compute|calculate|determine|figure out)\b",
        r"\bto (?:find|solve|do) (?:this|that),? (?:I|we) (?:first )?need\b|\bsub-?goals?\b",
        rf"{_SUM}(?: ?[-+*/×÷] ?{_TERM})+(?: ?= ?{_SUM})+(?= ?=)",
    ),
    # What the question says of a quantity is restated before it is used.
    "analysis": (
        r"\b(?:the )?(?:problem|question|text|statement) (?:says|states|tells us|asks|gives|mentions)\b",
        r"\b(?:what is|we are|I am|we're) given\b|\blooking (?:back )?at the (?:problem|question)\b|\baccording to the (?:problem|question)\b",
        r"\b(?:recall|remember)(?:ing)? from the (?:problem|question)\b|\bwe know (?:from the (?:problem|question)|that the (?:problem|question))\b",
    ),
}
"""Read with case folded."""

EMBEDDED: dict[str, tuple[str, ...]] = {
    "reflection": (r"\btry \w need \w back\b",),
    "backtracking": (r"\bwrong\b",),
    "verification": (r"\bcheck (?:\d+ [-+] )*\d+ \d+ (?:ok|wrong)|\bWait \w =[^a-z]*\w \d+",),
    "subgoals": (r"-> (?:\d+ [-+] )+\d+",),
    "analysis": (r"\bgiven \w = \w+(?: [-+] \w+)*",),
}
"""The words that the embedded task has for them."""
_EMBEDDED_TRACE = re.compile(r"</think> ans(?: \d+)+$")
MEASURED = tuple(PATTERNS)


@dataclass(frozen=True)
class Agreement:
    """Measured places against recorded spans of one behaviour."""

    precision: float | None
    """Share of measured places that overlap a recorded span; None without measured places."""
    recall: float | None
    """Share of recorded spans that a measured place overlaps; None without spans."""
    measured: int
    recorded: int


def measure(text: str) -> dict[str, int]:
    """How often each behaviour shows: sentences (in the embedded task: phrases) with one of its patterns."""
    found = places(text)
    return {behavior: sum(span.behavior == behavior for span in found) for behavior in MEASURED}


def places(text: str) -> list[Span]:
    """Where each behaviour shows, as white-space positions; a sentence counts once for a behaviour."""
    embedded = _EMBEDDED_TRACE.search(text) is not None
    found: set[Span] = set()
    for start, end in [(0, len(text))] if embedded else _sentences(text):
        offset = len(text[:start].split())
        for behavior, pattern in _compiled(embedded).items():
            matches = pattern.finditer(text[start:end])
            spans = [_words(text[start:end], match, behavior, offset) for match in matches]
            found.update(spans if embedded else spans[:1])
    return sorted(found, key=lambda span: (span.start, span.behavior))


def _words(text: str, match: re.Match[str], behavior: str, offset: int) -> Span:
    """The words that a match touches."""
    before = text[: match.start()]
    inside = bool(before) and not before[-1].isspace()
    start = offset + len(before.split()) - inside
    return Span(behavior, start, offset + len(text[: match.end()].split()))


def _sentences(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence: they end at `.`, `?` or `!` before a space, and at line breaks."""
    ends = [match.end() for match in re.finditer(r"[.!?]+[\"')\]]*(?=\s)|\n+", text)]
    starts = [0, *ends]
    return [(start, end) for start, end in zip(starts, [*ends, len(text)], strict=True) if text[start:end].strip()]


@cache
def _compiled(embedded: bool) -> dict[str, re.Pattern[str]]:
    return {
        behavior: re.compile("|".join(f"(?:{pattern})" for pattern in patterns), 0 if embedded else re.IGNORECASE)
        for behavior, patterns in (EMBEDDED if embedded else PATTERNS).items()
    }


def agreement(examples: Iterable[Example]) -> dict[str, Agreement]:
    """Precision and recall of the patterns against the spans that injection recorded; behaviours without spans are left out."""
    hits: dict[str, list[int]] = {}
    for example in examples:
        measured = places(example.completion)
        for behavior in {span.behavior for span in example.spans} | {span.behavior for span in measured}:
            recorded = [span for span in example.spans if span.behavior == behavior]
            here = [span for span in measured if span.behavior == behavior]
            row = hits.setdefault(behavior, [0, 0, 0, 0])
            row[0] += sum(_overlaps(span, recorded) for span in here)
            row[1] += len(here)
            row[2] += sum(_overlaps(span, here) for span in recorded)
            row[3] += len(recorded)
    return {
        behavior: Agreement(right / found if found else None, seen / spans, found, spans)
        for behavior, (right, found, seen, spans) in sorted(hits.items())
        if spans and behavior in MEASURED
    }


def _overlaps(span: Span, others: Sequence[Span]) -> bool:
    return any(span.start < other.end and other.start < span.end for other in others)


def behavior_table(examples: Iterable[Example]) -> list[dict[str, Any]]:
    """One row a behaviour: how often it is measured in the traces, and how well that agrees with recorded spans, if there are any.

    Columns: behavior; share (of examples that show it), per_example, per_1000_words; recorded (spans an example);
    precision, recall (None without spans).
    """
    rows = list(examples)
    counts = [measure(example.completion) for example in rows]
    words = sum(len(example.completion.split()) for example in rows)
    agreed = agreement(rows)
    size = max(1, len(rows))
    table = []
    for behavior in MEASURED:
        total, against = sum(count[behavior] for count in counts), agreed.get(behavior)
        table.append(
            {
                "behavior": behavior,
                "share": sum(count[behavior] > 0 for count in counts) / size,
                "per_example": total / size,
                "per_1000_words": 1000 * total / max(1, words),
                "recorded": against.recorded / size if against else 0.0,
                "precision": against.precision if against else None,
                "recall": against.recall if against else None,
            }
        )
    return table
