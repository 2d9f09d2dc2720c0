import numpy as np
import pandas as pd
import pytest

from fitting import LAWS, Observations, Options, baselines, fit
from fitting.held_out import compute
from fitting.rolling import HALF, extrapolations, later_half, rolling, spread
from refused import Refused
from tests.fitting.planted import TRUTH, ladder


def test_a_law_that_holds_beats_the_nearest_run():
    obs = ladder()
    mask = ((obs.frame["width"] == 64) & (obs.frame["tokens"] > 9e5)).to_numpy()
    table = baselines(obs, mask)
    result = fit("chinchilla", obs, held_out=mask, point_only=True, audits=4)
    assert list(table["run"]) == list(result.held_out["run"])
    mine = np.abs(result.held_out["relative_error"]).mean()
    assert mine < np.abs(table["nearest_run"]).mean()


def test_rolling_fits_predict_all_runs_beyond_by_compute():
    obs = ladder(seeds=(1, 1, 1, 1, 1))
    rows = extrapolations(["chinchilla"], obs)
    table = rolling(rows, "chinchilla")
    assert (table["fitted"] + table["predicted"] == len(obs)).all()
    assert (table["times"] > 1).all() and (table["fitted"].diff()[1:] > 0).all()
    assert table["error"].iloc[-1] < min(table["nearest_run"].iloc[-1], 0.02)
    last = obs.only(np.argsort(np.argsort(compute(obs))) < table["fitted"].iloc[-1])
    alone = fit("chinchilla", last, point_only=True, audits=0)
    ahead = obs.frame[~obs.frame["run"].isin(last.frame["run"])]
    miss = np.log(alone.predict(ahead)["prediction"].to_numpy() / ahead["loss"])
    assert table["error"].iloc[-1] == pytest.approx(np.sqrt(np.mean(miss**2)), rel=1e-4)


def test_rolling_keeps_equal_compute_together_and_leaves_out_what_cannot_be_fitted():
    obs = ladder()
    table = rolling(extrapolations(["chinchilla"], obs, shares=(0.05, 0.5)), "chinchilla")
    # The first tenth is one setting with its three seeds: no law fits that.
    assert table["fitted"].iloc[0] == 3 and np.isnan(table["error"].iloc[0])
    assert table["error"].iloc[1] < 0.05
    with pytest.raises(Refused, match="column: got tokens"):
        extrapolations(["chinchilla"], Observations(obs.frame.drop(columns="tokens")))


def test_distances_are_logs_of_how_far_beyond_the_cut_a_run_lies():
    obs = ladder(seeds=(1, 1, 1, 1, 1))
    rows = extrapolations(["data"], obs, direction="tokens", shares=(0.5,))
    assert set(np.round(np.exp(rows["distance"]))) == {2, 4}
    with pytest.raises(Refused, match="direction"):
        extrapolations(["data"], obs, direction="width")


def test_the_later_half_is_the_farther_half_of_the_runs_that_are_seen():
    place, mask = np.arange(20.0), np.arange(20) >= 12
    keep = later_half(LAWS["data"], place, mask, Options())
    assert list(np.flatnonzero(keep & ~mask)) == [6, 7, 8, 9, 10, 11] and keep[mask].all()
    # Six runs are two for each parameter of this law, and less than that of one with five.
    assert later_half(LAWS["chinchilla"], place, mask, Options()) is None
    many, none = np.arange(100.0), np.zeros(100, bool)
    assert later_half(LAWS["data"], many, none, Options()).sum() == 50
    assert later_half(LAWS["broken_data"], many, none, Options()) is None
    fixed = Options(fixed={"E": 1.0, "alpha": 0.3, "beta": 0.3})
    assert later_half(LAWS["chinchilla"], place, mask, fixed) is not None


def test_rolling_fits_to_the_later_half_see_only_its_runs():
    obs = ladder(seeds=(1, 1, 1, 1, 1))
    rows = extrapolations(["data"], obs, direction="tokens", shares=(0.7,), halves=True)
    place = np.log(obs.frame["tokens"])
    seen = obs.only((place <= np.quantile(place, 0.7)).to_numpy())
    middle = np.median(np.log(seen.frame["tokens"]))
    half = seen.only((np.log(seen.frame["tokens"]) >= middle - 1e-6).to_numpy())
    alone = fit("data", half, point_only=True, audits=0)
    mine = rows[rows["law"] == "data" + HALF]
    ahead = obs.frame.set_index("run").loc[mine["run"]]
    miss = np.log(alone.predict(ahead)["prediction"].to_numpy() / ahead["loss"].to_numpy())
    assert mine["error"].to_numpy() == pytest.approx(miss, abs=1e-6)


@pytest.mark.parametrize("outlier", [0.0, 0.3])
def test_the_spread_by_noise_holds_nine_runs_in_ten_where_the_law_is_right(outlier):
    inside = []
    for seed in range(14):
        rng = np.random.default_rng(seed)
        columns = {"params": 10 ** rng.uniform(7, 9, 40), "tokens": 10 ** rng.uniform(9, 11, 40)}
        noise = 0.01 * rng.normal(size=40) + outlier * (np.arange(40) == 0)
        loss = LAWS["chinchilla"].predict(columns, TRUTH) * np.exp(noise)
        frame = {"params_total": columns["params"], "tokens": columns["tokens"], "loss": loss}
        found = fit("chinchilla", Observations(pd.DataFrame(frame)), point_only=True, audits=0)
        far = {"params": np.full(20, 3e9), "tokens": np.full(20, 3e11)}
        new = np.log(LAWS["chinchilla"].predict(far, TRUTH)) + 0.01 * rng.normal(size=20)
        table = {"params_total": far["params"], "tokens": far["tokens"]}
        miss = np.log(found.predict(table)["prediction"].to_numpy()) - new
        inside.append(np.mean(np.abs(miss) < 1.645 * spread(found, table)))
    assert 0.8 < np.mean(inside) < 0.97


def test_residuals_that_follow_one_another_widen_the_spread():
    step = np.geomspace(1e9, 3e10, 120)
    rng = np.random.default_rng(0)
    wave = np.convolve(rng.normal(size=139), np.ones(20) / 20, "valid")
    spreads = []
    for noise in (rng.permutation(wave), wave):
        loss = LAWS["data"].predict({"tokens": step}, {"E": 1.7, "B": 400.0, "beta": 0.28})
        frame = pd.DataFrame({"tokens": step, "loss": loss * np.exp(0.01 * noise), "trunk": "one"})
        found = fit("data", Observations(frame), point_only=True, audits=0)
        spreads.append(spread(found, {"tokens": np.array([3e11])})[0])
    assert spreads[1] > 1.5 * spreads[0]
