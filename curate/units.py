"""Units that may stand after a number: which of them mean the same, and which contradict one another.

`5 cm` agrees with `5 centimeters` and with a bare `5`, but not with `5 m`. Any other words (`72 apples`, `3 dollars a
day`) are commentary on the number and contradict nothing.
"""

import re

from curate import latex

_NAMES = {
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres",
    "inch": "in inch inches",
    "foot": "ft foot feet",
    "yard": "yd yard yards",
    "mile": "mi mile miles",
    "g": "g gm gram grams",
    "kg": "kg kilogram kilograms",
    "pound": "lb lbs pound pounds",
    "ounce": "oz ounce ounces",
    "second": "s sec secs second seconds",
    "minute": "min mins minute minutes",
    "hour": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "yr yrs year years",
    "liter": "l liter liters litre litres",
    "ml": "ml milliliter milliliters millilitre millilitres",
    "gallon": "gal gallon gallons",
    "degree": "deg degree degrees",
    "radian": "rad radian radians",
    "celsius": "c celsius degc",
    "fahrenheit": "f fahrenheit degf",
    "dollar": "usd dollar dollars",
    "cent": "cent cents ¢",
    "euro": "eur euro euros",
    "sterling": "gbp",
    "yen": "jpy yen",
    "a.m.": "am",
    "p.m.": "pm",
    "mph": "mph",
    "acre": "acre acres",
}
_CANONICAL = {name: unit for unit, names in _NAMES.items() for name in names.split()}
CURRENCIES = {"$": "dollar", "€": "euro", "£": "sterling", "¥": "yen"}
SCALES = {"hundred": 100, "dozen": 12, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MATHEMATICS = frozenset(
    [
        "pi",
        "sqrt",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "ln",
        "exp",
        "or",
        "and",
        "plus",
        "minus",
        "times",
        "over",
        "mod",
        "to",
        "i",
        "e",
        "x",
        "y",
        "z",
        "n",
    ]
)
_POWERS = [
    (2, re.compile(r"\b(?:square|sq\.?|squared)(?![a-z])|\^2|²")),
    (3, re.compile(r"\b(?:cubic|cu\.?|cubed)(?![a-z])|\^3|³")),
]
_TAIL = re.compile(r"[a-z.'/ -]*")


def read_unit(tail: str) -> str | None:
    """The canonical unit in what follows a number: "" for none or for mere words, None where it may be mathematics.

    Bare letters that stick to the number are taken for variables unless they are a unit (`5cm`, not `5x`); a single
    letter is a unit only where it is set as text (`5\\text{ m}`).
    """
    if not tail.strip():
        return ""
    stands_apart = tail[0].isspace() or tail[0] == "\\"
    text = latex.unwrap(tail).replace("^\\circ", " deg ").lower()
    power = 1
    for exponent, pattern in _POWERS:
        text, found = pattern.subn(" ", text)
        power = exponent if found else power
    if not _TAIL.fullmatch(text):
        return None
    words = [word for word in text.replace(".", "").replace("/", " ").split() if word != "deg"]
    degrees = "deg" in text.split()
    if not words:
        return None if power > 1 else "degree" if degrees else ""
    known = _CANONICAL.get(words[0]) if len(words) == 1 else None
    short = any(len(word) == 1 and word != "a" for word in words) and not latex.is_wrapped(tail)
    if (short and not degrees) or _MATHEMATICS & set(words) or not (known or stands_apart):
        return None
    return f"{known}^{power}" if known and power > 1 else known or ""


_LAST_TEXT = re.compile(rf"(.*[\w)}}\]])\s*({latex.TEXT}(?:\s*\^\w)?|\^\\circ\s*)", re.DOTALL)


def split_unit(text: str) -> tuple[str, str]:
    """An expression without the text that ends it, and the unit that this is: `3\\sqrt{2}\\text{ cm}` -> `3\\sqrt{2}`, "cm"."""
    match = _LAST_TEXT.fullmatch(text)
    unit = read_unit(match[2]) if match else None
    return (text, "") if match is None or unit is None else (match[1], unit)


def contradict(first: str, second: str) -> bool:
    """Whether both are units and not the same; bare degrees may be of either temperature scale."""
    temperatures = {"celsius", "fahrenheit"}
    one_scale = "degree" in (first, second) and bool({first, second} & temperatures)
    return bool(first and second) and first != second and not one_scale
