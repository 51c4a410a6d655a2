"""The verifier beside labels made by others and beside math-verify alone: agreement, and answers a second.

    python benchmarks/verify.py agreement [--pairs 1000] [--show 20]     the tables of docs/verifier.md, about 5 minutes
    python benchmarks/verify.py speed [--rounds 3] [--workers N]

Public data are found by $FORERUN_TEST_DATA, else ../shared/data beside the repository. `math-verify alone` is what its
README shows: `verify(parse("$reference$"), parse(completion))` with its own time limits.
"""

import argparse
import itertools
import json
import os
import random
import re
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from curate import answers, latex
from curate.answers import Verdict, extract_answer, verify_all

DATA = Path(os.environ.get("FORERUN_TEST_DATA") or Path(__file__).parents[2] / "shared/data")


@dataclass(frozen=True)
class Case:
    """One completion beside a reference; label is None where nobody has judged it."""

    completion: str
    ground_truth: str
    label: bool | None = None


def rows(name: str) -> list[dict]:
    """Rows of a JSONL file or of one JSON array."""
    text = (DATA / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


def gsm8k_models() -> list[Case]:
    """Solutions of four models to GSM8K's test problems, labelled by its authors."""
    return [
        Case(row[model]["solution"], row["ground_truth"].rpartition("A:")[2].strip(), row[model]["is_correct"])
        for row in rows("gsm8k/example_model_solutions.jsonl")
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    ]


def math_samples() -> list[Case]:
    """Eight solutions of a model to each of 100 MATH problems, labelled by Qwen2.5-Math's grader."""
    return [
        Case(response, row["answer"], score)
        for row in rows("math_cot_100_samples/math_cot_100.jsonl")
        for response, score in zip(row["response"], row["score"], strict=True)
    ]


def own_solutions() -> list[Case]:
    """The reference solutions of GSM8K and MATH-500 against their own answers."""
    gsm8k = rows("gsm8k/train.jsonl") + rows("gsm8k/test.jsonl")
    mine = [Case(row["answer"], row["answer"].rpartition("####")[2].strip(), True) for row in gsm8k]
    return mine + [Case(row["solution"], row["answer"], True) for row in rows("math500/test.jsonl")]


def math_answers() -> list[str]:
    """The different reference answers of MATH, OlymMATH and the DeepScaleR subset."""
    found = [row["answer"] for name in ("math_train_prompts/math.8k.json", "math500/test.jsonl") for row in rows(name)]
    found += [row["answer"] for name in ("EASY", "HARD") for row in rows(f"olymmath/EN-{name}.jsonl")]
    found += [row["reward_model"]["ground_truth"] for row in rows("one_shot_rlvr/dsr_sub.jsonl")]
    return sorted(set(found))


def alike_answers(number: int) -> list[Case]:
    """Pairs of different MATH answers that read alike but for their digits (`\\frac{3}{4}`, `\\frac{5}{4}`)."""
    groups = defaultdict(list)
    for answer in math_answers():
        groups[re.sub(r"\d+", "9", latex.compact(latex.clean(answer)))].append(answer)
    pairs = [pair for group in groups.values() for pair in itertools.pairwise(group)]
    return [Case(f"\\boxed{{{ours}}}", reference) for ours, reference in sample(pairs, number)]


def equal_answers(number: int) -> list[Case]:
    """Pairs of MATH answers that are written differently and have the same value in floating point."""
    by_value = defaultdict(list)
    for answer in math_answers():
        if (value := number_of(answer)) is not None:
            by_value[f"{value:.9g}"].append(answer)
    pairs = [pair for group in by_value.values() for pair in itertools.pairwise(group)]
    pairs = [pair for pair in pairs if len({latex.compact(latex.clean(text)) for text in pair}) == 2]
    return [Case(f"\\boxed{{{ours}}}", reference) for ours, reference in sample(pairs, number)]


def sample(pairs: list, number: int) -> list:
    """At most `number` of them, the same ones every time."""
    return random.Random(0).sample(pairs, min(number, len(pairs)))


def number_of(answer: str) -> float | None:
    """As math-verify reads it, its percent signs and all; None if it is no real number."""
    from math_verify import parse

    try:
        value = complex(parse(f"${answer}$")[0].doit().evalf())
    except (AttributeError, IndexError, TypeError, ValueError, OverflowError):
        return None
    return value.real if value.imag == 0 and value.real not in (0.0, float("inf")) else None


def math_verify_alone(cases: list[Case]) -> Iterator[bool]:
    """Its verdicts in order."""
    from math_verify import parse, verify

    for case in cases:
        yield verify(parse(f"${case.ground_truth}$"), parse(case.completion))


def agreement(options: argparse.Namespace) -> None:
    """Print one table row a set, then every kind of disagreement with its count."""
    sets = {
        "GSM8K, four models' solutions": gsm8k_models(),
        "MATH, 8 samples of 100 problems": math_samples(),
        "GSM8K and MATH-500, own solutions": own_solutions(),
        "MATH answers that differ in digits": alike_answers(options.pairs),
        "MATH answers of equal value": equal_answers(options.pairs),
    }
    print(
        "| set | pairs | correct | incorrect | no_answer | unparsable | timeout | = label | math-verify = label | = math-verify |"
    )
    print("| --- " * 10 + "|")
    disagreements = {}
    for name, cases in sets.items():
        ours = list(verify_all((case.completion, case.ground_truth) for case in cases))
        theirs = list(math_verify_alone(cases))
        counts = " | ".join(f"{ours.count(verdict):,}" for verdict in Verdict)
        right = [verdict is Verdict.CORRECT for verdict in ours]
        labels = [case.label for case in cases]
        shares = [share(right, labels), share(theirs, labels), share(right, theirs)]
        print(f"| {name} | {len(cases):,} | {counts.replace(' | ', ' | ')} | {' | '.join(shares)} |", flush=True)
        disagreements[name] = list(zip(cases, ours, theirs, strict=True))
    for name, judged in disagreements.items():
        show(name, judged, options.show)


def share(first: list[bool], second: list[bool | None]) -> str:
    """Agreement in percent, with the number that disagree; a dash where there is no label."""
    if None in second:
        return "-"
    differ = sum(a != b for a, b in zip(first, second, strict=True))
    return f"{100 * (1 - differ / len(first)):.2f} % ({differ})"


def show(name: str, judged: list[tuple[Case, Verdict, bool]], number: int) -> None:
    """The disagreements of a set, equal ones counted once."""
    for title, differs in (
        ("label", lambda case, right, theirs: case.label not in (None, right)),
        ("math-verify", lambda case, right, theirs: right != theirs),
    ):
        found = Counter(
            (
                (extract_answer(case.completion) or "")[:70],
                case.ground_truth[:70],
                str(ours),
                f"{title} {case.label if title == 'label' else theirs}",
            )
            for case, ours, theirs in judged
            if differs(case, ours is Verdict.CORRECT, theirs)
        )
        if found:
            print(f"\n{name}: {sum(found.values())} disagree with {title}")
        for (answer, reference, ours, other), count in found.most_common(number):
            print(f"  {count:4d} x {answer!r} for {reference!r}: {ours}; {other}")


def speed(options: argparse.Namespace) -> None:
    """Answers a second of verify_all and of math-verify on the same pairs; the two take turns."""
    real = [Case(f"\\boxed{{{extract_answer(case.completion)}}}", case.ground_truth) for case in math_samples() + gsm8k_models()]
    sets = {
        "real answers (MATH and GSM8K samples)": sample(real, 2000),
        "different MATH answers, each pair once": alike_answers(300) + equal_answers(100),
    }
    for name, cases in sets.items():
        ratios, measured = [], defaultdict(list)
        for _ in range(options.rounds):
            measured["forerun"].append(rate_of_forerun(cases, options.workers))
            few = sample(cases, 150)
            measured["math-verify"].append(rate(few, lambda few=few: list(math_verify_alone(few))))
            ratios.append(measured["forerun"][-1] / measured["math-verify"][-1])
        medians = ", ".join(f"{tool} {statistics.median(rates):,.0f}" for tool, rates in measured.items())
        print(f"{name}: {len(cases)} pairs; answers/s: {medians}; ratio {statistics.median(ratios):.1f}", flush=True)


def rate_of_forerun(cases: list[Case], workers: int | None) -> float:
    """With nothing remembered; the workers have started before, as they have after a run's first answers."""
    pairs = [(case.completion, case.ground_truth) for case in cases]
    list(verify_all([(f"\\boxed{{x+{number}}}", "y+1") for number in range(4)], workers=workers))
    for remembered in (answers._clean, answers._exactly, answers._decide):
        remembered.cache_clear()
    return rate(cases, lambda: list(verify_all(pairs, workers=workers)))


def rate(cases: list[Case], work) -> float:
    """Cases a second of wall time."""
    began = time.perf_counter()
    work()
    return len(cases) / (time.perf_counter() - began)


def main() -> None:
    """Run the chosen measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("measure", choices=("agreement", "speed"))
    parser.add_argument("--pairs", type=int, default=1000, help="agreement: at most this many pairs of MATH answers")
    parser.add_argument("--show", type=int, default=20, help="agreement: disagreements printed a set")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=None)
    options = parser.parse_args()
    {"agreement": agreement, "speed": speed}[options.measure](options)


if __name__ == "__main__":
    main()
