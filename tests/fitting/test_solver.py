import numpy as np
import pytest

from fitting import LAWS
from fitting.chinchilla import CHINCHILLA
from fitting.objective import OBJECTIVES, Problem
from fitting.solver import solve
from tests.fitting.planted import TRUTH, problem


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_noise_free_truth_is_recovered(objective):
    found = solve(problem(objective))
    values = [
        float(p.from_search(x)) for p, x in zip(CHINCHILLA.parameters, found.point, strict=True)
    ]
    assert values == pytest.approx([TRUTH[name] for name in CHINCHILLA.names], rel=1e-3)


def test_fixed_parameters_stay():
    found = solve(problem(noise=0.01, fixed={"alpha": 0.3, "E": 1.5}))
    values = {
        p.name: p.from_search(x) for p, x in zip(CHINCHILLA.parameters, found.point, strict=True)
    }
    assert values["alpha"] == pytest.approx(0.3, rel=1e-12)
    assert values["E"] == pytest.approx(1.5, rel=1e-12)


def test_solutions_repeat():
    first, second = solve(problem(noise=0.01)), solve(problem(noise=0.01))
    assert np.array_equal(first.point, second.point) and first.share == second.share


def test_a_noise_free_data_law_is_found_off_its_bounds():
    columns = {"tokens": np.geomspace(1e8, 1e11, 12)}
    loss = 2 + 40 * columns["tokens"] ** -0.3
    found = solve(Problem(LAWS["data"], columns, loss, "least_squares_log"))
    assert found.objective < 1e-12 and found.at_bounds == ()
