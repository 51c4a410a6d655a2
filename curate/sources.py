"""Sources: each turns what it finds into Examples, and says which line and field is wrong when it cannot.

A GSM8K row (openai/grade-school-math, MIT, 7,473 training and 1,319 test rows), shortened:

    {"question": "Natalia sold clips to 48 ...", "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips ...\\n#### 72"}

A messages row, as most trainers read it; `ground_truth` may stand in the row or in its `meta`:

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}], "ground_truth": "72"}
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from curate import arithmetic
from curate.answers import extract_answer
from curate.behaviors import Style
from curate.config import Config, Count
from curate.errors import InputError
from curate.examples import Example, Problem, text_id
from curate.files import read_jsonl

KINDS = {
    "gsm8k": "JSONL with question and answer; the reference answer follows ####",
    "messages": "JSONL with messages: a user turn, then an assistant turn; ground_truth beside them or read off the answer",
    "arithmetic": "the embedded task: generated problems with exact traces in the styles short, long, full",
}


class Source(Config):
    """Where rows come from: a file, or the embedded task."""

    path: Path | None = None
    format: Literal["gsm8k", "messages"] | None = None
    """Default: what the first row's fields say."""
    task: Literal["arithmetic"] | None = None
    size: Count | None = None
    """Embedded task: problems."""
    operations: tuple[int, int] = (2, 6)
    styles: dict[Style, Annotated[float, Field(ge=0)]] = {"short": 0.4, "long": 0.4, "full": 0.2}
    traces: int = Field(1, ge=1)
    """Embedded task: traces a problem, in different styles."""

    @model_validator(mode="after")
    def _one_kind(self) -> "Source":
        if (self.path is None) == (self.task is None):
            raise ValueError("a source is either a path or a task: give exactly one of them")
        if self.task and self.size is None:
            raise ValueError("a task needs a size: the number of problems to generate")
        return self


def load(source: Source, seed: int) -> Iterator[Example]:
    """Yield the examples of one source.

    Raises:
        InputError: an unreadable file, or a row of another shape, with its line and field.
    """
    if source.path is None:
        assert source.size is not None  # checked by the recipe
        yield from arithmetic.examples(
            size=source.size,
            operations=source.operations,
            styles=source.styles,
            traces=source.traces,
            split="train",
            seed=seed,
        )
        return
    read: Callable[[dict[str, Any], str], Example] | None = None
    for number, row in read_jsonl(source.path):
        if read is None:
            read = READERS[source.format or _detect(row, source.path, number)]
        try:
            yield read(row, source.path.stem)
        except ValueError as error:
            raise InputError(f"{source.path}, line {number}: {error}") from None
    if read is None:
        raise InputError(f"{source.path}: the file is empty; expected one JSON object a line")


def _detect(row: dict[str, Any], path: Path, number: int) -> str:
    if "messages" in row:
        return "messages"
    if "question" in row and "answer" in row:
        return "gsm8k"
    raise InputError(
        f"{path}, line {number}: expected the fields question and answer (gsm8k) or messages, "
        f"came {', '.join(sorted(row)[:6]) or 'an empty object'}"
    )


def _text(row: dict[str, Any], field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"field {field!r}: expected text, came {value!r:.60}")
    return value


def _gsm8k(row: dict[str, Any], name: str) -> Example:
    question, answer = _text(row, "question"), _text(row, "answer")
    _, mark, reference = answer.rpartition("####")
    if not mark or not reference.strip():
        raise ValueError("field 'answer': expected the reference answer after ####, found none")
    problem = Problem(text_id(question), question, reference.strip(), "openai/gsm8k", {})
    return Example(f"{name}-{text_id(question + answer)}", problem, answer, {})


def _messages(row: dict[str, Any], name: str) -> Example:
    turns: Any = row.get("messages")
    roles = [turn.get("role") if isinstance(turn, dict) else turn for turn in turns] if isinstance(turns, list) else turns
    if roles != ["user", "assistant"]:
        raise ValueError(f"field 'messages': expected a user turn, then an assistant turn, came {roles!r:.80}")
    prompt, completion = _text(turns[0], "content"), _text(turns[1], "content")
    reference = _reference(row) or extract_answer(completion)
    if not reference:
        raise ValueError("field 'ground_truth': missing, and no final answer can be read off the assistant turn")
    problem = Problem(text_id(prompt), prompt, reference, name, {})
    return Example(f"{name}-{text_id(prompt + completion)}", problem, completion, {})


def _reference(row: dict[str, Any]) -> str | None:
    """`ground_truth` of the row or of its `meta`, as text; None where neither says one."""
    meta = row.get("meta")
    value = row.get("ground_truth")
    if value is None and isinstance(meta, dict):
        value = meta.get("ground_truth")
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number and not isinstance(value, str):
        raise ValueError(f"field 'ground_truth': expected text or a finite number, came {value!r:.60}")
    return str(value).strip()


READERS: dict[str, Callable[[dict[str, Any], str], Example]] = {"gsm8k": _gsm8k, "messages": _messages}
