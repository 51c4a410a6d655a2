"""What behaviour injection is compared with: BRIDGE's two baselines, and two controls.

*Premise permutation* (PP-Aug) states the premises in another order and keeps the trace; *chain augmentation* (RC-Aug) keeps
the question and solves it in another possible order (arXiv 2505.18917, as in its released generator). *Wrong answers* show the
behaviours and end wrong, as in arXiv 2503.01307; *length-matched* traces are as long as the injected ones and say nothing new.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from curate import arithmetic, prose
from curate.answers import Verdict, verify
from curate.behaviors import Injection, with_trace, write_trace
from curate.errors import UsageError
from curate.examples import Example
from curate.graphs import Graph, NoGraph
from curate.gsm8k_graph import Solution
from curate.gsm8k_trace import statement, write_gsm8k_trace
from curate.prose import Prose
from curate.word_reader import WordProblem
from curate.word_trace import write_word_trace
from curate.worked import Worked, read, style_of, write

TRIES = 50
REFERS_BACK = (
    "so",
    "then",
    "thus",
    "therefore",
    "hence",
    "this",
    "that",
    "these",
    "those",
    "it",
    "they",
    "next",
    "after",
    "finally",
)


class NoOtherOrder(NoGraph):
    """The steps can be done in one order alone, or the text shows no other."""

    kept = "kept_single_order"


class NoPremises(NoGraph):
    """The question is prose whose sentences lean on one another: its premises cannot be moved."""

    kept = "kept_without_premises"


def permute_premises(example: Example, injection: Injection, rng: random.Random) -> Example:
    """The question with its premises in another random order; the trace stays, and so does the problem's id."""
    worked = read(example)
    if isinstance(worked, Solution):
        raise NoPremises(f"example {example.id}: the sentences of a GSM8K question refer to one another")
    prompt = _another(lambda: _permuted(worked, rng), example.problem.prompt)
    return replace(example, problem=replace(example.problem, prompt=prompt))


def _permuted(worked: Graph | WordProblem, rng: random.Random) -> str | None:
    """The problem's text with its premises shuffled; None where that would be a problem of another split."""
    if isinstance(worked, WordProblem):
        premises = list(worked.statements.values())
        rng.shuffle(premises)
        return " ".join([*([worked.intro] if worked.intro else []), *premises, worked.question])
    graph = _reordered(worked, rng.sample(list(worked.nodes), len(worked.nodes)))
    home = next(split for split in arithmetic.SPLITS.values() if arithmetic.bucket(worked) in split)
    return arithmetic.statement_text(graph) if arithmetic.bucket(graph) in home else None


def chain(example: Example, injection: Injection, rng: random.Random) -> Example:
    """The same problem solved in another order that its dependencies allow."""
    worked = read(example)
    if isinstance(worked, Solution):
        return with_trace(example, _another(lambda: _reordered_lines(worked, rng), example.completion), ())
    graph = worked.graph if isinstance(worked, WordProblem) else worked

    def solved() -> str:
        ordered = _reordered(graph, list(_random_order(graph, rng)))
        if isinstance(worked, WordProblem):
            return write_word_trace(replace(worked, graph=ordered), style_of(example), rng)[0]
        return write_trace(ordered, style_of(example), rng)[0]

    return with_trace(example, _another(solved, example.completion), ())


def _another(draw: Callable[[], str | None], original: str) -> str:
    """The first draw that is a text of its own."""
    drawn = (draw() for _ in range(TRIES))
    text = next((text for text in drawn if text is not None and text != original), None)
    if text is None:
        raise NoOtherOrder("no other order was found")
    return text


def _reordered(graph: Graph, names: Sequence[str]) -> Graph:
    return Graph({name: graph.nodes[name] for name in names}, graph.queries)


def _random_order(graph: Graph, rng: random.Random) -> Iterator[str]:
    """All quantities, each at random among those whose parents have come."""
    waiting, come = list(graph.nodes.values()), set[str]()
    while waiting:
        node = rng.choice([node for node in waiting if come.issuperset(node.parents)])
        waiting.remove(node)
        come.add(node.name)
        yield node.name


