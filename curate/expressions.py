"""Plain arithmetic as worked solutions write it: `5*(3+4)/2`, exactly, one operation at a time."""

import re
from fractions import Fraction

NUMBER = r"\d[\d,]*(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(rf"\s*({NUMBER}|[-+*/()])")
_WRITTEN_OTHERWISE = str.maketrans({"x": "*", "×": "*", "÷": "/", "–": "-", "−": "-"})
_INVERSE = {"+": "-", "-": "+", "*": "/", "/": "*"}
MOST_DECIMALS = 4

Expression = tuple[Fraction | str, ...]
"""Numbers and the signs + - * / ( )."""


def number(text: str) -> Fraction:
    """The value of `1,148`, `5.00` or `.25`."""
    return Fraction(text.replace(",", "").rstrip("."))


def written(value: Fraction) -> str | None:
    """`24`, `2.5`; None where more than four decimals would be needed."""
    scaled = value * 10**MOST_DECIMALS
    if scaled.denominator != 1:
        return None
    return f"{float(value):.{MOST_DECIMALS}f}".rstrip("0").rstrip(".")


def spelled(expression: Expression) -> str | None:
    """`5 * (3 + 4)`; None where a number has no short decimal form."""
    parts = [part if isinstance(part, str) else written(part) for part in expression]
    if any(part is None for part in parts):
        return None
    return " ".join(map(str, parts)).replace("( ", "(").replace(" )", ")")


def parse(text: str) -> Expression:
    """Read an expression; a sign before a number that follows nothing, `(` or another sign belongs to the number.

    Raises:
        ValueError: something else than numbers, signs and brackets.
    """
    parts: list[Fraction | str] = []
    position, negative = 0, False
    text = text.translate(_WRITTEN_OTHERWISE).strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            raise ValueError(f"expected a number, a sign or a bracket, came {text[position:]!r:.20}")
        position, token = match.end(), match[1]
        begins = not parts or (isinstance(parts[-1], str) and parts[-1] != ")")
        if token in "+-" and begins:
            negative ^= token == "-"
        elif token in "+-*/()":
            parts.append(token)
        else:
            parts.append(-number(token) if negative else number(token))
            negative = False
    return tuple(parts)


def operators(expression: Expression) -> tuple[str, ...]:
    """The signs in the order written, brackets left out."""
    return tuple(part for part in expression if isinstance(part, str) and part not in "()")


def numbers(expression: Expression) -> tuple[Fraction, ...]:
    """The numbers in the order written."""
    return tuple(part for part in expression if isinstance(part, Fraction))


def reductions(expression: Expression) -> list[Expression]:
    """The expression, then what is left after each operation (brackets first, then * and /, then + and -).

    Raises:
        ValueError: not well formed, or a division by zero.
    """
    forms = [expression]
    while len(forms[-1]) > 1:
        forms.append(_reduced(forms[-1]))
    if not forms[-1] or not isinstance(forms[-1][0], Fraction):
        raise ValueError("not a well-formed expression")
    return forms


def value(expression: Expression) -> Fraction:
    """The exact value."""
    (result,) = reductions(expression)[-1]
    assert isinstance(result, Fraction)  # checked by reductions
    return result


def _reduced(expression: Expression) -> Expression:
    """One operation carried out; brackets around a single number go."""
    close = expression.index(")") if ")" in expression else len(expression)
    opens = [place for place in range(close) if expression[place] == "("]
    if bool(opens) != (close < len(expression)):
        raise ValueError("not a well-formed expression")
    start = opens[-1] + 1 if opens else 0
    inner = expression[start:close]
    if len(inner) == 1 and opens:
        return expression[: start - 1] + inner + expression[close + 1 :]
    signs = [place for place, part in enumerate(inner) if part in ("*", "/")]
    signs = signs or [place for place, part in enumerate(inner) if part in ("+", "-")]
    if not signs or not 0 < signs[0] < len(inner) - 1:
        raise ValueError("not a well-formed expression")
    place = signs[0]
    result = _apply(inner[place - 1], str(inner[place]), inner[place + 1])
    inner = (*inner[: place - 1], result, *inner[place + 2 :])
    bracketed = len(inner) == 1 and bool(opens)
    return expression[: start - bracketed] + inner + expression[close + bracketed :]


def _apply(left: Fraction | str, sign: str, right: Fraction | str) -> Fraction:
    if isinstance(left, str) or isinstance(right, str):
        raise ValueError("not a well-formed expression")
    if sign == "/":
        if right == 0:
            raise ValueError("division by zero")
        return left / right
    return left * right if sign == "*" else left + right if sign == "+" else left - right


def inverse_check(expression: Expression, result: Fraction) -> tuple[Expression, Fraction] | None:
    """For `a op b`, the inverse operation on the result and what it should give: `r - b`, a. None for longer ones."""
    if len(expression) != 3:
        return None
    left, sign, right = expression
    if isinstance(left, str) or isinstance(right, str) or not isinstance(sign, str) or (sign == "*" and right == 0):
        return None
    return (result, _INVERSE[sign], right), left
