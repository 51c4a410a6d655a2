"""Near duplicates against brute force; which row stays, and why the others go."""

import random
import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curate import near
from curate.dedup import Dedup, exact_key, find_duplicates
from curate.examples import read_problems
from curate.near import near_clusters
from curate.ngrams import NUMBER_WORDS, hashed_words
from curate.shingles import Numbers

WORDS = [
    "red",
    "blue",
    "ship",
    "sails",
    "north",
    "with",
    "many",
    "heavy",
    "boxes",
    "of",
    "fresh",
    "bread",
    "and",
    "two",
    "old",
    "cats",
]
STORY = "A farmer walks to the old market on a sunny morning and sells 12 eggs and 7 loaves of bread to the people who live there in winter and spring"


def shingle_set(text: str, size: int, numbers: str) -> tuple[frozenset[tuple[str, ...]], tuple[str, ...]]:
    """Plain-Python shingles of texts that hold lower-case words and digits only, and their numbers."""
    words = [{"two": "2"}.get(word, word) for word in text.split()]
    digits = tuple(word for word in words if word.isdigit())
    read = ["#" if word.isdigit() and numbers == "ignore" else word for word in words]
    count = max(len(read) - size + 1, 1) if read else 0
    return frozenset(tuple(read[i : i + size]) for i in range(count)), digits if numbers == "distinct" else ()


def by_brute_force(texts: list[str], threshold: float, size: int, numbers: str) -> tuple[list[int], list[float]]:
    """The definition: walk down, keep what is near nothing kept before."""
    sets = [shingle_set(text, size, numbers) for text in texts]
    keeper, similarity = list(range(len(texts))), [1.0] * len(texts)
    for text, (own, digits) in enumerate(sets):
        for better in range(text):
            other, its_digits = sets[better]
            jaccard = len(own & other) / len(own | other) if own | other else 0.0
            if keeper[better] == better and digits == its_digits and jaccard >= threshold:
                keeper[text], similarity[text] = better, jaccard
                break
    return keeper, similarity


def varied(rng: random.Random, count: int) -> list[str]:
    """Texts in families: copies with a few words exchanged, cut or added."""
    texts: list[str] = []
    for _ in range(count):
        if texts and rng.random() < 0.7:
            words = rng.choice(texts).split()
            for _ in range(rng.randint(0, 3)):
                place = rng.randrange(len(words) + 1)
                words[place : place + rng.randint(0, 1)] = [rng.choice([*WORDS, str(rng.randint(1, 3))])] * rng.randint(0, 1)
        else:
            words = [rng.choice([*WORDS, "5"]) for _ in range(rng.randint(0, 25))]
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("numbers", ["distinct", "ignore"])
@pytest.mark.parametrize(("threshold", "size"), [(0.3, 1), (0.5, 2), (0.7, 3), (0.8, 3), (0.8, 5), (1.0, 3)])
def test_near_clusters_are_those_of_brute_force(threshold: float, size: int, numbers: Numbers):
    for seed in range(4):
        texts = varied(random.Random(seed), 150)
        found = near_clusters(texts, threshold, shingle=size, numbers=numbers)
        keeper, similarity = by_brute_force(texts, threshold, size, numbers)
        assert found.keeper.tolist() == keeper
        assert found.similarity.tolist() == pytest.approx(similarity, abs=0)
    assert len(set(keeper)) < len(keeper)


def test_on_real_questions_no_pair_is_missed_and_none_is_made_up(public_data):
    problems = read_problems(public_data / "math500/test.jsonl") + read_problems(public_data / "gsm8k/test.jsonl")[:300]
    texts = [" ".join(re.findall(r"[a-z]+|[0-9]+", problem.prompt.lower())) for problem in problems]
    found = near_clusters(texts, 0.3, shingle=2, numbers="ignore")
    plain = [re.sub(r"\b(" + "|".join(NUMBER_WORDS) + r")\b", "0", text) for text in texts]
    assert found.keeper.tolist() == by_brute_force(plain, 0.3, 2, "ignore")[0]


def test_a_crowd_of_near_texts_is_settled_in_parts_to_the_same_result(monkeypatch):
    rng = random.Random(0)
    texts = [" ".join([*STORY.split()[:20], *rng.sample(WORDS, 3)]) for _ in range(250)] + varied(rng, 200)
    whole = near_clusters(texts, 0.6)
    monkeypatch.setattr(near, "MOST_PAIRS", 50)
    parts = near_clusters(texts, 0.6)
    assert (
        parts.keeper.tolist() == whole.keeper.tolist() == by_brute_force([text.lower() for text in texts], 0.6, 3, "distinct")[0]
    )
    assert parts.similarity.tolist() == whole.similarity.tolist()


