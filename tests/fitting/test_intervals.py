import numpy as np
import pytest

from fitting import LAWS
from fitting.intervals import quantiles, replicates, trunk_weights, variances, widen
from fitting.solver import Problem


def test_variances_of_planted_trunks_are_recovered():
    rng = np.random.default_rng(0)
    trunks = np.repeat(np.arange(400), 4)
    settings = np.tile(np.arange(4), 400)
    miss = 0.03 * rng.normal(size=400)[trunks] + 0.01 * rng.normal(size=1600)
    between, within, source = variances(miss, trunks, settings, 5)
    assert between == pytest.approx(0.03, rel=0.1)
    assert within == pytest.approx(0.01, rel=0.05)
    assert source.startswith("replicate seeds")


def test_variances_never_undercut_the_residuals():
    miss = np.array([0.1, 0.1, -0.1, -0.1, 0.1, -0.1])
    between, within, source = variances(miss, np.arange(6), np.arange(6), 2)
    assert between == 0 and source == "residuals"
    assert within**2 == pytest.approx(np.sum(miss**2) / 4)


def test_replicates_need_two_trunks():
    assert list(replicates(["a", "a", "b", "c"], [1, 1, 2, 2])) == [False, False, True, True]


def test_whole_trunks_are_drawn_together():
    columns = {"tokens": np.geomspace(1e6, 1e9, 30)}
    problem = Problem(LAWS["data"], columns, np.ones(30))
    trunks = np.repeat(np.arange(10), 3)
    weights = trunk_weights(problem, trunks, 50, np.random.default_rng(0))
    assert weights.shape == (50, 30) and np.all(weights.sum(axis=1) == 30)
    by_trunk = weights.reshape(50, 10, 3)
    assert np.all(by_trunk == by_trunk[:, :, :1])


def test_draws_that_lose_a_level_are_drawn_again():
    columns = {"tokens": np.repeat([1e6, 1e7, 1e8], [4, 4, 1])}
    problem = Problem(LAWS["data"], columns, np.ones(9))
    weights = trunk_weights(problem, np.arange(9), 100, np.random.default_rng(0))
    assert np.all(weights[:, -1] > 0)


def test_widening_is_about_the_estimate_and_keeps_infinities():
    cloud = np.array([1.0, 2.0, 4.0, np.inf])
    assert widen(cloud, 2.0, 2.0) == pytest.approx([0.5, 2.0, 8.0, np.inf])
    assert widen(np.array([-1.0, 1.0]), 0.0, 3.0) == pytest.approx([-3.0, 3.0])
    low, high = quantiles(np.arange(101.0), 0.9)
    assert (low, high) == pytest.approx((5.0, 95.0))
