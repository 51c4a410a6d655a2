"""The embedded problem source: right answers, disjoint splits, no cheap constant answer."""

import collections
import dataclasses
import random

import pytest

from curate import arithmetic
from curate.behaviors import ALL_BEHAVIORS, STYLES, Injection, inject, write_trace
from curate.errors import InputError, UsageError
from curate.graphs import parse_statements

DESIGN_PROMPT = "k 6 l 7 m = k + 9 n = k + l o = m - l + k p = o - 1 q = p - k r = l + q ? p q r"


def evaluate_with_python(prompt: str) -> str:
    """The answer by Python's own interpreter: an independent reading of the problem text, whatever its order."""
    statements, _, queries = prompt.partition("?")
    words, expressions = statements.split(), {}
    position = 0
    while position < len(words):
        name, position = words[position], position + 1
        start = position + (words[position] == "=")
        end = start + 1
        while end < len(words) and words[end] in "+-":
            end += 2
        expressions[name] = " ".join(words[start:end])
        position = end
    values = {}
    while len(values) < len(expressions):
        for name, text in expressions.items():
            if {word for word in text.split() if word.isalpha()} <= set(values):
                values[name] = eval(text, {}, values)
    return " ".join(str(values[name]) for name in queries.split())


def test_every_answer_equals_what_python_computes():
    for problem in arithmetic.problems(size=300, operations=(1, 9), split="train"):
        assert problem.ground_truth == evaluate_with_python(problem.prompt)


def test_traces_are_those_of_the_published_design():
    graph = parse_statements(DESIGN_PROMPT)
    traces = {style: write_trace(graph, style, random.Random(0))[0] for style in STYLES}
    assert traces["short"] == "<think> m 15 o 14 p 13 q 7 r 14 </think> ans 13 7 14"
    assert traces["long"].startswith("<think> m = 6 + 9 m 15 o = 15 - 7 + 6 o 14 p = 14 - 1 p 13 ")
    assert traces["full"].startswith("<think> m = k 6 + 9 m 15 o = m 15 - l 7 + k 6 o 14 p = o 14 - 1 p 13 ")


def test_values_stay_in_range_and_distractors_are_not_needed():
    for problem in arithmetic.problems(size=200, operations=(4, 4), split="train", seed=3):
        graph = parse_statements(problem.prompt)
        assert all(0 <= node.value <= 15 for node in graph.nodes.values())
        assert len(graph.necessary) == 4


def test_splits_are_disjoint_even_after_renaming_the_letters():
    buckets = collections.defaultdict(set)
    for split in arithmetic.SPLITS:
        for problem in arithmetic.problems(size=150, operations=(2, 3), split=split):
            graph = parse_statements(problem.prompt)
            place = {name: str(index) + "th" for index, name in enumerate(graph.nodes)}
            buckets[split].add(" ".join(place.get(word, word) for word in problem.prompt.split()))
    names = list(buckets)
    assert all(not buckets[a] & buckets[b] for i, a in enumerate(names) for b in names[i + 1 :])


def test_a_constant_answer_scores_near_chance():
    """Two values: chance of the best constant is near 1/256; three values: far less."""
    by_length = collections.defaultdict(collections.Counter)
    for problem in arithmetic.problems(size=6000, operations=(2, 7), split="train", seed=1):
        by_length[len(problem.ground_truth.split())][problem.ground_truth] += 1
    for length, counts in by_length.items():
        assert counts.most_common(1)[0][1] / counts.total() < {2: 0.03, 3: 0.005}[length]


def test_a_longer_list_starts_with_the_shorter_one():
    shorter = arithmetic.problems(size=20, split="A")
    assert arithmetic.problems(size=50, split="A")[:20] == shorter


def steps_of(trace: str, style: str) -> list[str]:
    """Names in the order in which a clean trace solves them."""
    words = trace.split()[1 : trace.split().index("</think>")]
    if style == "short":
        return words[::2]
    return [words[i] for i in range(len(words)) if words[i].isalpha() and words[i + 1] == "="]


