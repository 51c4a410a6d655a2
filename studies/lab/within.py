"""Within (length mix x base): what a signal says of two checkpoints that differ in neither. Fitted on seven bases, held to the eighth.

The length mix and the base explain most of the outcome by themselves, and every signal differs between them for reasons that have nothing to
do with what RL can reach; so outcome and signals are taken less their mean over the stratum (reference: the protocol's primary comparison).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from predict.comparing import sign_flip_p

Array = NDArray[np.float64]
STRATUM = ("base_model", "length_mix")


@dataclass(frozen=True)
class Within:
    """Rows whose outcome and signals are centred within their stratum."""

    frame: pl.DataFrame
    """The rows of strata with at least two."""
    y: Array
    """(n,): outcome less its stratum's mean."""
    bases: Array
    """(n,): the base of each row."""

    @classmethod
    def of(cls, frame: pl.DataFrame, outcome: str = "outcome_pass_at_1") -> "Within":
        """Rows without the outcome are left aside."""
        known = frame.filter(pl.col(outcome).is_not_null(), pl.col("length_mix").is_not_null())
        known = known.filter(pl.len().over(STRATUM) > 1).sort("base_model", "length_mix", "run_id")
        return cls(known, _centred(known, outcome), known["base_model"].to_numpy())

    def signals(self, names: tuple[str, ...]) -> Array:
        """(n, d): columns less their stratum's mean."""
        return np.column_stack([_centred(self.frame, name) for name in names])

    def predicted(self, names: tuple[str, ...]) -> Array:
        """(n,): least squares without an intercept on the other bases; zeros for no names, the stratum's mean."""
        x, predicted = self.signals(names) if names else np.zeros((len(self.y), 0)), np.zeros(len(self.y))
        for base in np.unique(self.bases):
            left_out = self.bases == base
            slopes = np.linalg.lstsq(x[~left_out], self.y[~left_out], rcond=None)[0]
            predicted[left_out] = x[left_out] @ slopes
        return predicted

    def squared_errors(self, names: tuple[str, ...]) -> Array:
        """(B,): mean squared error on each base, by the fit on the others."""
        errors = (self.y - self.predicted(names)) ** 2
        return np.array([errors[self.bases == base].mean() for base in np.unique(self.bases)])

    def r2(self, names: tuple[str, ...]) -> float:
        """1 - squared error / that of the stratum's mean; it may be negative."""
        return float(1 - ((self.y - self.predicted(names)) ** 2).sum() / (self.y**2).sum())

    def correlation(self, name: str) -> float:
        """Pearson correlation of the centred signal with the centred outcome."""
        return float(np.corrcoef(self.signals((name,))[:, 0], self.y)[0, 1])


@dataclass(frozen=True)
class Comparison:
    """Squared errors by base of a smaller and a larger set of signals."""

    small: Array
    large: Array
    """(B,) each."""
    p: float
    """Two-sided, from flipping the sign of each base's difference; the smallest there is is 2^(1 - B)."""

    @property
    def cut(self) -> float:
        """Share of the smaller model's squared error that the larger one removes, mean over bases."""
        return float(1 - self.large.mean() / self.small.mean())


def compared(rows: Within, small: tuple[str, ...], large: tuple[str, ...]) -> Comparison:
    """The protocol's test of `large` against `small`."""
    errors = rows.squared_errors(small), rows.squared_errors(large)
    return Comparison(*errors, sign_flip_p(errors[1] - errors[0], np.random.default_rng(0)))


def _centred(frame: pl.DataFrame, name: str) -> Array:
    return frame.select(pl.col(name) - pl.col(name).mean().over(STRATUM)).to_series().cast(pl.Float64).to_numpy()
