"""The verifier against labels and cases made by others, and against the known false positives of math-verify."""

import json
import os
import random
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import exact, latex
from curate.answers import LONGEST_ANSWER, Verdict, extract_answer, verify
from train.rewards import accuracy_reward

DATA = Path(os.environ.get("FORERUN_TEST_DATA") or Path(__file__).parent.parent.parent / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.exists(), reason="no public test data: set FORERUN_TEST_DATA to its folder")


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def boxed(answer: str, ground_truth: str) -> Verdict:
    return verify(f"\\boxed{{{answer}}}", ground_truth=ground_truth)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think> m 15 </think> ans 13 7 14", "13 7 14"),
        ("First \\boxed{71}, no: </think> it is \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("I thought \\boxed{71}, but it's \\boxed{72}", "72"),
        ("\\boxed{71} or rather \\boxed{72", "71"),
        ("\\boxed {\\left\\{x\\right.}", "\\left\\{x\\right."),
        ("\\fbox{3}", "3"),
        ("work\n#### 1,080", "1,080"),
        ("The ans is below\n#### 12\nThank you", "12"),
        ("So the final answer is 12 apples.", "12 apples"),
        ("The final answer is $\\frac12$. I hope it is correct.", "$\\frac12$"),
        ("**Answer:** **7**", "7"),
        ("the answer is 4, no, the answer is: 5.\nBye", "5"),
        ("she sells 26\nA: 26", "26"),
        ("  42 ", "42"),
        ("1 1/2", "1 1/2"),
        ("no idea", None),
        ("\\boxed{unbalanced", None),
        ("<think> ans 1 2", "1 2"),
        ("</think> ans", None),
        ("</think> - 5", None),
        ("", None),
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
        ("#### 72 dollars a day", "72", "correct"),
        ("#### 10%", "10", "correct"),
        ("#### 0.30", "0.3", "correct"),
        ("#### -5", "5", "incorrect"),
        ("\\boxed{}", "3", "no_answer"),
    ],
)
def test_verdicts_of_whole_completions(answer, ground_truth, verdict):
    assert verify(answer, ground_truth=ground_truth) == verdict


