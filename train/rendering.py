"""From text to tokens: what the model is trained on and prompted with, through its own chat template."""

from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from curate.errors import InputError
from curate.examples import Example, Problem
from train.batches import TokenSequence


def prompt_ids(tokenizer: PreTrainedTokenizerBase, problem: Problem) -> list[int]:
    """Token ids of the user turn up to where the completion begins."""
    return token_ids(tokenizer, prompt_text(tokenizer, problem.prompt), problem.id)


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The user turn as the model's template writes it, up to where the completion begins."""
    if tokenizer.chat_template is None:
        return f"{tokenizer.bos_token or ''}{prompt}\n"
    turns = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


def _full_text(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    if tokenizer.chat_template is None:
        return f"{prompt_text(tokenizer, example.problem.prompt)}{example.completion}{tokenizer.eos_token}"
    turns = [
        {"role": "user", "content": example.problem.prompt},
        {"role": "assistant", "content": example.completion},
    ]
    return str(tokenizer.apply_chat_template(turns, tokenize=False))


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, identifier: str) -> list[int]:
    """Tokens of a text as it stands; `identifier` says in a message whose it is."""
    try:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    except Exception as error:  # the tokenizers library raises bare Exception for a word it does not know
        raise InputError(f"{identifier}: the model's tokenizer cannot read {text[:60]!r}: {error}") from error


def training_sequence(tokenizer: PreTrainedTokenizerBase, example: Example, max_length: int) -> TokenSequence:
    """Prompt and completion as the model will see them; the loss counts the completion and its end token.

    Raises:
        InputError: longer than `max_length`, or the template renders the prompt differently once an
            answer follows (then the loss would count the wrong tokens).
    """
    start = prompt_ids(tokenizer, example.problem)
    ids = token_ids(tokenizer, _full_text(tokenizer, example), example.id)
    if ids[: len(start)] != start:
        raise InputError(
            f"example {example.id}: the chat template renders the prompt differently with and without an answer; "
            "use a template whose generation prompt is a prefix of the full conversation"
        )
    ids = _without_tail(tokenizer, ids)
    if len(ids) > max_length:
        raise InputError(f"example {example.id}: {len(ids)} tokens, more than max_length {max_length}; nothing is cut silently")
    return TokenSequence(ids, [False] * len(start) + [True] * (len(ids) - len(start)))


def _without_tail(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Drop what a template writes after the last end token (often a newline), so that training ends where sampling stops."""
    ends = set(end_ids(tokenizer))
    last = max((place for place, token in enumerate(ids) if token in ends), default=len(ids) - 1)
    return ids[: last + 1]


def end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a completion."""
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer names no end token (eos_token); without one no completion ends")
    return [tokenizer.eos_token_id]


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding token, or the end token where there is none; padding is never attended to nor counted."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def training_sequences(tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example], max_length: int) -> list[TokenSequence]:
    """`training_sequence` of each example, in order."""
    return [training_sequence(tokenizer, example, max_length) for example in examples]
