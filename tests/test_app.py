"""The explorer's pages, run by Streamlit's own test harness on the packed study."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import predict

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    predict.ingest(folder, [ROOT / "studies/lab/runs"])
    return folder


def opened(page: str, home: Path, monkeypatch: pytest.MonkeyPatch, **query: str) -> AppTest:
    monkeypatch.setenv("FORERUN_HOME", str(home))
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    if page:
        app.switch_page(f"views/{page}.py").run()
    assert not app.exception
    return app


def metric(app: AppTest, label: str) -> str:
    return next(m.value for m in app.metric if label in m.label)


def test_overview_counts_what_the_store_holds(home, monkeypatch):
    app = opened("", home, monkeypatch)
    runs = predict.load(home)
    assert metric(app, "SFT checkpoints") == str(len(runs))
    assert metric(app, "measured RL outcome") == str(runs["outcome_pass_at_1"].is_not_null().sum())
    table = next(frame.value for frame in app.dataframe if "r2_logo" in frame.value.columns)
    assert table.set_index("predictor").loc["mean", "r2_logo"] == 0


def test_a_page_without_a_store_says_what_to_do(tmp_path, monkeypatch):
    app = opened("", tmp_path, monkeypatch)
    assert "make demo" in app.info[0].value


def test_what_if_shows_the_forecast_that_the_library_makes(home, monkeypatch):
    app = opened("what_if", home, monkeypatch)
    app.selectbox(key="predictor").set_value("pass_at_64").run()
    runs = predict.load(home)
    start = runs.filter(runs["id"] == app.selectbox(key="start").value)
    expected = predict.Forecaster("pass_at_64").fit(runs).forecast(start).candidates[0]
    assert metric(app, "Forecast") == f"{expected['point']:.3f}"
    assert metric(app, "90 %") == f"{expected['low']:.3f} .. {expected['high']:.3f}"
    nearest = next(frame.value for frame in app.dataframe if "outcome_pass_at_1" in frame.value.columns)
    assert len(nearest) == len(expected["nearest"])


def test_moving_a_slider_moves_the_forecast_and_reset_takes_it_back(home, monkeypatch):
    app = opened("what_if", home, monkeypatch)
    app.selectbox(key="predictor").set_value("pass_at_64").run()
    before = metric(app, "Forecast")
    slider = app.sidebar.slider[0]
    slider.set_value(slider.max).run()
    assert not app.exception
    assert float(metric(app, "Forecast")) > float(before)
    app.sidebar.button[0].click().run()
    assert not app.exception
    assert metric(app, "Forecast") == before


def test_a_scenario_far_outside_is_called_an_extrapolation(home, monkeypatch):
    app = opened("what_if", home, monkeypatch)
    app.selectbox(key="predictor").set_value("gen_loss").run()
    slider = app.sidebar.slider[0]
    slider.set_value(slider.max).run()
    assert any("extrapolation" in warning.value for warning in app.warning)
