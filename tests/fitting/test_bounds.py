import numpy as np
import pytest

from fitting import LAWS
from fitting.bounds import bounded, read_bounds
from fitting.chinchilla import CHINCHILLA
from fitting.objective import Problem
from fitting.solver import solve
from refused import Refused
from tests.fitting.planted import TRUTH, problem


def test_bounds_read_from_text_and_from_a_mapping():
    assert read_bounds("E=1.5:2, a=-1:.5") == {"E": (1.5, 2.0), "a": (-1.0, 0.5)}
    assert read_bounds({"E": (1, 2)}) == {"E": (1.0, 2.0)}
    assert read_bounds(None) == {} and read_bounds("") == {}


@pytest.mark.parametrize("text", ["E", "E=1", "E=2:1", "E=1:inf", "E=a:b", "E=1:1"])
def test_bounds_that_do_not_read_are_refused(text):
    with pytest.raises(Refused, match="bounds"):
        read_bounds(text)


def test_a_bounded_floor_is_kept_within_its_bounds():
    plain = problem(noise=0.002)
    law = bounded(CHINCHILLA, "E=1.2:1.4")
    found = solve(Problem(law, plain.columns, plain.target), audits=4)
    assert np.exp(found.point[0]) == pytest.approx(1.4, rel=1e-9)
    assert found.at_bounds == ("E",)


def test_bounds_around_the_truth_leave_it():
    plain = problem()
    law = bounded(CHINCHILLA, {"E": (1.5, 2.0), "alpha": (0.3, 0.4)})
    found = solve(Problem(law, plain.columns, plain.target), audits=4)
    assert np.exp(found.point[0]) == pytest.approx(TRUTH["E"], rel=1e-3)


def test_one_sided_bounds_of_a_signed_parameter_hold():
    law = bounded(LAWS["rate_response"], "rate=.01:.5")
    rates = {"learning_rate": np.geomspace(1e-4, 1e-2, 7)}
    target = law.predict(rates, {"base": 3.0, "rate": -0.05, "rate2": 0.04})
    found = solve(Problem(law, rates, target), audits=0)
    assert np.exp(found.point[1]) == pytest.approx(0.01)


def test_a_bound_on_what_is_no_parameter_is_refused():
    with pytest.raises(Refused, match="gamma"):
        bounded(CHINCHILLA, "gamma=1:2")
    with pytest.raises(Refused, match="positive"):
        bounded(CHINCHILLA, "alpha=-2:-1")
