"""Injection over sets: who is drawn, what is counted, the baselines and the controls."""

import random
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from curate import arithmetic, word_graph
from curate.answers import Verdict, verify
from curate.behaviors import ALL_BEHAVIORS, Injection, inject
from curate.errors import InputError, UsageError
from curate.examples import Example, Problem, example_row, text_id
from curate.graphs import parse_statements
from curate.injection import behavior_rates, inject_all
from curate.word_reader import read_problem

BRIDGE = {"reflection": 0.1, "subgoals": 1.0, "analysis": (0.0, 0.1, 0.4, 0.8, 1.0)}
SHOP = "Ann buys 3 pens at $2 each and 4 pads at $5 each. How much does she pay in all?"
PENS, PADS = "The pens cost 3*2 = $<<3*2=6>>6.", "The pads cost 4*5 = $<<4*5=20>>20."
TOTAL = "In all Ann pays 6+20 = $<<6+20=26>>26."


def shop(*lines: str) -> Example:
    return Example("shop", Problem(text_id(SHOP), SHOP, "26", "gsm8k"), "\n".join([*lines, "#### 26"]))


def some(task: str, size: int = 60) -> list[Example]:
    return list((arithmetic if task == "arithmetic" else word_graph).examples(size=size, seed=3))


def test_an_old_config_is_dumped_as_before_and_a_new_one_says_what_is_new():
    old = {"share": 0.5, "reflection": 0.2, "verification": 0.0, "subgoals": 1.0, "analysis": [0.0, 0.4], "filler": 0.0}
    assert Injection(share=0.5, reflection=0.2, subgoals=1.0, analysis=(0, 0.4)).model_dump(mode="json") == old
    assert Injection.model_validate(old).model_dump(mode="json") == old
    assert {"method": "chain", "copies": 4}.items() <= Injection(method="chain", copies=4).model_dump().items()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "chain", "reflection": 0.1}, "chain is a baseline without behaviours: drop reflection"),
        ({"copies": 2, "reflection": 0.1}, "copies go with the methods permute_premises and chain alone"),
        ({"method": "endpoint", "reflection": 0.1}, "go together"),
        ({"reflection": 0.1, "endpoint": {"model": "m"}}, "go together"),
        ({"method": "length_matched", "filler": 0.3}, "needs at least one of reflection"),
    ],
)
def test_contradictions_in_a_config_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Injection.model_validate(settings)


def test_the_embedded_task_is_injected_as_one_by_one_with_a_stream_for_each_example():
    made, injection = some("arithmetic", 200), ALL_BEHAVIORS.model_copy(update={"share": 0.5})
    expected = []
    for example in made:
        rng = random.Random(f"7/{example.id}")
        expected.append(inject(example, injection, rng) if rng.random() < 0.5 else example)
    result = inject_all(made, injection, 7)
    assert list(map(example_row, result.examples)) == list(map(example_row, expected))
    assert result.counts["injected"] + result.counts["not_drawn"] == 200
    assert abs(result.counts["injected"] - 100) < 5 * 50**0.5


@pytest.mark.parametrize("task", ["arithmetic", "word_graph"])
def test_every_injected_trace_verifies_and_the_realised_rates_are_counted(task):
    made = some(task)
    result = inject_all(made, Injection(**BRIDGE), 0)
    assert result.counts == {"injected": 60, "not_drawn": 0}
    for before, after in zip(made, result.examples, strict=True):
        assert (before.id, before.problem) == (after.id, after.problem)
        assert verify(after.completion, ground_truth=after.problem.ground_truth) is Verdict.CORRECT
    spans = Counter(span.behavior for example in result.examples for span in example.spans)
    assert {name: rate["per_example"] * 60 for name, rate in result.rates.items()} == pytest.approx(dict(spans))
    assert result.rates == behavior_rates(result.examples)


def test_every_generated_problem_has_a_graph_in_whatever_words():
    assert inject_all(some("word_graph", 600), Injection(analysis=(1.0,)), 0).counts == {"injected": 600, "not_drawn": 0}


def test_rows_without_a_graph_are_kept_and_counted_and_none_at_all_is_an_error():
    foreign = Example("x", Problem("p", "What is 2 + 2?", "4", "math"), "It is \\boxed{4}.")
    mixed = inject_all([shop(PENS, PADS, TOTAL), foreign], Injection(verification=1.0), 0)
    assert mixed.counts == {"injected": 1, "not_drawn": 0, "kept_without_graph": 1}
    assert mixed.examples[1] is foreign
    mixed.require("variant a")
    with pytest.raises(InputError, match=r"variant a: no example could be injected \(kept_without_graph 1\).*endpoint"):
        inject_all([foreign], Injection(verification=1.0), 0).require("variant a")
    inject_all([foreign], Injection(share=0.0, verification=1.0), 0).require("variant a")


