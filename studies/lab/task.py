"""What the embedded task looks like, split by split, and what answering without thinking earns.

python studies/lab/task.py
"""

from collections import Counter
from itertools import combinations
from statistics import mean

from curate import arithmetic
from curate.behaviors import STYLES
from curate.examples import Problem
from curate.graphs import parse_statements
from train.heldout import in_all_styles

SIZE = 6000
RANGES = {"train": (3, 8), "dev": (3, 9), "A": (3, 9), "B": (3, 9), "shifted": (3, 6)}


def main() -> None:
    """Print a table, then how many prompts the splits share."""
    splits = {split: arithmetic.problems(size=SIZE, operations=RANGES[split], split=split) for split in RANGES}
    print(f"{SIZE} problems a split; constant: the best constant answer; guess: an answer drawn from the split's own")
    print(
        "| split | operations | prompt tokens | in order | constant | guess | "
        + " | ".join(f"{style} tokens" for style in STYLES)
        + " |"
    )
    print("| --- " * (6 + len(STYLES)) + "|")
    for split, problems in splits.items():
        print("| " + " | ".join(_row(split, problems)) + " |")
    prompts = {split: {problem.prompt for problem in problems} for split, problems in splits.items()}
    print("prompts in two splits:", sum(len(prompts[a] & prompts[b]) for a, b in combinations(prompts, 2)))


def _row(split: str, problems: list[Problem]) -> list[str]:
    answers = Counter(problem.ground_truth for problem in problems)
    shares = [count / len(problems) for count in answers.values()]
    lengths = [[len(e.completion.split()) for e in in_all_styles(problem)] for problem in problems[:1000]]
    ordered = mean(_in_order(problem) for problem in problems)
    return [
        split,
        "{} to {}".format(*RANGES[split]),
        f"{mean(len(problem.prompt.split()) for problem in problems):.0f}",
        f"{ordered:.2f}",
        f"{max(shares):.2%}",
        f"{sum(share**2 for share in shares):.2%}",
        *(f"{mean(of_style):.0f} (max {max(of_style)})" for of_style in zip(*lengths, strict=True)),
    ]


def _in_order(problem: Problem) -> bool:
    """Whether every statement stands after those it depends on."""
    stated: set[str] = set()
    for node in parse_statements(problem.prompt).nodes.values():
        if not stated.issuperset(node.parents):
            return False
        stated.add(node.name)
    return True


if __name__ == "__main__":
    main()