def test_a_chain_does_not_drop_its_far_end():
    words = [
        "a",
        "b",
        "c",
        "d",
        "e",
        "f",
        "g",
        "h",
        "i",
        "j",
        "k",
        "l",
        "m",
        "n",
        "o",
        "p",
        "q",
        "r",
        "s",
        "t",
        "u",
        "v",
        "w",
        "x",
        "y",
        "z",
    ]
    chain = [" ".join(words[start : start + 16]) for start in (0, 2, 4)]  # neighbours share 12 of 16 shingles, ends 10 of 18
    assert near_clusters(chain, 0.7).keeper.tolist() == [0, 0, 2]
    assert near_clusters(chain, 0.7).similarity.tolist() == [1.0, 12 / 16, 1.0]


def test_references_come_first_and_are_not_compared_with_one_another():
    found = near_clusters([STORY, "quite another text about ships"], 0.8, reference=["nothing alike", STORY, STORY])
    assert found.keeper.tolist() == [-2, 1]


def test_other_numbers_are_another_problem_unless_they_are_ignored():
    other, spelled = STORY.replace("12", "15"), STORY.replace("12", "twelve").replace("7 ", "seven ")
    assert near_clusters([STORY, other, spelled], 0.8).keeper.tolist() == [0, 1, 0]
    assert near_clusters([STORY, other, spelled], 0.8, numbers="ignore").keeper.tolist() == [0, 0, 0]
    swapped = STORY.replace("12", "x").replace("7", "12").replace("x", "7")
    assert near_clusters([STORY, swapped], 0.5).keeper.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "rewritten"),
    [
        (
            "Find $\\frac{1}{2} + \\left( x^2 \\right)$ if $x \\leq 10,000$.",
            "find \\(\\dfrac{1}{2}+(x^{2})\\) if \\(x \\le 10{,}000\\)",
        ),
        ("Twenty-five percent of 80 cafés", "twenty five % of 80 CAFE\u0301S!"),
        ("What is 3 × 4 − x²?", "what is $3 \\times 4 - x^2$"),
        ("如果x=3，求2x的值。", "如果 x = 3 求 2x 的值"),
    ],
)
def test_reformatting_changes_nothing(text: str, rewritten: str):
    assert near_clusters([text, rewritten], 1.0).keeper.tolist() == [0, 0]


def test_texts_without_words_are_near_nothing_and_no_text_is_no_error():
    assert near_clusters(["", "?!", ""], 0.1).keeper.tolist() == [0, 1, 2]
    assert near_clusters(["two", "two 5", "2"], 0.1).keeper.tolist() == [0, 1, 0]
    assert near_clusters([], 0.8).keeper.tolist() == []
    assert near_clusters(iter(["two ships", "2 ships"]), 0.8).keeper.tolist() == [0, 0]


SCHEMA = {"id": pl.String, "prompt": pl.String, "ground_truth": pl.String, "verified": pl.Boolean}


def rows(*given: tuple[str, str, str, bool], completions: str | None = None) -> pl.DataFrame:
    """(id, prompt, ground_truth, verified) and a completion of its own for each row."""
    keys = [exact_key(f"{prompt}\n{completions or name}") for name, prompt, _, _ in given]
    frame = pl.DataFrame(given, schema=SCHEMA, orient="row")
    prompts = [exact_key(prompt) for _, prompt, _, _ in given]
    return frame.with_columns(exact_key=pl.Series(keys, dtype=pl.String), prompt_key=pl.Series(prompts, dtype=pl.String))


def dropped(frame: pl.DataFrame, config: Dedup, against: pl.DataFrame | None = None) -> dict[str, tuple[str, str]]:
    found = find_duplicates(frame, config, against)
    assert frame["id"].gather(found["row"]).to_list() == found["id"].to_list()
    return {row["id"]: (row["reason"], row["partner_id"]) for row in found.rows(named=True)}


NEAR = Dedup(near=0.8)
ALIKE = STORY.replace("sunny", "rainy")