EQUAL = [
    ("\\frac{1}{2}", "0.5"), ("\\frac12", "\\dfrac{2}{4}"), ("1/2", "\\tfrac{1}{2}"), ("(1,2)", "(1, 2)"), ("x^2+2x+1", "(x+1)^2"),
    ("1,000", "1000"), ("1{,}000", "1000"), ("1,\\!000", "1000"), ("1\\,000", "1000"), ("\\$1,000.00", "1000"), ("x=5", "5"), ("5", "x = 5"),
    ("1\\frac12", "\\frac32"), ("1 1/2", "3/2"), ("2 3/4", "11/4"), ("10\\%", "10"), ("50\\%", "0.5"), ("48", "48^\\circ"), ("48^{\\circ}", "48\\text{ degrees}"),
    ("5\\text{ cm}", "5 centimeters"), ("5\\text{ cm}^2", "5\\text{ square cm}"), ("100", "100\\text{ square units}"), ("2\\sqrt{3}\\text{ feet}", "\\sqrt{12}"),
    ("2,-2", "\\pm 2"), ("1+\\sqrt2, 1-\\sqrt2", "1\\pm\\sqrt{2}"), ("\\{1,2\\}", "\\{2,1\\}"), ("3 \\text{ and } 5", "5,3"), ("5 or 3", "3,5"),
    ("1<x<2", "(1,2)"), ("x>1", "1<x"), ("2x<4", "x<2"), ("(-\\infty,2)", "x<2"), ("x \\in [1,2)", "[1,2)"), ("y-2x=3", "y=2x+3"), ("2x+3", "y=2x+3"),
    ("\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "\\begin{pmatrix}1&2\\\\3&\\frac82\\end{pmatrix}"), ("2\\cdot 10^3", "2000"), ("1.5e3", "1500"),
    ("0.\\overline{142857}", "\\frac17"), ("204", "204_5"), ("3:4", "\\frac{3}{4}"), ("10 million", "10,000,000"), ("\\text{Monday}", "monday"), ("(A)", "\\text{A}"),
    ("4:30 \\text{ p.m.}", "\\text{4:30 p.m.}"), ("AB=12\\sqrt3", "12\\sqrt{3}"), ("\\log_2 8", "3"), ("5!", "120"), ("\\binom{5}{2}", "10"), ("e^{i\\pi}", "-1"), ("(1+i)^2", "2i"),
    ("1/\\mathrm{e}", "\\frac{1}{e}"), ("\\frac{\\sqrt3}{3}", "\\frac1{\\sqrt3}"), ("\u22125", "-5"), ("5.", "5"), ("25^\\circ", "25^\\circ\\text{C}"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "ground_truth"), EQUAL)
def test_equal_answers_are_correct(answer, ground_truth):
    assert boxed(answer, ground_truth) is Verdict.CORRECT


MATH_VERIFY_TRAPS = [
    ("1 - 1/\\mathrm{e}", "1 + 1/\\mathrm{e}"), ("1/2^{99}", "1/2^{98}"), ("3*x-1*y+13=0", "3x+4y+14=0"), ("x^2+1=0", "x^2+2=0"), ("12_3", "12_4"),
    ("5\\text{ cm}", "5\\text{ m}"), ("x'", "x"), ("\\{1,2\\}", "(1,2)"), ("0.333333", "1/3"), ("3.141593", "\\pi"), ("2+3ex", "2"), ("[8,7)", "[9,7)"),
    ("4:30", "2:15"), ("20\\text{ days}", "20^\\circ"), ("2\\text{ miles}", "2s"), ("4", "4:40\\text{ a.m.}"), ("2+\\frac\\pi 2", "2"), ("E", "e"),
]  # fmt: skip
TRAPS = [
    ("5x", "5"), ("2\\pi", "2"), ("2pi", "2"), ("3xy", "3"), ("2^3", "2"), ("5\u00b2", "52"), ("5\u00b2", "5"), ("1 1/2", "11/2"), ("1 1/2", "1/2"), ("1\\frac12", "\\frac12"),
    ("12/5", "1 2/5"), ("5 6", "11"), ("0.5\\%", "0.5"), ("10\\%", "1"), ("10 million", "10"), ("3:4", "4:3"), ("[0,1]", "(0,1)"), ("[0,1)", "[0,1]"), ("(1,2)", "(2,1)"),
    ("1", "1,2"), ("1,2", "1"), ("2", "\\pm 2"), ("\\pm 2", "2"), ("1\\pm\\sqrt2", "1+\\sqrt2"), ("x=5", "y=5"), ("x=5", "x=6"), ("x<2", "x>2"), ("x\\le 2", "x<2"),
    ("-x<-2", "x<2"), ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1&2\\end{pmatrix}"), ("1e-7", "2e-7"), ("1.0\\times10^{-7}", "2.0\\times10^{-7}"),
    ("2^{1000}+1", "2^{1000}"), ("1+10^{-20}", "1"), ("\\sqrt{2}+10^{-30}", "\\sqrt2"), ("\\frac10", "\\frac20"), ("9\\text{ a.m.}", "9\\text{ p.m.}"), ("5\\text{ cents}", "\\$5"),
    ("25^\\circ\\text{F}", "25^\\circ\\text{C}"), ("\\text{B, A}", "\\text{A, B}"), ("\\text{CBAD}", "\\text{CABD}"), ("not even", "even"), ("5 and 6", "5"), ("3,14", "314"),
    ("3,14", "3.14"), ("1.234", "1234"), ("0.3", "0.\\overline{3}"), ("-\\sqrt{12}", "2\\sqrt3"), ("|x|", "x"), ("\\sin x", "\\cos x"), ("\\overline{AB}", "AB"), ("\\infty", "-\\infty"),
    ("1,2,\\dots,10", "1.2"), ("\\langle 1,2\\rangle", "1.2"), ("\\mathbb{R}\\setminus\\{0\\}", "\\mathbb{R}"), ("\\log 8", "\\ln 8"), ("(5,5)", "(3,3)"), ("204_6", "204_5"),
    ("204_6", "204"), ("\\text{no solution}", "0"), ("5\\text{ cm}^3", "5\\text{ cm}^2"), ("x^2\\text{ for }x>0", "2x"), ("\\$5", "5\\text{ euros}"), ("\\frac{x}{y}", "\\frac{y}{x}"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "ground_truth"), MATH_VERIFY_TRAPS + TRAPS)
def test_traps_are_not_called_correct(answer, ground_truth):
    assert boxed(answer, ground_truth) is not Verdict.CORRECT


@pytest.mark.parametrize(
    ("answer", "ground_truth", "verdict"),
    [
        ("0.5\\%", "0.5", "unparsable"),
        ("5\\text{ cm}", "5\\text{ m}", "unparsable"),
        ("\\frac{1}{2", "2", "no_answer"),
        ("\\begin{cases} x", "2x", "unparsable"),
        ("7" * (LONGEST_ANSWER + 1), "7", "unparsable"),
        ("\\frac{3}{4}", "\\frac{5}{4}", "incorrect"),
        ("\\sqrt{3}", "\\sqrt{2}", "incorrect"),
        ("\\text{Monday}", "\\text{Tuesday}", "incorrect"),
    ],
)
def test_what_cannot_be_decided_is_told_from_what_is_wrong(answer, ground_truth, verdict):
    assert boxed(answer, ground_truth) == verdict


@given(
    st.fractions(max_denominator=10**6),
    st.sampled_from(["latex", "slash", "mixed", "expanded"]),
    st.fractions(max_denominator=1000),
)
def test_any_fraction_is_read_exactly_however_it_is_written(value, form, other):
    top, bottom = abs(value.numerator), value.denominator
    sign = "-" if value < 0 else ""
    whole, rest = divmod(top, bottom)
    written = {
        "latex": f"{sign}\\frac{{{top}}}{{{bottom}}}",
        "slash": f"{sign}{top}/{bottom}",
        "mixed": f"{sign}{whole}\\frac{{{rest}}}{{{bottom}}}" if whole else f"{sign}\\frac{{{rest}}}{{{bottom}}}",
        "expanded": f"\\dfrac{{{-3 * top if sign else 3 * top}}}{{{3 * bottom}}}",
    }[form]
    reference = f"\\frac{{{other.numerator}}}{{{other.denominator}}}"
    verdict = exact.decide(latex.clean(written), latex.clean(reference))
    assert verdict is (Verdict.CORRECT if Fraction(value) == Fraction(other) else Verdict.INCORRECT)
    assert exact.decide(latex.clean(written), latex.clean(f"\\frac{{{value.numerator}}}{{{bottom}}}")) is Verdict.CORRECT


@settings(max_examples=300, deadline=1000)
@given(st.text(alphabet=st.characters(), max_size=60), st.sampled_from(["5", "\\text{Monday}", "3:4", "204_5", "1 1/2", "13 7"]))
def test_no_text_breaks_what_is_decided_in_this_process(text, ground_truth):
    extract_answer(text)
    verdict = exact.decide(latex.clean(text), latex.clean(ground_truth))
    assert verdict is None or isinstance(verdict, Verdict)


@pytest.mark.parametrize(
    "piece",
    [
        "\\boxed{",
        "{",
        "}",
        "\\",
        "answer is",
        "answer ",
        "A:\n",
        "ans ",
        "#",
        "<think>",
        "1",
        "1,",
        "$",
        "\ud800",
        "\x00",
        "\\boxed{1}{",
    ],
)
def test_a_megabyte_of_anything_is_read_in_linear_time(piece):
    began = time.process_time()
    verify(piece * (1_000_000 // len(piece)), ground_truth="5")
    assert time.process_time() - began < 3.0


@pytest.mark.slow
def test_rewritten_expressions_are_correct_and_changed_ones_are_not():
    """Random expressions, rewritten and changed by sympy, whose own simplification says what is equal."""
    rng, x = random.Random(0), sympy.Symbol("x", real=True)
    atoms = [sympy.Integer(3), sympy.Rational(5, 7), sympy.sqrt(2), sympy.sqrt(5), sympy.pi, x, sympy.E, 4 * sympy.sqrt(3)]
    counts = {"rewritten": 0, "changed": 0}
    for _ in range(150):
        a, b, c = (rng.choice(atoms) for _ in range(3))
        expression = rng.choice([(a + b) * c, a * b + c, (a + c) / b, (a + b) ** 2 * c])
        rewritten = rng.choice([sympy.expand, sympy.factor, sympy.together])(expression)
        changed = rng.choice([expression + 1, -expression, 2 * expression, expression + sympy.Rational(1, 10**8)])
        counts["rewritten"] += boxed(sympy.latex(rewritten), sympy.latex(expression)) is Verdict.CORRECT
        counts["changed"] += boxed(sympy.latex(changed), sympy.latex(expression)) is Verdict.CORRECT
    assert counts["changed"] == 0
    assert counts["rewritten"] >= 148


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
    """Labels by the authors of GSM8K for four models on the test set."""
    pairs = [
        (verify(row[model]["solution"], ground_truth=row["ground_truth"].rpartition("A:")[2].strip()), row[model]["is_correct"])
        for row in rows("gsm8k/example_model_solutions.jsonl")
        for model in row
        if isinstance(row[model], dict)
    ]
    agreed = sum((verdict is Verdict.CORRECT) == label for verdict, label in pairs)
    assert len(pairs) == 4 * 1319
    assert agreed == len(pairs)


@needs_data
def test_math500_answers_equal_themselves_in_their_own_solutions():
    """The reference solution's box against the reference answer."""
    verdicts = [verify(row["solution"], ground_truth=row["answer"]) for row in rows("math500/test.jsonl")]
    assert verdicts.count(Verdict.CORRECT) == len(verdicts)


@needs_data
def test_disagreements_with_the_grader_of_math_samples_are_two_known_mistakes_of_its():
    """800 samples scored by Qwen2.5-Math's grader, which compares text: it rejects a time of day and `10{,}000`."""
    disagree = {
        (extract_answer(response), row["answer"])
        for row in rows("math_cot_100_samples/math_cot_100.jsonl")
        for response, score in zip(row["response"], row["score"], strict=True)
        if (verify(response, ground_truth=row["answer"]) is Verdict.CORRECT) != score
    }
    assert disagree == {("4:30 \\text{ p.m.}", "\\text{4:30 p.m.}"), ("10000", "10{,}000")}


def test_the_exact_part_loads_no_sympy():
    code = "import sys; from curate.answers import verify; verify('#### 5', ground_truth='5'); assert 'sympy' not in sys.modules"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        ).returncode
        == 0
    )
