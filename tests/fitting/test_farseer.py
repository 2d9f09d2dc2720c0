import numpy as np
import pytest

from fitting.farseer import FARSEER, printed
from tests.fitting.planted import grid, recovered

TRUTH = {
    **{"E": 2.0, "floor_slope": -0.08, "gamma": -0.1, "B": 3000.0, "slope": 0.3, "beta": 0.05},
    **{"rate": 0.36, "rate_slope": 0.03, "alpha": 0.1},
}
RUNS = grid(params_non_embedding=np.geomspace(1e7, 3e9, 7), tokens=np.geomspace(1e9, 2e11, 8))


def test_printed_parameters_are_the_papers_equation():
    a = printed(TRUTH)
    size, tokens = RUNS["params_non_embedding"], RUNS["tokens"]
    rate = np.exp(a["a1"] * size ** TRUTH["alpha"] + a["b1"])
    loss = np.exp(a["a3"] * size ** TRUTH["gamma"] + a["b3"])
    loss = loss + np.exp(a["a2"] * size ** TRUTH["beta"] + a["b2"]) * tokens**-rate
    assert FARSEER.predict(RUNS, TRUTH) == pytest.approx(loss, rel=1e-10)


def test_planted_curves_are_recovered_and_so_is_the_loss_beyond_them():
    found = recovered(FARSEER, RUNS, TRUTH)
    # The powers of the size are barely seen; values, slopes and predictions are.
    for name in ("E", "B", "rate"):
        assert found[name] == pytest.approx(TRUTH[name], rel=0.02)
    beyond = {"params_non_embedding": np.array([1e10]), "tokens": np.array([1e12])}
    assert FARSEER.predict(beyond, found) == pytest.approx(FARSEER.predict(beyond, TRUTH), rel=1e-3)


def test_equal_curves_are_the_chinchilla_law_in_tokens():
    flat = TRUTH | {"floor_slope": 0.0, "slope": 0.0, "rate_slope": 0.0}
    assert FARSEER.predict(RUNS, flat) == pytest.approx(2.0 + 3000 * RUNS["tokens"] ** -0.36)
