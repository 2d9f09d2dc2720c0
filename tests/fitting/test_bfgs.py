import numpy as np
import pytest

from fitting.bfgs import minimise
from fitting.chinchilla import CHINCHILLA
from fitting.objective import Problem
from tests.fitting.planted import TRUTH, point_of, problem


def test_integer_weights_equal_repeated_rows():
    here = problem(noise=0.01)
    times = np.arange(40) % 3
    rows = np.repeat(np.arange(40), times)
    columns = {name: values[rows] for name, values in here.columns.items()}
    repeated = Problem(CHINCHILLA, columns, here.target[rows])
    weighted = Problem(CHINCHILLA, here.columns, here.target, weights=times.astype(float))
    start = point_of(TRUTH)[None]
    one, cost, _ = minimise(repeated, start)
    other, same, _ = minimise(weighted, start)
    assert cost == pytest.approx(same, rel=1e-9)
    assert one == pytest.approx(other, rel=1e-4)
