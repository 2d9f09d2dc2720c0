import numpy as np
import pytest

from fitting import LAWS
from fitting.chinchilla import allocation
from fitting.skaling import SKALING, inner, searched
from fitting.use import _best_size
from tests.fitting.planted import TRUTH, grid, recovered

PRINTED = {"E": 1.6, "A": 4e4, "B": 3e5, "alpha": 0.5, "beta": 0.55, "k": 0.4}
RUNS = grid(params=np.geomspace(1e7, 3e9, 6), tokens=np.geomspace(1e9, 1e11, 6))


def test_planted_values_are_recovered():
    found = recovered(SKALING, RUNS, searched(PRINTED))
    for name, value in PRINTED.items():
        assert found[name] == pytest.approx(value, rel=1e-3)


def test_at_power_one_it_is_the_chinchilla_law():
    ours = SKALING.predict(RUNS, searched(TRUTH | {"k": 1.0}))
    assert ours == pytest.approx(LAWS["chinchilla"].predict(RUNS, TRUTH), rel=1e-12)


def test_printed_and_searched_parameters_are_the_same_law():
    parameters = searched(PRINTED)
    assert inner(parameters) == pytest.approx({"A": 4e4, "B": 3e5}, rel=1e-10)
    printed = 1.6 + (4e4 * RUNS["params"] ** -0.5 + 3e5 * RUNS["tokens"] ** -0.55) ** 0.4
    assert SKALING.predict(RUNS, parameters) == pytest.approx(printed, rel=1e-12)


def test_the_allocation_is_where_the_loss_is_least():
    parameters = searched(PRINTED)
    best = SKALING.allocation(parameters, 1e21, {})["params"]
    assert best == pytest.approx(_best_size(SKALING, parameters, 1e21, {})[0], rel=1e-5)
    assert best == pytest.approx(float(allocation(PRINTED, 1e21)["params"]), rel=1e-10)