def _reordered_lines(solution: Solution, rng: random.Random) -> str:
    """Blocks of lines in another order that the graph allows; the last block stays last, and lines that refer back stay put."""
    blocks = _blocks(solution)
    home = {step.name: place for place, block in enumerate(blocks) for step in solution.steps if step.line in block}
    needs: list[set[int]] = [set() for _ in blocks]
    for step in solution.steps:
        needs[home[step.name]] |= {home[name] for name in step.parents} - {home[step.name]}
    needs[-1] |= set(range(len(blocks) - 1))
    order: list[int] = []
    while len(order) < len(blocks):
        order.append(rng.choice([place for place in range(len(blocks)) if place not in order and needs[place] <= set(order)]))
    return "\n".join([*(solution.lines[line] for place in order for line in blocks[place]), solution.answer])


def _blocks(solution: Solution) -> list[list[int]]:
    """Runs of lines that belong together: one starts at each line with a step that does not refer back."""
    computing = {step.line for step in solution.steps}
    blocks: list[list[int]] = [[]]
    for index, line in enumerate(solution.lines):
        first = line.lower().split(maxsplit=1)[0].strip(",.:") if line.strip() else ""
        if computing & set(blocks[-1]) and index in computing and first not in REFERS_BACK:
            blocks.append([])
        blocks[-1].append(index)
    return blocks


def wrong_answer(example: Example, injection: Injection, rng: random.Random) -> Example:
    """Behaviours as by `graph`, and a wrong answer: in the embedded task a slip is carried on, elsewhere the last step slips."""
    worked = read(example)
    if isinstance(worked, WordProblem):
        return with_trace(example, *write_word_trace(worked, style_of(example), rng, injection, wrong=True))
    if isinstance(worked, Solution):
        return with_trace(example, *write_gsm8k_trace(worked, rng, injection, wrong=True))
    while True:
        completion, spans = write_trace(worked, style_of(example), rng, injection, slip=0.3)
        if verify(completion, ground_truth=example.problem.ground_truth) is Verdict.INCORRECT:
            return with_trace(example, completion, spans)


def length_matched(example: Example, injection: Injection, rng: random.Random) -> Example:
    """The plain trace with idle sentences, as many words longer as the behaviours would have made it, to half a sentence."""
    worked = read(example)
    if isinstance(worked, Graph):
        raise UsageError("length_matched writes sentences; the control of equal length for the embedded task is `filler`")
    behaved = write(example, worked, injection, rng).completion
    plain = write(example, worked, Injection(), rng).completion
    lines = [(line, _known(worked, number, line)) for number, line in enumerate(plain.split("\n"))]
    padded = _padded(lines, len(behaved.split()) - len(plain.split()), rng)
    return with_trace(example, padded.text, tuple(padded.spans))


def _known(worked: Worked, number: int, line: str) -> str | None:
    """What is known after a line of the plain trace; None for a line without a step."""
    if isinstance(worked, Solution):
        here = [said for step in worked.steps if step.line == number and (said := statement(step))]
        return here[-1] if here else None
    assert isinstance(worked, WordProblem)
    name = next((name for name in worked.graph.nodes if line.startswith((f"{name}:", f"Now {name}."))), None)
    return name and f"{name} = {worked.graph.nodes[name].value}"


def _padded(lines: list[tuple[str, str | None]], words: int, rng: random.Random) -> Prose:
    """The lines with idle sentences spread over them, about `words` words in all."""
    text, known, filled = Prose(), list[str](), 0
    steps = sum(said is not None for _, said in lines)
    for line, said in lines:
        text.write(line)
        if said is None:
            continue
        known.append(said)
        while filled + prose.IDLE_WORDS / 2 < words * len(known) / steps:
            sentence = prose.idle(rng.choice(known), rng)
            text.write(sentence, "filler")
            filled += len(sentence.split())
    return text
