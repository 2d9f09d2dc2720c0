"""The leverage report: which runs a curve goes through, and leverage of equal curves."""

import numpy as np
import pandas as pd
import pytest

from experiments.evidence.leverage import (
    curves,
    efficient,
    joint_law,
    leverage_blocks,
    leverages,
)


def test_only_settings_that_no_cheaper_one_beats_are_efficient():
    table = pd.DataFrame(
        {"flops": [1.0, 1.0, 2.0, 3.0, 4.0], "loss": [3.0, 3.2, 2.5, 2.6, 2.4], "seed": 0}
    )
    assert list(efficient(table)["flops"]) == [1.0, 1.0, 2.0, 4.0]


def test_too_few_runs_are_said_to_be_too_few():
    table = pd.DataFrame({"arm": "dense", "flops": [1e9, 2e9], "loss": [3.0, 2.9], "seed": 0})
    (block,) = leverage_blocks(table.assign(exact_flops=table["flops"]))
    assert "there are those of: none" in block.markdown
    some = pd.DataFrame({"activation_ratio": [0.3], "granularity": [2.0], "flops": [1e9]})
    (block,) = joint_law(some.assign(arm="a", leverage=1.0))
    assert "not fitted" in block.markdown and "granularity: 1" in block.markdown


def test_an_arm_that_is_worth_three_times_its_compute_has_a_leverage_of_three():
    flops = np.repeat(np.geomspace(1e10, 1e12, 5), 2)
    rng = np.random.default_rng(0)
    gains = {"dense": 1.0, "same": 1.0, "better": 3.0, "few": 1.0}
    rows = [
        dict(arm=arm, flops=c, seed=i, activation_ratio=1 / 3, granularity=2.0)
        | {"loss": 20 * (gains[arm] * c) ** -0.08 * np.exp(noise)}
        for arm in gains
        for i, (c, noise) in enumerate(zip(flops, 3e-4 * rng.standard_normal(10), strict=True))
        if arm != "few" or i < 3
    ]
    fits = curves(pd.DataFrame(rows))
    assert set(fits) == {"dense", "same", "better"}  # Three runs do not make a curve.
    found = leverages(fits).set_index("arm")
    np.testing.assert_allclose(found.loc["same", "leverage"], 1.0, rtol=0.03)
    np.testing.assert_allclose(found.loc["better", "leverage"], 3.0, rtol=0.03)
    assert (found.loc["better", "90 % low"] > 1).all()
    assert (
        (found["90 % low"] <= found["leverage"]) & (found["leverage"] <= found["90 % high"])
    ).all()
    assert found.loc["same", "activation_ratio"].iloc[0] == pytest.approx(1 / 3)
