import numpy as np
import pytest

from fitting import LAWS, Observations, fit
from fitting.bfgs import solved
from fitting.chinchilla import CHINCHILLA
from fitting.evidence import convergence
from fitting.objective import OBJECTIVES, Problem, residuals
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


@pytest.mark.parametrize("quantile", [0.25, 0.9])
def test_a_quantile_fit_has_that_share_of_the_runs_below(quantile):
    here = problem("quantile", noise=0.02, quantile=quantile)
    miss = residuals(here, solve(here, audits=4).point[None])[0]
    # As many runs as parameters may lie on the law itself.
    assert np.mean(miss > 1e-9) <= quantile <= np.mean(miss > -1e-9)


def test_overestimates_that_cost_more_are_fewer():
    shares = []
    for over in (1.0, 10.0):
        here = problem("huber", noise=0.02, over=over)
        miss = residuals(here, solve(here, audits=4).point[None])[0]
        shares.append(np.mean(miss > 1e-3))
    assert shares[1] < 0.2 < shares[0]


@pytest.mark.parametrize("objective", ["huber", "lad", "least_squares"])
def test_losses_that_rise_with_tokens_end_at_bounds_and_raise_nothing(objective):
    columns = {"tokens": np.geomspace(1e8, 1e11, 12)}
    loss = 2 + (columns["tokens"] / 1e11) ** 0.3 * np.linspace(0.99, 1.01, 12)
    found = solve(Problem(LAWS["data"], columns, loss, objective), audits=4)
    assert np.isfinite(found.objective) and found.at_bounds


def test_singular_systems_have_the_least_squares_solution():
    matrix, right = np.array([[[1.0, 1.0], [1.0, 1.0]]]), np.array([[[2.0], [2.0]]])
    assert solved(matrix, right)[0, :, 0] == pytest.approx([1.0, 1.0])


def test_another_optimum_is_one_only_where_its_predictions_differ():
    result = fit("repetition", Observations.read("published:repetition"), point_only=True, audits=8)
    found = result.optimum
    assert found.next_basin > 0 and found.apart > 1e-4
    told = convergence(result)["next basin"]
    assert "predictions up to" in told and "R_D" in told
