"""YAML config files checked by pydantic: unknown keys are refused with a suggestion, `--set a.b=c` overrides."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from curate.errors import InputError, UsageError


class Config(BaseModel):
    """Base of every config: frozen, unknown keys forbidden, NaN and infinity refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_COUNT = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+]?[0-9]+)?)\s*([kKM]?)")
LARGEST_COUNT = 1e12


def _count(value: Any) -> Any:
    """Read `1_000_000`, `1e6`, `20k`, `2.5M`: YAML hands some of them over as text."""
    if not isinstance(value, str):
        return value
    match = _COUNT.fullmatch(value.strip())
    if not match:
        raise ValueError(f"expected a count like 200_000, 2e5, 200k or 2M, came {value!r}")
    number = float(match[1].replace("_", "")) * {"": 1, "k": 1000, "K": 1000, "M": 1_000_000}[match[2]]
    if number > LARGEST_COUNT or abs(number - round(number)) > 1e-6:
        raise ValueError(f"expected a whole count of at most {LARGEST_COUNT:.0e}, came {value!r}")
    return round(number)


Count = Annotated[int, BeforeValidator(_count), Field(ge=1)]


C = TypeVar("C", bound=BaseModel)


def load_config(path: Path, model: type[C], overrides: list[str] | None = None) -> C:
    """Read a YAML file, apply `key.sub=value` overrides, and check it against `model`.

    Raises:
        InputError: the file is missing.
        UsageError: not YAML, an unknown key (with the nearest known one), or a value of a wrong kind.
    """
    return check_config(read_yaml(path), model, overrides, origin=str(path))


def check_config(data: dict[str, Any], model: type[C], overrides: list[str] | None = None, *, origin: str) -> C:
    """Check a mapping against `model` after applying overrides; `origin` names it in messages."""
    for override in overrides or []:
        data = _apply_override(data, override)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UsageError(_explain(error, model, origin)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: expected a YAML file, came a folder") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected a mapping of settings, came {type(data).__name__}")
    return data


def _apply_override(data: dict[str, Any], override: str) -> dict[str, Any]:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UsageError(f"--set expects key=value (a.b=c reaches into a), came {override!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    return set_key(data, key, value)


def set_key(data: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """A copy of `data` in which the dotted key has `value`; missing mappings on the way are made."""
    head, _, rest = dotted.partition(".")
    if not rest:
        return {**data, head: value}
    inner = data.get(head) or {}
    if not isinstance(inner, dict):
        raise UsageError(f"cannot set {dotted!r}: {head!r} is {type(inner).__name__}, not a mapping")
    return {**data, head: set_key(inner, rest, value)}


def _explain(error: ValidationError, model: type[BaseModel], origin: str) -> str:
    lines = [f"{origin}: {len(error.errors())} setting(s) cannot be used"]
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"  {where}: unknown key{_did_you_mean(str(item['loc'][-1]), known_keys(model))}")
        else:
            lines.append(f"  {where or '(whole file)'}: {item['msg']}, came {_short(item.get('input'))}")
    return "\n".join(lines)


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(sorted(known))}"


def known_keys(model: type[BaseModel]) -> list[str]:
    """Every key that `model` or a config nested in it accepts."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return sorted({key for part in parts for key in part.get("properties", {})})


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
