import numpy as np
import pytest
from scipy.stats import binom

from fitting import LAWS
from fitting.intervals import (
    autocorrelation,
    draw,
    independent,
    quantiles,
    replicates,
    trunk_weights,
    variances,
    widen,
)
from fitting.objective import Problem, residuals
from fitting.solver import solve


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


def curve(follows, seed=0, rows=150):
    """A loss curve of one run whose neighbouring residuals correlate, and its mean at the end."""
    rng = np.random.default_rng(seed)
    tokens, noise = np.geomspace(1e8, 1e10, rows), rng.normal(size=rows)
    for row in range(1, rows):
        noise[row] = follows * noise[row - 1] + np.sqrt(1 - follows**2) * noise[row]
    mean = LAWS["data_no_floor"].predict({"tokens": tokens}, {"B": 30.0, "beta": 0.1})
    return Problem(LAWS["data_no_floor"], {"tokens": tokens}, mean * np.exp(0.003 * noise))


def test_correlation_along_a_curve_is_found_and_none_where_there_is_none():
    trunks, order = np.repeat("one", 150), np.arange(150)
    point = np.log([30.0, 0.1])
    found = [
        autocorrelation(residuals(curve(follows), point[None])[0], trunks, order)
        for follows in (0.9, 0.0)
    ]
    assert found[0] == pytest.approx(0.9, abs=0.07) and found[1] == 0.0
    assert independent(190, 0.9) == pytest.approx(10)


def test_intervals_of_a_correlated_curve_hold_what_independent_runs_would_miss():
    held, widths = [], {}
    for follows in (0.0, 0.9):
        for seed in range(8):
            problem = curve(follows, seed)
            point = solve(problem, audits=0).point
            drawn = draw(problem, point, np.repeat("one", 150), np.arange(150), 100, seed)
            low, high = quantiles(drawn.points[:, 1], 0.9)
            widths.setdefault(follows, []).append(high - low)
            held.append((follows, low <= np.log(0.1) <= high))
    inside = [ok for follows, ok in held if follows]
    # Of 8 at 90 %, fewer than this are inside once in 1,000 times.
    assert sum(inside) >= binom.ppf(0.001, 8, 0.9)
    # As many independent runs would say, sqrt((1 + r) / (1 - r)) = 4.4 times narrower.
    assert np.median(widths[0.9]) > 2.5 * np.median(widths[0.0])
    assert "correlated by 0." in drawn.method
