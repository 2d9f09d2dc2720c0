from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fitting import LAWS, Observations, Options, fit
from fitting.choice import (
    admitted,
    choose,
    extrapolating,
    overtaking,
    row_weights,
    stack,
    unproven,
    weighted,
)
from fitting.rolling import HALF, extrapolations
from refused import Refused
from tests.fitting.planted import TRUTH

NAMES = ("chinchilla", "chinchilla_no_floor", "data")


def planted(law="chinchilla", truth=TRUTH, noise=0.003, rows=60, seed=0):
    rng = np.random.default_rng(seed)
    columns = {"params": 10 ** rng.uniform(7, 9.5, rows), "tokens": 10 ** rng.uniform(9, 11, rows)}
    loss = LAWS[law].predict(columns, truth) * np.exp(noise * rng.normal(size=rows))
    frame = {"params_total": columns["params"], "tokens": columns["tokens"], "loss": loss}
    return Observations(pd.DataFrame(frame))


@pytest.fixture(scope="module")
def choice():
    return choose(NAMES, planted(), held_out="above:0.2")


def test_the_planted_law_is_chosen_and_the_others_are_worse(choice):
    assert choice.name == "chinchilla"
    told = dict(zip(choice.laws["law"], choice.laws["verdict"], strict=True))
    assert told["chinchilla"] == "chosen"
    others = {name: text for name, text in told.items() if not name.startswith("chinchilla ")}
    assert [others[name] for name in NAMES[1:]] == ["worse", "worse"]
    assert choice.ranking[0] == "chinchilla" and set(choice.ranking) == set(NAMES)
    assert choice.laws["weight"].sum() == pytest.approx(1)
    assert (
        sum(w for name, w in choice.weights.items() if choice.fits[name].law.name == NAMES[0]) > 0.8
    )


def test_a_law_that_its_early_runs_mislead_is_weighed_on_the_later_half():
    runs = planted(noise=0.001)
    place = np.log(runs.frame["params_total"] * runs.frame["tokens"])
    early = np.maximum(np.median(place) - 1 - place, 0)
    bent = Observations(runs.frame.assign(loss=runs.frame["loss"] * np.exp(0.05 * early)))
    found = choose(["chinchilla_no_floor"], bent, held_out="above:0.2", audits=2)
    whole, half = "chinchilla_no_floor", "chinchilla_no_floor" + HALF
    assert found.name == whole and found.weights[half] > 0.8
    scores = found.laws.set_index("law")["score"]
    assert scores[half] < 0.7 * scores[whole]
    fitted = {name: len(result.observations) for name, result in found.fits.items()}
    assert fitted[half] <= (len(bent) + 1) // 2


def test_the_weighted_mean_is_no_worse_than_the_chosen_law_where_its_weights_come_from(choice):
    # Up to the pull towards weights by each law's own error.
    assert choice.mean_score <= 1.1 * choice.laws["score"].min()


def test_losses_of_held_out_runs_are_never_read(choice):
    runs = planted()
    mask = ~runs.frame["run"].isin(choice.fits["chinchilla"].observations.frame["run"]).to_numpy()
    moved = Observations(runs.frame.assign(loss=np.where(mask, 9.0, runs.frame["loss"])))
    once, again = (choose(["data"], table, held_out="above:0.2") for table in (runs, moved))
    pd.testing.assert_frame_equal(again.laws, once.laws)


def test_the_mean_predicts_the_runs_beyond_inside_its_interval(choice):
    runs = planted()
    fitted = runs.frame["run"].isin(choice.fits["chinchilla"].observations.frame["run"])
    ahead = runs.frame[~fitted].reset_index(drop=True)
    found = choice.predict(ahead)
    truth = {"params": ahead["params_total"], "tokens": ahead["tokens"]}
    mean = LAWS["chinchilla"].predict({k: v.to_numpy() for k, v in truth.items()}, TRUTH)
    assert found["prediction"].to_numpy() == pytest.approx(mean, rel=0.02)
    assert np.mean((ahead["loss"] >= found["low"]) & (ahead["loss"] <= found["high"])) > 0.8


def test_laws_that_differ_widen_the_interval_of_their_mean(choice):
    runs = choice.fits["chinchilla"].observations
    laws = pd.DataFrame({"law": ["chinchilla", "data"], "weight": [0.5, 0.5]})
    fits = {n: fit(n, runs, point_only=True, audits=0) for n in laws["law"]}
    far = {"params_total": [1e10], "tokens": [1e12]}
    found = replace(choice, laws=laws, fits=fits).predict(far).iloc[0]
    ends = [result.predict(far)["prediction"][0] for result in fits.values()]
    assert min(ends) < found["prediction"] < max(ends)
    # Half of what they differ by, 1.64 times on each side, where noise is far less.
    assert np.log(found["high"] / found["low"]) > 0.8 * np.log(max(ends) / min(ends))


def test_a_plain_prediction_that_wins_is_said_loudly(choice):
    # A straight line in compute is met by no law that sees tokens only.
    runs = planted()
    flops = 6 * runs.frame["params_total"] * runs.frame["tokens"]
    noise = np.exp(0.001 * np.random.default_rng(1).normal(size=len(runs)))
    straight = Observations(runs.frame.assign(loss=20 * flops**-0.05 * noise))
    found = choose(["data"], straight, held_out="above:0.2")
    assert "log_linear alone predicts" in found.warnings[0]
    assert not any("alone" in text for text in choice.warnings)


