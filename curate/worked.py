"""A worked example read as a graph, of whichever kind it is, and written again with behaviours."""

import random
import re

from curate.behaviors import STYLES, Injection, Style, inject, with_trace
from curate.errors import InputError
from curate.examples import Example
from curate.graphs import Graph, NoGraph, parse_statements
from curate.gsm8k_graph import Solution, recover
from curate.gsm8k_trace import write_gsm8k_trace
from curate.word_reader import WordProblem, read_problem
from curate.word_trace import write_word_trace

_EMBEDDED = re.compile(r"[a-z](?: (?:[a-z]|\d+|[-+=?]))+")

Worked = Graph | WordProblem | Solution
"""The embedded task, an English word problem, a GSM8K solution."""


def read(example: Example) -> Worked:
    """The graph of the example's solution, by what its text looks like.

    Raises:
        NoGraph: it is of none of these kinds, or its graph cannot be recovered.
    """
    if "####" in example.completion:
        return recover(example.problem.prompt, example.completion)
    if not _EMBEDDED.fullmatch(example.problem.prompt):
        return read_problem(example.problem.prompt)
    if example.meta.get("style") not in STYLES:
        raise NoGraph(f"example {example.id}: a problem of the embedded task without the style of its trace")
    try:
        return parse_statements(example.problem.prompt)
    except InputError as error:
        raise NoGraph(f"example {example.id}: {error}") from None


def style_of(example: Example) -> Style:
    """The style that its trace is written in; `long` where nothing says it."""
    style: Style = example.meta.get("style") or "long"
    return style


def write(example: Example, worked: Worked, injection: Injection, rng: random.Random) -> Example:
    """The example with its trace written anew, behaviours injected, spans recorded."""
    if isinstance(worked, WordProblem):
        return with_trace(example, *write_word_trace(worked, style_of(example), rng, injection))
    if isinstance(worked, Solution):
        return with_trace(example, *write_gsm8k_trace(worked, rng, injection))
    return inject(example, injection, rng)