def test_permuted_premises_are_the_same_sentences_with_the_same_trace():
    made = some("word_graph", 30)
    result = inject_all(made, Injection(method="permute_premises", copies=4), 0)
    assert result.counts["copies_added"] == len(result.examples) - 30 > 80
    originals = {example.id: example for example in made}
    for example in result.examples:
        original = originals.get(example.id) or originals[example.id.rpartition("-")[0]]
        assert example.completion == original.completion
        assert example.problem.prompt != original.problem.prompt
        old, new = (read_problem(e.problem.prompt) for e in (original, example))
        assert sorted(old.statements.items()) == sorted(new.statements.items())
        assert (old.intro, old.question) == (new.intro, new.question)


def test_permuted_premises_of_the_embedded_task_stay_in_their_split():
    made = some("arithmetic")
    result = inject_all(made, Injection(method="permute_premises"), 0)
    for before, after in zip(made, result.examples, strict=True):
        graph = parse_statements(after.problem.prompt)
        assert graph.nodes == parse_statements(before.problem.prompt).nodes
        assert arithmetic.bucket(graph) in arithmetic.SPLITS["train"]


def test_another_chain_of_steps_is_a_possible_order_with_the_same_answer():
    result = inject_all([shop(PENS, PADS, TOTAL)], Injection(method="chain", copies=3), 0)
    assert [example.completion for example in result.examples] == [shop(PADS, PENS, TOTAL).completion]
    fixed = inject_all([shop(PENS, f"Then {PADS}", TOTAL)], Injection(method="chain"), 0)
    assert fixed.counts["kept_single_order"] == 1
    for task in ("arithmetic", "word_graph"):
        made = some(task)
        moved = inject_all(made, Injection(method="chain"), 0)
        assert moved.counts["injected"] > 10
        for before, after in zip(made, moved.examples, strict=True):
            lines = (e.completion.split("\n") if task == "word_graph" else e.completion.split() for e in (before, after))
            assert len({tuple(sorted(line)) for line in lines}) == 1 or task == "arithmetic"
            assert verify(after.completion, ground_truth=after.problem.ground_truth) is Verdict.CORRECT


def test_premises_of_prose_are_not_moved():
    kept = inject_all([shop(PENS, PADS, TOTAL)], Injection(method="permute_premises"), 0)
    assert kept.counts["kept_without_premises"] == 1
    assert kept.examples[0].problem.prompt == SHOP


@pytest.mark.parametrize("task", ["arithmetic", "word_graph", "gsm8k"])
def test_the_wrong_answer_control_is_wrong_throughout(task):
    made = [shop(PENS, PADS, TOTAL)] if task == "gsm8k" else some(task)
    result = inject_all(made, Injection(method="wrong_answer", **BRIDGE), 0)
    for example in result.examples:
        assert verify(example.completion, ground_truth=example.problem.ground_truth) is Verdict.INCORRECT


def test_the_length_matched_control_is_as_long_as_the_injected_traces_and_shows_no_behaviour():
    made, behaviors = some("word_graph", 80), {**BRIDGE, "verification": 0.3}
    injected = inject_all(made, Injection(**behaviors), 0)
    matched = inject_all(made, Injection(method="length_matched", **behaviors), 0)
    assert set(matched.rates) == {"filler"}
    for long, idle in zip(injected.examples, matched.examples, strict=True):
        assert abs(len(long.completion.split()) - len(idle.completion.split())) <= 10  # one idle sentence
    means = [sum(len(e.completion.split()) for e in r.examples) / 80 for r in (injected, matched)]
    assert means[1] == pytest.approx(means[0], rel=0.03)
    with pytest.raises(UsageError, match="`filler`"):
        inject_all(some("arithmetic", 2), Injection(method="length_matched", reflection=0.5), 0)


def test_injection_does_not_depend_on_the_other_rows(tmp_path: Path):
    made = some("word_graph", 12)
    whole = inject_all(made, Injection(**BRIDGE), 0).examples
    assert inject_all(made[5:6], Injection(**BRIDGE), 0).examples == whole[5:6]
