import numpy as np
import pytest

from fitting import LAWS
from fitting.sparsity import SPARSITY
from tests.fitting.planted import grid, recovered

TRUTH = {
    **{"e": 1.0, "a": 2000.0, "b": 5000.0, "c": 0.4, "d": 18.0, "alpha": 0.45, "beta": 0.4},
    **{"lambda": -0.2, "delta": 0.15, "gamma": 0.16},
}
RUNS = grid(
    params_total=np.geomspace(1e8, 1e10, 5),
    tokens=np.geomspace(1e9, 1e11, 4),
    activation_ratio=np.geomspace(0.02, 1.0, 4),
)


def test_planted_losses_are_recovered():
    found = recovered(SPARSITY, RUNS, TRUTH)
    beyond = {"params_total": 5e10, "tokens": 5e11, "activation_ratio": 0.05}
    assert SPARSITY.predict(RUNS, found) == pytest.approx(SPARSITY.predict(RUNS, TRUTH), rel=1e-4)
    assert SPARSITY.predict(beyond, found) == pytest.approx(
        SPARSITY.predict(beyond, TRUTH), rel=5e-3
    )


def test_a_dense_model_is_under_the_chinchilla_law_where_the_mixed_term_is_absent():
    dense = TRUTH | {"d": 0.0}
    chinchilla = {"E": 1.4, "A": 2000.0, "B": 5000.0, "alpha": 0.45, "beta": 0.4}
    runs = RUNS | {"activation_ratio": np.ones_like(RUNS["tokens"])}
    expected = LAWS["chinchilla"].predict(
        {"params": RUNS["params_total"], "tokens": RUNS["tokens"]}, chinchilla
    )
    assert SPARSITY.predict(runs, dense) == pytest.approx(expected, rel=1e-12)
