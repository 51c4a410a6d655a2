"""Read a word problem's graph off its text, by the phrasings that `curate.word_text` writes it with."""

import re
from dataclasses import dataclass, replace

from curate.graphs import Graph, Node, NoGraph, ancestry, evaluate
from curate.word_text import PHRASINGS, QUESTIONS, RATIOS, THEMES, quantity, share_of

_OWNER, _THINGS = r"[A-Z]\w*(?: [A-Z]\w*)*", r"[a-z]+"
_HAS = "|".join(sorted({theme.has for theme in THEMES}))
_NAME, _CLAUSE = rf"{_OWNER}'s {_THINGS}", rf"{_OWNER} (?:{_HAS}) {_THINGS}"
_NUMBER = rf"the number of {_NAME}"


def _list_of(part: str) -> str:
    return rf"{part}(?:, {part})*(?: and {part})?"


_SLOTS = {
    "x": _OWNER,
    "a": _THINGS,
    "xa": _NAME,
    "has": _HAS,
    "have": "|".join(sorted({theme.have for theme in THEMES})),
    "n": r"\d+",
    "ratio": "|".join(RATIOS),
    "share": "|".join(map(share_of, RATIOS)),
    "clause": rf"{_CLAUSE}|{_OWNER} (?:{_HAS})|{_THINGS}",
    "clauses": _list_of(_CLAUSE),
    "names": _list_of(_NAME),
    "numbers": _list_of(_NUMBER),
    "sum": rf"{_NUMBER}(?: plus {_NUMBER})*",
    "first": _NAME,
    "second": _NAME,
    "last": _NAME,
}


def _pattern(phrasing: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", lambda slot: f"(?P<{slot[1]}>{_SLOTS[slot[1]]})", re.escape(phrasing)))


_READERS = [(kind, _pattern(phrasing)) for kind, phrasings in PHRASINGS.items() for phrasing in phrasings]
_ASKED = [_pattern(phrasing) for phrasing in QUESTIONS]
_INTROS = {intro for theme in THEMES for intro in theme.intros}


@dataclass(frozen=True)
class WordProblem:
    """A problem's text taken apart."""

    graph: Graph
    intro: str
    statements: dict[str, str]
    """The sentence of each quantity, in the order stated."""
    question: str


def read_problem(prompt: str) -> WordProblem:
    """Read a problem's graph off its text.

    Raises:
        NoGraph: the text has another form.
    """
    sentences = re.split(r"(?<=[.?]) ", prompt.strip())
    intro = sentences.pop(0) if sentences[0] in _INTROS else ""
    asked = next((match for pattern in _ASKED if (match := pattern.fullmatch(sentences[-1]))), None)
    if asked is None:
        raise NoGraph(f"expected a word problem that ends in its question, came {prompt[-80:]!r}")
    named = asked.groupdict()
    query = named.get("xa") or quantity(named["x"], named["a"])
    stated = {node.name: (node, sentence) for node, sentence in ((_read(s), s) for s in sentences[:-1])}
    graph = Graph(_solved({name: node for name, (node, _) in stated.items()}, query), (query,))
    return WordProblem(graph, intro, {name: sentence for name, (_, sentence) in stated.items()}, sentences[-1])


def _read(sentence: str) -> Node:
    """The node that one sentence states, its value still open unless it is a leaf."""
    for kind, pattern in _READERS:
        if match := pattern.fullmatch(sentence):
            return _node(kind, {slot: text for slot, text in match.groupdict().items() if text})
    raise NoGraph(f"expected a sentence that states a quantity, came {sentence[:80]!r}")


def _node(kind: str, slots: dict[str, str]) -> Node:
    name = slots.get("xa") or quantity(slots["x"], slots["a"])
    if kind == "leaf":
        return Node(name, (int(slots["n"]),), (), int(slots["n"]))
    parents = _parents(slots)
    plus = ("+",) * (len(parents) - 1)
    if kind in ("sum", "difference", "balance"):
        return Node(name, parents, plus if kind == "sum" else (*plus[1:], "-"), 0)
    ratio = slots.get("ratio") or slots.get("share", "").removesuffix(" of")
    sign, constant = RATIOS[ratio] if ratio else ("+" if kind.endswith("more") else "-", int(slots["n"]))
    return Node(name, (*parents, constant), (*plus, sign), 0)


def _parents(slots: dict[str, str]) -> tuple[str, ...]:
    if "clause" in slots:
        match = re.fullmatch(rf"(?:(?P<owner>{_OWNER}) (?:{_HAS}))? ?(?P<things>{_THINGS})?", slots["clause"])
        assert match  # the slot's own pattern is no wider
        return (quantity(match["owner"] or slots["x"], match["things"] or slots["a"]),)
    if "clauses" in slots:
        found = re.findall(rf"({_OWNER}) (?:{_HAS}) ({_THINGS})", slots["clauses"])
        return tuple(quantity(owner, things) for owner, things in found)
    text = " and ".join(slots[slot] for slot in ("names", "numbers", "sum", "first", "second", "last") if slot in slots)
    return tuple(re.findall(_NAME, text))


def _solved(stated: dict[str, Node], query: str) -> dict[str, Node]:
    """The nodes with their values."""
    missing = {query, *(name for node in stated.values() for name in node.parents)} - set(stated)
    if missing:
        raise NoGraph(f"no sentence states {sorted(missing)[0]}")
    parents = {name: node.parents for name, node in stated.items()}
    values: dict[str, int] = {}
    for name in sorted(stated, key=lambda name: len(ancestry(parents, name))):
        node = stated[name]
        if any(parent not in values for parent in node.parents):
            raise NoGraph(f"{name} depends on itself")
        try:
            values[name] = evaluate([values[o] if isinstance(o, str) else o for o in node.operands], node.operators)[-1]
        except ArithmeticError as error:
            raise NoGraph(f"{name}: {error}") from None
    return {name: replace(node, value=values[name]) for name, node in stated.items()}
