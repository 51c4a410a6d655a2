"""The embedded problem source: small branching computations over 0..15, with exact traces in several styles.

    prompt  k 6 l 7 m = k + 9 n = k + l o = m - l + k p = o - 1 q = p - k r = l + q ? p q r
    short   <think> m 15 o 14 p 13 q 7 r 14 </think> ans 13 7 14
    long    <think> m = 6 + 9 m 15 o = 15 - 7 + 6 o 14 ... </think> ans 13 7 14
    full    <think> m = k 6 + 9 m 15 o = m 15 - l 7 + k 6 o 14 ... </think> ans 13 7 14

Every token is one word. A problem has 2 or 3 leaves, n operations that the answer needs, and up to two
distractors that it does not (`n = k + l` above). Statements stand roughly, not always, after those they depend on, so
the order of the computation has to be found. Two or three values are asked for, near uniform over 0..15, so that a
constant answer scores near 1/256 or less.
Problems are renamed to a canonical form and hashed into buckets; each split owns its buckets, so the splits are
disjoint by construction, up to renaming.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

from curate.behaviors import LARGEST_VALUE, STYLES, Style, write_trace
from curate.errors import UsageError
from curate.examples import Example, Problem, text_id
from curate.graphs import Graph, Node, evaluate

LETTERS = tuple("abcdefghijklmnopqrst")
SPECIALS = (
    *[
        "<pad>",
        "<bos>",
        "<eos>",
        "<think>",
        "</think>",
        "?",
        "=",
        "+",
        "-",
        "->",
        "given",
        "try",
        "need",
        "back",
        "check",
        "ok",
        "wrong",
        "redo",
        "Wait",
        "ans",
        "goal",
        "let",
    ],
)
VOCABULARY = (*SPECIALS, *(str(value) for value in range(LARGEST_VALUE + 1)), *LETTERS)
"""The 58 tokens of the embedded models, in id order."""

BUCKETS = 16
SPLITS: dict[str, range] = {
    "train": range(0, 12),  # pre-training, SFT, held-out loss, RL prompts
    "dev": range(12, 13),  # tuning
    "A": range(13, 14),  # signals before RL
    "B": range(14, 15),  # outcome after RL
    "shifted": range(15, 16),  # outcome on problems of another kind: see SHIFTED
}
MOST_UNUSED = 3
REUSE = 0.75


@dataclass(frozen=True)
class Shape:
    """What problems are like, their number of operations apart."""

    operands: tuple[float, ...] = (0.35, 0.35, 0.15, 0.15)
    """Shares of operations with 1, 2, 3, ... parents; a single parent is joined by a constant."""
    distractors: tuple[int, ...] = (0, 0, 1, 1, 2)
    """Drawn from evenly."""
    plus: float = 0.5
    """Chance of `+` where both operators keep within 0..15."""
    disorder: float = 2.0
    """A statement moves down by up to this many places: 0 keeps every one after those it depends on."""


COMMON = Shape()
SHIFTED = Shape(operands=(0.2, 0.3, 0.25, 0.25), distractors=(2, 3, 4), plus=0.7, disorder=3.5)
"""Of the split `shifted`: more parents, distractors and disorder, larger values."""


def examples(
    *,
    size: int,
    operations: tuple[int, int] = (2, 6),
    styles: Mapping[Style, float] | None = None,
    traces: int = 1,
    split: str = "train",
    seed: int = 0,
) -> Iterator[Example]:
    """Yield `size * traces` examples: each problem with `traces` different styles drawn by their shares."""
    shares: dict[Style, float] = dict(styles) if styles else {"short": 0.4, "long": 0.4, "full": 0.2}
    check_styles(shares, traces)
    for index, (problem, graph) in enumerate(generate(size=size, operations=operations, split=split, seed=seed)):
        rng = random.Random(f"{seed}/{split}/{index}/traces")
        for style in draw_styles(rng, shares, traces):
            completion, _ = write_trace(graph, style, rng)
            meta = {"style": style, "operations": problem.meta["operations"]}
            yield Example(f"{problem.id}-{style}", problem, completion, meta)


def problems(*, size: int, operations: tuple[int, int] = (3, 9), split: str, seed: int = 0) -> list[Problem]:
    """The first `size` problems of a split's stream: a longer list starts with the shorter one."""
    return [problem for problem, _ in generate(size=size, operations=operations, split=split, seed=seed)]


