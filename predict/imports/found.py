"""What an importer finds in foreign files: runs with curves, evaluations as counts per problem, and scalars under their true names."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.config import Config
from curate.errors import InputError


class Choices(Config):
    """What a person says of a file where it does not speak for itself."""

    benchmark: str | None = None
    """Name of the problem set, where the file has none; of several in the file, the one to read."""
    metric: str | None = None
    """Which score is the verdict: lm-eval's metric, Inspect's scorer, TRL's reward function, verl's column."""
    filter: str | None = None
    """lm-eval's filter."""
    threshold: float | None = None
    """A score from this on is right; without it only 0 and 1 (false, true) are verdicts."""
    reverify: bool = False
    """Judge the texts with Forerun's verifier in place of the file's verdicts."""
    pick: str | None = None
    """Of several runs in the file, the one to read."""
    partial: bool = False
    """Read a log whose job did not succeed."""
    columns: dict[str, str] = {}
    """Column of the file -> the name it stands for."""
    percent: tuple[str, ...] = ()
    """Columns in percent, small values included."""


@dataclass(frozen=True)
class Evaluation:
    """Counts per problem of one sampling job."""

    key: dict[str, Any]
    """The comparability key."""
    rows: list[dict[str, Any]]
    """problem_id, num_samples, num_correct, num_no_answer, num_unparsable, num_truncated, mean_tokens; None where not known."""
    step: int | None = None
    """Of the checkpoint, where the file says it."""
    seed: int | None = None
    purpose: str | None = None
    """Where the file leaves no choice: rollouts of training are `other`."""
    needs_purpose: bool = False
    """The file does not tell rollouts of training from validation: a person has to."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Provenance: how the counts came about."""


@dataclass(frozen=True)
class Signal:
    """A scalar under its true name."""

    name: str
    value: float
    method: str
    step: int | None = None


@dataclass
class Found:
    """What a foreign file says of one run."""

    name: str
    engine: str
    stage: str | None = None
    base_model: str | None = None
    dataset: str | None = None
    status: str = "done"
    config: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    created_at: str | None = None
    finished_at: str | None = None
    curves: dict[int, dict[str, float]] = field(default_factory=dict)
    """Step -> metric -> finite number."""
    evaluations: list[Evaluation] = field(default_factory=list)
    signals: list[Signal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lost: dict[str, list[int]] = field(default_factory=dict)
    """Metric -> steps at which it is not finite."""

    def log(self, step: Any, values: dict[str, Any], where: str) -> None:
        """Add numbers of one step; texts are passed over, what is not finite is counted in a note by `close`.

        Raises:
            InputError: the step is not a whole number >= 0.
        """
        if isinstance(step, bool) or not isinstance(step, int | float) or step != int(step) or step < 0:
            raise InputError(f"{where}: expected a step, a whole number from 0 on, came {step!r}")
        row = self.curves.setdefault(int(step), {})
        for name, value in values.items():
            number = _NOT_FINITE.get(value, value) if isinstance(value, str) else value
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if math.isfinite(number):
                row[name] = float(number)
            else:
                row.pop(name, None)
                self.lost.setdefault(name, []).append(int(step))

    def close(self) -> "Found":
        """Turn what could not be stored into notes; itself."""
        for name, steps in self.lost.items():
            self.notes.append(
                f"{self.name}: {name} is not finite at step {', '.join(map(str, steps[:5]))}; these points are left out"
            )
        self.lost.clear()
        self.curves = {step: row for step, row in sorted(self.curves.items()) if row}
        self.config = _plain(self.config)
        self.steps = max([self.steps, *self.curves])
        return self


_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""How JSON loggers spell them."""


def _plain(value: Any) -> Any:
    """JSON without NaN and infinities, which become their names."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | None) else str(value)


def chosen(names: Iterable[str], wanted: str | None, what: str, option: str, where: str) -> tuple[str, list[str]]:
    """The wanted one of some names, else the first with a note on the others.

    Raises:
        InputError: it is not among them, or there are none.
    """
    known = list(dict.fromkeys(names))
    if wanted is not None and wanted not in known:
        raise InputError(f"{where}: no {what} {wanted!r}; it has {', '.join(known) or 'none'}")
    if not known:
        raise InputError(f"{where}: holds no {what}")
    others = [name for name in known if name != known[0]]
    if wanted is None and others:
        return known[0], [f"{where}: {what} {known[0]} is read; there are also {', '.join(others)} ({option})"]
    return wanted or known[0], []


def select_runs(runs: list[Found], wanted: str | None, path: Path) -> list[Found]:
    """The wanted run of a tracker, or all; each with the stage its metrics speak of.

    Raises:
        InputError: no runs, none of that name, or two runs of one name.
    """
    names = [run.name for run in runs]
    if wanted is not None and wanted not in names:
        raise InputError(f"{path}: no run {wanted!r}; it has {', '.join(names[:20]) or 'none'}")
    if not runs:
        raise InputError(f"{path}: holds no runs")
    kept = [run for run in runs if wanted in (None, run.name)]
    if twice := [run.name for run in kept if [other.name for other in kept].count(run.name) > 1]:
        raise InputError(f"{path}: several runs are called {twice[0]!r}; rename them, or choose another with --pick")
    for run in kept:
        logged = {name for row in run.curves.values() for name in row}
        run.stage = "grpo" if any("reward" in name for name in logged) else "sft"
    return kept
