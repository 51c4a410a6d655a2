"""Equality of two sympy objects by evaluation: to 200 digits, at several points, part by part.

True, False, or None where it cannot be told: nothing is simplified, and nothing is equal by a rounded comparison.
"""

from collections.abc import Callable, Iterable
from typing import Any

DIGITS, AGREEING = 200, 180
"""Digits of an evaluation, and how many of them must agree; rational numbers are compared exactly."""
POINTS = (("3/7", "11/5", "-13/9", "17/4"), ("-5/3", "7/8", "19/6", "-2/11"), ("23/10", "-9/4", "1/6", "5/7"))
"""Values of the variables, in alphabetical order; more variables than values are not decided."""


def same(reference: Any, ours: Any) -> bool | None:
    """Whether two sympy objects are equal; None for kinds that are not compared, and where a value has no number."""
    compare = _COMPARE.get(frozenset((_kind(reference), _kind(ours))))
    return compare(reference, ours) if compare else True if reference == ours else None


def _kind(value: Any) -> str:
    from sympy import FiniteSet, Interval, Set, Tuple
    from sympy.core.relational import Relational
    from sympy.logic.boolalg import Boolean
    from sympy.matrices import MatrixBase

    kinds = {
        "matrix": MatrixBase,
        "elements": FiniteSet,
        "interval": Interval,
        "set": Set,
        "tuple": Tuple,
        "relation": Relational,
    }
    symbol = getattr(value, "is_Symbol", False)  # to sympy a symbol is a Boolean too
    return next(
        (name for name, base in kinds.items() if isinstance(value, base)),
        "value" if symbol or not isinstance(value, Boolean) else "logic",
    )


def _all(results: Iterable[bool | None]) -> bool | None:
    """False if any is False, else None if any is None."""
    found = list(results)
    return False if False in found else None if None in found else True


def _same_matrix(reference: Any, ours: Any) -> bool | None:
    return reference.shape == ours.shape and _all(map(same, reference, ours))


def _same_interval(reference: Any, ours: Any) -> bool | None:
    if (reference.left_open, reference.right_open) != (ours.left_open, ours.right_open):
        return False
    return _all([same(reference.start, ours.start), same(reference.end, ours.end)])


def _same_in_order(reference: Any, ours: Any) -> bool | None:
    """A pair or list beside another: `1,2` and `(1,2)`, which the parser takes for an open interval."""
    left, right = ([one.start, one.end] if _kind(one) == "interval" else _written(one) for one in (reference, ours))
    return len(left) == len(right) > 0 and _all(map(same, left, right))


def _written(value: Any) -> list[Any]:
    """The parts in the order of the text, which a set of the parser remembers."""
    return list(getattr(value, "_unsorted_args", value.args))


def _same_elements(reference: Any, ours: Any) -> bool | None:
    """Each element of one set has a partner of its own in the other."""
    if len(reference.args) != len(ours.args):
        return False
    rest = list(ours.args)
    for element in reference.args:
        found = [same(element, one) for one in rest]
        if True not in found:
            return None if None in found else False
        rest.pop(found.index(True))
    return True


def _same_relation(reference: Any, ours: Any) -> bool | None:
    """Both sides' difference is the same up to a constant factor, which must be positive for an inequality.

    Anything else (a squared equation, two without solutions) is left undecided.
    """
    if reference.rel_op != ours.rel_op:
        ours = ours.reversed
    if reference.rel_op != ours.rel_op:
        return None
    factors = _ratios(reference.lhs - reference.rhs, ours.lhs - ours.rhs)
    if factors is None or not all(_close(factor, factors[0]) for factor in factors):
        return None
    equation = reference.rel_op in ("==", "!=")
    return True if equation or complex(factors[0]).real > 0 else None


def _ratios(reference: Any, ours: Any) -> list[Any] | None:
    """Their quotient at each of POINTS."""
    values = _values(reference, ours)
    return None if values is None or any(b == 0 for _, b in values) else [a / b for a, b in values]


def _same_value(reference: Any, ours: Any) -> bool | None:
    """Equal at every point, relative to their size; a decimal is taken as the exact fraction that it writes."""
    if reference == ours and reference.is_extended_real and reference.is_infinite:
        return True
    values = _values(reference, ours)
    if values is None:
        return None
    return all(_close(a, b) for a, b in values)


def _close(a: Any, b: Any) -> bool:
    return bool(a == b or (getattr(a, "is_Rational", False) is False and abs(a - b) <= max(abs(a), abs(b)) / 10**AGREEING))


def _values(*expressions: Any) -> list[list[Any]] | None:
    """Values of the expressions at each of POINTS, as mpmath numbers; None if one has none or has other variables."""
    import mpmath
    from sympy import Float, Rational, Symbol
    from sympy.core.function import AppliedUndef

    exact = [one.replace(lambda part: isinstance(part, Float), lambda part: Rational(str(part))) for one in expressions]
    exact = [one.replace(lambda part: isinstance(part, AppliedUndef), lambda part: Symbol(str(part))) for one in exact]
    names = [sorted(symbol.name for symbol in one.free_symbols) for one in exact]
    if names[0] != names[1] or len(names[0]) > len(POINTS[0]):
        return None
    rows = []
    for point in POINTS if names[0] else POINTS[:1]:
        places = {name: Rational(value) for name, value in zip(names[0], point, strict=False)}
        found = [one.xreplace({symbol: places[symbol.name] for symbol in one.free_symbols}).doit() for one in exact]
        if not all(value.is_number and value.is_finite for value in found):
            return None
        rows.append(found if all(value.is_Rational for value in found) else [value.evalf(DIGITS) for value in found])
    with mpmath.workdps(DIGITS):
        return [[value if value.is_Rational else mpmath.mpmathify(value) for value in row] for row in rows]


_COMPARE: dict[frozenset[str], Callable[[Any, Any], bool | None]] = {
    frozenset({"matrix"}): _same_matrix,
    frozenset({"relation"}): _same_relation,
    frozenset({"elements"}): _same_elements,
    frozenset({"interval"}): _same_interval,
    frozenset({"value"}): _same_value,
    frozenset({"tuple"}): _same_in_order,
    frozenset({"tuple", "interval"}): _same_in_order,
    frozenset({"tuple", "elements"}): _same_in_order,
    frozenset({"interval", "elements"}): _same_in_order,
}
