import numpy as np
import pytest

from fitting.starts import linear_start
from tests.fitting.planted import TRUTH, point_of, problem


def test_linear_parameters_come_from_the_linear_solve():
    here = problem()
    start = linear_start(here, np.array([[TRUTH["alpha"], TRUTH["beta"]]]))
    assert start[0] == pytest.approx(point_of(TRUTH), rel=1e-6)


def test_a_linear_solve_never_gives_a_negative_coefficient():
    here = problem()
    start = linear_start(here, np.array([[0.9, 0.05], [0.05, 0.9], [0.05, 0.05]]))
    assert np.all(np.isfinite(start))
