"""The verifier: read the answer off a completion and decide whether it is right.

One verifier serves data, reward and evaluation, so that a gain is never a difference between graders. Exact
comparisons (curate/exact.py) settle most pairs in microseconds; math-verify, in worker processes with hard limits and
guarded against its known false positives (curate/algebra.py), decides the rest. docs/verifier.md says how well.
"""

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from importlib.metadata import version

from curate import exact, latex
from curate.exact import Verdict
from curate.verifier_pool import POOL

__all__ = ["VERIFIER", "VERIFIER_VERSION", "Verdict", "extract_answer", "verify", "verify_all", "versions"]

VERIFIER = "forerun"
VERIFIER_VERSION = "1"
LONGEST_ANSWER = 2000
"""Characters; a longer final answer is `unparsable` unless it equals the reference as it stands."""
REMEMBERED = 100_000
"""Decided pairs that are kept: samples of one problem mostly give the same few answers."""
LOOKAHEAD = 1024
"""Pairs that verify_all reads beyond the one whose verdict it waits for."""

_EMBEDDED = re.compile(r"(?:^|\s)ans(?:\s+(.*))?$", re.DOTALL)
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_STATED = re.compile(r"answer\s{0,4}(?:is|:|=)|^A:", re.IGNORECASE | re.MULTILINE)
_BARE = re.compile(r"(?:\\?\$)?[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[a-zA-Z°. ]|\\?%)*\$?")
_NUMBERS_START = tuple("0123456789-+.$\\€£¥*")
_HOPE = re.compile(r"\.?\s{0,4}I hope it is correct.*", re.IGNORECASE)


def extract_answer(completion: str) -> str | None:
    """The final answer as written, or None.

    Looks after the last `</think>`, for, in this order: the last balanced \\boxed{}; the line after the last `####`
    (GSM8K); `ans ...` to the end (the embedded task); what follows the last "answer is" or `A:` on its line; a text that
    is a number and nothing else. Takes time linear in the completion's length.
    """
    text = completion.rpartition("</think>")[2]
    boxed = _last_boxed(text) if "box" in text else None
    if boxed is not None:
        return boxed.strip() or None
    if "####" in text:
        return _first_line(text.rpartition("####")[2])
    if embedded := _EMBEDDED.search(text):
        return (embedded[1] or "").strip() or None
    *_, stated = [None, *_STATED.finditer(text)]
    if stated:
        line = _HOPE.sub("", _first_line(text[stated.end() :].lstrip(" :*")) or "")
        return line.strip("*").rstrip(".").strip() or None
    text = text.strip()
    return text if len(text) <= LONGEST_ANSWER and (_BARE.fullmatch(text) or _is_number(text)) else None


def _is_number(text: str) -> bool:
    return (
        text.startswith(_NUMBERS_START)
        and not text.startswith(("+ ", "- "))
        and exact.read_quantity(latex.clean(text)) is not None
    )


def _first_line(text: str) -> str | None:
    return text.strip().partition("\n")[0].strip() or None


def _last_boxed(text: str) -> str | None:
    """Content of the last \\boxed{...} whose braces balance; escaped braces do not count."""
    opened: list[tuple[int, bool]] = []
    last: tuple[int, int] | None = None
    for match in _BRACES.finditer(text):
        token = match[0]
        if token.endswith("{") and token != "\\{":
            opened.append((match.end(), token != "{"))
        elif token == "}" and opened:
            start, is_box = opened.pop()
            if is_box and (last is None or start > last[0]):
                last = (start, match.start())
    return text[slice(*last)] if last else None


def verify(completion: str, *, ground_truth: str) -> Verdict:
    """Whether the completion's final answer equals the reference.

    Args:
        ground_truth: the reference answer alone, as text: `72`, `13 7 14`, `\\frac{1}{2}`.
    """
    verdict = _at_once(completion, ground_truth)
    return verdict if isinstance(verdict, Verdict) else _decide(*verdict)


def verify_all(pairs: Iterable[tuple[str, str]], *, workers: int | None = None) -> Iterator[Verdict]:
    """Verdicts of (completion, ground truth) pairs, in order, as soon as each and those before it are known.

    Reads at most LOOKAHEAD pairs ahead, so the pairs may be a stream of any length.

    Args:
        workers: processes for what needs algebra; default: the processors, at most 8. They start when needed.
    """
    waiting: deque[Verdict | Future[Verdict]] = deque()
    asked: dict[tuple[str, str], Future[Verdict]] = {}
    threads = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1), "verifier")
    try:
        for completion, ground_truth in pairs:
            found = _at_once(completion, ground_truth)
            if isinstance(found, Verdict):
                waiting.append(found)
            else:
                if len(asked) > LOOKAHEAD:
                    asked = {pair: future for pair, future in asked.items() if not future.done()}
                waiting.append(asked.get(found) or asked.setdefault(found, threads.submit(_decide, *found)))
            while waiting and (len(waiting) > LOOKAHEAD or _is_known(waiting[0])):
                yield _known(waiting.popleft())
        yield from map(_known, waiting)
    finally:
        threads.shutdown(cancel_futures=True)


def _is_known(verdict: Verdict | Future[Verdict]) -> bool:
    return isinstance(verdict, Verdict) or verdict.done()


def _known(verdict: Verdict | Future[Verdict]) -> Verdict:
    return verdict if isinstance(verdict, Verdict) else verdict.result()


def _at_once(completion: str, ground_truth: str) -> Verdict | tuple[str, str]:
    """The verdict where comparing text is enough, else (answer, ground truth) for `_decide`."""
    answer = extract_answer(completion)
    if answer is None:
        return Verdict.NO_ANSWER
    if answer == ground_truth:
        return Verdict.CORRECT
    if _is_value_list(ground_truth):
        return Verdict.CORRECT if answer.split() == ground_truth.split() else Verdict.INCORRECT
    if max(len(answer), len(ground_truth)) > LONGEST_ANSWER:
        return Verdict.UNPARSABLE
    return _exactly(answer, ground_truth) or (answer, ground_truth)


def _is_value_list(text: str) -> bool:
    """Several plain integers, as the embedded task asks for: compared word by word, never by algebra."""
    words = text.split()
    return len(words) > 1 and all(word.isdigit() for word in words)


_clean = lru_cache(REMEMBERED)(latex.clean)


@lru_cache(REMEMBERED)
def _exactly(answer: str, ground_truth: str) -> Verdict | None:
    return exact.decide(_clean(answer), _clean(ground_truth))


@lru_cache(REMEMBERED)
def _decide(answer: str, ground_truth: str) -> Verdict:
    return POOL.decide(_clean(answer), _clean(ground_truth))


def versions() -> dict[str, str]:
    """The verifier's own version and those of the packages its verdicts rest on."""
    packages = ("math-verify", "latex2sympy2_extended", "sympy")
    return {VERIFIER: VERIFIER_VERSION, **{package: version(package) for package in packages}}
