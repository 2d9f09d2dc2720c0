import numpy as np
import pytest

from fitting import Observations, baselines, fit
from fitting.held_out import compute
from fitting.rolling import rolling
from refused import Refused
from tests.fitting.planted import ladder


def test_a_law_that_holds_beats_the_nearest_run():
    obs = ladder()
    mask = ((obs.frame["width"] == 64) & (obs.frame["tokens"] > 9e5)).to_numpy()
    table = baselines(obs, mask)
    result = fit("chinchilla", obs, held_out=mask, point_only=True, audits=4)
    assert list(table["run"]) == list(result.held_out["run"])
    mine = np.abs(result.held_out["relative_error"]).mean()
    assert mine < np.abs(table["nearest_run"]).mean()


def test_rolling_fits_predict_the_next_runs_by_compute():
    obs = ladder(seeds=(1, 1, 1, 1, 1))
    table = rolling("chinchilla", obs, audits=4)
    assert (table["fitted"].diff()[1:] == table["predicted"][:-1].to_numpy()).all()
    assert table["fitted"].iloc[-1] + table["predicted"].iloc[-1] == len(obs)
    assert (table["times"] > 1).all()
    assert table["error"].iloc[-1] < min(table["nearest_run"].iloc[-1], 0.02)
    last = obs.only(np.argsort(np.argsort(compute(obs))) < table["fitted"].iloc[-1])
    alone = fit("chinchilla", last, point_only=True, audits=4)
    ahead = obs.frame[~obs.frame["run"].isin(last.frame["run"])]
    miss = alone.predict(ahead)["prediction"].to_numpy() / ahead["loss"] - 1
    assert table["error"].iloc[-1] == pytest.approx(np.sqrt(np.mean(miss**2)), rel=1e-4)


def test_rolling_keeps_equal_compute_together_and_leaves_what_cannot_be_fitted_empty():
    obs = ladder()
    table = rolling("chinchilla", obs, shares=(0.05, 0.5), audits=4)
    # The first tenth is one setting with its three seeds: no law fits that.
    assert table["fitted"].iloc[0] == 3 and np.isnan(table["error"].iloc[0])
    assert table["error"].iloc[1] < 0.05
    with pytest.raises(Refused, match="column: got tokens"):
        rolling("chinchilla", Observations(obs.frame.drop(columns="tokens")))
