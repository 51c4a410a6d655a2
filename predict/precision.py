"""How many samples a pass@k needs: from counts, what brings it to a standard error, and on which problems."""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError, UsageError
from predict.features import column, read_table
from train import adaptive, rates
from train.passk import checked_counts, fixed_set_variance, mean_pass_at_k

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Target = Literal["fixed", "population"]
BATCH = 8
_RUN = re.compile(r"([0-9A-Za-z_.-]+?)(?:@(\d+))?")


@dataclass(frozen=True)
class Design:
    """One way to the goal."""

    name: str
    """uniform, go_on, stop_rules, two_stage, more_samples or more_problems."""
    new_samples: int
    """To be drawn, in all (of stop rules: expected)."""
    words: str
    allocation: list[dict[str, Any]] = field(default_factory=list)
    """Of each problem: problem_id, samples at hand that count, most in all, batch, and at how many correct ones it stops (null: only at `most`)."""


@dataclass(frozen=True)
class Advice:
    """What brings pass@k to a standard error; designs, cheapest first."""

    k: int
    target: Target
    goal: float
    problems: int
    num_samples: int
    """The fewest that a problem has."""
    se_now: float | None
    """None where k is more than the samples at hand."""
    words: str
    designs: list[Design]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def read_counts(path: Path) -> pl.DataFrame:
    """Counts of a table: columns num_samples, num_correct, and problem_id (else the row number).

    Raises:
        InputError: a column is missing or not of whole numbers.
    """
    return _whole(read_table(path))


def stored_counts(home: Path, run: str, benchmark: str | None = None) -> pl.DataFrame:
    """Counts of a checkpoint's signals in the store.

    Args:
        run: `<run_id>@<step>`, or `<run_id>` where one step was measured.

    Raises:
        UsageError: not such a name. InputError: no counts, or those of several steps or benchmarks.
    """
    from predict import store

    match = _RUN.fullmatch(run)
    if not match:
        raise UsageError(f"--run expects <run_id>@<step>, came {run!r}")
    where = f"run_id = '{match[1]}'" + (f" AND step = {match[2]}" if match[2] else "")
    sql = (
        f"SELECT step, key_id, benchmark, problem_id, num_samples, num_correct FROM counts WHERE purpose = 'signals' AND {where}"
    )
    found = store.query(home, f"{sql} ORDER BY problem_id")
    frame = found.filter(pl.col("benchmark") == benchmark) if benchmark else found
    if not len(frame):
        known = f"; it has {', '.join(sorted(set(found['benchmark'])))}" if len(found) else "; see `predict sql`"
        raise InputError(f"--run {run}: the store has no counts of signals{f' on {benchmark}' if benchmark else ''}{known}")
    for name, option in (("step", "--run <run_id>@<step>"), ("benchmark", "--benchmark NAME"), ("key_id", "--csv FILE")):
        if frame[name].n_unique() > 1:
            several = ", ".join(map(str, sorted(set(frame[name]))))
            raise InputError(
                f"--run {run}: counts of several kinds ({name} {several}), which are never pooled: choose by {option}"
            )
    return _whole(frame)


def _whole(frame: pl.DataFrame) -> pl.DataFrame:
    counts = {}
    for name in ("num_samples", "num_correct"):
        values = column(frame, name)
        bad = np.isnan(values) | (values != np.floor(values)) | (values < (name == "num_samples"))
        if bad.any():
            row = int(bad.argmax())
            raise InputError(f"column {name!r}, row {row + 1}: expected a whole number of completions, came {frame[name][row]}")
        counts[name] = pl.Series(name, values.astype(np.int64))
    ids = (
        frame["problem_id"].cast(pl.String)
        if "problem_id" in frame.columns
        else pl.Series([str(i + 1) for i in range(len(frame))])
    )
    return pl.DataFrame({"problem_id": ids, **counts})


def advise(counts: pl.DataFrame, se: float, k: int = 64, target: Target = "population", batch: int = BATCH) -> Advice:
    """What brings the mean pass@k over problems to the standard error `se`.

    Args:
        counts: problem_id, num_samples, num_correct, one row a problem.
        target: `fixed`: these very problems, samples drawn anew; `population`: new problems of the same kind.
        batch: samples that a stop rule draws at a time.

    Raises:
        UsageError: se not in (0, .5), k < 1. InputError: fewer than 10 problems, or out of reach.
    """
    if not 0 < se < 0.5:
        raise UsageError(f"--se expects a standard error between 0 and 0.5, came {se:g}")
    if k < 1 or batch < 1:
        raise UsageError(f"expected --k and --batch of at least 1, came {k} and {batch}")
    n, c = checked_counts(counts["num_samples"].to_numpy(), counts["num_correct"].to_numpy())
    points, posterior = rates.fit(n, c).posterior(n, c)
    now = _error_now(n, c, k, target, points, posterior)
    designs: list[Design] = []
    notes: list[str] = []
    if k > n.min():
        notes.append(f"k = {k} is more than the {n.min()} samples at hand: planned from an extrapolated spread of success rates")
    if now is None or now > se:
        ids = counts["problem_id"].to_list()
        designs, more = (
            _fixed(ids, n, c, points, posterior, k, se, batch) if target == "fixed" else _population(n, points, posterior, k, se)
        )
        notes += more
    designs = sorted(designs, key=lambda design: design.new_samples)
    words = designs[0].words if designs else f"reached already: the standard error is {now:.4f}"
    return Advice(k, target, se, len(n), int(n.min()), now, words, designs, notes)


