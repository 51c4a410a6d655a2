"""Algebraic equality of two short answers: math-verify's parser reads them, an evaluation to 200 digits compares them.

math-verify's own comparison calls equal what is not (`1/2^{99}` and `1/2^{98}`; `x^2+1=0` and `x^2+2=0`), and its parser
drops what it does not know (`12_3` and `12_4`). So `correct` needs texts that the parser is known to honour in full and
equal values at several points (curate/equality.py). Where evaluation cannot tell, math-verify's comparison separates `incorrect` from
`unparsable`.
"""

import re
from functools import lru_cache
from typing import Any

from curate import latex, units
from curate.equality import same
from curate.exact import Verdict

_COMMANDS = frozenset(
    [
        "frac",
        "sqrt",
        "pi",
        "cdot",
        "times",
        "div",
        "pm",
        "mp",
        "infty",
        "cup",
        "cap",
        "setminus",
        "emptyset",
        "varnothing",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "log",
        "ln",
        "exp",
        "binom",
        "le",
        "ge",
        "lt",
        "gt",
        "ne",
        "neq",
        "in",
        "mathbb",
        "begin",
        "end",
        "lfloor",
        "rfloor",
        "lceil",
        "rceil",
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "theta",
        "lambda",
        "mu",
        "rho",
        "sigma",
        "tau",
        "phi",
        "varphi",
        "omega",
    ]
)
"""What the parser is known to honour; anything else it may have dropped."""
_CHARACTERS = re.compile(r"(?:[0-9A-Za-z+\-*/^_(){}\[\],.;:!|<>=& ]|\\[a-zA-Z{}\\])*")
_DROPPED = re.compile(r"\d\s+\d|\d\s*\}?\s*_|(?<![\\a-zA-Z{])[A-Za-z]{4,}|\.\.|\.\d{15}")
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|lt|gt|ne|neq|in)(?![a-z])")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[pbB]?matrix\}|\\mathbb\{[RQZNC]\}")
_LOG_BASE = re.compile(r"\\log\s*_(?:\d|\{\d+\})")
_ASSIGNED = re.compile(
    r"(\\?[A-Za-z]|[A-Z]{2}|\\[a-z]+)(_\{?\w+\}?)?\s*(\([a-z]\))?\s*(?:=|\\in(?![a-z]))\s*(?!.*(?:[=<>]|\\[lg]e))"
)


def judge(answer: str, ground_truth: str) -> Verdict:
    """Correct, incorrect or unparsable.

    Args:
        answer: as `latex.clean` gives it, like ground_truth.
    """
    (answer, our_unit), (ground_truth, unit) = units.split_unit(answer), units.split_unit(ground_truth)
    if units.contradict(our_unit, unit):
        return Verdict.UNPARSABLE
    answer, ground_truth = _same_left_side(latex.unwrap(answer), latex.unwrap(ground_truth))
    ours, reference = parse(answer), parse(ground_truth)
    if ours is None or reference is None or _is_empty_interval(ours, answer) or _is_empty_interval(reference, ground_truth):
        return Verdict.UNPARSABLE
    sets = _as_sets(reference, ours)
    equal = same(*(sets or (reference, ours)))
    if equal is None and _possibly_equal(reference, ours):
        return Verdict.UNPARSABLE
    if not equal:
        return Verdict.INCORRECT
    plain = _is_plain(answer) and _is_plain(ground_truth)
    same_variables = bool(sets) or _variables(answer) == _variables(ground_truth)
    same_brackets = type(ours) is type(reference) or ("\\{" in answer) == ("\\{" in ground_truth)
    return Verdict.CORRECT if plain and same_variables and same_brackets else Verdict.UNPARSABLE


def _is_empty_interval(value: Any, text: str) -> bool:
    """`[8,7)` and `[9,7)` both become the empty set, yet neither is written as one."""
    return bool(getattr(value, "is_empty", False)) and any(
        character.isalnum() for character in latex.compact(text).replace("emptyset", "")
    )


def _same_left_side(*texts: str) -> tuple[str, str]:
    """Take `x =` or `x \\in` off both texts where they share it, or off one where the other is no relation."""
    found = [_ASSIGNED.match(text) for text in texts]
    names = {re.sub(r"[\s{}]", "", match[0]) for match in found if match}
    others = [text for match, text in zip(found, texts, strict=True) if not match]
    if len(names) != 1 or any(_RELATION.search(text) for text in others):
        return texts[0], texts[1]
    first, second = (text[match.end() :] if match else text for match, text in zip(found, texts, strict=True))
    return first, second


def _as_sets(reference: Any, ours: Any) -> tuple[Any, Any] | None:
    """`1<x<2` beside `(1,2)`: both as sets; None where not just one of them is a relation in one variable."""
    from sympy.sets.sets import Set

    relation, other = (ours, reference) if isinstance(reference, Set) else (reference, ours)
    if not isinstance(other, Set) or not hasattr(relation, "as_set") or len(relation.free_symbols) != 1:
        return None
    return (other, relation.as_set()) if relation is ours else (relation.as_set(), other)


def _is_plain(text: str) -> bool:
    """Only what the parser is known to honour."""
    text = _LOG_BASE.sub(r"\\log ", _ENVIRONMENT.sub(" ", text))
    if not _CHARACTERS.fullmatch(text) or _DROPPED.search(text):
        return False
    return latex.commands(text) <= _COMMANDS - {"begin", "end", "mathbb"}


def _variables(text: str) -> set[str]:
    return latex.letters(_ENVIRONMENT.sub(" ", text)) - {"e", "E", "i"}


@lru_cache(4096)
def parse(text: str) -> Any | None:
    """The sympy object of a LaTeX text, symbols reduced to their names and `i` the imaginary unit; None where it is not one."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig
    from math_verify import parse as extract
    from sympy import Basic, I, Symbol
    from sympy.matrices import MatrixBase

    # not its units: it takes the end of `2x+3ex` for one
    normal = NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True, units=False, boxed="none")
    wanted = [LatexExtractionConfig(normalization_config=normal)]
    found = extract(f"${text}$", wanted, fallback_mode="no_fallback", parsing_timeout=None)
    if not found or not isinstance(found[0], Basic | MatrixBase):
        return None
    names = {symbol: I if symbol.name == "i" else Symbol(symbol.name, real=True) for symbol in found[0].free_symbols}
    return found[0].xreplace(names) if any(new != old for old, new in names.items()) else found[0]


def _possibly_equal(reference: Any, ours: Any) -> bool:
    """What math-verify says of kinds that are not evaluated here."""
    from math_verify import verify

    return bool(verify(reference, ours, timeout_seconds=None, allow_set_relation_comp=True))
