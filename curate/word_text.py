"""The English of word problems: themes, and several phrasings of each way in which a quantity may be given.

A quantity is an owner's things (`Mill Farm's geese`), counted in whole numbers. Each phrasing is one line of a table
whose slots are filled here; `curate.word_reader` turns the same slots into patterns and reads the text back.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from curate.graphs import Node


@dataclass(frozen=True)
class Theme:
    """Who owns what, and how one says so."""

    intros: tuple[str, ...]
    owners: tuple[str, ...]
    things: tuple[str, ...]
    has: str
    have: str


THEMES = (
    Theme(
        ("Some friends compare what they have collected.", "Before the flea market, some friends count their treasures."),
        ("Maya", "Tom", "Leo", "Ana", "Noor", "Felix", "Ruth", "Omar", "Ivy", "Kenji"),
        ("stamps", "marbles", "shells", "coins", "postcards", "stickers", "badges", "beads"),
        "has",
        "have",
    ),
    Theme(
        ("The farms of the valley count their animals.", "A vet visits the farms along the river."),
        ("Hill Farm", "Brook Farm", "Mill Farm", "Oak Farm", "Meadow Farm", "Stone Farm", "River Farm", "North Farm"),
        ("hens", "ducks", "geese", "goats", "sheep", "pigs", "ponies", "rabbits"),
        "keeps",
        "keep",
    ),
    Theme(
        ("The libraries of the town take stock.", "The town is about to merge its libraries."),
        (
            "Elm Library",
            "Park Library",
            "Harbour Library",
            "Castle Library",
            "Station Library",
            "Garden Library",
            "Central Library",
        ),
        ("atlases", "novels", "cookbooks", "comics", "dictionaries", "biographies", "magazines", "songbooks"),
        "holds",
        "hold",
    ),
    Theme(
        ("The bakeries of the town prepare for the morning.", "It is market day, and the bakeries are busy."),
        ("Mill Bakery", "Corner Bakery", "Bridge Bakery", "Rose Bakery", "Village Bakery", "Sunrise Bakery", "Market Bakery"),
        ("scones", "muffins", "bagels", "rolls", "pretzels", "croissants", "tarts", "loaves"),
        "sells",
        "sell",
    ),
    Theme(
        ("The schools of the district list their equipment.", "The schools of the district share a storeroom."),
        ("Oak School", "River School", "Forest School", "Lake School", "Valley School", "Hilltop School", "Bay School"),
        ("globes", "violins", "drums", "microscopes", "tablets", "footballs", "easels", "telescopes"),
        "owns",
        "own",
    ),
    Theme(
        ("The parks department draws up an inventory.", "New signs are planned for the parks of the city."),
        ("Lake Park", "Castle Park", "Station Park", "South Park", "Abbey Park", "Canal Park", "Harbour Park", "Spring Park"),
        ("benches", "fountains", "lamps", "oaks", "maples", "statues", "kiosks", "swings"),
        "has",
        "have",
    ),
)

RATIOS = {"twice": ("*", 2), "half": ("/", 2), "a third": ("/", 3), "a quarter": ("/", 4)} | {
    f"{n} times": ("*", n) for n in range(3, 10)
}

PHRASINGS: dict[str, tuple[str, ...]] = {
    "leaf": ("{x} {has} {n} {a}.", "The number of {xa} is {n}."),
    "more": (
        "{x} {has} {n} more {a} than {clause}.",
        "The number of {xa} is {n} more than the number of {names}.",
        "Add {n} to the number of {names} and you get the number of {xa}.",
    ),
    "fewer": (
        "{x} {has} {n} fewer {a} than {clause}.",
        "The number of {xa} is {n} less than the number of {names}.",
        "Take {n} away from the number of {names} and you get the number of {xa}.",
    ),
    "ratio": ("{x} {has} {ratio} as many {a} as {clause}.", "The number of {xa} is {share} the number of {names}."),
    "sum": (
        "{x} {has} as many {a} as {clauses} combined.",
        "Taken together, {names} are as many as {xa}.",
        "The number of {xa} is the sum of {numbers}.",
    ),
    "difference": (
        "The number of {xa} is the difference between {numbers}.",
        "Take the number of {second} away from the number of {first} and you get the number of {xa}.",
    ),
    "balance": ("The number of {xa} is {sum} minus the number of {last}.",),
    "sum_more": ("{x} {has} {n} more {a} than {clauses} combined.", "The number of {xa} is {n} more than the sum of {numbers}."),
    "sum_fewer": (
        "{x} {has} {n} fewer {a} than {clauses} combined.",
        "The number of {xa} is {n} less than the sum of {numbers}.",
    ),
    "sum_ratio": (
        "{x} {has} {ratio} as many {a} as {clauses} combined.",
        "The number of {xa} is {share} the sum of {numbers}.",
    ),
}
QUESTIONS = ("How many {a} does {x} {have}?", "What is the number of {xa}?", "Find the number of {xa}.")


def quantity(owner: str, things: str) -> str:
    """The name of a quantity: `Maya's coins`."""
    return f"{owner}'s {things}"


def share_of(ratio: str) -> str:
    """The ratio as it stands before `the number of`: `a third of`, `twice`."""
    return f"{ratio} of" if ratio.startswith("a ") else ratio


def joined(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def kind_of(node: Node) -> str:
    """The row of PHRASINGS that fits the node's operators and operands."""
    if node.is_leaf:
        return "leaf"
    constant = not isinstance(node.operands[-1], str)
    summed = "sum_" if len(node.parents) > 1 else ""
    if constant:
        return summed + {"+": "more", "-": "fewer", "*": "ratio", "/": "ratio"}[node.operators[-1]]
    if "-" in node.operators:
        return "difference" if len(node.operands) == 2 else "balance"
    return "sum"


def statement(node: Node, theme: Theme, rng: random.Random) -> str:
    """One sentence that says how the quantity is given."""
    (x, a), constant = split_name(node.name), node.operands[-1]
    parents = [split_name(name) for name in node.parents]
    names, numbers = list(node.parents), [f"the number of {name}" for name in node.parents]
    slots = {"x": x, "a": a, "xa": node.name, "has": theme.has, "n": str(constant), "names": joined(names or [""])}
    if parents:
        slots["clause"] = _clause(x, a, *parents[0], theme.has)
        slots["clauses"] = joined([f"{owner} {theme.has} {things}" for owner, things in parents])
        slots["numbers"], slots["sum"] = joined(numbers), " plus ".join(numbers[:-1])
        slots["first"], slots["second"], slots["last"] = names[0], names[1 % len(names)], names[-1]
    if kind_of(node).endswith("ratio"):
        slots["ratio"] = next(words for words, meaning in RATIOS.items() if meaning == (node.operators[-1], constant))
        slots["share"] = share_of(slots["ratio"])
    return rng.choice(PHRASINGS[kind_of(node)]).format(**slots)


def question(name: str, theme: Theme, rng: random.Random) -> str:
    """What is asked for."""
    x, a = split_name(name)
    return rng.choice(QUESTIONS).format(x=x, a=a, xa=name, have=theme.have)


def split_name(name: str) -> tuple[str, str]:
    """Owner and things of a quantity's name."""
    owner, _, things = name.partition("'s ")
    return owner, things


def _clause(x: str, a: str, owner: str, things: str, has: str) -> str:
    """`Tom has stamps`, shortened where owner or things are the sentence's own."""
    if owner == x:
        return things
    return f"{owner} {has}" if things == a else f"{owner} {has} {things}"
