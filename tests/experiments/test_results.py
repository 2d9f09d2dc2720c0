"""The published run tables: each study's comparison redone from its `runs.csv` alone.

Arms, rates and the like are read from the table's labels, and the figures are those that the
study's report states in the files beside it.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import experiments
from experiments.evidence.optimizers import arm_speed_ups, factor
from fitting import Observations, fit
from scaling import unfolded

RESULTS = Path(experiments.__file__).parent / "results"


def read(study: str, name: str = "runs") -> pd.DataFrame:
    return pd.read_csv(RESULTS / f"{study}-cpu" / f"{name}.csv")


def at_best(table: pd.DataFrame, measure: str = "bits_per_byte") -> pd.DataFrame:
    """Seeds (rows) by arm (columns), each arm at the rate with the lowest mean over seeds."""
    means = table.groupby(["arm", "rate"], sort=False)[measure].mean()
    best = means.groupby("arm", sort=False).idxmin()
    chosen = table.set_index(["arm", "rate"]).loc[list(best)]
    return chosen.reset_index().pivot(index="seed", columns="arm", values=measure)


def differences(table: pd.DataFrame, baseline: str, measure: str = "bits_per_byte") -> pd.Series:
    """The mean over seeds of every arm's paired difference from the baseline."""
    scores = at_best(table, measure)
    return scores.sub(scores[baseline], axis=0).mean().drop(baseline)


def agree(found: pd.Series, stated: pd.Series, **limits) -> None:
    assert len(stated) and set(stated.index) <= set(found.index)
    np.testing.assert_allclose(found[stated.index], stated, **({"rtol": 1e-9} | limits))


@pytest.mark.parametrize(
    ("study", "baseline", "file", "role"),
    [
        ("binary_codes", "learned", "differences", None),
        ("stem", "dense", "differences", None),
        ("parscale", "4 streams", "equal_differences", "scratch"),
        ("tokenformer_growth", "scratch", "differences", "end"),
    ],
)
def test_arms_at_their_best_rates_differ_from_the_baseline_as_reported(study, baseline, file, role):
    table = unfolded(read(study))
    table = table if role is None else table[table["role"] == role]
    stated = read(study, file).set_index("arm")["difference (bits per byte)"]
    agree(differences(table, baseline), stated, rtol=1e-6, atol=1e-12)


def test_streams_kept_score_as_reported_at_the_rate_that_was_best_with_all():
    table = unfolded(read("parscale"))
    trained = table[table["role"].isin(["scratch", "staged"])]
    means = trained.groupby(["arm", "rate"])["bits_per_byte"].mean()
    best = means.groupby("arm").idxmin().str[1]
    kept = table[(table["role"] == "kept") & (table["arm"] == "second stage: 2 kept")]
    score = kept[kept["rate"] == best["second stage"]]["bits_per_byte"].mean()
    stated = read("parscale", "kept").set_index("trained")
    assert score == pytest.approx(stated.loc["second stage", "2 kept"], rel=1e-12)


def test_growth_moves_the_loss_as_reported():
    table = unfolded(read("tokenformer_growth"))
    looks = table[(table["role"] == "look") & (table["arm"] == "grown, exact")]
    before = looks[(looks["growth"] == 0) & looks["kind"].isna()]
    before = before[before["steps"] == before["steps"].max()].set_index("seed")["loss"]
    after = looks[(looks["growth"] == 1) & (looks["steps"] == 0)]
    losses = after.pivot(index="seed", columns="kind", values="loss")
    stated = read("tokenformer_growth", "jumps")
    stated = stated[stated["grown before"] == "not"].set_index("new rows")["jump (nats/token)"]
    agree(losses.sub(before, axis=0).mean(), stated, rtol=1e-6, atol=1e-15)


def test_the_data_law_bends_as_reported_for_every_seed():
    # The report adds a constant to every loss, which beta does not see.
    table = read("known_entropy")
    assert set(table.loc[table["role"] == "grid", "size"]) == {8, 16, 24}
    law = table[table["role"] == "law"]
    beta = {
        seed: fit("data", Observations(group), point_only=True).parameters["beta"]
        for seed, group in law.groupby("seed")
    }
    agree(pd.Series(beta), read("known_entropy", "data_law").set_index("seed")["beta"], rtol=1e-4)


def test_the_ladders_rate_costs_over_the_lowest_mean_what_is_reported():
    table = read("learning_rate")
    means = table.groupby(["size", "tokens", "role", "rate"])["loss"].mean()
    lowest = means.groupby(["size", "tokens"]).min()
    ladder = means.xs("ladder", level="role").droplevel("rate")
    stated = read("learning_rate", "rates").set_index(["width", "tokens"])
    agree(lowest, stated["lowest mean (nats/token)"])
    over = stated["ladder over lowest mean (%)"]
    agree(100 * (ladder / lowest - 1), over, rtol=1e-6, atol=1e-9)


