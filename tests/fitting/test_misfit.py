import numpy as np
import pandas as pd
import pytest

from fitting import Observations
from fitting.misfit import LEAST, Misfit, learn, noise_share
from refused import Refused

RUNS = Observations(
    pd.DataFrame({"params_total": [1e8, 1e9], "tokens": [1e10, 1e11], "loss": [3.0, 2.5]})
)


def rows(slope, noise=0.002, seed=0):
    rng = np.random.default_rng(seed)
    parts = []
    for cut in range(6):
        far = np.linspace(0.2, 4.0, 20)
        error = slope * rng.choice([-1, 1]) * far + noise * rng.normal(size=20)
        parts.append(
            pd.DataFrame({"cut": cut, "fitted": 20 + cut, "distance": far, "error": error})
        )
    return pd.concat(parts).assign(spread=noise, law="a")


def test_a_planted_slope_is_learned():
    found = learn(rows(0.01), RUNS, "compute", "params_total", 3.0)
    assert found.slope == pytest.approx(0.01, rel=0.1)
    assert found.tested == 4.0 and found.cuts == 6


def test_errors_that_noise_explains_are_no_misfit():
    slopes = [learn(rows(0.0, seed=s), RUNS, "compute", None, 3.0).slope for s in range(20)]
    assert np.mean(slopes) < 3e-4


def test_distance_counts_from_the_farthest_run():
    misfit = learn(rows(0.01), RUNS, "compute", "params_total", 3.0)
    frame = {"params_total": [1e9, 1e10, 1e7], "tokens": 1e11}
    assert misfit.distance(frame) == pytest.approx([0, np.log(10), 0], abs=1e-12)
    assert misfit.scale(frame)[1] == pytest.approx(misfit.slope * np.log(10))
    with pytest.raises(Refused, match="tokens"):
        misfit.distance({"params_total": [1e9]})


def test_a_warning_names_the_factor_and_what_was_tested():
    misfit = Misfit(0.01, "tokens", None, np.log(1e11), np.log(8.0), 5)
    assert misfit.warning({"tokens": [4e11]}) is None
    told = misfit.warning({"tokens": [3.2e12]})
    assert "32 times" in told and "up to 8 times" in told
    assert "1.00% for each factor e in tokens" in misfit.caption()


def test_noise_counts_as_far_as_rolling_errors_show_it():
    found = noise_share(rows(0.0).assign(spread=0.003), 3.0)
    assert found == pytest.approx(2 / 3, rel=0.15)
    assert noise_share(rows(0.0).assign(spread=0.02), 3.0) == LEAST
    assert noise_share(rows(0.02), 3.0) == 1.0 == noise_share(rows(0.0).iloc[:0], 3.0)