def generate(*, size: int, operations: tuple[int, int], split: str, seed: int) -> Iterator[tuple[Problem, Graph]]:
    """Yield `size` different problems of one split; problem i does not depend on `size`."""
    if split not in SPLITS:
        raise UsageError(f"expected a split of {', '.join(SPLITS)}, came {split!r}")
    low, high = operations
    if not 1 <= low <= high <= 14:
        raise UsageError(f"operations: expected 1 <= low <= high <= 14, came {list(operations)}")
    rng, shape = random.Random(f"{seed}/{split}/{low}-{high}"), SHIFTED if split == "shifted" else COMMON
    seen: set[str] = set()
    while len(seen) < size:
        graph = draw_graph(rng, rng.randint(low, high), shape)
        prompt = statement_text(graph)
        if bucket(graph) in SPLITS[split] and prompt not in seen:
            seen.add(prompt)
            yield _problem(graph, prompt), graph


def _problem(graph: Graph, prompt: str) -> Problem:
    meta = {"operations": len(graph.necessary)}
    return Problem(text_id(prompt), prompt, graph.answer, "arithmetic", meta)


def statement_text(graph: Graph) -> str:
    """The problem as the user turn states it."""
    words = [word for node in graph.nodes.values() for word in statement_words(node)]
    return " ".join([*words, "?", *graph.queries])


def statement_words(node: Node) -> list[str]:
    """`k 6` for a leaf, `m = k + 9` for an operation."""
    if node.is_leaf:
        return [node.name, str(node.value)]
    words = [node.name, "=", str(node.operands[0])]
    for operator, operand in zip(node.operators, node.operands[1:], strict=True):
        words += [operator, str(operand)]
    return words


def bucket(graph: Graph) -> int:
    """Bucket 0..15 of the problem up to renaming: letters are replaced by their place in the statement order."""
    place = {name: f"#{index}" for index, name in enumerate(graph.nodes)}
    text = " ".join(place.get(word, word) for word in statement_text(graph).split())
    return crc32(text.encode()) % BUCKETS


def draw_graph(rng: random.Random, operations: int, shape: Shape = COMMON) -> Graph:
    """One random problem whose answer needs exactly `operations` operations."""
    while True:
        graph = _try_graph(rng, operations, shape)
        if graph is not None:
            return _disordered(graph, rng, shape.disorder)


def _try_graph(rng: random.Random, operations: int, shape: Shape) -> Graph | None:
    """Draw the statements in order; None if no expression fits or too many results stay unused."""
    leaves, distractors = rng.choice((2, 3)), rng.choice(shape.distractors)
    total = leaves + operations + distractors
    if total > len(LETTERS):
        return None
    offset = rng.randrange(len(LETTERS))
    names = [LETTERS[(offset + i) % len(LETTERS)] for i in range(total)]
    aside = set(rng.sample(range(leaves + 1, total), distractors)) if distractors else set()
    nodes = {name: Node(name, (value := rng.randint(0, LARGEST_VALUE),), (), value) for name in names[:leaves]}
    unused: list[str] = []
    usable = list(names[:leaves])
    for index in range(leaves, total):
        pool = list(nodes) if index in aside else usable
        node = _draw_node(rng, names[index], nodes, pool, [] if index in aside else unused, shape)
        if node is None:
            return None
        nodes[node.name] = node
        if index not in aside:
            unused = [name for name in unused if name not in node.parents] + [node.name]
            usable = [*usable, node.name]
    if len(unused) > MOST_UNUSED:
        return None
    return Graph(nodes, _queries(usable[leaves:], unused))


