import numpy as np
import pytest

from fitting.downstream import DOWNSTREAM_SIGMOID
from tests.fitting.planted import recovered

TRUTH = {"floor": 0.25, "reach": 0.9, "steepness": 4.0, "middle": 1.1}


def test_planted_values_are_recovered():
    found = recovered(DOWNSTREAM_SIGMOID, {"loss": np.linspace(0.4, 2.5, 25)}, TRUTH)
    assert found == pytest.approx(TRUTH | {"ceiling": 0.25 + 0.75 * 0.9}, rel=1e-3)


def test_chance_may_be_held_as_the_floor():
    found = recovered(DOWNSTREAM_SIGMOID, {"loss": np.linspace(0.6, 1.6, 12)}, TRUTH, floor=0.25)
    assert found["middle"] == pytest.approx(1.1, rel=1e-3)


def test_no_parameters_within_bounds_predict_beyond_chance_and_one():
    rng = np.random.default_rng(0)
    loss = {"loss": np.concatenate([[0.0, 1e-9, 1e3], rng.uniform(0, 20, 50)])}
    for _ in range(50):
        values = {
            parameter.name: np.exp(rng.uniform(np.log(parameter.low), np.log(parameter.high)))
            for parameter in DOWNSTREAM_SIGMOID.parameters
        }
        found = DOWNSTREAM_SIGMOID.predict(loss, values | {"floor": 0.25})
        assert np.all(found >= 0.25 - 1e-12) and np.all(found <= 1 + 1e-12)
