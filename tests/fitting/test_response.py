import numpy as np
import pytest

from fitting.response import BEST_BATCH, BEST_RATE, RATE_BATCH_RESPONSE, RATE_RESPONSE
from tests.fitting.planted import grid, recovered

TRUTH = {"base": 2.9, "rate": -0.02, "rate2": 0.03, "batch": 0.04, "batch2": 0.02}
TRUTH |= {"rate_batch": -0.02}
SWEEP = grid(learning_rate=np.geomspace(3e-4, 1e-2, 6), batch_tokens=np.geomspace(1e5, 4e6, 5))


def test_planted_values_are_recovered():
    found = recovered(RATE_BATCH_RESPONSE, SWEEP, TRUTH)
    assert found == pytest.approx(TRUTH, rel=1e-6)


def test_the_optimum_is_where_the_loss_is_least():
    best = RATE_BATCH_RESPONSE.uses["optimum"].answer(RATE_BATCH_RESPONSE, TRUTH, {})
    here = {"learning_rate": best["learning_rate"], "batch_tokens": best["batch_tokens"]}
    assert RATE_BATCH_RESPONSE.predict(here, TRUTH) == pytest.approx(best["loss"], rel=1e-12)
    for rate, batch in ((1.1, 1), (0.9, 1), (1, 1.1), (1, 0.9), (1.1, 1.1)):
        moved = {"learning_rate": here["learning_rate"] * rate}
        moved["batch_tokens"] = here["batch_tokens"] * batch
        assert RATE_BATCH_RESPONSE.predict(moved, TRUTH) > best["loss"]


def test_a_rate_sweep_gives_the_bottom_of_its_parabola():
    rates = {"learning_rate": np.geomspace(1e-4, 1e-2, 7)}
    truth = {"base": 3.0, "rate": -0.05, "rate2": 0.04}
    found = recovered(RATE_RESPONSE, rates, truth)
    best = RATE_RESPONSE.uses["optimum"].answer(RATE_RESPONSE, found, {})
    assert best["learning_rate"] == pytest.approx(1e-3 * np.exp(0.05 / 0.08), rel=1e-6)


def test_no_optimum_is_reported_where_there_is_none():
    turned = TRUTH | {"rate2": -0.03}
    best = RATE_BATCH_RESPONSE.uses["optimum"].answer(RATE_BATCH_RESPONSE, turned, {})
    assert np.isinf(best["learning_rate"]) and np.isnan(best["loss"])
    saddle = TRUTH | {"rate_batch": 0.2}
    assert np.isinf(
        RATE_BATCH_RESPONSE.uses["optimum"].answer(RATE_BATCH_RESPONSE, saddle, {})["batch_tokens"]
    )


def test_the_step_law_of_the_paper():
    # 2.15e8 parameters on 1.14e10 tokens: rate 2.51e-3, batch 3.21e5.
    cell = {"params_non_embedding": 2.15e8, "tokens": 1.14e10}
    rate = BEST_RATE.predict(cell, BEST_RATE.published["step law"])
    batch = BEST_BATCH.predict(cell, BEST_BATCH.published["step law"])
    assert rate == pytest.approx(2.51e-3, rel=0.02)
    assert batch == pytest.approx(3.21e5, rel=0.02)


def test_the_optimum_scales_as_planted():
    truth = BEST_RATE.published["step law"]
    cells = grid(params_non_embedding=np.geomspace(1e8, 1e9, 4), tokens=np.geomspace(1e9, 1e11, 4))
    assert recovered(BEST_RATE, cells, truth) == pytest.approx(truth, rel=1e-6)
