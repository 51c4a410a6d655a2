"""English word problems on a random dependency graph, in the manner of iGSM (arXiv 2407.20311), with worked traces.

    Some friends compare what they have collected. The number of Leo's beads is 9. Ana has 3 more stamps than Leo has
    beads. Tom has as many coins as Ana has stamps and Leo has beads combined. How many coins does Tom have?

A problem has a number of arithmetic operations that its answer needs (a sum of three quantities counts two, as in iGSM),
redundant premises that it does not, and premises in any order. Every quantity is a whole number from 2 to 100, and the
answers are spread evenly over ten bands of it, so that a constant answer scores a few per cent.
Computations, whatever their wording, order and redundant premises, are hashed into buckets; each split owns its buckets,
so the splits are disjoint by construction. `ood` has problems with more operations than the range given.
"""

import random
from collections.abc import Iterator, Mapping
from zlib import crc32

from curate.arithmetic import check_styles, draw_styles
from curate.behaviors import Style
from curate.config import Config
from curate.errors import UsageError
from curate.examples import Example, Problem, text_id
from curate.graphs import Graph, Node, ancestry, evaluate
from curate.word_reader import read_problem
from curate.word_text import THEMES, Theme, quantity, question, statement
from curate.word_trace import write_word_trace

SOURCE = "word_graph"
BUCKETS = 16
SPLITS: dict[str, range] = {"train": range(0, 12), "dev": range(12, 14), "test": range(14, 16), "ood": range(12, 16)}
SMALLEST, LARGEST, BANDS = 2, 100, 10
MOST_OPERATIONS = 30
VALUE_TRIES = 10
SHAPES: dict[tuple[int, bool], float] = {(1, True): 0.35, (2, False): 0.3, (2, True): 0.1, (3, False): 0.15, (4, False): 0.1}
"""Parents and whether a constant joins them, with shares; at most four parents, as in iGSM."""
REUSE = 0.3
"""Chance that a parent is a quantity that another one uses already."""


class Options(Config):
    """What a recipe may say of this task beside size, operations, styles and traces."""

    redundant: tuple[int, int] = (0, 3)
    """Least and most premises that the answer does not need."""
    shuffle: bool = True
    """Premises in random order; otherwise each stands after those it depends on."""


def examples(
    *,
    size: int,
    operations: tuple[int, int] = (4, 8),
    redundant: tuple[int, int] = (0, 3),
    shuffle: bool = True,
    styles: Mapping[Style, float] | None = None,
    traces: int = 1,
    split: str = "train",
    seed: int = 0,
) -> Iterator[Example]:
    """Yield `size * traces` examples: each problem with `traces` different styles drawn by their shares.

    Args:
        operations: least and most arithmetic operations; the split `ood` takes as wide a range right above it.
        redundant, shuffle: see `Options`.
    """
    shares: dict[Style, float] = dict(styles) if styles else {"short": 0.4, "long": 0.4, "full": 0.2}
    check_styles(shares, traces)
    stream = generate(size=size, operations=operations, redundant=redundant, shuffle=shuffle, split=split, seed=seed)
    for index, (problem, _) in enumerate(stream):
        rng = random.Random(f"{seed}/{split}/{index}/traces")
        for style in draw_styles(rng, shares, traces):
            completion, _ = write_word_trace(read_problem(problem.prompt), style, rng)
            meta = {"style": style, "operations": problem.meta["operations"]}
            yield Example(f"{problem.id}-{style}", problem, completion, meta)


def generate(
    *,
    size: int,
    operations: tuple[int, int] = (4, 8),
    redundant: tuple[int, int] = (0, 3),
    shuffle: bool = True,
    split: str = "train",
    seed: int = 0,
) -> Iterator[tuple[Problem, Graph]]:
    """Yield `size` different problems of one split; problem i does not depend on `size`."""
    low, high = _checked(operations, redundant, split)
    rng = random.Random(f"word_graph/{seed}/{split}/{low}-{high}/{redundant}/{shuffle}")
    seen: set[str] = set()
    bands = [0] * BANDS
    while len(seen) < size:
        graph = _draw_balanced(rng, (low, high), split, bands)
        graph = _with_redundant(graph, rng, rng.randint(*redundant))
        theme = rng.choice(THEMES)
        graph = _named(_ordered(graph, rng, shuffle), theme, rng)
        prompt = problem_text(graph, theme, rng)
        if prompt not in seen:
            seen.add(prompt)
            yield _problem(graph, prompt), graph


