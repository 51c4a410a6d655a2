"""Exact comparisons of short answers: numbers as fractions, words as words. What they cannot read is left to algebra.

Nothing here rounds: 0.333333 is not 1/3. A number is read together with what stands around it: sign, currency,
thousands separators, a fraction or a mixed number, a power of ten, a percent sign, a word like million, a number base,
a unit. Where that leaves two readings (`0.5%` beside 0.5) and they disagree, the verdict is `unparsable`.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from curate import latex, units


class Verdict(StrEnum):
    """What the verifier found. Only `correct` is a success; a time-out is not a wrong answer in an analysis."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NO_ANSWER = "no_answer"
    UNPARSABLE = "unparsable"
    """An answer is there, but it cannot be decided whether it equals the reference."""
    TIMEOUT = "timeout"
    """Deciding took more than its share of time or memory."""


@dataclass(frozen=True)
class Quantity:
    """A number as it was written: its value is `number * scale`."""

    number: Fraction
    scale: Fraction = Fraction(1)
    """1/100 for percent, 10**6 for million."""
    unit: str = ""
    """Canonical unit, or empty."""


LARGEST_EXPONENT = 400
_PLAIN = re.compile(r"-?\d{1,18}")
_DIGITS = r"(?:\d{1,3}(?:[, ]\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<currency>\\?\$|[€£¥])?\s*"
    r"(?:(?P<mixed>\d+)?\s*\\frac\{\s*(?P<top>-?\d+)\s*\}\s*\{\s*(?P<bottom>-?\d+)\s*\}"
    r"|(?:(?P<whole>\d+)\s+)?(?P<over>\d+)\s*/\s*(?P<under>\d+)(?![\d/])"
    r"|(?P<fixed>\d+\.\d*)\\(?:overline|bar)\{(?P<repeating>\d+)\}"
    rf"|(?P<decimal>{_DECIMAL})(?:\.(?!\d))?"
    r"(?:\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{?(?P<power>[-+]?\d{1,6})\}?|[eE](?P<exponent>[-+]?\d{1,6}))?)"
)
_IN_BASE = re.compile(r"(-?)(\w*\d\w*)_\{?(\d{1,2})\}?")
_RATIO = re.compile(r"(\d+)\s*:\s*(\d+)")
_SCALE = re.compile(rf"\s*(?:(\\?%|percent\b)|({'|'.join(units.SCALES)})s?\b)(.*)", re.DOTALL)
_WORDS = re.compile(r"[^\W\d_]+(?:[ ,.'-]+[^\W\d_]+)*")


def decide(answer: str, ground_truth: str) -> Verdict | None:
    """Correct, incorrect or unparsable where it can be said without algebra, else None.

    Args:
        answer: as `latex.clean` gives it, like ground_truth.
    """
    ours, reference = latex.compact(answer), latex.compact(ground_truth)
    if ours == reference:
        return Verdict.CORRECT
    left, right = read_quantity(answer), read_quantity(ground_truth)
    if left and right:
        return _same_quantity(left, right)
    for compare in (_same_in_base, _same_ratio, _same_words, _decimal_comma):
        if (verdict := compare(answer, ground_truth)) is not None:
            return verdict
    return None


def read_quantity(text: str) -> Quantity | None:
    """The number that the whole text is, or None."""
    if _PLAIN.fullmatch(text):
        return Quantity(Fraction(int(text)))
    match = _NUMBER.match(text)
    number = _value(match) if match else None
    if match is None or number is None:
        return None
    tail, scale = text[match.end() :], Fraction(1)
    if scaled := _SCALE.fullmatch(latex.unwrap(tail)):
        scale, tail = Fraction(1, 100) if scaled[1] else Fraction(units.SCALES[scaled[2]]), scaled[3]
    unit = units.read_unit(tail)
    if unit is None:
        return None
    return Quantity(number, scale, unit or units.CURRENCIES.get((match["currency"] or "").strip("\\"), ""))


def _value(match: re.Match[str]) -> Fraction | None:
    """Of a match of _NUMBER; None for a zero denominator or a power of ten too large to write out."""
    if match["bottom"] or match["under"]:
        top, bottom = int(match["top"] or match["over"]), int(match["bottom"] or match["under"])
        if bottom == 0:
            return None
        value = int(match["mixed"] or match["whole"] or 0) + Fraction(top, bottom)
    elif match["repeating"]:
        fixed, repeating = match["fixed"], match["repeating"]
        unit = Fraction(1, 10 ** len(fixed.partition(".")[2]))
        value = Fraction(fixed.rstrip(".")) + unit * Fraction(int(repeating), 10 ** len(repeating) - 1)
    else:
        power = int(match["power"] or match["exponent"] or 0)
        if abs(power) > LARGEST_EXPONENT:
            return None
        value = Fraction(match["decimal"].replace(",", "").replace(" ", "")) * Fraction(10) ** power
    return -value if match["sign"] == "-" else value


