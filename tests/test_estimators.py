"""Estimators held to scikit-learn, statsmodels and brute force; fits on many subsets to fits one by one."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import isotonic_regression
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from predict.curves import Monotone, RandomIntercept, Saturating
from predict.estimators import (
    AverageOfSingleFits,
    Identity,
    LabelMeans,
    LeastSquares,
    Mean,
    Nested,
    leave_one_out_residuals,
)
from predict.folds import predictions
from predict.prediction import least_squares
from predict.predictors import Predictor, parse
from predict.shrinkage import ALPHAS, Ridge

RNG = np.random.default_rng(8)
X = RNG.normal(size=(26, 3)) * [1.0, 0.01, 30.0] + [0.0, 5.0, -2.0]
Y = 0.4 + X @ [0.1, 8.0, 0.001] + 0.05 * RNG.normal(size=26)


class FirstColumn:
    """Before a regressor of one column: scikit-learn's checks fit several, which it refuses; this takes the first of them."""

    def _column(self, X: np.ndarray) -> np.ndarray:
        return X[:, 0]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # one column explains little of an outcome made of ten
        return tags


class SaturatingOfFirst(FirstColumn, Saturating):
    """All of Saturating but the refusal."""


class MonotoneOfFirst(FirstColumn, Monotone):
    """All of Monotone but the refusal."""


@parametrize_with_checks(
    [
        Mean(), LeastSquares(), AverageOfSingleFits(), Ridge(), Nested(), Identity(), LabelMeans(), RandomIntercept(),
        SaturatingOfFirst(), MonotoneOfFirst(),
    ],
    expected_failed_checks=lambda _: {},
)  # fmt: skip
def test_estimators_keep_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", [Saturating(), Monotone()])
def test_what_a_regressor_of_one_column_fails_of_scikit_learns_checks_is_their_fitting_several(estimator):
    results = check_estimator(estimator, on_skip=None, on_fail=None)
    failed = [result["exception"] for result in results if result["status"] == "failed"]
    assert [error for error in failed if f"{type(estimator).__name__} takes one column" not in f"{error} {error.__cause__}"] == []
    assert sum(result["status"] == "passed" for result in results) >= 20


def test_least_squares_equals_scikit_learn_with_collinear_columns_too():
    collinear = np.column_stack([X, X[:, 0] + X[:, 1], np.full(len(X), 3.0)])
    for matrix in (X, collinear):
        ours, theirs = LeastSquares().fit(matrix, Y), LinearRegression().fit(matrix, Y)
        assert ours.predict(matrix) == pytest.approx(theirs.predict(matrix))
        assert ours.predict(matrix[::-1] + 0.5) == pytest.approx(theirs.predict(matrix[::-1] + 0.5))


def test_coefficients_errors_and_r2_equal_statsmodels_to_1e_10():
    theirs = sm.OLS(Y, sm.add_constant(X)).fit()
    ours = LeastSquares().fit(X, Y)
    coefficients, inverse, variance, freedom = least_squares(X, Y)
    assert [ours.intercept_, *ours.coef_] == pytest.approx(theirs.params, rel=1e-10, abs=1e-10)
    assert coefficients == pytest.approx(theirs.params, rel=1e-10, abs=1e-10)
    assert np.sqrt(variance * np.diag(inverse)) == pytest.approx(theirs.bse, rel=1e-10)
    assert (ours.score(X, Y), freedom) == (pytest.approx(theirs.rsquared, abs=1e-12), theirs.df_resid)


@pytest.mark.parametrize("columns", [[0], [0, 1], [0, 1, 2]])
def test_leave_one_out_by_the_hat_matrix_equals_brute_force(columns):
    brute = Y - cross_val_predict(LinearRegression(), X[:, columns], Y, cv=LeaveOneOut())
    assert leave_one_out_residuals(X[:, columns], Y) == pytest.approx(brute, abs=1e-10)


def test_a_row_that_alone_carries_a_column_has_no_leave_one_out_residual():
    alone = np.zeros((6, 1))
    alone[2] = 1.0
    residuals = leave_one_out_residuals(alone, Y[:6])
    assert np.isinf(residuals).tolist() == [False, False, True, False, False, False]