def _checked(operations: tuple[int, int], redundant: tuple[int, int], split: str) -> tuple[int, int]:
    """The range of operations that the split draws from."""
    if split not in SPLITS:
        raise UsageError(f"expected a split of {', '.join(SPLITS)}, came {split!r}")
    low, high = operations
    if split == "ood":
        low, high = high + 1, high + 1 + (high - low)
    if not 1 <= low <= high <= MOST_OPERATIONS:
        raise UsageError(f"operations: expected 1 <= low <= high <= {MOST_OPERATIONS}, came {[low, high]} for the split {split}")
    if not 0 <= redundant[0] <= redundant[1] <= 10:
        raise UsageError(f"redundant: expected 0 <= low <= high <= 10, came {list(redundant)}")
    return low, high


def operation_count(graph: Graph) -> int:
    """Arithmetic operations that the answer needs."""
    return sum(len(node.operators) for node in graph.necessary)


def _problem(graph: Graph, prompt: str) -> Problem:
    return Problem(text_id(prompt), prompt, graph.answer, SOURCE, {"operations": operation_count(graph)})


def problem_text(graph: Graph, theme: Theme, rng: random.Random) -> str:
    """The problem in English: perhaps an introduction, the premises in the graph's order, the question."""
    intro = [rng.choice(theme.intros)] if rng.random() < 0.5 else []
    premises = [statement(node, theme, rng) for node in graph.nodes.values()]
    return " ".join([*intro, *premises, question(graph.queries[0], theme, rng)])


def bucket(graph: Graph) -> int:
    """Bucket 0..15 of the computation that the answer needs: names, wording, order and redundant premises do not matter."""
    codes: dict[str, int] = {}

    def code(name: str) -> int:
        if name not in codes:
            node = graph.nodes[name]
            parts = [code(operand) if isinstance(operand, str) else f"#{operand}" for operand in node.operands]
            codes[name] = crc32(f"{node.operators} {parts}".encode())
        return codes[name]

    return code(graph.queries[0]) % BUCKETS


def _draw_balanced(rng: random.Random, operations: tuple[int, int], split: str, bands: list[int]) -> Graph:
    """A random graph of the split whose answer lies in a band that is not ahead of the others; counted in `bands`."""
    ahead = min(bands) + 2 + sum(bands) // 100
    while True:
        graph = _draw_graph(rng, rng.randint(*operations))
        if graph is None or bucket(graph) not in SPLITS[split]:
            continue
        band = (int(graph.answer) - SMALLEST) * BANDS // (LARGEST - SMALLEST + 1)
        if bands[band] < ahead:
            bands[band] += 1
            return graph


def _draw_graph(rng: random.Random, operations: int) -> Graph | None:
    """A graph whose answer needs exactly that many operations; None if no values were found within the bounds."""
    parents, constants = _draw_structure(rng, operations)
    order = list(reversed(_topological(parents)))
    for _ in range(VALUE_TRIES):
        nodes: dict[str, Node] = {}
        for name in order:
            node = _draw_node(rng, name, parents[name], constants[name], nodes)
            if node is None:
                break
            nodes[name] = node
        else:
            return Graph(nodes, ("0",))
    return None


