"""Accuracy and tokens of one checkpoint against its thinking budget: budget forcing (train/forcing.py), stored as counts.

One plain sample serves all budgets: what a row thinks up to a budget does not depend on it. So the curve compares prefixes of the
same completions, and only the answers of the rows that were cut are sampled anew for each budget.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch

from curate.examples import Problem
from curate.files import read_json
from train import checkpoints, rendering
from train.configs import BudgetConfig
from train.datasets import problem_set
from train.evaluate import PROBLEMS_AT_ONCE, Progress, check_same, counts, evaluation_key, provenance, sample_chunks
from train.forcing import Forcer, Row
from train.passk import mean_pass_at_k
from train.records import RunFolder, workspace
from train.sampling import make_sampler

PURPOSE = "budget"
"""Of the stored counts: no signal and no outcome reads it."""


class Setting(NamedTuple):
    """How the thinking is forced."""

    budget: int | None
    """Thinking tokens at most; None: as many as the model writes."""
    waits: int


PLAIN = Setting(None, 0)


def main(config: BudgetConfig, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Measure the settings whose evaluation the run folder does not have yet; returns what `report` makes of all."""
    home = workspace(config.home)
    checkpoint = checkpoints.resolve(config.model, home)
    record, step = RunFolder.of(home, checkpoint.id.run_id), checkpoint.id.step
    model, tokenizer = checkpoints.load(checkpoint.folder, config.device)
    model.eval()
    problems = problem_set(config.problems)
    keys = {one: evaluation_key(config, problems, tokenizer, budget_key(config, one)) for one in settings(config)}
    files = {one: record.evaluation_path(step, key, config.seed) for one, key in keys.items()}
    for file in files.values():
        if file.exists():
            check_same(file, config.problems.num_samples)
    missing = [one for one, file in files.items() if not file.exists()]
    forcer = Forcer(config, make_sampler(config.sampler, model, tokenizer), tokenizer)
    tallies = _measure(config, problems.rows, forcer, missing, progress) if missing else {}
    for one, tally in tallies.items():
        made = provenance(config, purpose=PURPOSE, engine=forcer.sampler.engine, **tally.totals)
        record.evaluation(step, keys[one], made, tally.counts)
    return {"run_id": checkpoint.id.run_id, "step": step, "benchmark": problems.name, **report(config, files)}


def settings(config: BudgetConfig) -> list[Setting]:
    """The plain sample, then every budget at every number of waits."""
    return [PLAIN, *(Setting(budget, waits) for waits in sorted(config.waits) for budget in sorted(config.budgets))]


def budget_key(config: BudgetConfig, setting: Setting) -> dict[str, Any]:
    """The part of the comparability key that says how the thinking was forced: what had no part in it is left out."""
    texts = asdict(config.texts)
    key = {"thinking_tokens": setting.budget, "waits": setting.waits, "start": texts["start"], "end": texts["end"]}
    if setting.budget is not None:
        key |= {"forced_exit": texts["forced_exit"], "answer_tokens": config.answer_tokens}
    return key | ({"wait": texts["wait"]} if setting.waits else {})


@dataclass
class Tally:
    """Counts of one setting so far."""

    counts: list[dict[str, Any]] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=lambda: {"tokens": 0, "thinking_tokens": 0, "forced": 0})

    def add(self, problems: Sequence[Problem], rows: Sequence[Row], tokenizer: Any, group_size: int) -> None:
        """Verify the rows of some problems."""
        texts = tokenizer.batch_decode([row.tokens for row in rows], skip_special_tokens=True)
        lengths, finished = torch.tensor([len(row.tokens) for row in rows]), torch.tensor([row.finished for row in rows])
        self.counts += counts(problems, texts, lengths, finished, group_size)
        new = {"tokens": int(lengths.sum()), "thinking_tokens": sum(row.thinking for row in rows)}
        new["forced"] = sum(row.forced for row in rows)
        self.totals = {name: total + new[name] for name, total in self.totals.items()}


def _measure(
    config: BudgetConfig, problems: Sequence[Problem], forcer: Forcer, wanted: Sequence[Setting], progress: Progress
) -> dict[Setting, Tally]:
    tallies = {one: Tally() for one in wanted}
    group_size, tokenizer = config.problems.num_samples, forcer.tokenizer
    prompts = [forcer.marks.opened(rendering.prompt_ids(tokenizer, problem)) for problem in problems]
    for start, rollouts in sample_chunks(config, forcer.sampler, prompts):
        end = min(start + PROBLEMS_AT_ONCE, len(problems))
        each = [prompt for prompt in prompts[start:end] for _ in range(group_size)]
        for one, rows in _forced(forcer, each, forcer.marks.rows(rollouts), wanted, start):
            tallies[one].add(problems[start:end], rows, tokenizer, group_size)
        progress(end, len(problems), {})
    return tallies


