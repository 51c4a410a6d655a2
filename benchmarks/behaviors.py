"""Every figure of docs/behaviors.md: recovered graphs, realised rates, how well behaviours are measured, and traces to read.

python benchmarks/behaviors.py --data DIR            # DIR holds gsm8k/train.jsonl
python benchmarks/behaviors.py --data DIR --show 10  # ten injected traces instead
"""

import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path

from curate import arithmetic, word_graph
from curate.behaviors import Injection
from curate.examples import Example
from curate.files import read_jsonl
from curate.graphs import NoGraph
from curate.gsm8k_graph import recover
from curate.injection import inject_all
from curate.measure_behaviors import MEASURED, behavior_table, measure, places
from curate.sources import Source, load

BRIDGE = {"reflection": 0.1, "subgoals": 1.0, "analysis": (0.0, 0.1, 0.4, 0.8, 1.0)}
METHODS = {
    "BRIDGE": Injection.model_validate(BRIDGE),
    "BRIDGE, reflection 0.2": Injection.model_validate(BRIDGE | {"reflection": 0.2}),
    "BRIDGE + verification 0.2": Injection.model_validate(BRIDGE | {"verification": 0.2}),
    "permute_premises": Injection(method="permute_premises"),
    "chain": Injection(method="chain"),
    "wrong_answer": Injection.model_validate({"method": "wrong_answer", **BRIDGE}),
    "length_matched": Injection.model_validate({"method": "length_matched", **BRIDGE}),
}


def sets(data: Path, size: int) -> dict[str, list[Example]]:
    """Examples of each kind."""
    return {
        "embedded, 2 to 6 operations": list(arithmetic.examples(size=size)),
        "word_graph, 4 to 8 operations": list(word_graph.examples(size=size)),
        "word_graph, 15 to 20 operations": list(word_graph.examples(size=size, operations=(15, 20))),
        "gsm8k": list(load(Source(path=data / "gsm8k/train.jsonl"), 0))[:size],
    }


def recovery(data: Path) -> None:
    """The share of GSM8K solutions with a graph, and why the others have none."""
    failures, rows, traced, quoted, steps = Counter[str](), 0, 0, 0, 0
    for _, row in read_jsonl(data / "gsm8k/train.jsonl"):
        rows += 1
        try:
            solution = recover(row["question"], row["answer"])
        except NoGraph as error:
            failures[re.sub(r"<<.*>>:?|answer .*", "...", str(error))] += 1
            continue
        traced += not solution.unexplained()
        steps += len(solution.steps)
        quoted += sum(step.quote is not None for step in solution.steps)
    found = rows - failures.total()
    print(f"graph recovered: {found} of {rows} ({found / rows:.1%}); {steps} steps, {quoted / steps:.1%} can be quoted")
    print(f"every number above 12 is a step's result or stands in the question: {traced / found:.1%} of the recovered")
    for reason, count in failures.most_common():
        print(f"  {count:4d}  {reason}")


def rates(name: str, examples: list[Example]) -> None:
    """Realised rates, lengths and what was kept, of each method."""
    plain = sum(len(example.completion.split()) for example in examples) / len(examples)
    print(f"\n{name}: {len(examples)} examples, {plain:.0f} words\n")
    print("| method | injected | reflection | verification | subgoals | analysis | filler | words | kept |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for method, injection in METHODS.items():
        if method == "length_matched" and name.startswith("embedded"):
            continue
        made = inject_all(examples, injection, 0)
        kept = ", ".join(f"{count} {reason.removeprefix('kept_')}" for reason, count in made.counts.items() if "kept" in reason)
        cells = [
            f"{made.rates[name]['per_example']:.2f} ({made.rates[name]['share']:.0%})" if name in made.rates else "-"
            for name in ("reflection", "verification", "subgoals", "analysis", "filler")
        ]
        words = sum(len(example.completion.split()) for example in made.examples) / len(made.examples)
        print("|", " | ".join([method, str(made.counts["injected"]), *cells, f"{words:.0f}", kept or "-"]), "|")


def agreement(name: str, examples: list[Example]) -> None:
    """How well the patterns find what was injected."""
    made = inject_all(examples, METHODS["BRIDGE + verification 0.2"], 0)
    for row in behavior_table(made.examples):
        scores = [f"{row[key]:.2f}" if row[key] is not None else "-" for key in ("precision", "recall")]
        print("|", " | ".join([name, row["behavior"], f"{row['per_example']:.2f}", f"{row['recorded']:.2f}", *scores]), "|")


def show(examples: list[Example], count: int) -> None:
    """Injected traces with every behaviour in brackets."""
    made = inject_all(examples, METHODS["BRIDGE + verification 0.2"], 0).examples
    rich = [example for example in made if len({span.behavior for span in example.spans}) >= 3 and len(example.completion) < 1100]
    for example in rich[:count]:
        print(f"\n```\n{example.problem.prompt}\n\n{example.completion}\n```")


def real_traces(data: Path) -> dict[str, list[str]]:
    """Traces of two models: Marco-o1 (mixed topics) and R1-style ones for Qwen3 (mathematics)."""
    marco = json.loads((data / "marco_o1_cot/CoT_demo.json").read_text())
    r1 = [row for path in sorted((data / "rasbt_grpo_logs").glob("*.json")) for row in json.loads(path.read_text())]
    return {"Marco-o1": [row["response"] for row in marco], "R1-style": [row["message_thinking"] for row in r1]}


def label(data: Path, count: int) -> None:
    """A sample of measured places with ten words around each."""
    found: dict[str, list[str]] = {behavior: [] for behavior in MEASURED}
    for text in (text for texts in real_traces(data).values() for text in texts):
        words = text.split()
        for span in places(text):
            parts = (words[max(0, span.start - 10) : span.start], words[span.start : span.end], words[span.end : span.end + 12])
            found[span.behavior].append("{} [[{}]] {}".format(*map(" ".join, parts)))
    for behavior, lines in found.items():
        print(f"\n{behavior}: {len(lines)}")
        print(*(f"- {line}" for line in random.Random(7).sample(lines, min(count, len(lines)))), sep="\n")


def main() -> None:
    """Print the tables, or the traces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--label", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.label:
        label(arguments.data, arguments.label)
        return
    made = sets(arguments.data, arguments.size)
    if arguments.show:
        each = -(-arguments.show // 3)
        for name, count in zip(
            ("gsm8k", "word_graph, 4 to 8 operations", "embedded, 2 to 6 operations"), (each, each, 99), strict=True
        ):
            show(made[name], min(count, arguments.show - 2 * each) if count == 99 else count)
        return
    recovery(arguments.data)
    for name, examples in made.items():
        rates(name, examples)
    print("\n| traces | behaviour | measured an example | recorded | precision | recall |\n| --- | --- | --- | --- | --- | --- |")
    for name, examples in made.items():
        agreement(name, examples)
    print("\n| real traces | words |", " | ".join(MEASURED), "|\n| --- |", "--- | " * (1 + len(MEASURED)))
    for name, texts in real_traces(arguments.data).items():
        counts = [str(sum(measure(text)[behavior] for text in texts)) for behavior in MEASURED]
        print(f"| {name}, {len(texts)} | {sum(len(text.split()) for text in texts)} |", " | ".join(counts), "|")


if __name__ == "__main__":
    main()