def _draw_structure(rng: random.Random, operations: int) -> tuple[dict[str, tuple[str, ...]], dict[str, bool]]:
    """Parents of each quantity, from the query `0` down, and whether a constant joins them."""
    parents: dict[str, tuple[str, ...]] = {"0": ()}
    constants = {"0": False}
    users: dict[str, tuple[str, ...]] = {"0": ()}
    open_names, left = ["0"], operations
    while left:
        name = open_names.pop(rng.randrange(len(open_names)))
        count, constant = _draw_shape(rng, left)
        left -= count - 1 + constant
        above = ancestry(users, name)
        shared = [other for other in parents if other not in above]
        chosen: list[str] = []
        for _ in range(count):
            free = [other for other in shared if other not in chosen]
            if chosen and free and rng.random() < REUSE:
                chosen.append(rng.choice(free))
            else:
                chosen.append(str(len(parents)))
                parents[chosen[-1]], constants[chosen[-1]] = (), False
                open_names.append(chosen[-1])
            users[chosen[-1]] = (*users.get(chosen[-1], ()), name)
        parents[name], constants[name] = tuple(rng.sample(chosen, count)), constant
    return parents, constants


def _draw_shape(rng: random.Random, most: int) -> tuple[int, bool]:
    fitting = {shape: share for shape, share in SHAPES.items() if shape[0] - 1 + shape[1] <= most}
    return rng.choices(list(fitting), list(fitting.values()))[0]


def _topological(parents: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Every quantity before those it depends on."""
    return sorted(parents, key=lambda name: (-len(ancestry(parents, name)), name))


def _draw_node(rng: random.Random, name: str, parents: tuple[str, ...], constant: bool, nodes: dict[str, Node]) -> Node | None:
    """Operators and constant that keep every intermediate value within the bounds, drawn evenly; None if there are none."""
    if not parents:
        value = rng.randint(SMALLEST, 30)
        return Node(name, (value,), (), value)
    fitting = []
    for operands, operators in _candidates(rng, parents, constant):
        try:
            values = evaluate([nodes[o].value if isinstance(o, str) else o for o in operands], operators)
        except ArithmeticError:
            continue
        if all(SMALLEST <= value <= LARGEST for value in values):
            fitting.append(Node(name, operands, operators, values[-1]))
    return rng.choice(fitting) if fitting else None


def _candidates(
    rng: random.Random, parents: tuple[str, ...], constant: bool
) -> list[tuple[tuple[str | int, ...], tuple[str, ...]]]:
    """Every way to join these parents that can be said in English."""
    plus = ("+",) * (len(parents) - 1)
    if not constant:
        minus = [(parents, (*plus[1:], "-"))] if len(parents) < 4 else []
        return [(parents, plus), *minus]
    joined = {"+": rng.randint(2, 20), "-": rng.randint(2, 20), "*": rng.randint(2, 5), "/": rng.randint(2, 4)}
    return [((*parents, number), (*plus, sign)) for sign, number in joined.items()]


def _with_redundant(graph: Graph, rng: random.Random, count: int) -> Graph:
    """The graph with quantities added that the answer does not need."""
    nodes = dict(graph.nodes)
    while len(nodes) < len(graph.nodes) + count:
        name = str(len(nodes))
        parents, constant = _draw_shape(rng, 2) if rng.random() < 0.7 else (0, False)
        if parents <= len(nodes) and (node := _draw_node(rng, name, tuple(rng.sample(list(nodes), parents)), constant, nodes)):
            nodes[name] = node
    return Graph(nodes, graph.queries)


def _ordered(graph: Graph, rng: random.Random, shuffle: bool) -> Graph:
    names = list(graph.nodes)
    if shuffle:
        rng.shuffle(names)
    return Graph({name: graph.nodes[name] for name in names}, graph.queries)


def _named(graph: Graph, theme: Theme, rng: random.Random) -> Graph:
    """The graph with a quantity of the theme for each name."""
    pairs = [quantity(owner, things) for owner in theme.owners for things in theme.things]
    new_name = dict(zip(graph.nodes, rng.sample(pairs, len(graph.nodes)), strict=False))

    def renamed(node: Node) -> Node:
        operands = tuple(new_name[o] if isinstance(o, str) else o for o in node.operands)
        return Node(new_name[node.name], operands, node.operators, node.value)

    return Graph({new_name[name]: renamed(node) for name, node in graph.nodes.items()}, tuple(new_name[q] for q in graph.queries))
