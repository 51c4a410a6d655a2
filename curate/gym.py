"""Problems of every data set of reasoning-gym (github.com/open-thought/reasoning-gym): generated, one reference answer each."""

import difflib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from curate.errors import UsageError
from curate.formats import Row


def rows(task: str, size: int, options: Mapping[str, Any], seed: int, *, embedded: Iterable[str]) -> Iterator[Row]:
    """Yield `size` rows of one task.

    The completion is the task's own worked solution where it has one (`gsm_symbolic`), else the boxed answer alone.
    reasoning-gym draws item i of seed s from `Random(s + i)`: near seeds are the same data, shifted. The seed is
    hashed first, so that two seeds share nothing.

    Args:
        options: settings of the task (`min_terms: 3`), checked by reasoning-gym.
        embedded: the tasks that need no reasoning-gym, for messages.

    Raises:
        UsageError: reasoning-gym is not installed; no such task, option or value; a task without reference answers.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise UsageError(
            f"task {task!r}: expected {' or '.join(embedded)}, or a task of reasoning-gym, which is not installed: "
            "pip install 'forerun[tasks]'"
        ) from None
    if task not in DATASETS:
        close = difflib.get_close_matches(task, [*embedded, *DATASETS], n=3)
        raise UsageError(f"task {task!r}: neither embedded nor in reasoning-gym; near are: {', '.join(close) or 'none'}")
    try:
        items = reasoning_gym.create_dataset(task, size=size, seed=_spread(task, seed), **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise UsageError(f"task {task}: reasoning-gym refuses its options ({error})") from None
    for item in items:
        yield _row(task, item)


def _spread(task: str, seed: int) -> int:
    """48 bits, far from those of other seeds and tasks."""
    return int.from_bytes(hashlib.sha256(f"{task}/{seed}".encode()).digest()[:6])


def _row(task: str, item: Mapping[str, Any]) -> Row:
    if item["answer"] is None:
        raise UsageError(f"task {task}: its answers have no reference, reasoning-gym judges them by a program; take another task")
    reference = str(item["answer"]).strip()
    worked = item["metadata"].get("answer_cot")
    return Row(item["question"], worked or f"\\boxed{{{reference}}}", reference, source=task)
