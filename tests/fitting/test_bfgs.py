import numpy as np
import pytest

from fitting import LAWS, Observations
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


@pytest.mark.parametrize("slope", [-0.112, -0.056])
def test_a_parameter_at_its_bound_slows_none_of_the_others(slope):
    """With the slope in size far off, E_max goes to a bound, soon as good as fixed there."""
    law, table = LAWS["routed"], Observations.read("published:routed:s-base").frame
    columns = {name: table[name].to_numpy(float) for name in law.predictors}
    problem = Problem(law, columns, table["loss"].to_numpy(float), "least_squares_log")
    values = law.published["s-base"] | {"a": slope, "E_max": 1e4}
    start = np.array([[p.to_search(values[p.name]) for p in law.parameters]])
    names = np.array(law.names)
    found, cost, _ = minimise(problem, start, names != "a", iterations=60)
    bounded = names == "E_max"
    assert any(np.isclose(found[0], bound)[bounded] for bound in problem.bounds())
    start[:, bounded] = found[:, bounded]
    _, least, _ = minimise(problem, start, (names != "a") & ~bounded)
    assert cost == pytest.approx(least, rel=1e-7)
