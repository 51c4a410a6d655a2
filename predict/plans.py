"""What a plan is made of: the rows it chooses among, its picks with their reasons, and what they are worth."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from predict.features import column, names
from predict.forecasting import Forecaster
from predict.predictors import Predictor

Objective = Literal["best", "calibrate"]


@dataclass(frozen=True)
class Pick:
    """One run to pay for."""

    id: str
    name: str
    reason: str
    facts: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """The runs to pay for, in order, and what they are worth."""

    objective: Objective
    budget: int
    predictor: str
    outcome: str
    n_runs: int
    """Runs with an outcome, which the plan rests on."""
    n_candidates: int
    picks: list[Pick]
    worth: dict[str, float]
    notes: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        """What the budget buys."""
        texts = {
            "p_best_among": "they hold the best candidate with probability {:.2f}",
            "expected_regret_measured": "expected regret of the one that measures best {:.4f}",
            "expected_regret_measured_all": "with all candidates run {:.4f}",
            "expected_regret_without_runs": "with none run, by forecast alone, {:.4f}",
            "fit_se": "mean standard error of the fit now {:.4f}",
            "fit_se_after": "after these runs {:.4f}",
            "fit_se_all": "after all {:.4f}",
            "largest_distance_left": "largest distance of a candidate from a run {:.2f} (Gower, 0 to 1)",
        }
        return "; ".join(text.format(self.worth[name]) for name, text in texts.items() if name in self.worth)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "words": self.words}

    def frame(self) -> pl.DataFrame:
        """One row a pick."""
        return pl.DataFrame([{"id": p.id, "checkpoint": p.name, **p.facts, "reason": p.reason} for p in self.picks])


@dataclass(frozen=True)
class Task:
    """Rows with and without an outcome, and what is asked of them."""

    table: pl.DataFrame
    known: NDArray[np.bool_]
    predictor: Predictor
    outcome: str
    group: str | None
    seed: int
    budget: int

    @property
    def candidates(self) -> pl.DataFrame:
        """Rows without an outcome."""
        return self.table.filter(pl.Series(~self.known))

    def fitted(self) -> Forecaster:
        """The predictor fitted on the rows with an outcome."""
        return Forecaster(self.predictor, outcome=self.outcome, group=self.group, seed=self.seed).fit(self.table)

    def labels(self) -> list[list[object]]:
        """Of every row: its cell (or the named group), and its base model, where the table has them."""
        levels = [self.group or "cell", "base_model"]
        return [self.table[name].cast(pl.String).to_list() if name in self.table.columns else [] for name in levels]

    def pick(self, row: int, reason: str, **facts: float) -> Pick:
        """The candidate of that number."""
        candidates = self.candidates
        name = str(candidates["id"][row])
        called = names(candidates)[name] if "variant" in candidates.columns else name
        return Pick(name, called, reason, {key: round(float(value), 6) for key, value in facts.items()})

    def special(self, row: int, earlier: list[Any]) -> str:
        """What a run adds, in words: its most outlying signal, and the first run of its base or cell."""
        words = []
        if self.predictor.features and not self.predictor.categorical:
            X = self.predictor.matrix(self.table)
            scores = (X[row] - np.nanmean(X, axis=0)) / np.maximum(np.nanstd(X, axis=0), 1e-12)
            j = int(np.abs(scores).argmax())
            place = "in the middle" if abs(scores[j]) < 0.5 else "on the high side" if scores[j] > 0 else "on the low side"
            words.append(f"{self.predictor.features[j]} {column(self.table, self.predictor.features[j])[row]:.3g} is {place}")
        for kind, labels in zip(("its cell", "base"), self.labels(), strict=True):
            if labels and labels[row] not in {labels[other] for other in earlier}:
                words.append(f"first run of {kind}{'' if kind == 'its cell' else f' {labels[row]}'}")
        return ", ".join(words) or "as good as any"


def rounded(worth: dict[str, Any]) -> dict[str, float]:
    """To six places."""
    return {name: round(float(value), 6) for name, value in worth.items()}
