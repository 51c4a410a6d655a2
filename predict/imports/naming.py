"""What trainers' folders say of themselves: `sft-run/checkpoint-500` is step 500 of sft-run."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_CHECKPOINT = re.compile(r"(?:.*/)?([^/]+)/(?:checkpoint-|checkpoints/step_|weights/step_|global_step_|step_)(\d+)(?:/.*)?")


def name_and_step(model: str) -> tuple[str, int | None]:
    """The run and step of a checkpoint's path; a path or hub name of another form stands for itself."""
    match = _CHECKPOINT.fullmatch(model.rstrip("/"))
    return (match[1], int(match[2])) if match else (model, None)


def utc(seconds: Any) -> str | None:
    """Unix seconds as UTC in ISO 8601."""
    is_time = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return datetime.fromtimestamp(seconds, UTC).isoformat() if is_time else None


def written(path: Path) -> str:
    """When a file was last written: the end of a job whose log has no date."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
