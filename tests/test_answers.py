"""The verifier against labels and cases made by others."""

import json
import os
import time
from pathlib import Path

import pytest

from curate import answers
from curate.answers import Verdict, extract_answer, verify
from train.rewards import accuracy_reward

DATA = Path(os.environ.get("FORERUN_TEST_DATA") or Path(__file__).parent.parent.parent / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.exists(), reason="no public test data: set FORERUN_TEST_DATA to its folder")


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think> m 15 </think> ans 13 7 14", "13 7 14"),
        ("First \\boxed{71}, no: </think> it is \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("I thought \\boxed{71}, but it's \\boxed{72}", "72"),
        ("work\n#### 1,080", "1,080"),
        ("So the final answer is 12 apples.", "12 apples"),
        ("she sells 26\nA: 26", "26"),
        ("  42 ", "42"),
        ("no idea", None),
        ("\\boxed{unbalanced", None),
        ("<think> ans 1 2", "1 2"),
        ("</think> ans", None),
    ],
)
def test_the_final_answer_is_found(completion, answer):
    assert extract_answer(completion) == answer


@pytest.mark.parametrize(
    ("answer", "ground_truth", "verdict"),
    [
        ("ans 13 7 14", "13 7 14", "correct"),
        ("ans 13 7 14 14", "13 7 14", "incorrect"),
        ("ans 13 7", "13 7 14", "incorrect"),
        ("#### 1,080", "1080", "correct"),
        ("#### $72.00", "72", "correct"),
        ("#### 72 dollars", "72", "correct"),
        ("#### 10%", "10", "correct"),
        ("#### 0.30", "0.3", "correct"),
        ("#### -5", "5", "incorrect"),
        ("\\boxed{\\frac{1}{2}}", "0.5", "correct"),
        ("\\boxed{\\frac{2}{4}}", "\\frac{1}{2}", "correct"),
        ("\\boxed{(1,2)}", "(1, 2)", "correct"),
        ("\\boxed{x^2+2x+1}", "(x+1)^2", "correct"),
        ("\\boxed{}", "3", "no_answer"),
    ],
)
def test_verdicts(answer, ground_truth, verdict):
    assert verify(answer, ground_truth=ground_truth) == verdict


@pytest.mark.parametrize(
    ("wrong", "ground_truth"),
    [
        ("1 - 1/\\mathrm{e}", "1 + 1/\\mathrm{e}"),
        ("1/2^{99}", "1/2^{98}"),
        ("3*x-1*y+13=0", "3x+4y+14=0"),
    ],
)
def test_the_known_false_positives_of_math_verify_are_not_called_correct(wrong, ground_truth):
    assert verify(f"\\boxed{{{wrong}}}", ground_truth=ground_truth) is not Verdict.CORRECT


def test_a_hanging_expression_costs_its_time_limit_and_the_next_one_is_decided(monkeypatch):
    verify("\\boxed{\\frac{1}{2}}", ground_truth="0.5")
    monkeypatch.setattr(answers, "TIMEOUT_SECONDS", 1.0)
    began = time.monotonic()
    verdict = verify("\\boxed{9^{9^{9^{9}}}}", ground_truth="\\frac{10^{100}}{7}")
    assert verdict in (Verdict.TIMEOUT, Verdict.UNPARSABLE, Verdict.INCORRECT)
    assert time.monotonic() - began < 3.0
    monkeypatch.undo()
    assert verify("\\boxed{\\frac{1}{3}}", ground_truth="\\frac{2}{6}") is Verdict.CORRECT


def test_a_completion_cut_at_the_limit_earns_nothing():
    assert accuracy_reward("</think> ans 1 2", ground_truth="1 2") == 1.0
    assert accuracy_reward("</think> ans 1 2", ground_truth="1 2", finished=False) == 0.0
    assert accuracy_reward("</think> ans 1 3", ground_truth="1 2") == 0.0


@needs_data
@pytest.mark.parametrize("file", ["gsm8k/train.jsonl", "gsm8k/test.jsonl"])
def test_gsm8k_reference_solutions_are_all_correct(file):
    assert all(
        verify(row["answer"], ground_truth=row["answer"].rpartition("####")[2].strip()) is Verdict.CORRECT for row in rows(file)
    )


@needs_data
def test_verdicts_agree_with_the_labels_of_published_model_solutions():
    """Labels by the authors of GSM8K for four models on the test set; what is left are their formatting calls."""
    pairs = [
        (verify(row[model]["solution"], ground_truth=row["ground_truth"].rpartition("A:")[2].strip()), row[model]["is_correct"])
        for row in rows("gsm8k/example_model_solutions.jsonl")
        for model in row
        if isinstance(row[model], dict)
    ]
    agreed = sum((verdict is Verdict.CORRECT) == label for verdict, label in pairs)
    assert len(pairs) == 4 * 1319
    assert agreed / len(pairs) > 0.995


@needs_data
def test_math500_answers_equal_themselves_in_their_own_solutions():
    """The reference solution's box against the reference answer."""
    verdicts = [verify(row["solution"], ground_truth=row["answer"]) for row in rows("math500/test.jsonl")]
    assert verdicts.count(Verdict.CORRECT) / len(verdicts) > 0.99
