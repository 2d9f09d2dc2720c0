import numpy as np
import pandas as pd
import pytest

from fitting import Observations, fit
from fitting.kaplan import KAPLAN, scales, searched
from fitting.use import _best_size
from tests.fitting.planted import grid, recovered

PAPER = KAPLAN.published["paper"]
RUNS = grid(params=np.geomspace(1e6, 1e9, 5), tokens=np.geomspace(1e8, 2e10, 5))


def test_planted_values_are_recovered():
    found = recovered(KAPLAN, RUNS, searched(PAPER))
    for name, value in PAPER.items():
        assert found[name] == pytest.approx(value, rel=1e-3)


def test_it_is_the_papers_equation():
    inner = (6.4e13 / RUNS["params"]) ** (0.076 / 0.103) + 1.8e13 / RUNS["tokens"]
    assert KAPLAN.predict(RUNS, searched(PAPER)) == pytest.approx(inner**0.103, rel=1e-10)
    # With ample tokens the loss is (N_c / N)^alpha_N: 2.32 nats at a billion parameters.
    ample = KAPLAN.predict({"params": 1e9, "tokens": 1e30}, searched(PAPER))
    assert ample == pytest.approx((6.4e13 / 1e9) ** 0.076, rel=1e-6)
    assert scales(searched(PAPER))["N_c"] == pytest.approx(6.4e13)


def test_overfitting_needs_tokens_as_size_to_the_power_of_the_paper():
    # Section 4.4: D >= 5e3 N^0.74 keeps the loss within about 2 % of its limit.
    size = np.geomspace(1e7, 1e9, 3)
    limit = KAPLAN.predict({"params": size, "tokens": 1e30}, searched(PAPER))
    there = KAPLAN.predict({"params": size, "tokens": 5e3 * size**0.74}, searched(PAPER))
    assert np.all(there / limit - 1 < 0.025) and np.ptp(there / limit) < 1e-3


def test_the_allocation_is_where_the_loss_is_least():
    parameters = searched(PAPER)
    best = KAPLAN.allocation(parameters, 1e20, {})["params"]
    assert best == pytest.approx(_best_size(KAPLAN, parameters, 1e20, {})[0], rel=1e-5)


def test_starts_agree_on_a_small_ladder():
    frame = grid(params_total=np.geomspace(2e8, 1.3e9, 4), multiplier=np.array([20, 40, 100, 200]))
    tokens = frame["params_total"] * frame.pop("multiplier")
    columns = {"params": frame["params_total"], "tokens": tokens}
    loss = KAPLAN.predict(columns, searched(KAPLAN.published["paper"]))
    loss = loss * np.exp(0.003 * np.random.default_rng(0).normal(size=16))
    runs = Observations(pd.DataFrame({**frame, "tokens": tokens, "loss": loss}))
    assert fit("kaplan", runs, point_only=True).optimum.share >= 0.9
