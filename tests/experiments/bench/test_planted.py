"""Planted tables are what their law predicts, and share the noise that they say."""

import numpy as np
import pytest

from experiments.bench import planted, planted_tables
from fitting import LAWS


def check_planted(plan):
    """A table of the plan is what its law predicts, with the noise and the new runs of the plan."""
    law = LAWS[plan.law]
    assert set(plan.parameters) == set(law.names)
    assert set(plan.fixed) <= set(law.names)
    obs, new = planted.plant(plan, 0.0, np.random.default_rng(0))
    miss = np.log(obs.column(law.target) / planted.truth(plan, obs.frame))
    assert np.std(miss) == pytest.approx(plan.noise, rel=0.6)
    assert set(new) == set(plan.new)


def test_noise_that_a_trunk_shares_is_equal_on_it():
    plan = planted_tables.qat_fraction()
    obs, _ = planted.plant(plan, 1.0, np.random.default_rng(0))
    miss = np.log(obs.column("optimal_fraction") / planted.truth(plan, obs.frame))
    spread = obs.frame.assign(miss=miss).groupby("trunk")["miss"].std()
    assert (spread < 1e-12).all() and np.std(miss) > 0.05


def test_neighbours_and_groups_are_trunks_of_the_size_asked_for():
    frame = planted.mesh(params_total=(1e9, 1e8), tokens=(1e9, 2e9, 3e9, 4e9))
    near = planted.neighbours(frame, ["params_total", "tokens"], 4)
    assert near.groupby("trunk")["params_total"].nunique().tolist() == [1, 1]
    pairs = planted.grouped(frame, ["params_total", "tokens"], 2)
    assert pairs["trunk"].nunique() == 4
    assert (pairs.groupby("trunk")["tokens"].max() % 2e9 == 0).all()
