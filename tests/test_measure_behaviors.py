"""Behaviours measured in traces: sentences as people and models write them, and agreement counted by hand."""

import pytest

from curate.behaviors import Injection
from curate.examples import Example, Problem, Span
from curate.injection import inject_all
from curate.measure_behaviors import MEASURED, agreement, behavior_table, measure, places
from curate.word_graph import examples

SENTENCES = {
    "reflection": [
        "To get the total I need the price, which I do not know yet.",
        "The number of boys is still unknown, so this has to wait.",
        "I would first have to find the width.",
    ],
    "backtracking": [
        "Hmm, that doesn't seem right.",
        "Maybe I made a mistake in the second line.",
        "This approach won't work, so let me try a different approach.",
        "So 14 is wrong.",
    ],
    "verification": [
        "But wait, let me double-check these calculations.",
        "Let's verify this result by plugging the values in.",
        "Another way to verify is to consider the ratio.",
        "Let me check my answer.",
    ],
    "subgoals": [
        "Let's break this down step by step.",
        "First, I need to find the number of boys, then the number of girls.",
        "3 + 4 + 5 = 7 + 5 = 12.",
        "N = 5*14 + 2 = 70 + 2 = 72.",
    ],
    "analysis": [
        "The problem says that he has twice as many.",
        "According to the question, the bag holds 5 kg.",
    ],
}
PLAIN = [
    "He has to wait for 5 minutes at the bus stop.",
    "If he does not work a day, $30 is subtracted.",
    "She checks out 3 books and returns 2 of them.",
    "The total is 3 * 4 = 12 dollars.",
    "We recall that the square of 3 is 9.",
    "I need to check if the input is an integer.",
]


@pytest.mark.parametrize(("behavior", "sentence"), [(b, s) for b, sentences in SENTENCES.items() for s in sentences])
def test_a_sentence_that_shows_a_behaviour_is_counted_once(behavior, sentence):
    assert measure(sentence)[behavior] == 1
    assert measure(f"We add 3.\n{sentence}\nThen 4.")[behavior] == 1


@pytest.mark.parametrize("sentence", PLAIN)
def test_a_plain_sentence_shows_none(sentence):
    assert measure(sentence) == dict.fromkeys(MEASURED, 0)


def test_places_are_words_of_the_text():
    text = "It is 7. Wait, let me check: 7 - 3 = 4.\nThe problem says 4."
    words = text.split()
    found = {span.behavior: " ".join(words[span.start : span.end]) for span in places(text)}
    assert found == {"verification": "let me check:", "analysis": "The problem says"}


def test_words_of_the_embedded_task_are_read_by_its_own_patterns():
    text = "<think> given k = c - d try q need n back n 4 check 9 - 5 4 ok m = 3 + 1 + 2 -> 4 + 2 m 6 m 7 check 4 + 2 6 wrong m 6 </think> ans 6"
    assert measure(text) == {"reflection": 1, "backtracking": 1, "verification": 2, "subgoals": 1, "analysis": 1}


def test_precision_and_recall_are_counted_by_overlap():
    problem = Problem("p", "q", "1", "s")
    text = "Let me check it. The sum is 4. Let me check that. Done now."
    spans = (Span("verification", 0, 4), Span("verification", 4, 8), Span("reflection", 12, 14))
    found = agreement([Example("a", problem, text, spans=spans)])
    assert (found["verification"].precision, found["verification"].recall) == (0.5, 0.5)
    assert (found["reflection"].precision, found["reflection"].recall, found["reflection"].measured) == (None, 0.0, 0)
    assert agreement([Example("a", problem, text)]) == {}


def test_the_table_gives_rates_and_agreement_with_recorded_spans():
    injected = inject_all(list(examples(size=40, seed=1)), Injection(reflection=0.3, verification=0.3, analysis=(0.5,)), 0)
    table = {row["behavior"]: row for row in behavior_table(injected.examples)}
    assert tuple(table) == MEASURED
    for name in ("reflection", "verification", "analysis"):
        assert table[name]["recorded"] == pytest.approx(injected.rates[name]["per_example"])
        assert table[name]["precision"] > 0.9
        assert table[name]["recall"] > 0.8
    assert table["backtracking"]["precision"] is None
    assert behavior_table([])[0]["share"] == 0.0
