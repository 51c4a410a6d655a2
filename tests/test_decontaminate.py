"""Benchmark questions in training rows: coverage against plain sets, reformatting, short questions, evidence."""

import json
from collections import Counter

import polars as pl
import pytest

from curate import ngrams
from curate.decontaminate import HITS, Decontaminate, Index
from curate.errors import InputError
from curate.examples import Problem, read_problems
from curate.ngrams import split_words

QUESTION = "Janet's ducks lay 16 eggs a day. She eats three for breakfast and sells the rest for $2 per egg. How much does she make in $9$ days?"
OTHER = (
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take to sew all of it?"
)
SHORT = "Evaluate $\\lfloor 3.2 \\rfloor + 11$."


def index(*questions: str, **settings) -> Index:
    problems = [Problem(f"item{i}", question, "1", "bench", {}) for i, question in enumerate(questions)]
    return Index({"bench": problems}, Decontaminate(against=("unused",), **settings))


def only(hits: pl.DataFrame) -> dict:
    assert len(hits) == 1, hits
    return hits.row(0, named=True)


def gram_sets(texts: list[str], n: int) -> list[set[tuple[str, ...]]]:
    """Plain n-grams, numbers in words read as such."""
    lists = [[ngrams.NUMBER_WORDS.get(word, word) for word in words] for words in split_words(pl.Series(texts))]
    return [{tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for words in lists]


def without_common(sets: list[set[tuple[str, ...]]]) -> list[set[tuple[str, ...]]]:
    common = {gram for gram, count in Counter(gram for one in sets for gram in one).items() if count > 10}
    return [one - common for one in sets]


def test_coverage_is_that_of_plain_sets_on_real_questions(public_data):
    items = read_problems(public_data / "math500/test.jsonl")
    rows = [row["prompt"] for row in json.loads((public_data / "math_train_prompts/math.8k.json").read_text())[:300]]
    wanted, held = without_common(gram_sets([item.prompt for item in items], 8)), gram_sets(rows, 8)
    wanted_13, held_13 = without_common(gram_sets([item.prompt for item in items], 13)), gram_sets(rows, 13)
    hits = Index({"math500": items}, Decontaminate(against=("unused",))).hits(rows)
    found = {hit["row"]: hit for hit in hits.filter(kind="ngram").rows(named=True)}
    for row, own in enumerate(held):
        coverage = [len(own & item) / max(len(item), 1) for item in wanted]
        if max(coverage) == 0:
            assert row not in found
            continue
        best = coverage.index(max(coverage))
        assert found[row]["coverage"] == pytest.approx(coverage[best])
        assert found[row]["item_id"] == items[best].id
        assert found[row]["items"] == sum(value > 0 for value in coverage)
        assert found[row]["coverage_13"] == pytest.approx(len(held_13[row] & wanted_13[best]) / max(len(wanted_13[best]), 1))
    assert len(found) > 20


def test_a_benchmark_finds_all_of_itself_and_gsm8k_train_holds_none_of_its_test_verbatim(public_data):
    for name in ("gsm8k/test.jsonl", "math500/test.jsonl"):
        config = Decontaminate(against=(public_data / name,))
        itself = Index.from_files(config).hits([problem.prompt for problem in read_problems(public_data / name)])
        assert itself.filter("drop")["row"].n_unique() == len(read_problems(public_data / name))
    train = [problem.prompt for problem in read_problems(public_data / "gsm8k/train.jsonl")]
    assert (
        Index.from_files(Decontaminate(against=(public_data / "gsm8k/test.jsonl",), coverage=0.9))
        .hits(train)
        .filter("drop")
        .is_empty()
    )


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (QUESTION, QUESTION),
        (QUESTION, "  JANET’S DUCKS lay 16 eggs a day;\nshe eats 3 for breakfast, and sells the rest for \\$2 per egg!! How much does she make in \\(9\\) days"),
        ("Solve $\\frac{3}{4}x^2 + 7x - 10{,}000 \\leq 0$ for $x$ in the interval $[0, 9]$.", "Solve \\[\\dfrac{3}{4} x^{2}+7 x-10,000\\le 0\\] for \\(x\\) in the interval \\(\\left[0,9\\right]\\)."),
    ],
)  # fmt: skip
def test_reformatting_hides_nothing(item: str, text: str):
    hit = only(index(item, OTHER).hits([text]))
    assert (hit["kind"], hit["coverage"], hit["coverage_13"], hit["drop"], hit["item_id"]) == ("ngram", 1.0, 1.0, True, "item0")


def test_a_hit_names_the_item_its_coverage_and_the_matched_words():
    text = f"Read this first. She eats three for breakfast and sells the rest for money. {OTHER}"
    hits = index(QUESTION, "Something about nothing in particular that nobody would ever want to ask in a test").hits(
        ["none", text]
    )
    hit = only(hits)
    assert hits.schema == HITS
    assert (hit["row"], hit["benchmark"], hit["item_id"], hit["items"]) == (1, "bench", "item0", 1)
    assert hit["matched"] == "she eats three for breakfast and sells the rest for"
    assert hit["coverage"] == pytest.approx(3 / 21)  # 28 words are 21 n-grams; 10 shared words are 3
    assert (hit["coverage_13"], hit["drop"]) == (0.0, False)


