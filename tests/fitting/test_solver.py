import numpy as np
import pytest

from fitting import LAWS, Refused
from fitting.chinchilla import CHINCHILLA
from fitting.solver import (
    OBJECTIVES,
    Problem,
    jacobian,
    linear_start,
    minimise,
    objective_and_gradient,
    residuals,
    solve,
)

TRUTH = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def problem(objective="huber", noise=0.0, seed=0, **changes):
    rng = np.random.default_rng(seed)
    columns = {"params": 10 ** rng.uniform(7, 10, 40), "tokens": 10 ** rng.uniform(9, 11.5, 40)}
    loss = CHINCHILLA.predict(columns, TRUTH) * np.exp(noise * rng.normal(size=40))
    return Problem(CHINCHILLA, columns, loss, objective, **changes)


def point_of(parameters):
    return np.array([p.to_search(parameters[p.name]) for p in CHINCHILLA.parameters])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_noise_free_truth_is_recovered(objective):
    found = solve(problem(objective))
    values = [
        float(p.from_search(x)) for p, x in zip(CHINCHILLA.parameters, found.point, strict=True)
    ]
    assert values == pytest.approx([TRUTH[name] for name in CHINCHILLA.names], rel=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradient_is_exact(objective):
    # A wide delta keeps the difference quotient away from the corner of the absolute value.
    here = problem(objective, noise=0.01, delta=0.02)
    if objective == "lad":
        here = problem("huber", noise=0.01, delta=1e-3)
    point = point_of(TRUTH) + 0.01
    _, gradient = objective_and_gradient(here, point[None])
    slopes = jacobian(here, point[None])[0]
    for index in range(len(point)):
        step = np.zeros(len(point))
        step[index] = 1e-6
        up, _ = objective_and_gradient(here, (point + step)[None])
        down, _ = objective_and_gradient(here, (point - step)[None])
        assert gradient[0, index] == pytest.approx((up[0] - down[0]) / 2e-6, rel=1e-5)
        change = residuals(here, (point + step)[None]) - residuals(here, (point - step)[None])
        assert slopes[:, index] == pytest.approx(change[0] / 2e-6, rel=1e-4, abs=1e-9)


def test_linear_parameters_come_from_the_linear_solve():
    here = problem()
    start = linear_start(here, np.array([[TRUTH["alpha"], TRUTH["beta"]]]))
    assert start[0] == pytest.approx(point_of(TRUTH), rel=1e-6)


def test_a_linear_solve_never_gives_a_negative_coefficient():
    here = problem()
    start = linear_start(here, np.array([[0.9, 0.05], [0.05, 0.9], [0.05, 0.05]]))
    assert np.all(np.isfinite(start))


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


def test_options_are_refused_by_name():
    with pytest.raises(Refused, match="least_squares_log"):
        problem("huberr")
    with pytest.raises(Refused, match="delta"):
        problem(delta=0.0)
    with pytest.raises(Refused, match="gamma"):
        problem(fixed={"gamma": 1.0})


def test_a_noise_free_data_law_is_found_off_its_bounds():
    columns = {"tokens": np.geomspace(1e8, 1e11, 12)}
    loss = 2 + 40 * columns["tokens"] ** -0.3
    found = solve(Problem(LAWS["data"], columns, loss, "least_squares_log"))
    assert found.objective < 1e-12 and found.at_bounds == ()