def test_the_sweep_of_the_learning_rate_scores_as_reported():
    table = unfolded(read("moe_leverage"))
    swept = table[table["role"] == "sweep"].pivot(index="arm", columns="rate", values="loss")
    stated = read("moe_leverage", "rates").set_index("arm")
    for rate in (0.5, 1.0, 2.0):
        agree(swept[rate], stated[f"× {rate:g}"])
    agree(swept.idxmin(axis=1), stated["best"])


def test_the_over_training_law_predicts_the_held_out_runs_as_reported():
    table = read("over_training")
    assert (table["size"] == table["width"]).all()
    beyond = (table["role"] == "held out").to_numpy()
    how = dict(held_out=beyond, params="params_total", point_only=True)
    found = fit("over_training", Observations(table), **how)
    stated = read("over_training", "fit_over_training").set_index("parameter")["value"]
    assert found.parameters["eta"] == pytest.approx(stated["eta"], rel=1e-6)
    errors = 100 * found.held_out["relative_error"].abs()
    stated = read("over_training", "held_out").set_index("prediction").loc["over-training law"]
    assert errors.max() == pytest.approx(stated["worst (%)"], rel=1e-6)
    assert errors.median() == pytest.approx(stated["median error (%)"], rel=1e-6)


def with_penalty(table: pd.DataFrame) -> pd.DataFrame:
    """The quantised runs with their loss above the plain run of the same trunk and tokens."""
    plain = table[table["schedule"] == "plain"].set_index(["trunk", "tokens"])["loss"]
    rest = table[table["schedule"] != "plain"].join(plain.rename("plain"), on=plain.index.names)
    return rest.assign(penalty=rest["loss"] - rest["plain"])


def test_the_best_fraction_of_every_cell_is_the_one_reported():
    paired = with_penalty(read("qat_ratio"))
    classic = paired[paired["schedule"] == "classic"]
    means = classic.groupby(["size", "tokens", "bits", "fraction"])["penalty"].mean()
    best = means.groupby(["size", "tokens", "bits"]).idxmin().str[-1]
    stated = read("qat_ratio", "optima").set_index(["width", "tokens", "bits"])
    assert len(stated) == 24
    agree(best, stated["best of those tried"])


def test_fusion_gains_what_is_reported_at_equal_fractions():
    table = read("qat_ratio")
    key = ["trunk", "tokens", "bits", "fraction"]
    losses = table.pivot_table(index=key, columns="schedule", values="loss")
    gain = 100 * (1 - np.exp(losses["fused"] - losses["classic"])).dropna()
    by_trunk = gain.groupby(["bits", "trunk"]).mean()
    stated = read("qat_ratio", "fusion").set_index("bits")["gain (% perplexity)"]
    agree(by_trunk.groupby("bits").mean(), stated)


def test_every_mixture_differs_from_the_proposal_as_reported():
    table = unfolded(read("regmix"))
    larger = table[table["role"] == "candidate"].assign(rate=1.0)
    stated = read("regmix", "differences").set_index("arm")["difference (nats/token)"]
    agree(differences(larger, "proposal", "loss.networkx"), stated)
    proxies, transfers = (table[table["role"] == role] for role in ("proxy", "transfer"))
    assert len(proxies) == 64
    pairs = proxies.merge(transfers, on="arm", suffixes=("", ".larger"))
    ranks = pairs["loss.networkx"].rank().corr(pairs["loss.networkx.larger"].rank())
    stated = read("regmix", "transfer").set_index("predictor").loc["proxies' losses"]
    assert len(pairs) == stated["mixtures"]
    assert ranks == pytest.approx(stated["spearman"], rel=1e-9)


def test_optimizers_are_worth_what_is_reported_in_tokens_and_at_equal_compute():
    table = unfolded(read("optimizers"))
    sound = table[(table["role"] == "final") & table["diverged_step"].isna()]
    stated = {
        name: read("optimizers", name).set_index(["arm", "width"])
        for name in ("speed_ups", "effective")
    }
    assert set(stated["speed_ups"].index.levels[0]) == {*sound["arm"]} - {"adamw"}
    for (arm, width), row in stated["speed_ups"].iterrows():
        found = arm_speed_ups(sound, "adamw", arm)[width]
        assert factor(found["by_seed"]).value == pytest.approx(row["in tokens"], rel=1e-9)
        pinned = stated["effective"].loc[(arm, width), "effective speed-up"]
        assert found["pinned"].value == pytest.approx(pinned, rel=1e-9)
