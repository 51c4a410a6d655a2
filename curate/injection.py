"""Injection over a set of examples: draw who gets behaviours, write them, verify every trace that was touched, count."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from curate import baselines, rewriting
from curate.answers import Verdict, verify
from curate.behaviors import Injection
from curate.endpoint import Cache, Client
from curate.errors import CheckFailed, InputError
from curate.examples import Example
from curate.graphs import NoGraph
from curate.worked import read, write

Method = Callable[[Example, Injection, random.Random], Example]


@dataclass(frozen=True)
class Injected:
    """The examples in their order (a copy follows its original), and what became of them."""

    examples: list[Example]
    counts: dict[str, int]
    """`injected`, `not_drawn`, `kept_without_graph` and other `kept_...`, `rejected_...` by the endpoint, `copies_added`."""
    rates: dict[str, dict[str, float]]
    """Realised behaviours over all examples: see `behavior_rates`."""

    def require(self, name: str) -> None:
        """Refuse an injection that touched nothing although examples were drawn.

        Raises:
            InputError: with what they were kept for.
        """
        reasons = {reason: count for reason, count in self.counts.items() if reason not in ("not_drawn", "injected") and count}
        if reasons and not self.counts["injected"]:
            told = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
            raise InputError(
                f"{name}: no example could be injected ({told}); graphs are known for the embedded task, word_graph and "
                "GSM8K with its annotations; use `method: endpoint` for other traces, or drop `inject`"
            )


def inject_all(examples: Sequence[Example], injection: Injection, seed: int, cache: Path | None = None) -> Injected:
    """Inject behaviours into the share of the examples that is drawn; each example has a random stream of its own.

    Args:
        cache: where the method `endpoint` keeps the server's answers, so that a rerun asks nothing twice.

    Raises:
        CheckFailed: a written trace does not verify as it must, or the endpoint gave up.
        UsageError: the endpoint cannot be used as configured.
    """
    streams = [random.Random(f"{seed}/{example.id}") for example in examples]
    drawn = [stream.random() < injection.share for stream in streams]
    if injection.method == "endpoint":
        return _by_endpoint(examples, drawn, injection, seed, cache)
    counts, made = Counter(injected=0, not_drawn=drawn.count(False)), list[Example]()
    for example, stream, chosen in zip(examples, streams, drawn, strict=True):
        if not chosen:
            made.append(example)
            continue
        versions, reason = _versions(example, injection, seed, stream)
        counts[reason] += 1
        counts["copies_added"] += len(versions) - 1
        made += versions
    return Injected(made, _shown(counts), behavior_rates(made))


def _versions(example: Example, injection: Injection, seed: int, rng: random.Random) -> tuple[list[Example], str]:
    """The example rewritten (several different times, for copies), and what it counts as."""
    method, versions = METHODS[injection.method], list[Example]()
    for copy in range(injection.copies):
        stream = random.Random(f"{seed}/{example.id}/{copy}") if copy else rng
        try:
            version = method(example, injection, stream)
        except NoGraph as error:
            return [example], error.kept
        _check(version, injection)
        if all((version.problem.prompt, version.completion) != (v.problem.prompt, v.completion) for v in versions):
            versions.append(replace(version, id=f"{example.id}-{copy}") if copy else version)
    return versions, "injected"


def _graph(example: Example, injection: Injection, rng: random.Random) -> Example:
    return write(example, read(example), injection, rng)


METHODS: dict[str, Method] = {
    "graph": _graph,
    "permute_premises": baselines.permute_premises,
    "chain": baselines.chain,
    "wrong_answer": baselines.wrong_answer,
    "length_matched": baselines.length_matched,
}


def _check(example: Example, injection: Injection) -> None:
    expected = Verdict.INCORRECT if injection.method == "wrong_answer" else Verdict.CORRECT
    verdict = verify(example.completion, ground_truth=example.problem.ground_truth)
    if verdict is not expected:
        raise CheckFailed(f"injected trace {example.id} verifies as {verdict}, not {expected}; nothing was written")


def _by_endpoint(
    examples: Sequence[Example], drawn: Sequence[bool], injection: Injection, seed: int, cache: Path | None
) -> Injected:
    assert injection.endpoint is not None  # checked by Injection
    client = Client(injection.endpoint, Cache(cache))
    chosen = [example for example, yes in zip(examples, drawn, strict=True) if yes]
    rewritten, counts = rewriting.rewrite_all(chosen, injection, client, seed)
    by_id = {example.id: example for example in rewritten}
    made = [by_id.get(example.id, example) for example in examples]
    counts["not_drawn"] = drawn.count(False)
    return Injected(made, _shown(counts), behavior_rates(made))


def _shown(counts: Counter[str]) -> dict[str, int]:
    """`injected` and `not_drawn` always, the rest where there is any."""
    always = {name: counts.pop(name, 0) for name in ("injected", "not_drawn")}
    return always | {name: counts[name] for name in sorted(counts) if counts[name]}


def behavior_rates(examples: Iterable[Example]) -> dict[str, dict[str, float]]:
    """Of each recorded behaviour: the share of examples that show it, and spans an example."""
    rows = list(examples)
    showing = Counter(behavior for example in rows for behavior in {span.behavior for span in example.spans})
    spans = Counter(span.behavior for example in rows for span in example.spans)
    size = max(1, len(rows))
    return {name: {"share": showing[name] / size, "per_example": spans[name] / size} for name in sorted(showing)}
