from dataclasses import replace

import numpy as np
import pytest

from fitting.objective import (
    OBJECTIVES,
    jacobian,
    objective,
    objective_and_gradient,
    residuals,
)
from refused import Refused
from tests.fitting.planted import TRUTH, point_of, problem


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradient_is_exact(objective):
    # A wide delta keeps the difference quotient away from the corner of the absolute value.
    here = problem(objective, noise=0.01, delta=0.02)
    if here.absolute:
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


def test_the_gradient_of_a_lopsided_objective_is_exact():
    here = problem("huber", noise=0.01, delta=0.02, over=5.0)
    point = point_of(TRUTH) + 0.01
    _, gradient = objective_and_gradient(here, point[None])
    for index in range(len(point)):
        step = np.zeros(len(point))
        step[index] = 1e-6
        up, _ = objective_and_gradient(here, (point + step)[None])
        down, _ = objective_and_gradient(here, (point - step)[None])
        assert gradient[0, index] == pytest.approx((up[0] - down[0]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_point_without_a_number_for_a_run_that_counts_nothing_is_infinite_without_a_word(kind):
    here = problem(kind, noise=0.01)
    columns = {name: values.copy() for name, values in here.columns.items()}
    columns["tokens"][3] = 0.0  # The law is infinite there.
    weights = np.ones(len(here.target))
    weights[3] = 0.0
    here = replace(here, columns=columns, weights=weights)
    points = np.stack([point_of(TRUTH), point_of(TRUTH) + 0.1])
    total, gradient = objective_and_gradient(here, points)
    assert np.isinf(total).all() and np.isinf(objective(here, points)).all()
    assert not gradient.any()
    near = replace(here, columns=columns | {"tokens": np.full(len(weights), 1e9)})
    assert np.isfinite(objective(near, points)).all()


def test_options_are_refused_by_name():
    with pytest.raises(Refused, match="least_squares_log"):
        problem("huberr")
    with pytest.raises(Refused, match="delta"):
        problem(delta=0.0)
    with pytest.raises(Refused, match="quantile"):
        problem("quantile", quantile=1.0)
    with pytest.raises(Refused, match="overestimate_penalty"):
        problem(over=0.0)
    with pytest.raises(Refused, match="gamma"):
        problem(fixed={"gamma": 1.0})
