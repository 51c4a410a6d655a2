"""What is lost by choosing runs by their predictions, and how often two runs are put in the right order."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from predict.features import OUTCOME, column
from predict.intervals import Interval, clusters_of, jackknife

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
CANDIDATE_SETS, SET_SIZE = 2000, 8


def pairwise_accuracy(predicted: Array, y: Array, clusters: list[Rows]) -> float | None:
    """Share of pairs from different clusters that are ordered rightly; predicted ties count half, true ties not at all."""
    cluster_of = np.empty(len(y), dtype=int)
    for number, rows in enumerate(clusters):
        cluster_of[rows] = number
    first, second = np.triu_indices(len(y), k=1)
    true, ours = np.sign(y[first] - y[second]), np.sign(predicted[first] - predicted[second])
    counted = (true != 0) & (cluster_of[first] != cluster_of[second])
    return float(((ours == true)[counted] + 0.5 * (ours == 0)[counted]).mean()) if counted.any() else None


def candidate_sets(frame: pl.DataFrame, rng: np.random.Generator) -> list[Rows]:
    """Random sets of SET_SIZE runs of one base model (all of a smaller base), drawn in proportion to the bases' runs.

    One array (sets, size) a base model; empty where no base has two runs.
    """
    labels = frame["base_model"].to_list() if "base_model" in frame.columns else [0] * len(frame)
    bases = [rows for rows in clusters_of(labels) if len(rows) > 1]
    if not bases:
        return []
    sizes = np.array([len(rows) for rows in bases])
    shares = rng.multinomial(CANDIDATE_SETS, sizes / sizes.sum())
    return [
        rows[rng.random((share, len(rows))).argsort(axis=1)[:, :SET_SIZE]]
        for rows, share in zip(bases, shares, strict=True)
        if share
    ]


def outcome_halves(frame: pl.DataFrame, outcome: str, y: Array) -> tuple[Array, Array]:
    """The outcome on two halves of the problems; twice the outcome itself where the frame does not have them."""
    names = ("outcome_half_1", "outcome_half_2")
    if outcome != OUTCOME or not set(names) <= set(frame.columns):
        return y, y
    first, second = (column(frame, name) for name in names)
    return (y, y) if np.isnan(first + second).any() else (first, second)


def regret(predicted: Array, halves: tuple[Array, Array], sets: list[Rows], stays: Mask, n_clusters: int, m: int = 1) -> Interval:
    """Mean outcome lost by running RL from the m best-predicted of a set and keeping the best of them, with a jackknife interval.

    The noisy maximum is cursed: the best of all is picked on one half of the problems, and the best of the m too, both are valued on the
    other half, and the other way round. The interval leaves blocks of clusters out; predictions are held.

    Args:
        predicted: held-out predictions, (n,).
        stays: rows that stay without each block, (B, n).
    """
    if not sets:
        return Interval(None)
    losses = [_losses(predicted, halves, rows, m) for rows in sets]
    whole = [stays[:, rows].all(axis=2) for rows in sets]
    total = np.concatenate(losses)
    inside = np.concatenate(whole, axis=1)
    count = inside.sum(axis=1)
    left_out = np.divide(inside @ total, count, out=np.full(len(count), np.nan), where=count > 0)
    return jackknife(float(total.mean()), left_out, n_clusters)


def _losses(predicted: Array, halves: tuple[Array, Array], rows: Rows, m: int) -> Array:
    """Loss of each set, (sets,); predicted ties go to the row that comes first in the set, which is random."""
    chosen = np.argsort(-predicted[rows], axis=1, kind="stable")[:, :m]
    lost = np.zeros(len(rows))
    every = np.arange(len(rows))
    for pick, value in (halves, halves[::-1]):
        picked, valued = pick[rows], value[rows]
        kept = chosen[every, np.take_along_axis(picked, chosen, axis=1).argmax(axis=1)]
        lost += (valued[every, picked.argmax(axis=1)] - valued[every, kept]) / 2
    return lost
