"""Precision and recall of decontamination, kind by kind, on benchmark questions planted among training questions.

    python benchmarks/contamination.py --data ../shared/data [--items 300]

Items of GSM8K test and MATH-500 are planted in GSM8K train and MATH train questions: verbatim; reformatted (case, LaTeX
spacing and sizes, dashes, thousands separators); renumbered (all numbers changed: another problem with the same text);
embedded between another question and an instruction; paraphrased by the fixed rules below, which exchange phrases and names
and turn sentences round: a stand-in that is weaker than a language model's rewriting. Beside Forerun's coverage rule stand
open-r1's rule (any shared 8-gram of words split at white space) and 12-grams in the manner of datatrove (lower case, no
punctuation, digits as 0), both written here. `clean` is the share of the training questions that a rule flags: MATH train
shares sentences with MATH-500 ("Enter your answer in the form ..."), so it is no count of errors alone. Precision counts
every flagged training question as one, with renumbered plants left out.
"""

import argparse
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl

from curate.decontaminate import Decontaminate, Index
from curate.examples import Problem, read_problems

PHRASES = {
    "how many": "what number of", "how much": "what amount of", "what is": "determine", "find": "work out", "compute": "calculate",
    "each": "every", "buys": "purchases", "bought": "purchased", "sells": "is selling", "gives": "hands", "total": "overall",
    "left": "remaining", "needs": "requires", "wants to": "would like to", "has": "owns", "makes": "produces", "gets": "receives",
    "let": "suppose", "if": "given that", "such that": "for which", "value": "size", "express your answer as": "write the result as",
    "positive integer": "whole number above zero", "in terms of": "using", "than": "compared to", "there are": "we have", "also": "too",
    "all": "the whole of", "more": "additional", "does": "will", "a day": "daily", "week": "seven days", "takes": "needs", "costs": "is priced at",
}  # fmt: skip
NAMES = ["Ada", "Bruno", "Chike", "Dalia", "Emre", "Farah", "Goran", "Hana"]


def verbatim(text: str, rng: random.Random, others: list[str]) -> str:
    """As it is."""
    return text


def reformatted(text: str, rng: random.Random, others: list[str]) -> str:
    """Other case, quotes, LaTeX sizes, delimiters and spacing, thousands separators."""
    text = text.replace("\\frac", "\\dfrac").replace("\\left", "").replace("\\right", "").replace("'", "’")
    text = re.sub(r"\$(.+?)\$", r"\\( \1 \\)", text, flags=re.DOTALL)
    text = re.sub(r"\b(\d{1,3})(\d{3})\b", r"\1,\2", text)
    return re.sub(r"\s*([=+])\s*", rng.choice([r" \1 ", r"\1"]), text.upper() if "\\" not in text else text).replace(
        ". ", ".\n\n"
    )


def renumbered(text: str, rng: random.Random, others: list[str]) -> str:
    """Every number is another one."""
    return re.sub(r"\d+", lambda match: str(int(match[0]) + rng.randint(1, 9)), text)


def embedded(text: str, rng: random.Random, others: list[str]) -> str:
    """Between another question and an instruction."""
    return f"{rng.choice(others)}\n\n{text}\n\nLet's think step by step and put the final answer in a box."


def paraphrased(text: str, rng: random.Random, others: list[str]) -> str:
    """Phrases and names exchanged, neighbouring short sentences turned round."""
    for phrase, other in PHRASES.items():
        text = re.sub(rf"\b{phrase}\b", other, text, flags=re.IGNORECASE)
    for name in set(re.findall(r"(?<![.?!] )(?<!^)\b[A-Z][a-z]{2,}\b", text)):
        text = text.replace(name, rng.choice(NAMES))
    sentences = re.split(r"(?<=[.?!])\s+", text)
    return " ".join([*sentences[1:2], *sentences[:1], *sentences[2:]]) if len(sentences) > 2 else text


KINDS = (verbatim, reformatted, renumbered, embedded, paraphrased)
Rule = Callable[[list[str]], list[bool]]


