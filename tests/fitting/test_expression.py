import numpy as np
import pandas as pd
import pytest

from fitting.expression import FUNCTIONS, evaluate, names, parse, where
from refused import Refused

TABLE = pd.DataFrame(
    {
        "State": ["finished", "crashed", "finished", None],
        "params_total": [1e5, 1e7, 1e8, 1e9],
        "loss": [4.0, 3.0, np.nan, 2.0],
        "loss.c4": [4.1, 3.1, 2.6, 2.1],
        "kept": [True, False, True, True],
    }
)


def test_arithmetic_is_that_of_numpy():
    tree = parse("exp(-a*log(x)) + max(x, 2)**.5 / 3 - abs(-x)", "formula")
    x, a = np.array([1.0, 4.0]), 0.3
    assert names(tree) == ["a", "x"]
    assert evaluate(tree, {"x": x, "a": a}) == pytest.approx(
        x**-0.3 + np.maximum(x, 2) ** 0.5 / 3 - x
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_takes_complex_steps(name):
    function, count = FUNCTIONS[name]
    rest = (2.0,) * (count - 1)
    slope = np.imag(function(1.3 + 1e-30j, *rest)) / 1e-30
    around = (function(1.3 + 1e-6, *rest) - function(1.3 - 1e-6, *rest)) / 2e-6
    assert slope == pytest.approx(around, abs=1e-8)


@pytest.mark.parametrize(
    "text",
    [
        "().__class__",
        "x.__class__.__bases__()",
        "__import__('os')",
        "open(x)",
        "eval(x)",
        "exp(x, 2)",
        "exp(*x)",
        "x[0]",
        "[y for y in x]",
        "(lambda: 1)()",
        "x if x else 1",
        "(x := 1)",
        "f'{x}'",
        "x @ y",
        "x ^ 2",
        "1 << 99",
        "9**9**9",
        "9**9**9 * x",
        "1e308*10",
        "1/0",
        "x +",
        "",
        "1j",
        "-" * 1500 + "x",
        "(" * 900 + "x" + ")" * 900,
        "x+" * 3000 + "x",
    ],
)
def test_what_is_no_arithmetic_is_refused(text):
    with pytest.raises(Refused, match="formula"):
        parse(text, "formula")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("State == finished and params > 1e6", [0, 0, 1, 0]),
        ("State == 'finished' or State == crashed", [1, 1, 1, 0]),
        ("State != finished", [0, 1, 0, 1]),
        ("not State in (finished, crashed)", [0, 0, 0, 1]),
        ("State not in [finished]", [0, 1, 0, 1]),
        ("1e6 < params <= 1e8", [0, 1, 1, 0]),
        ("loss.c4 - loss < .5", [1, 1, 0, 1]),
        ("log10(params_total) > 7.5 and kept", [0, 0, 1, 1]),
        ("kept == false", [0, 1, 0, 0]),
    ],
)
def test_rows_that_meet_a_condition(text, kept):
    assert list(where(TABLE, text)) == [bool(one) for one in kept]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("width > 3", "width"),
        ("State > 'finished'", "numbers for < and >"),
        ("State > finished", "a column"),
        ("State == 3", "text with text"),
        ("loss == low", "text with text"),
        ("params", "comparisons"),
        ("loss.c5 > 3", "loss.c5"),
        ("State + 1 == 2", "arithmetic"),
        ("loss < open(1)", "functions"),
    ],
)
def test_conditions_that_cannot_be_meant_are_refused(text, told):
    with pytest.raises(Refused, match=told):
        where(TABLE, text)


def test_params_has_to_be_clear():
    both = TABLE.assign(params_active=1.0)
    with pytest.raises(Refused, match="params_total, params_active"):
        where(both, "params > 1")
