import numpy as np
import pandas as pd
import pytest

from fitting import LAWS, Observations, fit
from fitting.bfgs import minimise
from fitting.objective import Problem
from fitting.profiles import design_effect
from fitting.solver import solve


def runs(levels, noise, seed=0):
    rng = np.random.default_rng(seed)
    tokens = np.repeat(levels, 3)
    loss = (2 + 40 * tokens**-0.3) * np.exp(noise * rng.normal(size=len(tokens)))
    return Observations(pd.DataFrame({"tokens": tokens, "loss": loss}))


def test_a_wide_sweep_identifies_and_a_narrow_one_does_not():
    wide = fit("data", runs(np.geomspace(1e5, 1e11, 9), 0.002), draws=50)
    assert set(wide.verdicts.values()) == {"identified"}
    narrow = fit("data", runs(np.geomspace(1e9, 1.3e9, 4), 0.01), draws=50)
    assert "identified" not in set(narrow.verdicts.values())


def test_the_profile_interval_of_least_squares_is_the_normal_one():
    obs = runs(np.geomspace(1e5, 1e11, 9), 0.002)
    result = fit("data", obs, objective="least_squares_log", draws=1500)
    profile = result.profiles["beta"]
    spread = np.std(result.parameter_draws()["beta"])
    assert (profile.high - profile.low) / (2 * 1.96 * spread) == pytest.approx(1, abs=0.35)
    assert profile.low < result.parameters["beta"] < profile.high
    assert profile.deviance.min() == pytest.approx(0, abs=1e-6)


def test_profiles_are_no_lower_than_the_optimum():
    obs = runs(np.geomspace(1e5, 1e11, 9), 0.002)
    result = fit("data", obs, draws=20)
    for profile in result.profiles.values():
        assert np.all(profile.deviance >= -1e-6)
    problem = Problem(result.law, {"tokens": obs.column("tokens")}, obs.column("loss"))
    assert solve(problem).objective == pytest.approx(result.optimum.objective, rel=1e-8)


def test_noise_shared_by_trunks_hurts_only_what_varies_between_them():
    # Loss = E + B f(tokens): E is constant in a trunk of 4 equal runs, so its variance is x 4.
    law, tokens = LAWS["data"], np.repeat(np.geomspace(1e8, 1e11, 12), 4)
    columns, truth = {"tokens": tokens}, {"E": 2.0, "B": 40.0, "beta": 0.3}
    problem = Problem(law, columns, law.predict(columns, truth), "least_squares_log")
    point = np.array([p.to_search(truth[p.name]) for p in law.parameters])
    sizes = np.repeat(np.arange(12), 4)
    assert design_effect(problem, point, sizes, 1.0) == pytest.approx([4.0] * 3, rel=1e-6)
    assert design_effect(problem, point, sizes, 0.0) == pytest.approx([1.0] * 3, rel=1e-12)
    # Trunks that each hold every size: the shape is a contrast within a trunk, the level is not.
    across = design_effect(problem, point, np.tile(np.arange(4), 12), 0.9)
    assert across[law.names.index("beta")] == 1.0


def test_the_design_effect_is_the_spread_of_refits():
    rng = np.random.default_rng(0)
    law, tokens = LAWS["data"], np.geomspace(1e8, 1e11, 24)
    columns, truth = {"tokens": tokens}, {"E": 2.0, "B": 40.0, "beta": 0.3}
    trunks = np.arange(24) // 4
    mean = law.predict(columns, truth)
    point = np.array([p.to_search(truth[p.name]) for p in law.parameters])
    spread = {}
    for shared in (0.0, 0.8):
        noise = np.sqrt(shared) * rng.normal(size=(400, 6))[:, trunks]
        noise = noise + np.sqrt(1 - shared) * rng.normal(size=(400, 24))
        problem = Problem(law, columns, mean * np.exp(1e-3 * noise), "least_squares_log")
        found, _, _ = minimise(problem, np.tile(point, (400, 1)))
        spread[shared] = np.var(found, axis=0)
    expected = design_effect(Problem(law, columns, mean), point, trunks, 0.8)
    assert spread[0.8] / spread[0.0] == pytest.approx(expected, rel=0.3)
