"""A small part of the coverage study, held to what chance allows."""

import numpy as np
import pytest
from scipy.stats import binom

from experiments import coverage


@pytest.mark.parametrize("law", ["over_training", "parscale"])
def test_intervals_cover_within_the_binomial_bound(law):
    table = coverage.run([law], sets=20, echo=lambda row: None)
    covered = int(round((table["coverage"] * table["sets"]).sum()))
    # 40 sets at 90 %: fewer than this happens by chance once in 100 times.
    assert covered >= binom.ppf(0.01, 40, 0.9)
    assert (table["identified"] >= 0.8).all()


@pytest.mark.parametrize("name", coverage.PLANS)
def test_plans_are_complete(name):
    plan = coverage.PLANS[name]()
    assert plan.frame["trunk"].nunique() >= 8 and 0 < plan.noise < 0.2
    assert set(coverage.LAWS[plan.law].names) <= set(plan.parameters)


@pytest.mark.parametrize(
    "name", ["chinchilla", "over_training", "repetition", "qat", "qat_fraction"]
)
def test_targets_are_at_ten_times_the_compute(name):
    plan = coverage.PLANS[name]()

    def compute(table):
        split = "tokens" not in table
        tokens = (
            sum(np.asarray(table[n], float) for n in ("tokens_qat", "tokens_fp")) if split else 0
        )
        tokens = tokens if split else np.asarray(table["tokens"], float)
        return np.asarray(table["params_total"], float) * tokens

    assert compute(plan.target)[0] / compute(plan.frame).max() == pytest.approx(10, rel=0.05)
