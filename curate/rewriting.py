"""Behaviours written by a language model, where no graph can be had: it marks what it adds, and the verifier decides.

The model returns the whole trace with each added behaviour between tags of its name; the tags are taken out and become
spans. A rewrite whose answer does not verify, or that marks nothing, is rejected; after the last attempt the original stays.
"""

import re
from collections import Counter
from collections.abc import Sequence

from curate.answers import Verdict, verify
from curate.behaviors import BEHAVIORS, Injection, with_trace
from curate.endpoint import Answer, Client, Messages
from curate.examples import Example, Span

DEFINITIONS = {
    "reflection": "try for a later quantity too early, name what is still missing for it, and return to the next possible step",
    "verification": "check a result by another computation; or make a slip, notice it by a check, and do the step again correctly",
    "subgoals": "carry out a computation with several operations one operation at a time",
    "analysis": "before computing a quantity, restate what the question says about it",
}
INSTRUCTIONS = """You rewrite worked solutions so that they show certain ways of thinking. Rules:
- Keep the solution's steps, its style, its format and its final answer exactly as they are; write the final answer in the same form.
- Add only what is listed below, in natural English, where it fits; do not mention these rules.
- Put each added passage between tags of its name, such as <{first}>...</{first}>. Do not nest tags.
- Reply with the rewritten solution and nothing else.

Add, about {rate}:
{definitions}"""
_TAG = re.compile(rf"<(/?)({'|'.join(BEHAVIORS)})>")


def rewrite_all(
    examples: Sequence[Example], injection: Injection, client: Client, seed: int
) -> tuple[list[Example], Counter[str]]:
    """Each example rewritten, or as it was; and counts of `injected` and `rejected_<reason>`.

    Raises:
        UsageError, CheckFailed: see `Client.ask_all`.
    """
    made: dict[str, Example] = {}
    reasons: dict[str, str] = {}
    attempts = injection.endpoint.attempts if injection.endpoint else 1
    for attempt in range(attempts):
        left = [example for example in examples if example.id not in made]
        answers = client.ask_all([(messages(example, injection), seed + attempt) for example in left])
        for example, answer in zip(left, answers, strict=True):
            result = accepted(example, answer)
            if isinstance(result, Example):
                made[example.id] = result
            else:
                reasons[example.id] = result
    kept = Counter(f"rejected_{reasons[example.id]}" for example in examples if example.id not in made)
    return [made.get(example.id, example) for example in examples], kept + Counter(injected=len(made))


def messages(example: Example, injection: Injection) -> Messages:
    """What the model is asked."""
    wanted = [name for name in BEHAVIORS if name in injection.rates]
    definitions = "\n".join(f"- {name} ({injection.rates[name]:.0%} of the steps): {DEFINITIONS[name]}" for name in wanted)
    system = INSTRUCTIONS.format(first=wanted[0], rate="as often as stated", definitions=definitions)
    user = f"Question:\n{example.problem.prompt}\n\nSolution:\n{example.completion}"
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def accepted(example: Example, answer: Answer) -> Example | str:
    """The rewritten example, or why it is rejected."""
    if answer.refused:
        return answer.refused
    untagged = _untagged(answer.text)
    if untagged is None:
        return "malformed_tags"
    text, spans = untagged
    if not spans:
        return "no_behavior"
    verdict = verify(text, ground_truth=example.problem.ground_truth)
    return with_trace(example, text, spans) if verdict is Verdict.CORRECT else str(verdict)


def _untagged(text: str) -> tuple[str, tuple[Span, ...]] | None:
    """The text without its tags, and their places; None where tags are nested, empty or not closed."""
    plain, spans, opened, position = "", [], ("", 0), 0
    for tag in _TAG.finditer(text):
        plain += text[position : tag.start()]
        position = tag.end()
        closing, name = bool(tag[1]), tag[2]
        if closing != bool(opened[0]) or (closing and opened[0] != name):
            return None
        if plain and not plain[-1].isspace() and not text[position : position + 1].isspace():
            plain += " "  # a tag between two words parts them
        here = len(plain.split())
        if closing and here == opened[1]:
            return None
        if closing:
            spans.append(Span(name, opened[1], here))
        opened = ("", 0) if closing else (name, here)
    return None if opened[0] else ((plain + text[position:]).strip(), tuple(spans))