def _error_now(n: Counts, c: Counts, k: int, target: Target, points: Array, posterior: Array) -> float | None:
    if k > n.min():
        return None
    if target == "population":
        return mean_pass_at_k(n, c, k)[1]
    if 2 * k <= n.min() and (variance := fixed_set_variance(n, c, k)) > 0:
        return float(np.sqrt(variance))
    planned = posterior.mean(0) @ adaptive.sampling_variance(points, int(n.min()), k)
    return float(np.sqrt(planned / len(n)))


def _fixed(
    ids: list[str], n: Counts, c: Counts, points: Array, posterior: Array, k: int, se: float, batch: int
) -> tuple[list[Design], list[str]]:
    """The same n everywhere; these counts as the first batch of a stop rule; or put away, as the pilot of a second stage or of stop rules."""
    variance = se**2 * len(n)
    even = adaptive.uniform_samples(points, posterior.mean(0), k, variance)
    fixed, stopping = (adaptive.allocate(points, posterior, k, variance, each) for each in (None, batch))
    sizes = [rule.most for rule in fixed]
    expected = round(sum((posterior[mine] @ rule.moments(points, k)[0]).sum() for rule, mine in _by_rule(stopping)))
    return [
        Design("uniform", int(np.maximum(even - n, 0).sum()), f"draw each of the {len(n)} problems up to {even} samples"),
        *_go_on(ids, n, c, points, posterior, k, variance, batch),
        Design(
            "stop_rules",
            expected,
            f"sample the {len(n)} problems anew in batches of {batch}, each until enough are correct or its most are drawn, as "
            f"`allocation` (--json) says (about {expected} in all), and estimate by train.adaptive.estimate, which accounts for the stops",
            _allocation(ids, stopping),
        ),
        Design(
            "two_stage",
            sum(sizes),
            f"sample the problems anew, {min(sizes)} to {max(sizes)} each as `allocation` (--json) says ({sum(sizes)} in all), and estimate "
            "from the new samples alone: these counts were the pilot",
            _allocation(ids, fixed),
        ),
    ], ["standard error for these very problems; it says nothing of other problems (--set population)"]


def _go_on(
    ids: list[str], n: Counts, c: Counts, points: Array, posterior: Array, k: int, variance: float, batch: int
) -> list[Design]:
    """One stop rule for each half of the problems, the counts at hand its first batch; none where the halves are too small to plan from."""
    if len(n) < 2 * rates.FEWEST_PROBLEMS:
        return []
    rules = adaptive.go_on(n, c, k, variance, batch)
    kinds = list(dict.fromkeys(zip(rules, n.tolist(), c.tolist(), strict=True)))
    to_come = {kind: kind[0].still_expected(points, kind[2]) for kind in kinds}
    expected = round(sum(posterior[i] @ to_come[rule, n[i], c[i]] for i, rule in enumerate(rules)))
    words = (
        f"keep these counts and sample on in batches of {batch}, each problem until enough are correct or its most are drawn, as "
        f"`allocation` (--json) says (about {expected} more in all), and estimate by train.adaptive.estimate, which accounts for the stops"
    )
    return [Design("go_on", expected, words, _allocation(ids, rules))]


def _by_rule(rules: list[adaptive.StopRule]) -> list[tuple[adaptive.StopRule, list[int]]]:
    return [(rule, [i for i, other in enumerate(rules) if other == rule]) for rule in dict.fromkeys(rules)]


def _allocation(ids: list[str], rules: list[adaptive.StopRule]) -> list[dict[str, Any]]:
    return [
        {
            "problem_id": name,
            "at_hand": rule.first,
            "most": rule.most,
            "batch": rule.batch,
            "enough": None if rule.fixed else rule.enough,
        }
        for name, rule in zip(ids, rules, strict=True)
    ]


def _population(n: Counts, points: Array, posterior: Array, k: int, se: float) -> tuple[list[Design], list[str]]:
    """More samples of the same problems, or more problems."""
    share = posterior.mean(0)
    unsolved = (1 - points) ** k
    between = float(share @ unsolved**2 - (share @ unsolved) ** 2)
    within = {
        size: float(share @ adaptive.sampling_variance(points, size, k)) for size in {k, 2 * k, 4 * k, max(k, int(n.min()))}
    }
    now = within[max(k, int(n.min()))]
    top_up = int(np.maximum(k - n, 0).sum())
    designs = []
    if (between + now) / len(n) > se**2:
        more = {size: _problems_to_add(len(n), between + now, between + each, se) for size, each in within.items()}
        size = min(more, key=lambda size: more[size] * size)
        words = (
            f"add {more[size]} problems of the same kind, {size} samples each: however many samples the {len(n)} at hand get, "
            f"their standard error stays above {np.sqrt(between / len(n)):.4f}"
        )
        designs.append(Design("more_problems", more[size] * size + top_up, words))
    if between / len(n) < se**2:
        even = adaptive.uniform_samples(points, share, k, se**2 * len(n) - between)
        words = f"draw each of the {len(n)} problems up to {even} samples"
        designs.append(Design("more_samples", int(np.maximum(even - n, 0).sum()), words))
    variance = f"of the variance of one problem's estimate, {between / (between + now):.0%} lies between problems"
    return designs, [variance, "for comparing checkpoints on the same problems, --set fixed is the error that counts"]


def _problems_to_add(problems: int, variance: float, of_new: float, se: float) -> int:
    """Fewest new ones, Q, with (P variance + Q of_new) / (P + Q)^2 <= se^2."""
    half = problems - of_new / (2 * se**2)
    root = np.sqrt(half**2 - problems**2 + problems * variance / se**2)
    return int(np.ceil(root - half))