@pytest.mark.parametrize("style", STYLES)
def test_each_step_solves_the_earliest_stated_quantity_whose_parents_are_solved(style):
    out_of_order = 0
    for _, graph in arithmetic.generate(size=200, operations=(3, 7), split="train", seed=5):
        steps = steps_of(write_trace(graph, style, random.Random(0))[0], style)
        solved = {name for name, node in graph.nodes.items() if node.is_leaf}
        needed = [node.name for node in graph.necessary]
        assert sorted(steps) == sorted(needed)
        for step in steps:
            ready = [name for name in needed if name not in solved and set(graph.nodes[name].parents) <= solved]
            assert step == ready[0]
            solved.add(step)
        out_of_order += steps != needed
    assert 40 < out_of_order < 160


def test_disorder_moves_statements_by_no_more_than_its_bound():
    """With disorder below 1 no two statements change places; far above the count the order tells next to nothing."""
    in_order = {}
    for disorder in (0.0, 0.99, 2.0, 99.0):
        shape, rng = dataclasses.replace(arithmetic.COMMON, disorder=disorder), random.Random(4)
        graphs = [arithmetic.draw_graph(rng, 5, shape) for _ in range(300)]
        forward = [name for graph in graphs for name in forward_references(graph)]
        in_order[disorder] = len(forward)
        for graph in graphs:
            first = arithmetic.LETTERS.index(next(iter(graph.nodes)))
            expected = [arithmetic.LETTERS[(first + i) % 20] for i in range(len(graph.nodes))]
            assert list(graph.nodes) == expected  # letters follow the statements
    assert in_order[0.0] == in_order[0.99] == 0 < in_order[2.0] < in_order[99.0] / 2


def forward_references(graph) -> list[str]:
    places = {name: place for place, name in enumerate(graph.nodes)}
    return [name for name, node in graph.nodes.items() for parent in node.parents if places[parent] > places[name]]


def test_shifted_problems_are_of_another_kind():
    common, shifted = (
        [parse_statements(p.prompt) for p in arithmetic.problems(size=300, operations=(8, 10), split=split)]
        for split in ("B", "shifted")
    )

    def mean_parents(graphs):
        counts = [len(node.parents) for graph in graphs for node in graph.necessary]
        return sum(counts) / len(counts)

    def distractors(graph):
        return sum(not node.is_leaf for node in graph.nodes.values()) - len(graph.necessary)

    def share_of_plus(graphs):
        signs = [sign for graph in graphs for node in graph.nodes.values() for sign in node.operators]
        return signs.count("+") / len(signs)

    assert mean_parents(shifted) > mean_parents(common) + 0.2
    assert share_of_plus(shifted) > share_of_plus(common) + 0.05
    assert {distractors(graph) for graph in shifted} == {2, 3, 4}
    assert {distractors(graph) for graph in common} == {0, 1, 2}


def test_subgoals_carry_out_one_operation_at_a_time():
    graph = parse_statements("a 9 b 2 c 4 d = a - b + c - a ? d")
    trace, spans = write_trace(graph, "long", random.Random(0), Injection(subgoals=1.0))
    assert trace == "<think> d = 9 - 2 + 4 - 9 -> 7 + 4 - 9 -> 11 - 9 d 2 </think> ans 2"
    assert [span.behavior for span in spans] == ["subgoals", "subgoals"]
    full, _ = write_trace(graph, "full", random.Random(0), Injection(subgoals=1.0))
    assert full.startswith("<think> d = a 9 - b 2 + c 4 - a 9 -> 7 + 4 - 9 -> 11 - 9 d 2 ")


def test_filler_is_as_long_as_all_behaviours_and_says_nothing():
    behaved = filled = 0
    for index, (_, graph) in enumerate(arithmetic.generate(size=400, operations=(2, 6), split="train", seed=2)):
        trace, spans = write_trace(graph, "long", random.Random(index), Injection(filler=0.92))
        filled += len(trace.split())
        behaved += len(write_trace(graph, "long", random.Random(index), ALL_BEHAVIORS)[0].split())
        words = trace.split()
        for span in spans:
            check = words[span.start : span.end]
            assert (check[0], check[-1], span.behavior) == ("check", "ok", "filler")
            assert eval(" ".join(check[1:-2])) == int(check[-2])
    assert filled == pytest.approx(behaved, rel=0.1)


