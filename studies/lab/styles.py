"""Which style each checkpoint writes, and how often that style is right: before RL and after it.

    python studies/lab/styles.py --home build/pilot [--variant vary-1536] [--when before] [--record]

Takes the SFT runs of a workspace that have an RL run and samples 64 problems of `dev` x 32 from both. The style is that of
the first step; `order` and `value` say what went wrong first in a wrong answer: a step before its parents were solved,
or a wrong number. `--record` keeps the shares of the styles as signals of the runs, and passes over those that have them.
Checkpoints whose weights are elsewhere (a packed study) are counted and passed over.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers.utils import logging

from curate import arithmetic
from curate.answers import Verdict, verify
from curate.behaviors import BEHAVIORS, STYLES
from curate.examples import Problem
from curate.graphs import Graph, parse_statements
from predict import store
from train import checkpoints, rendering
from train.records import RunFolder
from train.sampling import make_sampler

PROBLEMS, SAMPLES, MAX_TOKENS = 64, 32, 128
MARKS = {"reflection": "try", "verification": "check", "subgoals": "->", "analysis": "given"}


METHOD = f"first step of {PROBLEMS} problems of dev x {SAMPLES}, temperature 1"
CHECKPOINTS = """SELECT max(r.run_id) AS after, r.start_run_id AS before, c.base_model, c.variant, c.sft_learning_rate AS rate
FROM rl_runs r JOIN checkpoints c ON c.run_id = r.start_run_id AND c.rl_recipe = r.rl_recipe
WHERE c.variant LIKE '{variant}' AND r.status IN ('done', 'collapsed') GROUP BY ALL ORDER BY base_model, variant, rate, before"""
RECORDED = "SELECT DISTINCT run_id FROM signals WHERE name ^@ 'style_'"


@dataclass
class Written:
    """Counts over the completions of one checkpoint."""

    completions: int = 0
    tokens: int = 0
    styles: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    """Correct completions, by style."""
    behaviors: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def cells(self) -> list[str]:
        """Share right; share and accuracy of each style; share of completions with each behaviour; first faults; mean tokens."""
        wrong = max(1, self.completions - self.right.total())
        return [
            f"{self.right.total() / self.completions:.2f}",
            *(
                f"{self.styles[name] / self.completions:.2f}, {self.right[name] / max(1, self.styles[name]):.2f}"
                for name in STYLES
            ),
            *(f"{self.behaviors[name] / self.completions:.2f}" for name in BEHAVIORS),
            *(f"{self.faults[kind] / wrong:.2f}" for kind in ("order", "value")),
            f"{self.tokens / self.completions:.0f}",
        ]


def main() -> None:
    """Print a table, two rows a checkpoint."""
    options = _options()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    store.ingest(options.home)
    runs = store.query(options.home, CHECKPOINTS.format(variant=options.variant)).to_dicts()
    recorded = set(store.query(options.home, RECORDED)["run_id"]) if options.record else set()
    whens = [options.when] if options.when else ["before", "after"]
    wanted = [(run, when) for run in runs for when in whens if run[when] not in recorded]
    here = [(run, when) for run, when in wanted if (options.home / "runs" / run[when]).exists()]
    problems = arithmetic.problems(size=PROBLEMS, operations=(3, 9), split="dev", seed=1)
    columns = [*(f"{style}: share, right" for style in STYLES), *BEHAVIORS, "order", "value", "tokens"]
    print("| base | training set | RL | right | " + " | ".join(columns) + " |")
    print("| --- " * (4 + len(columns)) + "|")
    for run, when in here:
        written = measured(checkpoints.resolve(run[when], options.home).folder, problems)
        cells = [run["base_model"], f"{run['variant']} lr {run['rate']:g}", when, *written.cells]
        print("| " + " | ".join(cells) + " |", flush=True)
        if options.record:
            _record(RunFolder(options.home / "runs" / run[when]), written)
    if len(here) < len(wanted):
        print(f"\n{len(wanted) - len(here)} checkpoints are not in {options.home / 'runs'}: not measured", file=sys.stderr)


def _record(record: RunFolder, written: Written) -> None:
    for name in STYLES:
        record.signal(record.run.steps, f"style_{name}_share", written.styles[name] / written.completions, METHOD)


def measured(folder: Path, problems: list[Problem]) -> Written:
    """Sample the checkpoint's completions and read them."""
    model, tokenizer = checkpoints.load(folder)
    prompts = [rendering.prompt_ids(tokenizer, problem) for problem in problems]
    sampler = make_sampler("native", model.eval(), tokenizer)
    rollouts = sampler.sample(prompts, group_size=SAMPLES, max_tokens=MAX_TOKENS, temperature=1.0, seed=1)
    texts = tokenizer.batch_decode(rollouts.tokens, skip_special_tokens=True)
    written = Written(len(texts), int(rollouts.lengths.sum()))
    graphs = [parse_statements(problem.prompt) for problem in problems]
    for row, text in enumerate(texts):
        words, problem = text.split(), row // SAMPLES
        style = _style(words)
        written.styles[style] += 1
        written.behaviors.update(name for name, mark in MARKS.items() if mark in words)
        if verify(text, ground_truth=problems[problem].ground_truth) is Verdict.CORRECT:
            written.right[style] += 1
        else:
            written.faults[_first_fault(words, graphs[problem])] += 1
    return written


def _style(words: list[str]) -> str:
    """By the first step: `x r`, `x = A`, or `x = u A`."""
    step = next((place for place in range(len(words) - 2) if words[place] in arithmetic.LETTERS), None)
    if step is None or words[step + 1] != "=":
        return "short"
    return "full" if words[step + 2] in arithmetic.LETTERS else "long"


def _first_fault(words: list[str], graph: Graph) -> str:
    """Of a wrong trace: a quantity given a value before its parents had one (`order`), a wrong value (`value`), or other."""
    solved = {name for name, node in graph.nodes.items() if node.is_leaf}
    for name, value in _results(words):
        if name not in graph.nodes:
            return "other"
        if not solved.issuperset(graph.nodes[name].parents):
            return "order"
        if int(value) != graph.nodes[name].value:
            return "value"
        solved.add(name)
    return "other"


def _results(words: list[str]) -> list[tuple[str, str]]:
    """`x r` where a step ends: a name and a number that stand in no expression."""
    inside = words[: words.index("</think>")] if "</think>" in words else words
    return [
        (inside[place], inside[place + 1])
        for place in range(1, len(inside) - 1)
        if inside[place] in arithmetic.LETTERS and inside[place + 1].isdigit() and inside[place - 1] not in ("=", "+", "-", "try")
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--home", type=Path, required=True, help="a workspace")
    parser.add_argument("--variant", default="%", help="SQL LIKE pattern of the training set")
    parser.add_argument("--when", choices=("before", "after"), help="of RL; default: both")
    parser.add_argument("--record", action="store_true", help="keep the shares as signals of the runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
