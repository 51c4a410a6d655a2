"""What would make a score look better than it is: twins across folds, one run twice, losses of different sets, a gain against its own start."""

from collections.abc import Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from predict.features import column

Array = NDArray[np.float64]
UNITS = {
    "cell": ("cell",),
    "lineage": ("run_id", "parent_run_id", "lineage", "checkpoint"),
    "dataset": ("dataset", "dataset_hash", "sft_dataset", "sft_variant", "variant", "train_set"),
    "base model": ("base_model", "base"),
}
"""What rows may share, finest first, and the columns that it is known by."""
STARTS = ("start_pass_at_1", "pass_at_1", "pre_pass_at_1", "pre_pass1")
"""Columns that hold pass@1 before RL, the outcome's own problems first."""


def shared_units(frame: pl.DataFrame) -> dict[str, int]:
    """Columns by which rows are twins: each with how many different values it has, finest unit first.

    A column counts where some value is shared and there are at least two, and once where two columns cut the rows alike.
    """
    found: dict[str, int] = {}
    cuts: set[tuple[int, ...]] = set()
    for name in (name for columns in UNITS.values() for name in columns if name in frame.columns):
        values = frame[name].n_unique()
        cut = tuple(frame[name].rank("dense").fill_null(0).to_list())
        if 2 <= values < len(frame) and not frame[name].null_count() and cut not in cuts:
            cuts.add(cut)
            found[name] = values
    return found


def shared_note(units: dict[str, int], group: str | None, n: int) -> list[str]:
    """Which folds there could be; a warning where none are used."""
    if not units or (group in units and len(units) == 1):
        return []
    shown = ", ".join(f"{name} ({count} values)" for name, count in units.items())
    if group is None:
        first = next(iter(units))
        return [
            f"the {n} rows share {shown}: leaving single rows out trains on others of the same {first}; `--group {first}` leaves each out whole"
        ]
    return [f"rows share {shown}; folds leave one {group} out"]


def optimism_note(loo: float, logo: float, group: str) -> list[str]:
    """Said where twins in the training fold make leave-one-out look better than leaving their cluster out."""
    if loo - logo <= 0.05:
        return []
    return [
        f"leave-one-out R^2 {loo:.2f} is optimistic: with each {group} left out whole it is {logo:.2f}; twins are in the training fold"
    ]


def repeated_rows(columns: Iterable[Array], ids: list[str]) -> list[str]:
    """Rows equal in every feature and the outcome are named: one run counted twice."""
    table = np.column_stack(list(columns))
    _, inverse, count = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    twice = np.flatnonzero(count > 1)
    if not len(twice):
        return []
    names = [ids[row] for row in np.flatnonzero(inverse.ravel() == twice[0])]
    return [
        f"{int(count[twice].sum() - len(twice))} rows repeat another in every predictor and the outcome (first: {' and '.join(names[:3])}): "
        "if they are one run, keep one; no fold can part them otherwise"
    ]


def collapsed_rows(frame: pl.DataFrame, outcome: str) -> tuple[NDArray[np.bool_], str]:
    """Rows whose run collapsed, (n,), and why they are called so.

    Flagged in a column `collapsed`, or the outcome lies .05 and a quarter under pass@1 before RL where a column of STARTS holds it.
    """
    fallen, reason = np.zeros(len(frame), dtype=bool), "flagged collapsed"
    start = next((name for name in STARTS if name in frame.columns and name != outcome), None)
    if start is not None and _is_share(frame, outcome):
        before, after = column(frame, start), column(frame, outcome)
        before = before / 100 if np.nanmax(before, initial=0) > 1 else before
        with np.errstate(invalid="ignore"):
            fallen = (after < 0.75 * before) & (after < before - 0.05)
        reason = f"flagged, or {outcome} under three quarters of {start}"
    if "collapsed" in frame.columns and frame["collapsed"].dtype == pl.Boolean:
        fallen = fallen | frame["collapsed"].fill_null(value=False).to_numpy()
    return fallen, reason


def _is_share(frame: pl.DataFrame, outcome: str) -> bool:
    values = column(frame, outcome)
    return bool(np.nanmin(values) >= 0 and np.nanmax(values) <= 1)


def gain_note(frame: pl.DataFrame, outcome: str, names: Iterable[str]) -> list[str]:
    """Said where the outcome is some column less a predictor: the predictor's error is in both and makes a slope out of nothing."""
    y = column(frame, outcome)
    numeric = [name for name in frame.columns if frame[name].dtype.is_numeric() and name != outcome]
    for start in (name for name in names if name in numeric):
        ends = (name for name in numeric if name != start)
        found = next((end for end in ends if np.allclose(column(frame, end) - column(frame, start), y, atol=1e-9)), None)
        if found:
            return [
                f"{outcome} is {found} - {start}, and {start} is a predictor: its error is in both, so that pure noise gives a slope; "
                f"predict {found} with {start} beside the signal ({start}+...), or measure the start on other problems"
            ]
    return []


def own_loss_note(frame: pl.DataFrame, names: Iterable[str]) -> list[str]:
    """Said where a loss on each training set's own distribution is pooled over sets."""
    own = [name for name in names if name.endswith("_own")]
    sets = next(
        (name for name in ("length_mix", "dataset", "variant") if name in frame.columns and frame[name].n_unique() > 1), None
    )
    if not own or sets is None:
        return []
    return [
        f"{own[0]} is measured on each training set's own held-out part, so over different {sets} it is mostly the style's entropy: read r2_within"
    ]


def tie_notes(frame: pl.DataFrame, names: Iterable[str]) -> list[str]:
    """Columns with equal values; constant ones."""
    notes = []
    for name in dict.fromkeys(names):
        values = column(frame, name)
        different = len(np.unique(values))
        if different == 1:
            notes.append(f"{name} is constant ({values[0]:g} in all {len(values)} rows): it tells no run from another")
        elif different < len(values):
            notes.append(f"{name} has ties: {different} different values in {len(values)} rows; ties share their mean rank")
    return notes
