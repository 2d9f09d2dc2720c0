"""Best with best, paired by seed: what a comparison may and may not conclude."""

import math

import numpy as np
import pandas as pd

from experiments.evidence.comparison import (
    best_rates,
    comparison,
    differences,
    interval,
)


def planted(shift: float, noise: float, seeds: int = 5, optimum: float = 1.0) -> pd.DataFrame:
    """Two arms over three rates: the second is `shift` above the first at its best rate."""
    rng = np.random.default_rng(0)
    common = rng.normal(0, 0.1, seeds)  # What a seed does to both arms.
    rows = [
        dict(
            arm=arm,
            rate=rate,
            seed=seed,
            bits_per_byte=2
            + lift
            + common[seed]
            + 0.2 * np.log(rate / best) ** 2
            + rng.normal(0, noise),
            diverged_step=None,
            params_total=100,
            params_non_embedding=80,
            tokens=1000,
            flops=6e5,
            tokens_per_second=1e4,
        )
        for arm, lift, best in (("old", 0.0, 1.0), ("new", shift, optimum))
        for rate in (0.5, 1.0, 2.0)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def test_pairing_by_seed_resolves_what_the_seeds_spread_would_hide():
    table = planted(0.02, 0.002)
    best = best_rates(table).set_index("arm")
    assert best.loc["old", "sd"] > 0.03
    row = differences(table, "old").iloc[0]
    assert row["verdict"] == "higher" and row["low"] < 0.02 < row["high"]
    assert differences(planted(-0.02, 0.002), "old").iloc[0]["verdict"] == "lower"


def test_noise_is_not_resolved_and_one_seed_gives_no_verdict():
    assert differences(planted(0.0, 0.02), "old").iloc[0]["verdict"] == "not resolved"
    row = differences(planted(0.5, 0.0, seeds=1), "old").iloc[0]
    assert np.isnan(row["low"]) and row["verdict"] == "not resolved"
    text = comparison(planted(0.5, 0.0, seeds=1), "old")[0].markdown
    assert "one seed: no interval, no verdict" in text


def test_each_arm_is_taken_at_its_own_best_rate_and_an_edge_is_named():
    table = planted(0.0, 1e-6, optimum=2.0)
    best = best_rates(table).set_index("arm")
    assert best["rate"].to_dict() == {"old": 1.0, "new": 2.0}
    assert best["edge"].to_dict() == {"old": False, "new": True}
    assert "new is at the edge" in comparison(table, "old")[0].markdown


def test_a_rate_at_which_a_seed_diverged_is_not_eligible():
    table = planted(0.0, 1e-6)
    table.loc[
        (table["arm"] == "new") & (table["rate"] == 1.0) & (table["seed"] == 2), ["diverged_step"]
    ] = 7
    assert best_rates(table).set_index("arm").loc["new", "rate"] in (0.5, 2.0)
    table.loc[table["arm"] == "new", "diverged_step"] = 7
    assert np.isnan(best_rates(table).set_index("arm").loc["new", "mean"])
    assert "new**: diverged at every rate" in comparison(table, "old")[0].markdown


def test_one_seed_leaves_no_interval():
    low, high = interval(pd.Series([3.0]))
    assert math.isnan(low) and math.isnan(high)
    low, high = interval(pd.Series([1.0, 2.0, 3.0]))
    assert low < 2 < high