CODES = np.repeat([3.0, 7.0, 11.0, 12.0], [9, 9, 7, 1])
PREDICTORS = {
    **{name: (parse(name), X) for name in ("mean", "average(a,b,c)", "a+b+c", "nested(a,b,c)", "ridge(a,b,c)")},
    "identity(a)": (parse("identity(a)"), X[:, :1]),
    "label(mix)": (parse("label(mix)"), CODES[:, None]),
    "a constant column": (parse("a+b"), np.column_stack([X[:, 0], np.full(26, 2.0)])),
    "collinear": (parse("a+b+c"), np.column_stack([X[:, :2], X[:, 0] - X[:, 1]])),
    "ridge with a constant": (parse("ridge(a,b)"), np.column_stack([X[:, 0], np.full(26, 2.0)])),
}


def subsets() -> np.ndarray:
    """All rows but one, but five, halves, and only six rows."""
    rng = np.random.default_rng(0)
    masks = [np.arange(26) != row for row in range(26)]
    masks += [rng.permutation(26) < size for size in (21, 13, 13, 6)]
    return np.array(masks)


@pytest.mark.parametrize("name", PREDICTORS)
def test_fits_on_many_subsets_at_once_are_the_fits_one_by_one(name):
    predictor, matrix = PREDICTORS[name]
    kept = subsets()
    alone = np.stack([predictor.fit(matrix[rows], Y[rows]).predict(matrix) for rows in kept])
    assert predictions(predictor, matrix, Y, kept) == pytest.approx(alone, abs=1e-8)


def test_a_subset_in_which_a_column_never_varies_is_fitted_all_the_same():
    rare = np.column_stack([X[:, 0], np.arange(26) == 4])
    kept = subsets()
    alone = np.stack([LinearRegression().fit(rare[rows], Y[rows]).predict(rare) for rows in kept])
    assert predictions(parse("a+b"), rare, Y, kept) == pytest.approx(alone, abs=1e-8)


def test_an_estimator_without_a_way_for_many_is_fitted_one_by_one():
    own = Predictor("own", parse("a+b").terms, RidgeCV([1.0]))
    kept = subsets()[:3]
    alone = np.stack([RidgeCV([1.0]).fit(X[rows], Y[rows]).predict(X) for rows in kept])
    assert predictions(own, X, Y, kept) == pytest.approx(alone)


def test_ridge_is_scikit_learns_with_the_penalty_of_least_leave_one_out_error():
    theirs = make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(X, Y)
    assert Ridge().fit(X, Y).predict(X) == pytest.approx(theirs.predict(X))


def test_the_nested_choice_is_the_column_with_the_least_leave_one_out_error():
    errors = [((Y - cross_val_predict(LinearRegression(), X[:, [j]], Y, cv=LeaveOneOut())) ** 2).mean() for j in range(3)]
    fitted = Nested().fit(X, Y)
    assert fitted.chosen_ == int(np.argmin(errors))
    assert fitted.predict(X) == pytest.approx(LinearRegression().fit(X[:, [fitted.chosen_]], Y).predict(X[:, [fitted.chosen_]]))


def test_the_best_of_many_noise_columns_scores_above_0_outside_and_below_0_inside_the_fold():
    """Chosen on all rows the best k looks useful; chosen in the training fold it does not."""
    outside, inside = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        noise, y = rng.normal(size=(20, 9)), rng.normal(size=20)
        spread = ((y - (y.sum() - y) / 19) ** 2).sum()
        outside.append(max(1 - (leave_one_out_residuals(noise[:, [j]], y) ** 2).sum() / spread for j in range(9)))
        held = np.diag(Nested().predict_many(noise, y, ~np.eye(20, dtype=bool)))
        inside.append(1 - ((y - held) ** 2).sum() / spread)
    assert np.mean(outside) > 0.05
    assert np.mean(inside) < 0