def test_a_plain_prediction_that_overtakes_the_laws_at_the_last_two_cuts_is_named():
    rows = pd.DataFrame({"cut": [0, 1, 2], "law": "log_linear", "error": [0.3, 0.02, -0.01]})
    mean = rows.assign(law="weighted mean", error=[0.1, 0.1, 0.1])
    assert overtaking(rows, mean) == "log_linear"
    assert overtaking(rows.assign(error=[0.3, 0.2, 0.01]), mean) is None
    assert overtaking(rows[rows["cut"] == 2], mean[mean["cut"] == 2]) is None


def test_a_plain_prediction_that_chance_cannot_tell_from_the_laws_is_named():
    runs = pd.DataFrame({"cut": 0, "fitted": 10, "run": [f"r{i}" for i in range(12)]})
    mean = runs.assign(trunk=runs["run"], distance=1.0, error=0.01)
    # Far worse on one run only: better or worse by chance. Then worse on all.
    one = mean.assign(law="nearest_run", error=[0.05, *[0.0095] * 11])
    assert unproven(one, mean, 1.0) == ["nearest_run"]
    assert unproven(one.assign(error=0.011), mean, 1.0) == []


def test_errors_count_by_their_closeness_to_every_distance_that_is_asked():
    rows = pd.DataFrame({"cut": 0, "fitted": 10, "run": ["near", "far"], "distance": [0.5, 3.0]})
    near, far = row_weights(rows, 3.0)
    assert near < 0.25 * far
    both = row_weights(rows, np.array([0.5, 3.0]))
    assert both == pytest.approx((row_weights(rows, 0.5) + row_weights(rows, 3.0)) / 2)


def test_what_lies_beyond_every_rolling_test_is_warned_of():
    assert "asked 1e+06 times" in choose(["data"], planted(), distance=np.log(1e6)).warnings[-1]


def test_auto_takes_the_laws_that_the_columns_admit():
    names = {law.name for law in admitted(planted(), Options())}
    assert {"chinchilla", "over_training", "skaling"} <= names
    assert not names & {
        "data",
        "parscale",
        "routed",
        "repetition",
        "downstream",
        "over_training_exact",
    }
    one = planted().frame
    one["tokens"] = 20 * one["params_total"]  # One dial: laws of one predictor see it all.
    assert "data" in {law.name for law in admitted(Observations(one), Options())}
    with pytest.raises(Refused, match="auto"):
        admitted(Observations(pd.DataFrame({"loss": [1.0, 2.0]})), Options())


def test_too_few_runs_for_rolling_fits_give_equal_weights_no_interval_and_a_warning():
    found = choose(["chinchilla", "over_training"], planted(rows=7), audits=2)
    assert found.misfit.cuts <= 1 or np.isfinite(found.mean_score)
    few = choose(["data"], planted(rows=4), audits=2)
    assert "rests on nothing" in few.warnings[0]
    assert few.predict(planted(rows=4).frame)["low"].isna().all()


def test_stacked_weights_cancel_opposite_errors():
    rows = pd.DataFrame({"cut": 0, "fitted": 10, "run": [f"r{i}" for i in range(8)]})
    rows = rows.assign(trunk=rows["run"], distance=1.0, spread=0.01)
    error = np.linspace(0.01, 0.02, 8)
    both = pd.concat([rows.assign(law="up", error=error), rows.assign(law="down", error=-error)])
    weights = stack(both, ["up", "down"], 1.0)
    assert weights == pytest.approx({"up": 0.5, "down": 0.5}, abs=1e-6)
    mean = weighted(both, weights)
    assert np.abs(mean["error"]).max() < 1e-8 and len(mean) == 8


def test_weights_that_errors_leave_open_go_to_the_laws_that_err_less():
    rows = pd.DataFrame({"cut": 0, "fitted": 10, "run": [f"r{i}" for i in range(8)]})
    rows = rows.assign(trunk=rows["run"], distance=1.0, spread=0.01)
    error = np.random.default_rng(0).normal(size=8)
    laws = {"best": 0.01, "good": 0.011, "bad": 0.05}
    table = pd.concat([rows.assign(law=name, error=size * error) for name, size in laws.items()])
    weights = stack(table, list(laws), 1.0)
    assert weights["best"] > weights["good"] > weights["bad"] and weights["bad"] < 0.01


def test_a_law_that_is_wrong_carries_a_misfit_and_one_that_holds_does_not():
    runs = planted(noise=0.001)
    options = Options(audits=2, draws=50)
    right, wrong = (fit(name, runs, options) for name in ("chinchilla", "chinchilla_no_floor"))
    right, wrong = extrapolating(right), extrapolating(wrong)
    assert right.misfit.slope < 0.1 * wrong.misfit.slope
    far = {"params_total": [1e11], "tokens": [1e13]}
    bare = replace(wrong, misfit=None).predict(far)
    carried = wrong.predict(far)
    assert carried["prediction"][0] == bare["prediction"][0]
    assert carried["low"][0] < bare["low"][0] < bare["high"][0] < carried["high"][0]


def test_rolling_rows_of_a_law_are_the_same_whoever_else_is_judged():
    runs = planted()
    alone, beside = (extrapolations(names, runs) for names in (["data"], NAMES[1:]))
    for name in ("data", "nearest_run", "log_linear"):
        one, other = (t[t["law"] == name].reset_index(drop=True) for t in (alone, beside))
        pd.testing.assert_frame_equal(one, other)
