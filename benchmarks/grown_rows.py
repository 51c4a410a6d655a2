"""Rows for the curation benchmark, grown from GSM8K and MATH training questions; what each one is, is known.

    renumbered     a question with other numbers: another problem, to be kept                          60 %
    reworded       one or two words of a long question exchanged, same numbers: a near duplicate       15 %
    repeated       question and trace again, in other case and spacing: an exact duplicate             10 %
    second_trace   the same question with another trace: to be kept                                    13 %
    contaminated   a benchmark question, half of them reformatted                                       2 %

The first tenth of the rows (at most all 15,996) are the seed questions themselves (`original`); the others grow from them in
turn. The shares above are drawn; a question too short to reword, or without a number, gets a second trace instead.
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHARES = {"renumbered": 0.60, "reworded": 0.15, "repeated": 0.10, "second_trace": 0.13, "contaminated": 0.02}
LONG = 40
"""Words from which on a question is reworded: one word changed in 40 leaves a 3-word Jaccard similarity of 0.85."""
FILLERS = ["indeed", "nearby", "usually", "quiet", "little", "famous", "northern", "second-hand", "plain", "careful"]
PAD = "Let us go through it slowly and check each step before the next one, so that no number is taken for another. "


def write_rows(path: Path, data: Path, rows: int, seed: int = 0) -> dict[str, str]:
    """Write `rows` rows as JSONL (id, prompt, completion, ground_truth) in random order; returns what each id is."""
    rng = random.Random(seed)
    made = list(_rows(data, rows, rng))
    rng.shuffle(made)
    with path.open("w", encoding="utf-8") as handle:
        for _, row in made:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
    return {row["id"]: kind for kind, row in made}


def _rows(data: Path, rows: int, rng: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    seeds, benchmark = _seeds(data), benchmark_questions(data)
    rng.shuffle(seeds)
    seeds = seeds[: max(rows // 10, 1)]  # small sets hold some of everything too
    for number in range(rows):
        prompt, completion, answer = seeds[number % len(seeds)]
        kind = "original"
        if number >= len(seeds):
            kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
            if (kind == "reworded" and len(prompt.split()) < LONG) or (kind == "renumbered" and not re.search(r"\d", prompt)):
                kind = "second_trace"
            prompt, completion = _grown(kind, prompt, completion, number, benchmark, rng)
            answer = "0" if kind == "contaminated" else answer
        yield kind, _row(f"{kind}-{number:07d}", prompt, completion, answer)


def _row(name: str, prompt: str, completion: str, answer: str) -> dict[str, Any]:
    return {"id": name, "prompt": prompt, "completion": completion, "ground_truth": answer}


def _grown(kind: str, prompt: str, completion: str, number: int, benchmark: list[str], rng: random.Random) -> tuple[str, str]:
    if kind == "repeated":
        return prompt.upper(), completion.replace(" ", "  ", 3)
    completion = f"{PAD * rng.randint(0, 5)}{completion}\n(worked out as case {number})"
    if kind == "renumbered":
        return re.sub(r"\d+", lambda match: str(int(match[0][:9]) + rng.randint(1, 97)), prompt), completion
    if kind == "reworded":
        words = prompt.split()
        for _ in range(rng.randint(1, 2)):
            words.insert(rng.randrange(len(words)), rng.choice(FILLERS))
        return " ".join(words), completion
    if kind == "contaminated":
        item = rng.choice(benchmark)
        return item if rng.random() < 0.5 else item.replace(". ", ".\n").replace("$", " $ ").title(), completion
    return prompt, completion


def _seeds(data: Path) -> list[tuple[str, str, str]]:
    """(question, trace, answer); MATH prompts come without a solution and get a short stand-in."""
    gsm8k = [json.loads(line) for line in (data / "gsm8k/train.jsonl").open(encoding="utf-8")]
    math = json.loads((data / "math_train_prompts/math.8k.json").read_text())
    seeds = [(row["question"], row["answer"], row["answer"].rpartition("####")[2].strip()) for row in gsm8k]
    return seeds + [
        (row["prompt"], f"{PAD * 3}Thus the answer is \\boxed{{{row['answer']}}}.", str(row["answer"])) for row in math
    ]


def benchmark_files(data: Path) -> list[Path]:
    """GSM8K test and MATH-500."""
    return [data / "gsm8k/test.jsonl", data / "math500/test.jsonl"]


def benchmark_questions(data: Path) -> list[str]:
    """The questions of both."""
    rows = [json.loads(line) for path in benchmark_files(data) for line in path.open(encoding="utf-8")]
    return [row.get("question") or row["problem"] for row in rows]
