"""The embedded models' vocabulary, tokenizer and chat template: frozen, since every base and every stored run rests on them."""

import random

import pytest

from curate import arithmetic
from curate.behaviors import BEHAVIORS, STYLES, Injection, write_trace
from curate.lengths import TokenCounter
from train import rendering, tiny

EVERYTHING = Injection(reflection=0.5, verification=0.5, subgoals=1.0, analysis=(0.5,), filler=0.3)


def texts() -> list[str]:
    """Prompts and traces of all styles with everything that can be injected."""
    found = []
    for index, (problem, graph) in enumerate(arithmetic.generate(size=60, operations=(2, 9), split="dev", seed=1)):
        traces = [write_trace(graph, style, random.Random(index), EVERYTHING, slip=0.1)[0] for style in STYLES]
        found += [problem.prompt, *traces]
    return found


def test_words_counts_what_the_tiny_tokenizer_counts_token_for_token():
    tokenizer, count = tiny.tokenizer(), TokenCounter("words")
    seen = set()
    for text in texts():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == count(text)
        assert tokenizer.convert_ids_to_tokens(ids) == text.split()
        seen |= set(text.split())
    assert {"<think>", "</think>", "Wait", "ans", "try", "need", "back", "check", "ok", "wrong", "given", "->"} <= seen


def test_the_vocabulary_is_frozen():
    specials = "<pad> <bos> <eos> <think> </think> ? = + - -> given try need back check ok wrong redo Wait ans goal let"
    numbers = " ".join(str(value) for value in range(16))
    assert " ".join(arithmetic.VOCABULARY) == f"{specials} {numbers} a b c d e f g h i j k l m n o p q r s t"
    assert BEHAVIORS == ("reflection", "verification", "subgoals", "analysis")


def test_the_chat_template_writes_what_the_bases_were_trained_on():
    tokenizer = tiny.tokenizer()
    [example] = arithmetic.examples(size=1, styles={"long": 1.0}, operations=(2, 2))
    asked = tokenizer.decode(rendering.prompt_ids(tokenizer, example.problem))
    assert asked == f"<bos> {example.problem.prompt} <think>"
    taught = tokenizer.decode(rendering.training_sequence(tokenizer, example, 512).ids)
    assert taught == f"<bos> {example.problem.prompt} {example.completion} <eos>"


def test_a_foreign_word_is_refused():
    with pytest.raises(Exception, match=r"UNK|unk|vocabulary"):
        tiny.tokenizer()("k 6 hello")
