"""The Python interface of `predict`: its examples run, its names are there, importing it loads nothing heavy."""

import doctest
import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

import predict

MODULES = [f"predict.{module.name}" for module in pkgutil.iter_modules(predict.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_give_what_they_show(name):
    assert doctest.testmod(import_module(name)).failed == 0


def test_some_examples_are_there():
    found = doctest.DocTestFinder(exclude_empty=True)
    examples = [test for name in MODULES for test in found.find(import_module(name)) if test.examples]
    assert len(examples) >= 6


@pytest.mark.parametrize("name", predict.__all__)
def test_every_public_name_is_documented_and_annotated_and_no_module_bears_it(name):
    thing = getattr(predict, name)
    assert inspect.getdoc(thing)
    assert f"predict.{name}" not in MODULES
    if inspect.isfunction(thing):
        assert set(inspect.signature(thing).parameters) <= set(thing.__annotations__)
        assert "return" in thing.__annotations__


def test_importing_predict_loads_none_of_the_heavy_libraries():
    heavy = "sklearn", "scipy", "statsmodels", "torch", "polars", "duckdb"
    code = f"import sys, predict; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="it has Forecast, Forecaster"):
        predict.nothing  # noqa: B018
