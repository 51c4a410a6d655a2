"""Scores of forecasts held to closed forms; a small run of the simulated studies."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss

from curate.errors import InputError
from predict.calibration import brier_score, interval_figures, interval_score, log_skill, reliability

ROOT = Path(__file__).parent.parent


def test_the_interval_score_is_the_sum_of_two_pinball_losses():
    """Gneiting and Raftery 2007: 2 / alpha times the pinball losses at alpha / 2 and 1 - alpha / 2."""
    rng = np.random.default_rng(0)
    y, low, high = rng.normal(size=50), rng.normal(-1, 0.1, 50), rng.normal(1, 0.1, 50)

    def pinball(end: np.ndarray, level: float) -> np.ndarray:
        return np.where(y >= end, level * (y - end), (level - 1) * (y - end))

    expected = (pinball(low, 0.05) + pinball(high, 0.95)) * 2 / 0.1
    assert interval_score(y, low, high, 0.9) == pytest.approx(expected)


def test_wide_intervals_do_not_win_and_the_true_quantiles_do():
    y = np.random.default_rng(0).normal(size=20000)
    means = {half: interval_figures(y, -half * np.ones(20000), half * np.ones(20000)).score for half in (1.2, 1.645, 2.2, 5.0)}
    assert min(means, key=means.get) == 1.645
    assert interval_figures(y, np.full(20000, -5.0), np.full(20000, 5.0)).coverage > 0.99


def test_figures_of_intervals():
    found = interval_figures([0.0, 1.0, 2.0, 3.0], [0, 0, 0, 0], [1, 1, 1, 1], 0.5)
    assert found == (4, 0.5, 1.0, 1 + 4 * (1 + 2) / 4)


def test_an_interval_upside_down_is_refused():
    with pytest.raises(InputError, match="upside down"):
        interval_score([0.0], [1.0], [0.0])


def test_brier_and_log_skill_of_a_choice_among_m():
    assert brier_score([0.25] * 4, 2) == pytest.approx(0.75)
    assert brier_score([0, 0, 1, 0], 2) == 0
    assert brier_score([0.3, 0.7], 1) == pytest.approx(2 * brier_score_loss([1], [0.7], pos_label=1))
    assert log_skill([0.25] * 4, 2) == pytest.approx(0)
    assert log_skill([0.1, 0.9], 1) == pytest.approx(np.log(1.8))
    with pytest.raises(InputError, match="probability 0"):
        log_skill([1.0, 0.0], 1)


def test_events_that_happen_as_often_as_said_are_reliable_and_others_not():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=5000)
    honest = reliability(p, rng.uniform(size=5000) < p)
    assert honest["n"].sum() == 5000
    z = ((honest["share"] - honest["probability"]) / honest["error"]).to_numpy()
    assert stats.chi2.sf((z**2).sum(), 10) > 0.01
    bold = reliability(p, rng.uniform(size=5000) < 0.5 + 0.5 * (p - 0.5))
    assert np.abs((bold["share"] - bold["probability"]) / bold["error"]).max() > 5
    with pytest.raises(InputError, match=r"0\.\.1"):
        reliability([1.2], [1])


@pytest.mark.slow
def test_simulated_studies_are_covered_and_p_best_beats_not_knowing():
    """120 studies of the benchmark whose 4,200 are shown in docs/statistics.md."""
    found = subprocess.run(
        [sys.executable, "benchmarks/calibration.py", "--studies", "6"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    pooled = next(line for line in found.splitlines() if line.startswith("| 120 "))
    coverage, score, line = (float(pooled.split("|")[column]) for column in (2, 5, 6))
    assert 0.83 <= coverage <= 0.96
    assert score < 1.1 * line
    assert float(found.split("outlier studies: ")[1].split()[0]) > 0.5
