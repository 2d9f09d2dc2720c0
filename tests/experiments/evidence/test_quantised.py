"""Quantised runs: parabolas, the noise of a penalty, and fusion's gain on planted losses."""

import numpy as np
import pandas as pd
import pytest

from experiments.evidence.quantised import best_of_each, gains, noise, penalties, vertex

SHARES = np.array([0.05, 0.1, 0.2, 0.3, 0.5, 0.7])


def test_parabolas_find_their_lowest_point_and_say_where_there_is_none():
    x = np.log(SHARES)
    curve = 3 * (x - np.log(0.25)) ** 2 + 1
    beyond = (x - np.log(2.0)) ** 2
    found, minimum = vertex(x, np.stack([curve, -curve]))
    assert np.exp(found[0]) == pytest.approx(0.25) and list(minimum) == [True, False]
    assert not vertex(x, beyond[None])[1][0]


def planted(sd: float) -> pd.DataFrame:
    """Two trunks at one size: a plain run each, and both schedules at every share."""
    rng, rows = np.random.default_rng(0), []
    for seed, trunk in enumerate("ab"):
        same = dict(trunk=trunk, seed=seed, width=16, params_total=100, tokens=1000, bits=2)
        rows.append(same | dict(schedule="plain", fraction=0.0, loss=2.0 + seed))
        for share in SHARES:
            loss = 2.0 + seed + 0.1 + (share - 0.3) ** 2 + rng.normal(0, sd)
            rows.append(same | dict(schedule="classic", fraction=share, loss=loss))
            rows.append(same | dict(schedule="fused", fraction=share, loss=loss - 0.01))
    return pd.DataFrame(rows)


def test_a_penalty_is_above_the_plain_run_of_its_own_trunk():
    paired = penalties(planted(0.0))
    assert set(paired["schedule"]) == {"classic", "fused"}
    at = paired[(paired["schedule"] == "classic") & (paired["fraction"] == 0.3)]
    np.testing.assert_allclose(at["penalty"], 0.1)


def test_noise_is_what_seed_and_share_do_not_explain():
    quiet, loud = (penalties(planted(sd)) for sd in (0.0, 0.05))
    assert noise(quiet[quiet["schedule"] == "classic"]) == pytest.approx(0, abs=1e-12)
    assert 0.02 < noise(loud[loud["schedule"] == "classic"]) < 0.12


def test_fusion_saves_the_planted_perplexity_at_each_schedules_best_share():
    best = best_of_each(penalties(planted(0.0)))
    np.testing.assert_allclose(gains(best), 100 * (1 - np.exp(-0.01)))