def test_equal_rows_leave_the_verified_one_then_the_smallest_id():
    frame = rows(("c", "Q?", "1", False), ("b", "Q?", "1", True), ("a", " q?", "1", False), completions="same")
    assert dropped(frame, Dedup()) == {"a": ("exact_duplicate", "b"), "c": ("exact_duplicate", "b")}
    assert dropped(frame, Dedup(exact=False)) == {}


def test_the_exact_key_folds_case_and_white_space_only():
    assert exact_key("A  b\n") == exact_key("a B") != exact_key("a, b")


def test_all_traces_of_a_kept_question_stay_and_all_of_a_repeat_go():
    frame = rows(("a", STORY, "1", True), ("b", STORY.upper(), "1", True), ("c", ALIKE, "1", True), ("d", ALIKE, "1.0", False))
    assert dropped(frame, NEAR) == {"c": ("near_duplicate", "a"), "d": ("near_duplicate", "a")}
    similarity = find_duplicates(frame, NEAR)["similarity"]
    assert similarity.to_list() == pytest.approx([(28 - 3) / (28 + 3)] * 2)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (("1", True), ("2", False), {"b": ("conflicting_answer", "a")}),
        (("1", False), ("2", True), {"a": ("conflicting_answer", "b")}),
        (("1", False), ("2", False), {"a": ("conflicting_answer", "b"), "b": ("conflicting_answer", "a")}),
        (("1", True), ("2", True), {"a": ("conflicting_answer", "b"), "b": ("conflicting_answer", "a")}),
        (("1/2", True), ("0.5", True), {"b": ("near_duplicate", "a")}),
        (("1,000", False), ("1000", True), {"a": ("near_duplicate", "b")}),
    ],
)
def test_conflicting_answers_are_settled_by_the_trace_that_yields_its_own(first, second, expected):
    assert dropped(rows(("a", STORY, *first), ("b", ALIKE, *second)), NEAR) == expected


def test_a_conflict_within_one_question_keeps_the_traces_of_the_proven_answer():
    frame = rows(("a", STORY, "1", False), ("b", STORY, "2", True), ("c", STORY, "2", False), ("d", ALIKE, "2", False))
    assert dropped(frame, NEAR) == {"a": ("conflicting_answer", "b"), "d": ("near_duplicate", "b")}


def test_ignored_numbers_explain_other_answers():
    frame = rows(("a", STORY, "1", True), ("b", STORY.replace("12", "13"), "2", True))
    assert dropped(frame, Dedup(near=0.8, numbers="ignore")) == {"b": ("near_duplicate", "a")}


@pytest.mark.parametrize("config", [Dedup(), NEAR])
def test_one_sided_drops_what_repeats_a_reference(config: Dedup):
    against = pl.DataFrame({"id": ["r1", "r2"], "prompt": ["something else", STORY.upper()]})
    frame = rows(("a", STORY, "1", True), ("b", ALIKE, "1", True), ("c", "Not near at all to it", "1", True))
    expected = {"a": ("repeats_reference", "r2"), "b": ("repeats_reference", "r2")}
    assert dropped(frame, config, against) == (expected if config.near else {"a": expected["a"]})


def test_nothing_in_gives_nothing_out():
    assert find_duplicates(rows(), NEAR).is_empty()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_what_is_dropped_does_not_depend_on_the_order_of_rows(data):
    rng = random.Random(data.draw(st.integers(0, 10_000)))
    texts = varied(rng, 30)
    given_rows = [(f"id{i}", text, str(rng.randint(1, 2)), rng.random() < 0.5) for i, text in enumerate(texts)]
    against = pl.DataFrame({"id": ["r"], "prompt": [texts[0]]})
    mixed = data.draw(st.permutations(given_rows))
    config = Dedup(near=0.6)
    assert dropped(rows(*mixed), config, against) == dropped(rows(*given_rows), config, against)


@pytest.mark.parametrize("setting", [{"near": 0.0}, {"near": 1.2}, {"shingle": 0}, {"numbers": "some"}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ValidationError):
        Dedup(**setting)


def test_numbers_are_known_in_every_script_and_in_words():
    words = hashed_words(pl.Series(["3 \u0663 12.5 three x² one : é + 数", "drei", "3"]))
    assert words.numbers.tolist() == [*[True] * 4, False, False, True, *[False] * 5, True]
    assert words.hashes[0] == words.hashes[3] == words.hashes[-1] and len(set(words.hashes.tolist())) == 11
