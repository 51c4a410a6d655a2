"""What a base has learned, token by token: accuracy of the most likely next token in clean traces.

    python studies/lab/skills.py BASE [BASE ...]

`step`: the next quantity can be solved now; `name`: a parent's name in a full trace; `operand`: a value that is looked up;
`result`: a computed value. 200 problems of `dev` with 2 to 6 operations, each in all three styles.
"""

import sys
from collections import defaultdict

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from curate import arithmetic
from curate.behaviors import STYLES
from curate.examples import Example
from curate.graphs import Graph, parse_statements
from train import checkpoints, rendering
from train.heldout import in_all_styles

PROBLEMS, KINDS = 200, ("step", "name", "operand", "result")


def main() -> None:
    """Print a row a base and style."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    print("| base | style | " + " | ".join(KINDS) + " |")
    print("| --- " * (2 + len(KINDS)) + "|")
    for base in sys.argv[1:]:
        model, tokenizer = checkpoints.load(checkpoints.model_folder(base))
        right: dict[tuple[str, str], list[bool]] = defaultdict(list)
        for problem in arithmetic.problems(size=PROBLEMS, operations=(2, 6), split="dev", seed=5):
            for example in in_all_styles(problem):
                predicted = _most_likely(model.eval(), tokenizer, example)
                for kind, correct in _judged(example, predicted, parse_statements(problem.prompt)):
                    right[example.meta["style"], kind].append(correct)
        for style in STYLES:
            shares = [f"{sum(right[style, kind]) / len(right[style, kind]):.2f}" if right[style, kind] else "" for kind in KINDS]
            print(f"| {base} | {style} | " + " | ".join(shares) + " |", flush=True)


@torch.inference_mode()
def _most_likely(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, example: Example) -> list[str]:
    """For each word of the trace the word that the model puts first there."""
    ids = rendering.training_sequence(tokenizer, example, 512).ids
    words = tokenizer.convert_ids_to_tokens(model(torch.tensor([ids])).logits[0].argmax(-1).tolist())
    first = len(ids) - len(example.completion.split()) - 1  # one token a word, then the end token
    return words[first - 1 : -2]


def _judged(example: Example, predicted: list[str], graph: Graph) -> list[tuple[str, bool]]:
    """(kind, whether right) of every token of the trace that is a skill."""
    words, found = example.completion.split(), []
    solved = {name for name, node in graph.nodes.items() if node.is_leaf}
    for place in range(1, words.index("</think>")):
        word, before, guess = words[place], words[place - 1], predicted[place]
        in_expression = before in ("=", "+", "-") or words[place - 2] in ("=", "+", "-")
        if word.isdigit() and not in_expression:
            found.append(("result", guess == word))
            solved.add(before)
        elif word.isdigit():
            found.append(("operand", guess == word))
        elif word in arithmetic.LETTERS and before in ("=", "+", "-"):
            found.append(("name", guess == word))
        elif word in arithmetic.LETTERS and (words[place + 1] == "=" or example.meta["style"] == "short"):
            ready = [node.name for node in graph.necessary if node.name not in solved and solved.issuperset(node.parents)]
            found.append(("step", guess in ready))
    return found


if __name__ == "__main__":
    main()
