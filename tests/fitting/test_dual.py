"""Numbers that carry their slope."""

import numpy as np
import pytest

from fitting.dual import Dual, slope_of, value_of
from fitting.expression import FUNCTIONS
from fitting.law import combine
from fitting.use import allocates
from refused import Refused
from tests.fitting.explorer.planted import centre, laws, runs

X, STEP = np.array([0.3, 0.9, 2.5]), 1e-30

FORMULAS = {
    "powers": lambda x: 3 * x**-1.5 + 2.0**x + x**x,
    "quotients": lambda x: (1 - x) / (2 + x) - +x / 3,
    "choices": lambda x: np.where(np.real(x) < 1, np.exp(-x), 4 - x) * np.real(2.0),
    "nested": lambda x: np.log(1 + np.sqrt(x)) * np.expm1(x * 0.1),
}


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=list(FORMULAS))
def test_a_slope_is_that_of_a_complex_step(formula):
    found = formula(Dual(X, np.ones(3)))
    assert value_of(found) == pytest.approx(formula(X), rel=1e-15)
    assert slope_of(found) == pytest.approx(np.imag(formula(X + STEP * 1j)) / STEP, rel=1e-13)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_of_a_formula_has_its_slope(name):
    function, count = FUNCTIONS[name]
    rest = (np.array([0.5, 0.5, 0.5]),) * (count - 1)
    found = function(Dual(X, np.ones(3)), *rest)
    assert slope_of(found) == pytest.approx(
        np.imag(function(X + STEP * 1j, *rest)) / STEP, rel=1e-13
    )


def test_smaller_and_larger_take_the_slope_of_what_they_choose():
    one, half = Dual(X, np.ones(3)), np.full(3, 0.5)
    assert slope_of(np.minimum(one, half)).tolist() == [1, 0, 0]
    assert slope_of(np.maximum(one, half)).tolist() == [0, 1, 1]
    assert slope_of(np.abs(Dual(np.array([-2.0, 2.0]), 3.0))).tolist() == [-3, 3]


def test_a_slope_keeps_its_digits_where_values_no_longer_differ():
    far = Dual(np.array([200.0]), 1.0)
    found = 1 - np.exp(-far)
    assert value_of(found) == 1 and slope_of(found) == pytest.approx(np.exp(-200), rel=1e-13)


@pytest.mark.parametrize("law", [*filter(allocates, laws())], ids=lambda law: law.name)
def test_every_law_that_allocates_has_a_slope_in_its_size(law):
    obs = runs(12)
    names = {name: "params_total" if name == "params" else name for name in law.predictors}
    columns = {name: obs.column(column) for name, column in names.items()}
    values = centre(law, obs)
    parameters = [values[name] for name in law.names]

    def total(size):
        terms = law.terms(columns | {law.size: size}, *parameters[law.linear_count :])
        return combine(law, terms, parameters)

    size, near = columns[law.size], 1e-6
    found = slope_of(total(Dual(size, size)))
    differences = (total(size * np.exp(near)) - total(size * np.exp(-near))) / (2 * near)
    assert found == pytest.approx(differences, rel=1e-5, abs=1e-8)


def test_what_has_no_slope_here_is_refused_by_its_name():
    with pytest.raises(Refused, match="law: got numpy.arctan"):
        np.arctan(Dual(1.0, 1.0))
    with pytest.raises(Refused, match="law: got numpy.cumsum"):
        np.cumsum(Dual(X, X))
