import numpy as np
import pandas as pd
import pytest

from fitting import Observations, fit
from fitting.solver import Problem, solve


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
