import numpy as np
import pytest

from fitting.routed import ROUTED, ROUTED_FLOOR
from tests.fitting.planted import grid, recovered

TRUTH = {"E": 1.4, "K": 1.9, "a": 0.2, "b": -0.15, "c": 0.012, "E_start": 2.0, "E_max": 300.0}
RUNS = grid(params_active=np.geomspace(1e7, 2e9, 6), experts=2.0 ** np.arange(0, 10))


def test_planted_values_are_recovered_above_a_floor():
    found = recovered(ROUTED_FLOOR, RUNS, TRUTH)
    assert found == pytest.approx(TRUTH, rel=0.02)


def test_without_the_floor_it_is_the_routed_law():
    log, published = np.log(1e8), ROUTED.published["s-base"]
    moved = {
        "E": 0.0,
        # The routed law counts in decades of parameters, this one in e-folds from 1e8.
        "K": 10 ** (published["d"] + published["a"] * 8),
        "a": -published["a"],
        "b": published["b"] + published["c"] * 8,
        "c": published["c"] / np.log(10),
        "E_start": published["E_start"],
        "E_max": published["E_max"],
    }
    assert log == pytest.approx(8 * np.log(10))
    assert ROUTED_FLOOR.predict(RUNS, moved) == pytest.approx(
        ROUTED.predict(RUNS, published), rel=1e-12
    )