def test_several_traces_of_a_problem_differ_in_style():
    examples = list(arithmetic.examples(size=30, traces=3))
    assert len(examples) == 90
    for first in range(0, 90, 3):
        three = examples[first : first + 3]
        assert {example.meta["style"] for example in three} == set(STYLES)
        assert len({example.problem.id for example in three}) == 1


@pytest.mark.parametrize("style", STYLES)
def test_injected_traces_keep_the_answer_and_record_their_spans(style):
    examples = list(arithmetic.examples(size=60, styles={style: 1.0}, operations=(4, 6)))
    found = collections.Counter()
    openers = {"reflection": "try", "analysis": "given", "subgoals": "->"}
    for index, example in enumerate(examples):
        injected = inject(example, ALL_BEHAVIORS, random.Random(index))
        words = injected.completion.split()
        assert injected.completion.endswith(f"</think> ans {example.problem.ground_truth}")
        assert injected.problem == example.problem
        for span in injected.spans:
            part = words[span.start : span.end]
            found[span.behavior] += 1
            assert part[0] == openers.get(span.behavior, part[0])
            assert span.behavior != "verification" or {"check", "Wait"} & set(part)
        outside = [w for i, w in enumerate(words) if not any(s.start <= i < s.end for s in injected.spans)]
        assert not {"try", "given", "->", "check", "Wait"} & set(outside)
    expected = {"reflection", "verification", "analysis"} | ({"subgoals"} if style != "short" else set())
    assert set(found) == expected


def test_injection_rates_are_the_probabilities_asked_for():
    """Analysis with probability .5 for every step: 1,000 or so steps, so within 5 standard errors of .5."""
    injection = Injection(analysis=(0.5,))
    steps = analysed = 0
    for index, example in enumerate(arithmetic.examples(size=250, styles={"long": 1.0}, operations=(4, 4))):
        spans = inject(example, injection, random.Random(index)).spans
        steps, analysed = steps + 4, analysed + len(spans)
    assert abs(analysed / steps - 0.5) < 5 * (0.25 / steps) ** 0.5


def test_after_a_reflection_the_trace_works_on_what_was_missing():
    followed = 0
    for index, (_, graph) in enumerate(arithmetic.generate(size=150, operations=(4, 6), split="train", seed=8)):
        trace, spans = write_trace(graph, "long", random.Random(index), Injection(reflection=1.0))
        words = trace.split()
        for span in spans:
            missing, next_step = words[span.start + 3], words[span.end]
            assert next_step in graph.ancestry(missing)
            followed += 1
    assert followed > 100


def test_reflection_names_a_parent_that_is_really_missing():
    for index, example in enumerate(arithmetic.examples(size=100, styles={"long": 1.0}, operations=(5, 6))):
        injected = inject(example, Injection(reflection=1.0), random.Random(index))
        words = injected.completion.split()
        for span in injected.spans:
            attempted, missing = words[span.start + 1], words[span.start + 3]
            solved_later = [i for i, word in enumerate(words) if word == missing and i >= span.end and words[i + 1] == "="]
            assert solved_later, (attempted, missing, injected.completion)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a 1 b = a + 2", r"'\?'"),
        ("a 1 b = c + 2 ? b", "no statement defines 'c'"),
        ("a 1 b = c + 2 c = b - 1 ? b", "'b' depends on itself"),
        ("a 1 b + 2 ? b", "statement 'b'"),
        ("a 1 ? z", "'z'"),
    ],
)
def test_malformed_problems_are_refused(prompt, message):
    with pytest.raises(InputError, match=message):
        parse_statements(prompt)


def test_unknown_split_and_style_are_refused():
    with pytest.raises(UsageError, match="split"):
        arithmetic.problems(size=1, split="tets")
    with pytest.raises(UsageError, match="styles"):
        next(arithmetic.examples(size=1, styles={"loong": 1.0}))
