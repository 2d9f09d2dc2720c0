import numpy as np
import pandas as pd
import pytest

from fitting import LAWS, Observations, fit
from fitting.formula import formula_law
from refused import Refused
from tests.fitting.planted import TRUTH, grid, recovered

TEXT = "E + A*params**-a + B*tokens**-b"
RUNS = grid(params=np.geomspace(1e7, 1e10, 6), tokens=np.geomspace(1e9, 1e11, 5))


def test_the_chinchilla_law_as_text_is_the_chinchilla_law():
    law = formula_law(TEXT)
    values = {"E": 1.69, "A": 406.4, "B": 410.7, "a": 0.34, "b": 0.28}
    assert law.predictors == ("params", "tokens") and law.linear_count == 3
    assert law.predict(RUNS, values) == pytest.approx(LAWS["chinchilla"].predict(RUNS, TRUTH))
    assert recovered(law, RUNS, values) == pytest.approx(values, rel=1e-3)


def test_a_formula_is_fitted_like_any_law():
    loss = LAWS["chinchilla"].predict(RUNS, TRUTH)
    frame = pd.DataFrame({"params_total": RUNS["params"], "tokens": RUNS["tokens"], "loss": loss})
    ours = fit(formula_law(TEXT), Observations(frame), point_only=True)
    theirs = fit("chinchilla", Observations(frame), point_only=True)
    assert ours.parameters["a"] == pytest.approx(theirs.parameters["alpha"], rel=1e-4)


def test_a_law_under_a_power_is_searched_within_its_bounds():
    text = "loss = E + (A/(params/1e8)**a + B/(tokens/1e10)**b)**k"
    law = formula_law(text, "A=.01:10,B=.01:10,a=.1:1,b=.1:1,k=.2:2")
    values = {"E": 1.6, "A": 0.5, "B": 0.9, "a": 0.5, "b": 0.55, "k": 0.4}
    assert law.linear_count == 1 and law.names[0] == "E"
    assert recovered(law, RUNS, values) == pytest.approx(values, rel=1e-2)


def test_signs_divisions_and_repeated_parameters():
    law = formula_law("E - K/params**a + s*log(tokens)", "s=-1:1,a=.1:1")
    values = {"E": 5.0, "K": 3.0, "s": -0.1, "a": 0.3}
    expected = 5 - 3 * RUNS["params"] ** -0.3 - 0.1 * np.log(RUNS["tokens"])
    assert law.predict(RUNS, values) == pytest.approx(expected)
    # A parameter that stands twice is not solved for.
    twice = formula_law("A*params**-a + A*tokens**-a")
    assert twice.linear_count == 0


def test_a_target_and_columns_of_the_table_are_taken():
    law = formula_law("error.arc = c + k*depth**-g", columns=["depth", "error.arc"])
    assert law.target == "error.arc" and law.predictors == ("depth",)


@pytest.mark.parametrize(
    ("text", "bounds", "told"),
    [
        ("E + A*parms**-a", None, "params"),
        ("E + A*tokenz**-a", "tokenz=1:2", "column"),
        ("E + A", None, "column"),
        ("params + tokens", None, "parameter"),
        (TEXT, "z=0:1", "parameters of the formula"),
        ("E + A*params > 3", None, "conditions"),
        ("E + 'A'*params", None, "names"),
        ("E + A*params.__class__", None, "column"),
        ("exec(params)", None, "functions"),
        ("E + 9**9**9*params", None, "finite"),
        ("2 = 3", None, "TARGET"),
    ],
)
def test_formulas_that_cannot_be_meant_are_refused(text, bounds, told):
    with pytest.raises(Refused, match=told):
        formula_law(text, bounds)
