"""Predictors of the RL outcome, baselines first: a name becomes columns and a scikit-learn estimator.

    mean                      the training mean
    identity(pass_at_1)       outcome = that column, nothing fitted: choosing by post-SFT pass@1
    label(length_mix)         mean outcome of the runs with the same label
    A, A+B, log(A), logit(A)  ordinary least squares
    average(A,B)              mean of the single least-squares fits
    ridge(A,B,...)            standardised, penalty chosen inside the training fold
    huber(A,...)              standardised, robust to outlying runs
    saturating(A)             rises to a ceiling
    monotone(A)               rises or falls in steps (isotonic)
    nested(A,B,...)           least squares on one of the columns, chosen inside the training fold
    mixed(A,B,...|G)          least squares with a random intercept for each value of the column G

`pass_at_1..pass_at_64` inside brackets stands for the powers of two between. To add a predictor, write its estimator and register it in
ESTIMATORS; to use your own without registering, pass `Predictor("name", (Term("column"), ...), estimator)`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.base import clone

from curate.errors import UsageError
from predict.curves import Monotone, RandomIntercept, Saturating
from predict.estimators import AverageOfSingleFits, Identity, LabelMeans, LeastSquares, Mean, Nested
from predict.features import Term, label_codes
from predict.shrinkage import Ridge, huber

Array = NDArray[np.float64]
RIDGE = "ridge(pass_at_1,pass_at_8,pass_at_64,mixed_share,gen_loss,gen_loss_style_free,entropy_t1,mean_tokens)"
"""Every signal that is cheap to have, shrunk."""
DEFAULTS = (
    "pass_at_1",
    "mean",
    "identity(pass_at_1)",
    "label(length_mix)",
    "pass_at_8",
    "pass_at_64",
    "mixed_share",
    "gen_loss",
    "gen_loss_style_free",
    "gen_loss+pass_at_64",
    "gen_loss_style_free+pass_at_64",
    "average(gen_loss,pass_at_64)",
    "nested(pass_at_1..pass_at_64)",
    "saturating(pass_at_64)",
    RIDGE,
    "early_reward_start+early_reward_slope",
)
"""What is scored on a store where nothing is named; the first is the baseline: the practice to beat.

The last one is no forecast: it takes the first RL steps, and extrapolates them."""
ESTIMATORS: dict[str, Callable[[], Any]] = {
    "mean": Mean,
    "identity": Identity,
    "label": LabelMeans,
    "average": AverageOfSingleFits,
    "ridge": Ridge,
    "huber": huber,
    "saturating": Saturating,
    "monotone": Monotone,
    "nested": Nested,
    "mixed": RandomIntercept,
}
ONE_COLUMN = ("identity", "label", "saturating", "monotone")
_CALL = re.compile(r"(" + "|".join(ESTIMATORS) + r")(?:\((.*)\))?")
_RANGE = re.compile(r"(.*?)(\d+)\.\.(.*?)(\d+)")


@dataclass(frozen=True)
class Predictor:
    """A named way from columns to the outcome."""

    name: str
    terms: tuple[Term, ...]
    estimator: Any
    """A scikit-learn regressor; it is cloned for each fit."""
    linear: bool = False
    """Ordinary least squares with an intercept: t intervals apply."""
    categorical: bool = False
    grouping: str | None = None
    """Column whose values have a random intercept each; its code is the last column of the matrix."""

    @property
    def features(self) -> list[str]:
        """Names of the columns it reads."""
        return [*(term.column for term in self.terms), *([self.grouping] if self.grouping else [])]

    @property
    def numeric(self) -> list[str]:
        """Names of the columns it reads as numbers."""
        return [] if self.categorical else [term.column for term in self.terms]

    def matrix(self, frame: pl.DataFrame) -> Array:
        """Its columns, shape (n, d), NaN where one is null; one column of zeros where it reads none."""
        if not self.terms:
            return np.zeros((len(frame), 1))
        if self.categorical:
            return np.column_stack([label_codes(frame, term.column) for term in self.terms])
        codes = [label_codes(frame, self.grouping)] if self.grouping else []
        return np.column_stack([*(term.values(frame) for term in self.terms), *codes])

    def fit(self, X: Array, y: Array) -> Any:
        """A clone of the estimator, fitted."""
        with config_context(assume_finite=True, skip_parameter_validation=True):
            return clone(self.estimator).fit(X, y)


def parse(name: str) -> Predictor:
    """Read a predictor's name.

    >>> parse("nested(pass_at_1..pass_at_8)").features
    ['pass_at_1', 'pass_at_2', 'pass_at_4', 'pass_at_8']

    Raises:
        UsageError: not of the grammar in this module's docstring.
    """
    text = name.strip()
    call = _CALL.fullmatch(text)
    if not call or (call[2] is None and call[1] != "mean"):
        return _linear(text)
    kind, inside = call[1], (call[2] or "").strip()
    if bool(inside) == (kind == "mean"):
        raise UsageError(f"predictor {name!r}: expected {'no columns' if kind == 'mean' else 'columns'} in the brackets")
    inside, grouping = _grouping(name, kind, inside)
    terms = tuple(Term.parse(part) for whole in inside.split(",") for part in _spread(whole)) if inside else ()
    if kind in ONE_COLUMN and len(terms) != 1:
        raise UsageError(f"predictor {name!r}: {kind} takes one column, came {len(terms)}")
    return Predictor(text, terms, ESTIMATORS[kind](), kind == "mean", kind == "label", grouping)


def _grouping(name: str, kind: str, inside: str) -> tuple[str, str | None]:
    """The columns, and of a mixed model the column after the bar."""
    if kind != "mixed":
        return inside, None
    columns, bar, grouping = (part.strip() for part in inside.partition("|"))
    if not (columns and bar and grouping):
        raise UsageError(f"predictor {name!r}: expected mixed(A,B|G) with the column of the groups after the bar")
    return columns, grouping


def _spread(text: str) -> list[str]:
    """`pass_at_1..pass_at_8` as its powers of two; anything else as it is.

    Raises:
        UsageError: the ends are of different columns, or not powers of two in order.
    """
    ends = _RANGE.fullmatch(text.strip())
    if not ends:
        return [text]
    low, high = int(ends[2]), int(ends[4])
    powers = [2**i for i in range(high.bit_length()) if low <= 2**i <= high]
    if ends[1] != ends[3] or not powers or powers[0] != low or powers[-1] != high:
        raise UsageError(
            f"predictor range {text.strip()!r}: expected two powers of two of one name, such as pass_at_1..pass_at_64"
        )
    return [f"{ends[1]}{k}" for k in powers]


def _linear(text: str) -> Predictor:
    if not text or any(not part.strip() for part in text.split("+")):
        raise UsageError(f"predictor {text!r}: expected a column, A+B, or name(A,B) with one of {', '.join(ESTIMATORS)}")
    terms = tuple(Term.parse(part) for part in text.split("+"))
    return Predictor("+".join(part.strip() for part in text.split("+")), terms, LeastSquares(), linear=True)