def _forced(
    forcer: Forcer, prompts: list[list[int]], rows: list[Row], wanted: Sequence[Setting], start: int
) -> Iterator[tuple[Setting, list[Row]]]:
    """The rows of every setting. They wait without regard to a budget: cut at it, they are what they would be under it."""
    for waits in range(max(one.waits for one in wanted) + 1):
        if waits:
            rows = forcer.wait(prompts, rows, "wait", waits, start)
        for one in (one for one in wanted if one.waits == waits):
            seed = ("answer", one.budget, waits, start)
            yield one, rows if one.budget is None else forcer.cap(prompts, rows, one.budget, *seed)


def report(config: BudgetConfig, files: dict[Setting, Path]) -> dict[str, Any]:
    """Accuracy and tokens of each setting, the plain sample first, and s1's three metrics, all from the stored counts."""
    runs = [summary(one, file) for one, file in files.items()]
    notes = [
        f"budget {budget} never binds: completions end at max_tokens {config.max_tokens}; raise that, or leave the budget out"
        for budget in sorted(config.budgets)
        if budget >= config.max_tokens
    ]
    return {"problems": config.problems.problems, "num_samples": config.problems.num_samples, "runs": runs} | {
        "metrics": s1_metrics(runs[1:]),
        "notes": notes,
    }


def summary(setting: Setting, file: Path) -> dict[str, Any]:
    """One setting's numbers; tokens are means over completions, `se` is over problems and null for one alone."""
    made, table = read_json(file.with_suffix(".json"))["provenance"], pq.read_table(file).to_pydict()
    n, c = table["num_samples"], table["num_correct"]
    rows = sum(n)
    accuracy, error = mean_pass_at_k(n, c, 1) if len(n) > 1 else (c[0] / n[0], None)
    return {
        "budget": setting.budget,
        "waits": setting.waits,
        "accuracy": accuracy,
        "se": error,
        "thinking_tokens": made["thinking_tokens"] / rows,
        "tokens": made["tokens"] / rows,
        "forced_share": made["forced"] / rows,
        "truncated_share": sum(table["num_truncated"]) / rows,
        "evaluation": file.name,
    }


def s1_metrics(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Control, Scaling and Performance over the budgets of each number of waits, and over the waits of each budget.

    The first separates what truncation does from what waiting does, the second the reverse.
    """
    groups = [("waits", waits) for waits in dict.fromkeys(run["waits"] for run in runs)]
    groups += [("budget", budget) for budget in dict.fromkeys(run["budget"] for run in runs)]
    found = []
    for fixed, value in groups:
        group = [run for run in runs if run[fixed] == value]
        thinking, accuracies = [run["thinking_tokens"] for run in group], [run["accuracy"] for run in group]
        if len(group) > 1:
            metrics = {"scaling": scaling(thinking, accuracies), "performance": max(accuracies)}
            controlled = control(thinking, [run["budget"] for run in group])
            found.append({"waits": None, "budget": None, fixed: value, "runs": len(group), "control": controlled, **metrics})
    return found


def control(thinking: Sequence[float], most: Sequence[float], least: float = 0) -> float:
    """Share of runs whose mean thinking tokens lie within their limits (s1, section 3.2)."""
    return float(np.mean([least <= tokens <= limit for tokens, limit in zip(thinking, most, strict=True)]))


def scaling(thinking: Sequence[float], accuracies: Sequence[float]) -> float | None:
    """Mean slope, in accuracy a thinking token, over all pairs of runs (s1, section 3.2); None where all think equally long."""
    pairs = combinations(sorted(zip(thinking, accuracies, strict=True)), 2)
    slopes = [(high - low) / (longer - shorter) for (shorter, low), (longer, high) in pairs if longer > shorter]
    return float(np.mean(slopes)) if slopes else None


def table(document: dict[str, Any]) -> str:
    """The report for a person, as Markdown."""
    head = f"{document['benchmark']}, {document['problems']} problems x {document['num_samples']}: {document['run_id']}@{document['step']}"
    lines = [head, "", "| budget | waits | accuracy | se | thinking tokens | tokens | forced | truncated |", "|" + " --- |" * 8]
    for run in document["runs"]:
        error = "" if run["se"] is None else f"{run['se']:.3f}"
        shares = f"{run['thinking_tokens']:.1f} | {run['tokens']:.1f} | {run['forced_share']:.3f} | {run['truncated_share']:.3f}"
        budget = "none" if run["budget"] is None else run["budget"]
        lines.append(f"| {budget} | {run['waits']} | {run['accuracy']:.3f} | {error} | {shares} |")
    lines += ["", "| runs | control | scaling, accuracy a thinking token | performance |", "|" + " --- |" * 4]
    for one in document["metrics"]:
        fixed = f"budget {one['budget']}, all waits" if one["waits"] is None else f"waits {one['waits']}, all budgets"
        slope = "" if one["scaling"] is None else f"{one['scaling']:+.4f}"
        lines.append(f"| {fixed} | {one['control']:.0%} | {slope} | {one['performance']:.3f} |")
    return "\n".join([*lines, *(f"note: {note}" for note in document["notes"])])
