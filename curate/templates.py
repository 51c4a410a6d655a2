"""Chat templates: how the turns of a row become the one text that a model is trained on, and its tokens.

A template is one of the built-in ones (`chat_templates/`, written from the published behaviour of three families), a
`.jinja` file, or that of a Hugging Face tokenizer folder, which is rendered and tokenized by transformers itself.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from curate.errors import InputError

Message = dict[str, str]
FOLDER = Path(__file__).parent / "chat_templates"
BUILT_IN: dict[str, dict[str, str]] = {
    "chatml": {"bos_token": "", "eos_token": "<|im_end|>"},
    "qwen3": {"bos_token": "", "eos_token": "<|im_end|>"},
    "r1-distill": {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"},
}
"""Name -> the special tokens that the family's tokenizers give to the template."""
WORD = re.compile(r"\s*(?:<[|｜][^<>]*?[|｜]>|(?:(?!<[|｜][^<>]*?[|｜]>)\S)+)")
"""A word as `str.split` sees it, with the space before it; a special token such as <|im_end|> is a word of its own."""
PROBE = "[[content]]"
CACHED_TEXTS = 64
"""A row is tokenized as a whole and in parts by five trainers, which share most of the parts."""


class Token(NamedTuple):
    """One token: its id, and the piece of text it stands for. The pieces of a text, joined, are the text."""

    id: int | str
    text: str


@dataclass(frozen=True)
class ChatTemplate:
    """A way to write messages as one text, and a text as tokens."""

    name: str
    unit: str
    """What is counted as a token: `words`, or the tokenizer's name."""
    render: Callable[[list[Message], bool], str]
    """(messages, add_generation_prompt) -> text"""
    tokenize: Callable[[str], list[Token]]
    """Without adding special tokens: those that the template writes are all there are."""
    eos_token: str | None

    def tokens(self, messages: list[Message], add_generation_prompt: bool = False) -> list[Token]:
        """The tokens of rendered messages."""
        return self.tokenize(self.render(messages, add_generation_prompt))

    @cached_property
    def eos_id(self) -> int | str | None:
        """The id of the end-of-sequence token, where it is one token."""
        ids = [token.id for token in self.tokenize(self.eos_token)] if self.eos_token else []
        return ids[0] if len(ids) == 1 else None

    @cached_property
    def ending(self) -> str:
        """What the template writes after an assistant turn's content."""
        return self.render([user("?"), assistant(PROBE)], False).rpartition(PROBE)[2]

    @cached_property
    def knows_thinking(self) -> bool:
        """Whether the template itself writes <think> somewhere."""
        return "<think>" in self.render([user("?")], True) + self.render([user("?"), assistant(PROBE)], False)


def user(content: str) -> Message:
    """A user turn."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """An assistant turn."""
    return {"role": "assistant", "content": content}


def load_template(name: str | None, tokenizer: str) -> ChatTemplate:
    """The template called `name`; by default that of `tokenizer`, else ChatML.

    Args:
        name: a built-in name, a `.jinja` file, or a Hugging Face tokenizer folder or cached id.
        tokenizer: the recipe's (`words` or a Hugging Face one): it counts where the template brings no tokenizer.

    Raises:
        InputError: no such template, or one that cannot render a user turn followed by an assistant turn.
    """
    template = _named(name, tokenizer)
    try:
        template.render([user("?"), assistant(PROBE)], False)
    except Exception as error:  # whatever a template of somebody's own may raise
        raise InputError(f"template {template.name}: cannot render a user turn and an assistant turn ({error})") from None
    return template


def _named(name: str | None, tokenizer: str) -> ChatTemplate:
    counter = None if tokenizer == "words" else load_tokenizer(tokenizer)
    if name is None and counter is not None and counter.chat_template:
        return _of_tokenizer(tokenizer, counter)
    name = name or "chatml"
    if name in BUILT_IN:
        return _of_source(name, (FOLDER / f"{name}.jinja").read_text(encoding="utf-8"), BUILT_IN[name], tokenizer, counter)
    if name.endswith((".jinja", ".j2")):
        if not Path(name).is_file():
            raise InputError(f"template {name}: no such file")
        special = {"bos_token": getattr(counter, "bos_token", None) or "", "eos_token": getattr(counter, "eos_token", None) or ""}
        return _of_source(name, Path(name).read_text(encoding="utf-8"), special, tokenizer, counter)
    loaded = load_tokenizer(name)
    if not loaded.chat_template:
        raise InputError(
            f"template {name}: its tokenizer has no chat template; name one of {', '.join(BUILT_IN)} or a .jinja file"
        )
    return _of_tokenizer(name, loaded)


def load_tokenizer(name: str) -> Any:
    """A fast Hugging Face tokenizer from a folder or the local cache; nothing is downloaded."""
    expected = f"expected a Hugging Face tokenizer folder, a .jinja file, or one of {', '.join(BUILT_IN)}"
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise InputError(f"tokenizer {name!r} needs transformers: pip install 'forerun[train]'; or {expected}") from None
    try:
        loaded = AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{name!r}: {expected}; {str(error).splitlines()[0]}") from None
    if not loaded.is_fast:
        raise InputError(f"{name!r}: expected a fast tokenizer (tokenizer.json), which knows where each token stands in the text")
    return loaded


def _of_tokenizer(name: str, loaded: Any) -> ChatTemplate:
    def render(messages: list[Message], add_generation_prompt: bool) -> str:
        return loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)

    return ChatTemplate(name, name, render, _pieces_of(loaded), loaded.eos_token)


def _of_source(name: str, source: str, special: dict[str, str], tokenizer: str, counter: Any) -> ChatTemplate:
    """A template from its text, rendered in the environment that transformers sets up for chat templates."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    try:
        compiled = environment.from_string(source)
    except TemplateError as error:
        raise InputError(f"template {name}: not a template that jinja2 can read ({error}); a tokenizer folder may work") from None

    def render(messages: list[Message], add_generation_prompt: bool) -> str:
        return compiled.render(messages=messages, add_generation_prompt=add_generation_prompt, **special)

    tokenize = words if counter is None else _pieces_of(counter)
    return ChatTemplate(name, tokenizer, render, tokenize, special["eos_token"] or None)


def _pieces_of(loaded: Any) -> Callable[[str], list[Token]]:
    @lru_cache(CACHED_TEXTS)
    def tokenize(text: str) -> list[Token]:
        encoded = loaded(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in encoded["offset_mapping"]]
        return _pieces(text, encoded["input_ids"], ends)

    return tokenize


def words(text: str) -> list[Token]:
    """Tokens of a text by white space."""
    matches = list(WORD.finditer(text))
    return _pieces(text, [match[0].strip() for match in matches], [match.end() for match in matches])


def _pieces(text: str, ids: list[Any], ends: list[int]) -> list[Token]:
    """Cut `text` after each token, the rest going to the last."""
    if not ids:
        return []
    cuts = [0, *ends[:-1], len(text)]
    return [Token(identity, text[start:end]) for identity, start, end in zip(ids, cuts[:-1], cuts[1:], strict=True)]
