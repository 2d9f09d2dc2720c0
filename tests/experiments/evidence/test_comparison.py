"""Best with best, paired by seed: what a comparison may and may not conclude."""

import numpy as np
import pandas as pd

from experiments.evidence.comparison import against, best_rates, comparison, differences


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


def row_of(table: pd.DataFrame) -> pd.Series:
    """The second arm's row of the table of differences."""
    return differences(against(table, "old"), "bits per byte").iloc[0]


def test_pairing_by_seed_resolves_what_the_seeds_spread_would_hide():
    table = planted(0.02, 0.002)
    best = best_rates(table).set_index("arm")
    assert best.loc["old", "sd"] > 0.03
    row = row_of(table)
    assert row["verdict"] == "higher" and row["90 % low"] < 0.02 < row["90 % high"]
    assert row_of(planted(-0.02, 0.002))["verdict"] == "lower"


def test_noise_is_not_resolved_and_one_seed_gives_no_verdict():
    assert row_of(planted(0.0, 0.02))["verdict"] == "not resolved"
    row = row_of(planted(0.5, 0.0, seeds=1))
    assert np.isnan(row["90 % low"]) and row["verdict"] == "one seed"
    text = comparison(planted(0.5, 0.0, seeds=1), "old")[0].markdown
    assert "+0.5000 bits per byte: one seed." in text


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


def test_arms_may_each_have_a_baseline_of_their_own():
    table = pd.concat([planted(0.1, 1e-6), planted(0.3, 1e-6).replace({"new": "newer"})])
    table = table.drop_duplicates(["arm", "rate", "seed"])
    claims = against(table, {"new": "old", "newer": "new", "missing": "old"})
    np.testing.assert_allclose([claims[n].value for n in ("new", "newer")], [0.1, 0.2], atol=1e-4)
    assert claims["missing"].verdict == "diverged"
