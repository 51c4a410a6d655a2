"""The shapes a row may have. Each reader turns one into the same `Row`, or says which field is wrong and how.

    gsm8k              {"question": "Natalia sold ...", "answer": "... 48/2 = <<48/2=24>>24 ...\\n#### 72"}
    math               {"problem": "Convert ...", "solution": "... $\\boxed{3}$", "answer": "3", "level": 2, "subject": "Algebra"}
    messages           {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    sharegpt           {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}
    prompt_completion  {"prompt": "..." or messages, "completion": "..." or messages}  (TRL)
    verl               {"data_source": "...", "prompt": messages, "reward_model": {"ground_truth": "72"}}

Beside each, `id` names the row, and `ground_truth` (else `answer`, else the answer of `solution`) is the reference.
"""

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from curate.answers import extract_answer

Format = Literal["gsm8k", "math", "messages", "sharegpt", "prompt_completion", "verl"]
Field = Literal[
    "id",
    "question",
    "answer",
    "problem",
    "solution",
    "level",
    "subject",
    "type",
    "messages",
    "conversations",
    "system",
    "prompt",
    "completion",
    "ground_truth",
    "meta",
    "data_source",
    "reward_model",
    "extra_info",
]
"""Every top-level field that a format reads."""

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
"""Roles as ShareGPT's `from` and as everybody else's `role` write them."""
THINKING = ("reasoning_content", "thinking")
"""Where a message may keep its reasoning apart from its content."""
NO_TRACE = "a row without a worked solution is a problem only: name its source under rl_prompts"
NO_REFERENCE = (
    "field 'ground_truth' (or 'answer'): missing, and no final answer can be read off the worked solution; "
    "`reference: optional` reads such rows too"
)

_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlevel = 60, 60, 3


@dataclass(frozen=True, slots=True)
class Row:
    """What all formats say, in one shape."""

    prompt: str
    completion: str | None
    """None for a problem without a worked solution."""
    reference: str | None
    """The right answer; None where the row neither says it nor lets it be read off the completion."""
    no_trace: str = ""
    """Where the completion is None: what would have held it."""
    id: str | int | None = None
    source: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def detect(row: dict[str, Any]) -> Format:
    """The format that a row's fields speak for; a ValueError lists what would have been understood."""
    signs: dict[Format, tuple[str, ...]] = {
        "messages": ("messages",),
        "sharegpt": ("conversations",),
        "verl": ("prompt", "reward_model"),
        "prompt_completion": ("prompt",),
        "math": ("problem",),
        "gsm8k": ("question", "answer"),
    }
    for name, fields in signs.items():
        if all(key in row for key in fields):
            return name
    known = "; ".join(f"{' and '.join(fields)} ({name})" for name, fields in signs.items())
    came = _shown(sorted(row)) if row else "an empty object"
    raise ValueError(f"expected the fields {known}; came {came}. Other names can be given: `columns: {{question: NAME}}`")


def gsm8k(row: dict[str, Any], drop_system: bool) -> Row:
    """openai/gsm8k: the reference answer follows the last `####` of the worked answer."""
    question, answer = _text(row.get("question"), "question"), _answer(row.get("answer"), "answer")
    _, mark, reference = answer.rpartition("####")
    if mark and not reference.strip():
        raise ValueError("field 'answer': expected the reference answer after ####, found none")
    no_trace = f"field 'answer': expected the reference answer after ####, found none; {NO_TRACE}"
    return Row(question, answer if mark else None, reference.strip() or answer.strip(), no_trace, _id(row), "openai/gsm8k")


def mathematics(row: dict[str, Any], drop_system: bool) -> Row:
    """MATH and its kin: the reference is `answer`, else the last \\boxed{} of the solution."""
    problem, solution = _text(row.get("problem"), "problem"), row.get("solution")
    completion = _text(solution, "solution") if _said(solution) else None
    facts = {"level": row.get("level"), "subject": row.get("subject") or row.get("type")}
    meta = {name: _answer(value, name) for name, value in facts.items() if _said(value)}
    return Row(problem, completion, _reference(row, completion), f"field 'solution': missing; {NO_TRACE}", _id(row), None, meta)


def messages(row: dict[str, Any], drop_system: bool) -> Row:
    """A user turn, then an assistant turn, as every trainer reads them."""
    return _conversation(row, "messages", drop_system)


def sharegpt(row: dict[str, Any], drop_system: bool) -> Row:
    """Turns with `from` and `value`; a system prompt may stand beside them."""
    if row.get("system") and not drop_system:
        raise ValueError(f"field 'system': {_SYSTEM}")
    return _conversation(row, "conversations", drop_system)


def prompt_completion(row: dict[str, Any], drop_system: bool) -> Row:
    """TRL's columns, each a text or a list of messages."""
    prompt = _side(row.get("prompt"), "prompt", "user", drop_system)
    completion = _side(row["completion"], "completion", "assistant") if _said(row.get("completion")) else None
    return Row(prompt, completion, _reference(row, completion), f"field 'completion': missing; {NO_TRACE}", _id(row))


