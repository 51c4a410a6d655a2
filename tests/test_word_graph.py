"""English word problems: what is written can be read back, every sum is true, splits and answers are what they promise."""

import random
import re
from collections import Counter
from itertools import pairwise

import pytest
from scipy.stats import chisquare

from curate.answers import Verdict, verify
from curate.behaviors import Injection
from curate.errors import UsageError
from curate.graphs import NoGraph
from curate.word_graph import SPLITS, bucket, examples, generate, operation_count
from curate.word_reader import read_problem
from curate.word_trace import write_word_trace

EVERYTHING = Injection(reflection=0.5, verification=0.4, subgoals=1.0, analysis=(0.5,), filler=0.3)
PROBLEM = (
    "Some friends compare what they have collected. The number of Leo's beads is 9. Ana has 3 more stamps than Leo has beads. "
    "Tom has 3 times as many coins as Ana has stamps and Leo has beads combined. The number of Tom's stamps is a third of the number "
    "of Leo's beads. Take 2 away from the number of Tom's stamps and you get the number of Tom's beads. Ana has half as many coins as "
    "stamps. Taken together, Ana's coins and Tom's beads are as many as Ana's badges. The number of Ivy's badges is the number of Tom's "
    "coins plus the number of Ana's badges minus the number of Leo's beads. How many badges does Ivy have?"
)
TRUE = {
    "Leo's beads": 9,
    "Ana's stamps": 9 + 3,
    "Tom's coins": 3 * (12 + 9),
    "Tom's stamps": 9 / 3,
    "Tom's beads": 3 - 2,
    "Ana's coins": 12 / 2,
    "Ana's badges": 6 + 1,
    "Ivy's badges": 63 + 7 - 9,
}


def test_a_problem_in_english_is_solved_as_a_person_would():
    graph = read_problem(PROBLEM).graph
    assert {name: node.value for name, node in graph.nodes.items()} == TRUE
    assert graph.answer == "61"
    assert operation_count(graph) == 1 + 2 + 1 + 1 + 1 + 1 + 2


@pytest.mark.parametrize("split", SPLITS)
def test_every_problem_can_be_read_back_from_its_text(split):
    for problem, graph in generate(size=60, operations=(3, 7), redundant=(0, 4), split=split, seed=1):
        assert read_problem(problem.prompt).graph == graph
        assert bucket(graph) in SPLITS[split]
        low, high = (8, 12) if split == "ood" else (3, 7)
        assert low <= operation_count(graph) <= high
        assert problem.ground_truth == graph.answer


def test_a_longer_list_starts_with_the_shorter_one_and_the_seed_decides():
    first = [problem.prompt for problem, _ in generate(size=30, seed=4)]
    assert [problem.prompt for problem, _ in generate(size=50, seed=4)][:30] == first
    assert not {problem.prompt for problem, _ in generate(size=30, seed=5)} & set(first)


def test_redundant_premises_and_order_are_as_asked():
    for _, graph in generate(size=40, redundant=(2, 2), shuffle=False, seed=0):
        needed = graph.ancestry(*graph.queries)
        assert len(graph.nodes) - len(needed) == 2
        names = list(graph.nodes)
        assert all(names.index(parent) < names.index(node.name) for node in graph.nodes.values() for parent in node.parents)
    disordered = 0
    for _, graph in generate(size=40, seed=0):
        names = list(graph.nodes)
        disordered += any(names.index(p) > names.index(node.name) for node in graph.nodes.values() for p in node.parents)
    assert disordered > 30


def test_answers_are_balanced_over_the_bands_of_their_range():
    answers = [int(problem.ground_truth) for problem, _ in generate(size=500, operations=(2, 5), seed=7)]
    bands = Counter(int((answer - 2) / 9.9) for answer in answers)
    assert chisquare([bands[band] for band in range(10)]).pvalue > 0.05
    assert Counter(answers).most_common(1)[0][1] < 0.05 * 500


def equations(text: str) -> list[tuple[str, str]]:
    """Both sides of every `... = ...` whose sides are numbers and signs alone."""
    sides = r"[-+*/() \d]*\d[-+*/() \d]*"
    return [(m[1], m[2]) for m in re.finditer(rf"(?=(?:^|[:=] )({sides}) = ({sides})(?: =|[.,]|$))", text, re.MULTILINE)]


@pytest.mark.parametrize("style", ["short", "long", "full"])
def test_behaviours_are_recorded_and_every_sum_outside_a_slip_is_true(style):
    seen: Counter[str] = Counter()
    checked = 0
    for index, (problem, _) in enumerate(generate(size=60, operations=(4, 9), seed=3)):
        text, spans = write_word_trace(read_problem(problem.prompt), style, random.Random(index), EVERYTHING)
        assert verify(text, ground_truth=problem.ground_truth) is Verdict.CORRECT
        words = text.split()
        assert all(0 <= span.start < span.end <= len(words) for span in spans)
        assert all(a.end <= b.start for a, b in pairwise(spans))
        seen.update(span.behavior for span in spans)
        steps = [line for line in text.split("\n") if not re.search(r"wrong|does not look right|slip", line)]
        for left, right in equations("\n".join(steps)):
            assert eval(left) == eval(right), (left, right, text)
            checked += 1
    assert set(seen) == {"reflection", "verification", "subgoals", "analysis", "filler"}
    assert checked > 300


def test_a_reflection_names_a_quantity_that_is_really_missing():
    found = 0
    for index, (problem, graph) in enumerate(generate(size=80, operations=(5, 9), redundant=(0, 0), seed=5)):
        text, spans = write_word_trace(read_problem(problem.prompt), "short", random.Random(index), Injection(reflection=1.0))
        words = text.split()
        for span in (span for span in spans if span.behavior == "reflection"):
            said, before = " ".join(words[span.start : span.end]), " ".join(words[: span.start])
            named = [name for name in graph.nodes if name in said]
            missing = [name for name in named if not graph.nodes[name].is_leaf and f"{name}: " not in before]
            goals = [name for name in missing if set(graph.nodes[name].parents) & set(missing)]
            assert goals and len(missing) >= 2
            found += 1
    assert found > 60


def test_traces_differ_by_style_and_injection_keeps_the_question():
    made = list(examples(size=20, traces=3, seed=2))
    assert len(made) == 60
    assert {example.meta["style"] for example in made[:3]} == {"short", "long", "full"}
    lengths = {e.meta["style"]: len(e.completion.split()) for e in made[:3]}
    assert lengths["short"] < lengths["long"] < lengths["full"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operations": (0, 3)}, "1 <= low <= high <= 30, came [0, 3]"),
        ({"operations": (20, 30), "split": "ood"}, "came [31, 41] for the split ood"),
        ({"redundant": (3, 2)}, "redundant: expected"),
        ({"split": "valid"}, "expected a split of train, dev, test, ood, came 'valid'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        next(iter(generate(size=1, **settings)))


@pytest.mark.parametrize(
    "text",
    [
        "What is 2 + 2?",
        "The number of Leo's beads is many. How many beads does Leo have?",
        "Leo has 3 more beads than Tom has. How many beads does Leo have?",
        "Leo has 3 more beads than Tom has. Tom has 3 more beads than Leo has. How many beads does Leo have?",
        "Tom has 7 beads. Leo has half as many beads as Tom has. How many beads does Leo have?",
    ],
)
def test_a_text_of_another_form_has_no_graph(text):
    with pytest.raises(NoGraph):
        read_problem(text)
