"""Growth: jumps against the look just before, and compute saved on planted losses."""

import numpy as np
import pandas as pd
import pytest

from experiments.evidence.growth import EXACT, GROWN, PUBLISHED, jumps, losses, saved, scratch

BUDGETS = (0.5, 1.0, 2.0)


def ends(gain: float, seeds: int = 3) -> pd.DataFrame:
    """Scratch on a power law in compute; growth reaches what `gain` times the compute does."""
    flops = {scratch(budget): 1e9 * budget for budget in BUDGETS} | dict.fromkeys(GROWN, 1e9)
    rows = [
        dict(arm=arm, rate=rate, seed=seed, flops=cost, tokens=1, learning_rate=0.01 * rate)
        | {"loss": 20 * (cost * (gain if arm in GROWN else 1)) ** -0.1 * (1 + 0.01 * seed)}
        | {"diverged_step": pd.NA}
        for arm, cost in flops.items()
        for rate in (0.5, 1.0, 2.0)
        for seed in range(seeds)
    ]
    table = pd.DataFrame(rows)
    return table.assign(loss=table["loss"] + 0.1 * np.log2(table["rate"]).abs())


def test_compute_saved_is_read_between_the_budgets_of_scratch():
    claims, table = saved(ends(2**0.5), BUDGETS)
    np.testing.assert_allclose([claim.value for claim in claims.values()], 29.3, atol=0.7)
    assert {claim.verdict for claim in claims.values()} == {"higher"}
    assert list(table.frame["arm"]) == [EXACT, PUBLISHED]
    assert set(table.frame["resolved"]) == {"yes"} and not table.frame.iloc[:, 5].any()


def test_a_loss_beyond_the_budgets_counts_as_the_nearest_and_is_told():
    claims, table = saved(ends(8.0), BUDGETS)
    assert claims[EXACT].value == pytest.approx(50)
    assert set(table.frame["seeds beyond the budgets"]) == {3}


def test_every_arm_is_shown_at_its_best_rate():
    frame = losses(ends(1.0)).frame.set_index("arm")
    assert (frame["best peak rate"] == 0.01).all() and set(frame["edge of the sweep"]) == {"no"}


def test_a_jump_is_from_the_last_look_before_that_growth():
    look = lambda growth, kind, steps, loss: dict(
        arm=EXACT, growth=growth, kind=kind, steps=steps, seed=0, loss=loss, bits_per_byte=loss
    )
    seen = pd.DataFrame(
        [
            look(0, None, 10, 4.0),
            look(0, None, 20, 3.0),
            look(1, "zero keys, τ kept", 0, 3.0),
            look(1, "random keys, τ kept", 0, 3.5),
            look(1, None, 10, 2.0),
            look(2, "random keys, τ kept", 0, 2.25),
        ]
    )
    table = jumps(seen, (12, 24, 48)).frame
    assert list(table["jump (nats/token)"]) == [0.0, 0.5, 0.25]
    assert list(table["rows"]) == ["12 → 24", "12 → 24", "24 → 48"]
    assert list(table["grown before"]) == ["not", "not", "exact"]
