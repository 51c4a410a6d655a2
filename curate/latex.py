"""Normal forms of a short LaTeX answer: what two texts that differ only in typesetting have in common.

    \\dfrac12 , $\\frac{1}{2}$ , \\frac1{2}.        ->  \\frac{1}{2}
    1{,}000 , 1,\\!000                             ->  1,000
    3\\text{ and }5 , 3, \\text{ or } 5             ->  3,5

A space between two digits is kept: `1 1/2` is not `11/2`.
"""

import re

TEXT = r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|hbox|operatorname)\s*\{([^{}]*)\}"
_WRAPPED = re.compile(TEXT)
_SYMBOLS = {
    "\u2212": "-",
    "\u00d7": "\\times ",
    "\u00b7": "\\cdot ",
    "\u03c0": "\\pi ",
    "\u221e": "\\infty ",
    "\u00b0": "^\\circ ",
    "\u2264": "\\le ",
    "\u2265": "\\ge ",
    "\u00a0": " ",
    "\u202f": " ",
    "\u2009": " ",
}
_REWRITES = [
    (re.compile(r"\\[!]|\\(?:left|right|displaystyle|bigl?|bigr|Bigl?|Bigr)(?![a-zA-Z])|\{\}"), ""),
    (re.compile(r"\\[,;: ]|~|\\q?quad(?![a-zA-Z])"), " "),
    (re.compile(r"\\(?:d|t|c)frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(?:leq|leqslant)(?![a-zA-Z])"), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant)(?![a-zA-Z])"), r"\\ge "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree(?![a-zA-Z])"), r"^\\circ "),
    (re.compile(r"\^\{(\w)\}"), r"^\1"),
    (re.compile(r"_\{(\w)\}"), r"_\1"),
    (re.compile(r"\\(frac)\s*([0-9a-z]|\\pi(?![a-z]))(?=\s*[0-9a-z{\\])"), r"\\\1{\2}"),
    (re.compile(r"\\(frac\{[^{}]*\})\s*([0-9a-z])"), r"\\\1{\2}"),
    (re.compile(r"\\(sqrt)\s*([0-9a-z])"), r"\\\1{\2}"),
    (re.compile(r"\\text\s*\{\s*,?\s*(?:and|or|OR)\s*\}|,?\s+(?:and|or)\s+(?=[-+\d\\$(])"), ", "),
    (re.compile(r",\s*,"), ","),
    (re.compile(r"^\s*\\approx(?![a-zA-Z])"), ""),
]
_SPACE_OUTSIDE_NUMBERS = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_COMMAND = re.compile(r"\\[a-zA-Z]+")


def clean(text: str) -> str:
    """One spelling for each construct; `\\text{...}` and spaces are kept, since units are told from variables by them."""
    text = _bare(text)
    for symbol, latex in _SYMBOLS.items():
        if symbol in text:
            text = text.replace(symbol, latex)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return _bare(text)


def _bare(text: str) -> str:
    """Without the math delimiters, emphasis and the full stop around it."""
    text = text.strip()
    while text.endswith((".", ",")) and not text.endswith("\\,"):
        text = text[:-1].rstrip()
    for left, right in (("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("$$", "$$"), ("$", "$")):
        if len(text) >= len(left) + len(right) and text.startswith(left) and text.endswith(right) and not text.endswith("\\$"):
            text = text[len(left) : -len(right)].strip()
    return text


def unwrap(text: str) -> str:
    """`\\text{ cm}` as ` cm`, and `\\mathrm{e}` as `e`."""
    return _WRAPPED.sub(r" \1 ", text).strip()


def is_wrapped(text: str) -> bool:
    """Whether a part is set as text."""
    return _WRAPPED.search(text) is not None


def compact(text: str) -> str:
    """A cleaned text without wrappers and spaces: equal for texts that differ in typesetting alone."""
    return _SPACE_OUTSIDE_NUMBERS.sub("", unwrap(text)).rstrip(".")


def letters(text: str) -> set[str]:
    """The letters outside commands: variables, and whatever stands as bare words."""
    return {character for character in _COMMAND.sub(" ", text) if character.isalpha()}


def commands(text: str) -> set[str]:
    """The names of the commands in it, without the backslash."""
    return {match[1:] for match in _COMMAND.findall(text)}