def test_the_matched_words_are_those_of_one_question_where_another_goes_on_from_it():
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda"]
    hit = only(index(" ".join(words[:9]), " ".join(words[2:])).hits([" ".join(words)]))
    assert hit["matched"] == " ".join(words[:9])
    assert hit["items"] == 2


def test_a_renumbered_question_counts_from_the_threshold_on():
    """Of the question's 4 8-grams, numbers masked, the text holds 2: the coverage is the threshold itself."""
    question = "Tom has 12 red marbles beside 3 small green glass frogs"
    text = "Tom has 7 red marbles beside 5 small green"
    hits = [index(question, coverage=coverage).hits([text]).filter(kind="renumbered") for coverage in (0.5, 0.51)]
    assert [len(hit) for hit in hits] == [1, 0]
    assert hits[0]["coverage"].item() == 0.5


def test_embedded_in_a_longer_text_it_is_dropped_in_a_trace_it_is_reported():
    text = f"{OTHER} And then: {QUESTION} Think step by step."
    assert only(index(QUESTION).hits([text]))["drop"]
    trace = only(index(QUESTION).hits([text], "trace"))
    assert (trace["part"], trace["coverage"], trace["drop"]) == ("trace", 1.0, False)


def test_other_numbers_are_reported_apart_and_dropped_on_demand():
    text = QUESTION.replace("16", "18").replace("three", "four").replace("$2", "$5")
    hit = index(QUESTION).hits([text]).filter(kind="renumbered").row(0, named=True)
    assert (hit["coverage"], hit["coverage_13"], hit["drop"]) == (1.0, None, False)
    assert index(QUESTION, renumbered="drop").hits([text]).filter(kind="renumbered")["drop"].all()
    assert index(QUESTION, renumbered="ignore").hits([text]).filter(kind="renumbered").is_empty()


def test_a_question_shorter_than_an_ngram_is_compared_whole():
    bench = index(SHORT, "Name the longest river which flows there", QUESTION)
    whole = only(bench.hits(["EVALUATE \\(\\lfloor 3.2\\rfloor+11\\)"]))
    assert (whole["kind"], whole["coverage"], whole["drop"], whole["item_id"]) == ("whole", 1.0, True, "item0")
    similar = only(bench.hits(["Name the longest rivers which flows there"]))
    assert (similar["kind"], similar["item_id"], similar["drop"]) == ("similar", "item1", True)
    assert similar["coverage"] == pytest.approx(1 - 1 / (40 + 41))  # one letter put in


def test_a_short_question_with_other_numbers_is_another_one():
    assert index(SHORT).hits([SHORT.replace("11", "12"), "", "Evaluate"]).is_empty()


def test_of_a_question_with_few_ngrams_one_is_enough():
    item = "What is the sum of the digits of 2007 to the tenth"  # 12 words, 5 n-grams: not few
    text = "Tell me what is the sum of the digits of them"
    assert not only(index(item).hits([text]))["drop"]
    assert only(index(item.removesuffix(" tenth")).hits([text]))["drop"]


def test_what_many_questions_of_a_benchmark_share_is_boilerplate():
    frame = "Solve the following problem and put your final answer in a box at the end of the reply: "
    unlike = [f"{frame}{' '.join(f'w{chr(97 + i)}{chr(97 + j)}' for j in range(12))}" for i in range(12)]
    assert index(*unlike).hits([frame]).is_empty()
    assert only(index(*unlike).hits([unlike[3]]))["item_id"] == "item3"
    assert len(index(*unlike[:5]).hits([frame])) == 1


def test_rows_are_counted_over_the_whole_stream(monkeypatch):
    texts = [OTHER, QUESTION, "x", QUESTION, OTHER, SHORT] * 3
    bench = index(QUESTION, SHORT)
    in_one = bench.hits(pl.Series(texts))
    monkeypatch.setattr(ngrams, "BATCH", 4)
    monkeypatch.setattr(ngrams, "BATCH_BYTES", 300)
    assert bench.hits(iter(texts)).equals(in_one)
    assert in_one["row"].to_list() == [i for i, text in enumerate(texts) if text in {QUESTION, SHORT}]


def test_each_file_is_a_benchmark_of_its_own(tmp_path):
    paths = tmp_path / "a" / "test.jsonl", tmp_path / "b" / "test.jsonl"
    for path in paths:
        path.parent.mkdir()
        path.write_text(json.dumps({"question": QUESTION, "answer": "#### 4"}))
    hits = Index.from_files(Decontaminate(against=paths)).hits([QUESTION])
    assert hits["benchmark"].to_list() == ["a/test", "b/test"]


def test_a_benchmark_without_questions_or_words_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Index.from_files(Decontaminate(against=(tmp_path / "none.jsonl",)))
    with pytest.raises(InputError, match="holds no questions"):
        index()
    with pytest.raises(InputError, match="question 2 has no words: '!!'"):
        index(QUESTION, "!!")
