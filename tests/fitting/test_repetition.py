import numpy as np
import pytest

from fitting.repetition import C4_BASE, REPETITION_FREE, free_base
from tests.fitting.planted import grid, recovered


def _searched(base):
    by_tokens = base["B"] * 1e10 ** -base["beta"]
    ratio = base["A"] * 1e8 ** -base["alpha"] / by_tokens
    rest = {name: base[name] for name in ("E", "alpha", "beta")}
    return {"S": by_tokens, "ratio": ratio, "R_D": 15.387756, "R_N": 5.309743, **rest}


PAPER = _searched(C4_BASE)


def test_losses_of_the_authors_own_base():
    # huggingface/datablations, README: two allocations with 25 billion unique tokens.
    columns = {"params": [6.34e9, 8.67e9], "tokens": [242e9, 178e9], "unique_tokens": [25e9] * 2}
    loss = REPETITION_FREE.predict(columns, PAPER)
    assert loss == pytest.approx([2.2256440889984477, 2.2269634075087867], rel=1e-9)
    assert free_base(PAPER)["A"] == pytest.approx(C4_BASE["A"], rel=1e-9)


def test_planted_values_are_recovered():
    columns = grid(
        params=np.geomspace(2e8, 1e10, 5),
        unique_tokens=np.array([1e9, 4e9, 16e9]),
        epochs=np.array([1.0, 2.0, 4.0, 8.0, 16.0, 40.0]),
    )
    columns["tokens"] = columns["unique_tokens"] * columns.pop("epochs")
    truth = PAPER | {"alpha": 0.34, "beta": 0.38}
    found = recovered(REPETITION_FREE, columns, truth)
    for name, value in truth.items():
        assert found[name] == pytest.approx(value, rel=0.02)