def verl(row: dict[str, Any], drop_system: bool) -> Row:
    """A problem for RL: verl keeps no worked solution."""
    prompt = _side(row.get("prompt"), "prompt", "user", drop_system)
    model, extra = row.get("reward_model"), row.get("extra_info")
    if not isinstance(model, dict):
        raise ValueError(f"field 'reward_model': expected an object with ground_truth, came {_shown(model)}")
    truth = model.get("ground_truth")
    reference = _answer(truth, "reward_model.ground_truth").strip() if _said(truth) else None
    source = _text(row["data_source"], "data_source") if _said(row.get("data_source")) else None
    name = _id(row) if _id(extra) is None else _id(extra)
    return Row(prompt, None, reference, f"verl rows hold no worked solution; {NO_TRACE}", name, source)


READERS: dict[Format, Callable[[dict[str, Any], bool], Row]] = {
    "gsm8k": gsm8k,
    "math": mathematics,
    "messages": messages,
    "sharegpt": sharegpt,
    "prompt_completion": prompt_completion,
    "verl": verl,
}

_SYSTEM = "a system turn has no place in the data set; `system: drop` leaves it out"


def _conversation(row: dict[str, Any], name: str, drop_system: bool) -> Row:
    turns = row.get(name)
    expected = ["user"] if isinstance(turns, list) and _roles(turns)[-1:] == ["user"] else ["user", "assistant"]
    prompt, *rest = _texts(turns, name, expected, drop_system)
    completion = rest[0] if rest else None
    no_trace = f"field {name!r}: expected an assistant turn after the user turn; {NO_TRACE}"
    return Row(prompt, completion, _reference(row, completion), no_trace, _id(row))


def _side(value: Any, name: str, role: str, drop_system: bool = False) -> str:
    """A prompt or a completion, given as text or as a list of one message."""
    return _texts(value, name, [role], drop_system)[0] if isinstance(value, list) else _text(value, name)


def _texts(turns: Any, name: str, expected: list[str], drop_system: bool) -> list[str]:
    """The texts of turns whose roles are as expected, a leading system turn apart."""
    roles = _roles(turns) if isinstance(turns, list) else turns
    if drop_system and isinstance(roles, list) and roles[:1] == ["system"]:
        turns, roles = turns[1:], roles[1:]
    if roles != expected:
        wanted = ", then ".join({"user": "a user turn", "assistant": "an assistant turn"}[role] for role in expected)
        hint = f"; {_SYSTEM}" if isinstance(roles, list) and "system" in roles else ""
        raise ValueError(f"field {name!r}: expected {wanted}, came {_shown(roles)}{hint}")
    return [_content(turn, f"{name}, {role} turn") for turn, role in zip(turns, expected, strict=True)]


def _roles(turns: list[Any]) -> list[Any]:
    return [_role(turn) for turn in turns]


def _role(turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    role = turn.get("role", turn.get("from"))
    return ROLES.get(role, role) if isinstance(role, str) else role


def _content(turn: dict[str, Any], name: str) -> str:
    """The text of a turn, its reasoning written before it as `<think>` where it stands apart."""
    if turn.get("tool_calls"):
        raise ValueError(f"field {name!r}: expected text alone, came tool calls")
    text = _text(turn.get("content", turn.get("value")), name)
    thinking = next((turn[key] for key in THINKING if turn.get(key)), None)
    return text if thinking is None else f"<think>\n{_text(thinking, name).strip()}\n</think>\n\n{text}"


def _reference(row: dict[str, Any], completion: str | None) -> str | None:
    """The reference answer: said by the row, else read off its solution, else off the completion itself."""
    meta = row.get("meta")
    for name, holder in (("ground_truth", row), ("ground_truth", meta), ("answer", row)):
        value = holder.get(name) if isinstance(holder, dict) else None
        if _said(value):
            text = _answer(value, name).strip()
            return text if name == "ground_truth" else extract_answer(text) or text
    solution = row.get("solution")
    if _said(solution):
        text = _answer(solution, "solution")
        return extract_answer(text) or (text.strip() if completion is None else extract_answer(completion))
    return None if completion is None else extract_answer(completion)


def _answer(value: Any, name: str) -> str:
    """A reference answer as text: numbers are written out."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"field {name!r}: expected text or a finite number, came {_shown(value)}")
    return _text(value, name)


def _id(row: Any) -> str | int | None:
    value = row.get("id") if isinstance(row, dict) else None
    if not _said(value):
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else _text(value, "id")


def _said(value: Any) -> bool:
    """Whether an optional field says something: null and the empty text do not."""
    return value is not None and value != ""


def _text(value: Any, name: str) -> str:
    """A text that says something and that every later file can hold."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"field {name!r}: expected text, came {_shown(value)}")
    if "\0" in value:
        raise ValueError(f"field {name!r}: expected text, came a NUL character at character {value.index(chr(0)) + 1}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            code = ord(value[error.start])
            raise ValueError(
                f"field {name!r}: half of a surrogate pair (\\u{code:04x} at character {error.start + 1}) "
                "is no character and cannot be written as utf-8"
            ) from None
    return value


def _shown(value: Any) -> str:
    """A short, safe picture of any value, however large or deep."""
    return _SHORT.repr(value)
