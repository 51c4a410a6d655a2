"""From samples to counts per problem: what is right, what was not scored, and which numbers may be compared."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from curate.answers import VERIFIER, VERIFIER_VERSION, Verdict, extract_answer, verify_all
from curate.errors import InputError
from curate.examples import text_id
from curate.files import content_hash


def is_right(score: Any, threshold: float | None, where: str) -> bool | None:
    """A foreign score as a verdict; None where nothing was scored (missing, NaN).

    Raises:
        InputError: neither 0 nor 1, and no threshold given.
    """
    if score is None or (isinstance(score, float) and math.isnan(score)):
        return None
    if not isinstance(score, bool | int | float):
        raise InputError(f"{where}: expected a score, a number, came {score!r}; name another with --metric")
    if threshold is not None:
        return score >= threshold
    if score not in (0, 1):
        raise InputError(
            f"{where}: expected a verdict, 0 or 1, came {score}; say with --threshold from which score on it is right"
        )
    return bool(score)


def reference(target: str) -> str:
    """The bare answer of a reference, which may be a whole worked solution."""
    return extract_answer(target) or target.strip()


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of a problem: with the file's verdict, or with the texts to judge it by."""

    problem: str
    content: str
    """The problem's text: two of one id must be the same."""
    right: bool | None = None
    """None: not scored (failed, NaN), which is not the same as wrong."""
    text: str | None = None
    target: str = ""
    tokens: float | None = None
    cut: bool | None = None
    """Whether it ended at the token limit."""


class Tally:
    """Counts per problem.

    Args:
        samples: read as a stream.
        own: judge the texts by Forerun's verifier, which tells 'no answer' and 'cannot be parsed' from 'wrong'.

    Raises:
        InputError: an id that stands for two problems.
    """

    def __init__(self, samples: Iterable[Sample] = (), *, own: bool = False) -> None:
        self.own = own
        self.unscored = 0
        self._rows: dict[str, dict[str, Any]] = {}
        self._contents: dict[str, str] = {}
        self._tokens: dict[str, list[float]] = {}
        for sample, right in _judged(samples) if own else ((sample, sample.right) for sample in samples):
            self._add(sample, right)

    def _add(self, sample: Sample, right: bool | Verdict | None) -> None:
        digest = text_id(sample.content)
        if self._contents.setdefault(sample.problem, digest) != digest:
            raise InputError(
                f"problem {sample.problem!r} is there twice with different content; ids must be unique in a problem set"
            )
        row = self._rows.setdefault(sample.problem, self._empty(sample.problem))
        if right is None:
            self.unscored += 1
            return
        row["num_samples"] += 1
        row["num_correct"] += right in (True, Verdict.CORRECT)
        if self.own:
            row["num_no_answer"] += right == Verdict.NO_ANSWER
            row["num_unparsable"] += right in (Verdict.UNPARSABLE, Verdict.TIMEOUT)
        if sample.cut is not None:
            row["num_truncated"] = (row["num_truncated"] or 0) + sample.cut
        if sample.tokens is not None:
            self._tokens.setdefault(sample.problem, []).append(sample.tokens)

    def add_counts(self, problem: str, samples: int, right: int, where: str) -> None:
        """Add a problem whose samples were counted elsewhere; a second row of it is an error."""
        if problem in self._rows:
            raise InputError(f"{where}: problem {problem!r} is there twice; expected one row a problem, benchmark, step and run")
        self._contents[problem] = ""
        self._rows[problem] = {**self._empty(problem), "num_samples": samples, "num_correct": right}

    def _empty(self, problem: str) -> dict[str, Any]:
        known = 0 if self.own else None
        counts = {"num_samples": 0, "num_correct": 0, "num_no_answer": known, "num_unparsable": known, "num_truncated": None}
        return {"problem_id": problem, **counts, "mean_tokens": None}

    @property
    def set_hash(self) -> str:
        """Hash of ids and texts: two problem sets of one hash are the same."""
        return content_hash(sorted(self._contents.items()))

    def rows(self, where: str) -> list[dict[str, Any]]:
        """One row a problem in the order of their ids, whatever the order of a file.

        Raises:
            InputError: no samples, or a problem of which no sample was scored.
        """
        if not self._rows:
            raise InputError(f"{where}: no samples to count")
        for problem, tokens in self._tokens.items():
            self._rows[problem]["mean_tokens"] = sum(tokens) / len(tokens)
        bare = [problem for problem, row in self._rows.items() if not row["num_samples"]]
        if bare:
            raise InputError(
                f"{where}: problem {bare[0]!r} has no scored sample; an average over the others would be of another set"
            )
        return [self._rows[problem] for problem in sorted(self._rows)]


def _judged(samples: Iterable[Sample]) -> Iterator[tuple[Sample, Verdict | None]]:
    """Each sample with Forerun's verdict; those without a text were not scored."""
    waiting: deque[Sample] = deque()
    failed: list[Sample] = []

    def pairs() -> Iterator[tuple[str, str]]:
        for sample in samples:
            if sample.text is None:
                failed.append(sample)
                continue
            waiting.append(sample)
            yield sample.text, sample.target

    for verdict in verify_all(pairs()):
        yield waiting.popleft(), verdict
    for sample in failed:
        yield sample, None


def evaluation_key(
    benchmark: str, tally: Tally, *, verifier: str | None = None, version: str = "", split: str | None = None,
    template: str | None = None, temperature: float | None = None, top_p: float | None = None, max_tokens: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The comparability key; the verifier is Forerun's where the tally is its own, else it has to be named."""
    own = tally.own or verifier is None
    return {
        "benchmark": benchmark,
        "split": split,
        "problem_set_hash": tally.set_hash,
        "prompt_template": template,
        "verifier": VERIFIER if own else verifier,
        "verifier_version": VERIFIER_VERSION if own else version,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "budget": None,
    }


def samples_note(where: str, tally: Tally) -> list[str]:
    """A note on samples without a score, and on unequal numbers of samples."""
    notes = []
    if tally.unscored:
        notes.append(
            f"{where}: without a score (failed, NaN) and not counted, neither right nor wrong: {tally.unscored} sample(s)"
        )
    numbers = {row["num_samples"] for row in tally.rows(where)}
    if len(numbers) > 1:
        notes.append(f"{where}: {min(numbers)} to {max(numbers)} samples a problem; pass@k is known up to k = {min(numbers)}")
    return notes