def _same_quantity(answer: Quantity, reference: Quantity) -> Verdict:
    """A unit on one side alone is commentary; a percent sign on one side alone has two readings.

    `50%` is 0.5, and `10%` is also the answer 10 to `what percent?`, as published answer files write it. The second
    reading is taken only above 1, where the first is out of the question.
    """
    if units.contradict(answer.unit, reference.unit):
        return Verdict.UNPARSABLE
    if answer.number * answer.scale == reference.number * reference.scale:
        return Verdict.CORRECT
    if answer.scale == reference.scale or answer.number != reference.number:
        return Verdict.INCORRECT
    is_percent = Fraction(1, 100) in (answer.scale, reference.scale) and 1 in (answer.scale, reference.scale)
    return Verdict.CORRECT if is_percent and abs(answer.number) > 1 else Verdict.UNPARSABLE


def _same_in_base(answer: str, ground_truth: str) -> Verdict | None:
    """`204_5`: an answer may leave out the reference's base, but not name another one."""
    texts = [latex.compact(text) for text in (answer, ground_truth)]
    ours, reference = (_IN_BASE.fullmatch(text) for text in texts)
    if not (ours or reference) or not all(re.fullmatch(r"-?\w+(?:\{\d+\})?", text) for text in texts):
        return None
    if reference and (not ours or ours[3] == reference[3]):
        same = reference[1] + reference[2] == (ours[1] + ours[2] if ours else texts[0])
        return Verdict.CORRECT if same else Verdict.INCORRECT
    possible = ours and (
        _based(ours) == (_based(reference) if reference else _integer(texts[1])) or ours[1] + ours[2] == texts[1]
    )
    return Verdict.UNPARSABLE if possible else Verdict.INCORRECT


def _integer(text: str) -> int | None:
    return int(text) if _PLAIN.fullmatch(text) else None


def _based(match: re.Match[str]) -> int | None:
    try:
        return int(match[1] + match[2], int(match[3]))
    except ValueError:
        return None


def _same_ratio(answer: str, ground_truth: str) -> Verdict | None:
    """`3:4` is 3/4; beside another one in lowest terms it may be a time of day (4:30 is not 2:15)."""
    ours, reference = (_RATIO.fullmatch(text) for text in (answer, ground_truth))
    if not (ours or reference):
        return None
    left, right = (_as_fraction(match, text) for match, text in ((ours, answer), (reference, ground_truth)))
    if left is None or right is None:
        return None
    if left != right:
        return Verdict.INCORRECT
    return Verdict.UNPARSABLE if ours and reference else Verdict.CORRECT


def _as_fraction(match: re.Match[str] | None, text: str) -> Fraction | None:
    if match:
        return Fraction(int(match[1]), int(match[2])) if int(match[2]) else None
    quantity = read_quantity(text)
    return quantity.number * quantity.scale if quantity else None


def _same_words(answer: str, ground_truth: str) -> Verdict | None:
    """Names, choices, days: compared without case; a list in another order is not decided.

    Up to three bare small letters are left to algebra: `xy` equals `yx`.
    """
    texts = [latex.unwrap(text) for text in (answer, ground_truth)]
    texts = [text[1:-1].strip() if re.fullmatch(r"\(\s*[A-Z]\s*\)", text) else text for text in texts]
    if not all(_WORDS.fullmatch(text) for text in texts):
        return None
    ours, reference = ([word for word in re.split(r"[ ,.]+", text.casefold()) if word] for text in texts)
    if ours == reference:
        one_letter = all(len(text) == 1 for text in texts)
        return Verdict.UNPARSABLE if one_letter and texts[0] != texts[1] else Verdict.CORRECT
    is_text = any(latex.is_wrapped(text) for text in (answer, ground_truth))
    if not is_text and all(len(text) <= 3 and text.islower() for text in texts) and max(map(len, texts)) > 1:
        return None
    return Verdict.UNPARSABLE if sorted(ours) == sorted(reference) else Verdict.INCORRECT


def _decimal_comma(answer: str, ground_truth: str) -> Verdict | None:
    """`3,14` beside 3.14: the decimal comma of many languages, or a list; nobody can say."""
    one_comma = re.compile(r"-?\d+,\d+")
    same_digits = answer.replace(",", ".") == ground_truth.replace(",", ".")
    return Verdict.UNPARSABLE if same_digits and any(map(one_comma.fullmatch, (answer, ground_truth))) else None
