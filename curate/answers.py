"""The verifier: read the answer off a completion and decide whether it is right.

One verifier serves data, reward and evaluation, so that a gain is never a difference between graders. Cheap exact
comparisons come first; math-verify decides the rest in a process of its own, which is killed and replaced when it
hangs: its own time-outs need the main thread and do not stop every hang.
"""

import atexit
import json
import os
import re
import select
import subprocess
import sys
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from fractions import Fraction
from typing import Any

VERIFIER = "forerun"
VERIFIER_VERSION = "1"
TIMEOUT_SECONDS = 5.0
START_SECONDS = 60.0

_EMBEDDED = re.compile(r"(?:^|\s)ans(?:\s+(.*))?$", re.DOTALL)
_STATED = re.compile(r"(?:answer\s*(?:is|:|=)|^A:)\s*:?\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_UNITS = re.compile(r"[a-zA-Z%°. ]*")
_RISKY = re.compile(r"\\(?:mathrm|text|operatorname|mathbf)\b|=")
SMALLEST_TRUSTED = 1e-15


class Verdict(StrEnum):
    """What the verifier found. Only `correct` is a success; a time-out is not a wrong answer in an analysis."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NO_ANSWER = "no_answer"
    UNPARSABLE = "unparsable"
    """An answer is there, but it cannot be decided whether it equals the reference."""
    TIMEOUT = "timeout"


def extract_answer(completion: str) -> str | None:
    """The final answer as written, or None.

    Looks after the last `</think>`, for, in this order: the last balanced \\boxed{}; `#### x` (GSM8K); `ans ...` to the
    end (the embedded task); the last "answer is x" or `A: x` line; a text that is a number and nothing else.
    """
    text = completion.rpartition("</think>")[2]
    embedded = _EMBEDDED.search(text)
    if embedded and "\\boxed" not in text:
        return (embedded[1] or "").strip() or None
    if (boxed := _last_boxed(text)) is not None:
        return boxed.strip() or None
    if "####" in text:
        return text.rpartition("####")[2].strip() or None
    if stated := _STATED.findall(text):
        return str(stated[-1]).strip().rstrip(".").strip() or None
    return text.strip() if _number(text.strip()) is not None else None


def _last_boxed(text: str) -> str | None:
    """Content of the last \\boxed{...} whose braces balance."""
    start = text.rfind("\\boxed{")
    while start >= 0:
        depth = 0
        for place in range(start + 6, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[start + 7 : place]
        start = text.rfind("\\boxed{", 0, start)
    return None


def verify(completion: str, *, ground_truth: str) -> Verdict:
    """Whether the completion's final answer equals the reference.

    Args:
        ground_truth: the reference answer alone, as text: `72`, `13 7 14`, `\\frac{1}{2}`.
    """
    answer = extract_answer(completion)
    if answer is None:
        return Verdict.NO_ANSWER
    if answer == ground_truth:
        return Verdict.CORRECT
    if _is_value_list(ground_truth):
        return Verdict.CORRECT if answer.split() == ground_truth.split() else Verdict.INCORRECT
    ours, reference = _number(answer), _number(ground_truth)
    if ours is not None and reference is not None:
        return Verdict.CORRECT if ours == reference else Verdict.INCORRECT
    return _by_math_verify(answer, ground_truth)


def _is_value_list(text: str) -> bool:
    """Several plain integers, as the embedded task asks for: compared word by word, never by algebra."""
    words = text.split()
    return len(words) > 1 and all(word.isdigit() for word in words)


def _number(text: str) -> Fraction | None:
    """A plain number, exactly: currency sign, thousands separators and a trailing unit are allowed.

    A percent sign is a unit too: `10%` equals `10`, as the published answer files write it.
    """
    text = text.strip().strip("$").replace("\\$", "").replace("\\%", "%").replace("\\!", "").strip()
    match = _NUMBER.match(text)
    if not match or not any(character.isdigit() for character in match[0]):
        return None
    if not _UNITS.fullmatch(text[match.end() :]):
        return None
    try:
        return Fraction(Decimal(match[0].replace(",", "")))
    except InvalidOperation:
        return None


def _by_math_verify(answer: str, ground_truth: str) -> Verdict:
    """Algebraic equality by math-verify, with guards against its known false positives.

    It reads `1 - 1/\\mathrm{e}` and `1 + 1/\\mathrm{e}` as equal, likewise different equations and very small
    numbers: where a comparison rests on such parts, the verdict is `unparsable`, not `correct`.
    """
    reply = _worker.ask(answer, ground_truth)
    if reply is None:
        return Verdict.TIMEOUT
    if not reply["parsed"]:
        return Verdict.UNPARSABLE
    if not reply["equal"]:
        return Verdict.INCORRECT
    risky = any(_RISKY.search(text) for text in (answer, ground_truth)) or reply["tiny"]
    same_text = re.sub(r"\s", "", answer) == re.sub(r"\s", "", ground_truth)
    return Verdict.CORRECT if same_text or not risky else Verdict.UNPARSABLE


class _Worker:
    """math-verify in a child process: one JSON line asked, one answered; killed and replaced on a time-out."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, answer: str, ground_truth: str) -> dict[str, Any] | None:
        """The child's reply, or None after TIMEOUT_SECONDS or a crash."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        process = self.process
        assert process is not None and process.stdin is not None
        process.stdin.write(json.dumps([answer, ground_truth]).encode() + b"\n")
        process.stdin.flush()
        line = self._line(TIMEOUT_SECONDS)
        if line is None:
            self.stop()
            return None
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "curate.answers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )
        if self._line(START_SECONDS) is None:
            self.stop()
            raise RuntimeError("the verifier's process did not start; is math-verify installed?")

    def _line(self, seconds: float) -> bytes | None:
        assert self.process is not None and self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return (self.process.stdout.readline() or None) if ready else None

    def stop(self) -> None:
        """Kill the child, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


_worker = _Worker()
atexit.register(_worker.stop)


def _serve() -> None:
    """The child's loop: [answer, ground truth] in, {parsed, equal, tiny} out."""
    import logging

    # It warns that its own time limit is off; ours is the parent, which kills this process.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    from math_verify import parse
    from math_verify import verify as algebraically_equal

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        answer, ground_truth = json.loads(line)
        ours, reference = (parse(f"${text.strip().strip('$')}$", parsing_timeout=None) for text in (answer, ground_truth))
        equal = bool(ours and reference) and algebraically_equal(reference, ours, timeout_seconds=None)
        tiny = any(_tiny(value) for value in [*ours, *reference])
        print(json.dumps({"parsed": bool(ours and reference), "equal": bool(equal), "tiny": tiny}), flush=True)


def _tiny(value: Any) -> bool:
    """Non-zero, but so small that a numerical comparison cannot tell it from another."""
    if not getattr(value, "is_number", False) or not value.is_real or value.is_zero:
        return False
    return bool(abs(value) < SMALLEST_TRUSTED)


if __name__ == "__main__":
    _serve()