def ours(index: Index, least: float, *, masked: bool = False) -> Rule:
    """Forerun: the highest coverage at or above `least`, or a short or small item, as `drop` has it."""

    def flag(texts: list[str]) -> list[bool]:
        hits = index.hits(texts)
        flagged = (pl.col("kind") == "ngram") & (pl.col("coverage") >= least) | pl.col("kind").is_in(["whole", "similar"])
        flagged |= (pl.col("kind") == "renumbered") & masked
        rows = set(hits.filter(flagged)["row"])
        return [row in rows for row in range(len(texts))]

    return flag


def any_shared(items: list[str], n: int, words: Callable[[str], list[str]]) -> Rule:
    """Any shared n-gram, by plain sets of strings."""

    def grams(text: str) -> set[str]:
        split = words(text)
        return {" ".join(split[i : i + n]) for i in range(len(split) - n + 1)}

    known = set().union(*map(grams, items))
    return lambda texts: [not known.isdisjoint(grams(text)) for text in texts]


def datatrove_words(text: str) -> list[str]:
    """Lower case, digits as 0, punctuation gone."""
    return re.sub(r"[^\w\s]", "", re.sub(r"\d+(\.\d+)?", "0", text.lower())).split()


def main() -> None:
    """Plant, look up, print a line a rule."""
    options = _options()
    rng = random.Random(options.seed)
    benchmarks = {name: read_problems(options.data / f"{name}/test.jsonl") for name in ("gsm8k", "math500")}
    train = [problem.prompt for problem in read_problems(options.data / "gsm8k/train.jsonl")]
    train += [row["prompt"] for row in json.loads((options.data / "math_train_prompts/math.8k.json").read_text())]
    every = [problem.prompt for problems in benchmarks.values() for problem in problems]
    chosen = [p.prompt for problems in benchmarks.values() for p in rng.sample(problems, min(options.items, len(problems)))]
    sets = {kind.__name__: [kind(text, rng, train) for text in chosen] for kind in KINDS}
    sets["renumbered"] = [text for text, item in zip(sets["renumbered"], chosen, strict=True) if text != item]
    sets["clean"] = train
    print(
        f"{len(chosen)} items a kind in {len(train)} training questions; words that a paraphrase keeps in place: {_kept(chosen, sets):.0%}"
    )
    print(f"{'rule':34s}" + "".join(f"{name:>12s}" for name in sets) + f"{'precision':>12s}")
    for name, rule in _rules(benchmarks, every).items():
        found = {kind: rule(texts) for kind, texts in sets.items()}
        true = sum(sum(flags) for kind, flags in found.items() if kind not in {"clean", "renumbered"})
        shares = "".join(f"{sum(flags) / len(flags):12.1%}" for flags in found.values())
        print(f"{name:34s}{shares}{true / max(true + sum(found['clean']), 1):12.1%}")


def _rules(benchmarks: dict[str, list[Problem]], items: list[str]) -> dict[str, Rule]:
    five, eight, thirteen = (Index(benchmarks, Decontaminate(against=(Path("given"),), ngram=n)) for n in (5, 8, 13))
    rules = {f"forerun, coverage >= {least:g}": ours(eight, least) for least in (1e-9, 0.3, 0.5, 0.8)}
    rules["forerun, 0.5 and numbers masked"] = ours(eight, 0.5, masked=True)
    rules["forerun, 5-grams, >= 0.5"] = ours(five, 0.5)
    rules["forerun, 13-grams, >= 0.5"] = ours(thirteen, 0.5)
    rules["open-r1: any 8-gram"] = any_shared(items, 8, lambda text: text.lower().strip().split())
    rules["datatrove's manner: any 12-gram"] = any_shared(items, 12, datatrove_words)
    return rules


def _kept(items: list[str], sets: dict[str, list[str]]) -> float:
    """Mean share of an item's neighbouring word pairs that its paraphrase still has."""
    pairs = [
        [set(zip(t.lower().split(), t.lower().split()[1:], strict=False)) for t in texts]
        for texts in (items, sets["paraphrased"])
    ]
    return sum(len(a & b) / max(len(a), 1) for a, b in zip(*pairs, strict=True)) / len(items)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with gsm8k/, math500/ and math_train_prompts/")
    parser.add_argument("--items", type=int, default=300, help="of each benchmark")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