def test_a_saturating_curve_is_recovered_and_never_bends_the_other_way():
    x = np.linspace(0.1, 0.9, 20)
    u = (x - 0.1) / 0.8
    rising = 0.2 + 0.5 * np.expm1(-4 * u) / np.expm1(-4)
    fitted = Saturating().fit(x[:, None], rising)
    assert fitted.bend_ == 4
    assert fitted.predict(x[:, None]) == pytest.approx(rising, abs=1e-12)
    assert fitted.predict([[3.0]]) == pytest.approx([0.2 + 0.5 / -np.expm1(-4)], abs=1e-4)
    assert Saturating().fit(x[:, None], x**3).bend_ == 0


def test_a_falling_column_saturates_at_its_good_end_too():
    loss = np.linspace(0.1, 0.9, 20)
    u = (0.9 - loss) / 0.8
    y = 0.2 + 0.5 * np.expm1(-2 * u) / np.expm1(-2)
    assert Saturating().fit(loss[:, None], y).predict(loss[:, None]) == pytest.approx(y, abs=1e-12)


def test_the_saturating_fit_without_a_bend_is_the_straight_line():
    y = 1 - 2 * X[:, 0]
    assert Saturating().fit(X[:, :1], y).predict(X[:, :1]) == pytest.approx(y)
    assert Saturating().fit(np.ones((5, 1)), Y[:5]).predict(np.ones((2, 1))) == pytest.approx([Y[:5].mean()] * 2)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_monotone_fit_is_isotonic_regression_in_the_better_direction(sign):
    order = X[:, 0].argsort()
    fitted = Monotone().fit(X[:, :1], sign * Y)
    assert sign * fitted.predict(X[order, :1]) == pytest.approx(isotonic_regression(Y[order]).x)
    theirs = IsotonicRegression(out_of_bounds="clip", increasing=sign > 0).fit(X[:, 0], sign * Y)
    assert fitted.predict([[-9.0], [0.3], [9.0]]) == pytest.approx(theirs.predict([-9.0, 0.3, 9.0]))


@pytest.mark.parametrize("estimator", [Saturating(), Monotone()])
def test_curves_of_one_column_refuse_two(estimator):
    with pytest.raises(ValueError, match="takes one column, came 3"):
        estimator.fit(X, Y)


def grouped(seed: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(7), [3, 5, 8, 4, 6, 2, 9])
    x = rng.normal(size=(len(group), 2))
    return x, 0.5 + x @ [0.2, -0.1] + spread * rng.normal(size=7)[group] + 0.1 * rng.normal(size=len(group)), group


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("seed", "spread"), [(0, 0.15), (0, 0.3), (1, 0.15), (1, 0.3)])
def test_the_mixed_model_equals_statsmodels_mixedlm(seed, spread):
    x, y, group = grouped(seed, spread)
    theirs = sm.MixedLM(y, sm.add_constant(x), groups=group).fit(reml=True, method=["lbfgs", "powell"])
    ours = RandomIntercept().fit(np.column_stack([x, 100.0 + group]), y)
    assert ours.coef_ == pytest.approx(theirs.fe_params, abs=1e-6)
    assert ours.scale_ == pytest.approx(theirs.scale, rel=1e-4)
    assert ours.theta_ * ours.scale_ == pytest.approx(float(np.asarray(theirs.cov_re)[0, 0]), abs=1e-5)
    effects = [float(theirs.random_effects[number].iloc[0]) for number in range(7)]
    assert list(ours.effects_.values()) == pytest.approx(effects, abs=1e-4)
    assert ours.predict(np.column_stack([x, 100.0 + group])) == pytest.approx(theirs.fittedvalues, abs=1e-4)


def test_a_new_group_is_forecast_without_an_effect_and_groups_alike_have_none():
    x, y, group = grouped(3, 0.3)
    fitted = RandomIntercept().fit(np.column_stack([x, group]), y)
    assert fitted.predict([[0.1, 0.2, 55.0]]) == pytest.approx([fitted.coef_ @ [1, 0.1, 0.2]])
    alike = RandomIntercept().fit(np.column_stack([x, np.arange(len(y)) % 5]), x @ [1.0, 2.0] + 0.01 * np.sin(np.arange(len(y))))
    assert alike.theta_ == 0
    with pytest.raises(ValueError, match="group"):
        RandomIntercept().fit(x[:, :1], y)