def _disordered(graph: Graph, rng: random.Random, most: float) -> Graph:
    """The same computation with its statements moved about, and named in their new order: no letter tells what depends on what."""
    names = list(graph.nodes)
    places = {name: place + rng.uniform(0, most) for place, name in enumerate(names)}
    new_name = dict(zip(sorted(names, key=places.__getitem__), names, strict=True))

    def renamed(node: Node) -> Node:
        operands = tuple(new_name[o] if isinstance(o, str) else o for o in node.operands)
        return replace(node, name=new_name[node.name], operands=operands)

    by_name = {node.name: node for node in map(renamed, graph.nodes.values())}
    asked = {new_name[name] for name in graph.queries}
    return Graph({name: by_name[name] for name in names}, tuple(name for name in names if name in asked))


def _queries(results: list[str], unused: list[str]) -> tuple[str, ...]:
    """All unused results, filled up with the latest ones to three (or all), in statement order."""
    asked = set(unused)
    for name in reversed(results):
        if len(asked) >= min(MOST_UNUSED, len(results)):
            break
        asked.add(name)
    return tuple(name for name in results if name in asked)


def _draw_node(
    rng: random.Random, name: str, nodes: dict[str, Node], pool: Sequence[str], unused: Sequence[str], shape: Shape
) -> Node | None:
    for _ in range(50):
        parents = _draw_parents(rng, pool, unused, shape)
        operands: tuple[str | int, ...] = tuple(parents) if len(parents) > 1 else (parents[0], rng.randint(1, 9))
        values = [nodes[o].value if isinstance(o, str) else o for o in operands]
        operators = _draw_operators(rng, values, shape)
        if operators is not None:
            return Node(name, operands, operators, evaluate(values, operators)[-1])
    return None


def _draw_parents(rng: random.Random, pool: Sequence[str], unused: Sequence[str], shape: Shape) -> list[str]:
    count = min(1 + rng.choices(range(len(shape.operands)), shape.operands)[0], len(pool))
    parents: list[str] = []
    while len(parents) < count:
        fresh = [name for name in unused if name not in parents]
        source = fresh if fresh and rng.random() < REUSE else [name for name in pool if name not in parents]
        parents.append(rng.choice(source))
    rng.shuffle(parents)
    return parents


def _draw_operators(rng: random.Random, values: list[int], shape: Shape) -> tuple[str, ...] | None:
    """Operators that keep every intermediate value in 0..15, `plus` deciding where both do; None if none does."""
    operators, total = [], values[0]
    for value in values[1:]:
        fits = [s for s, r in (("+", total + value), ("-", total - value)) if 0 <= r <= LARGEST_VALUE]
        if not fits:
            return None
        operators.append(fits[0] if len(fits) == 1 or rng.random() < shape.plus else "-")
        total = total + value if operators[-1] == "+" else total - value
    return tuple(operators)


def check_styles(shares: Mapping[Style, float], traces: int) -> None:
    """Refuse unknown styles and more traces than there are styles with a share."""
    unknown = [style for style in shares if style not in STYLES]
    if unknown:
        raise UsageError(f"styles: expected {', '.join(STYLES)}, came {unknown[0]!r}")
    possible = sum(share > 0 for share in shares.values())
    if not 1 <= traces <= possible:
        raise UsageError(f"traces: expected 1 to {possible} (one a style with a share), came {traces}")


def draw_styles(rng: random.Random, shares: Mapping[Style, float], traces: int) -> list[Style]:
    """That many different styles by their shares."""
    left = {style: share for style, share in shares.items() if share > 0}
    drawn: list[Style] = []
    while len(drawn) < traces:
        style = rng.choices(list(left), list(left.values()))[0]
        drawn.append(style)
        del left[style]
    return drawn
