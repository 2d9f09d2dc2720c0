"""What a page is given."""

import base64
import json

import numpy as np
import pandas as pd
import pytest

from fitting import LAWS, Observations
from fitting.explorer.payload import as_json, packed, payload, variables
from tests.fitting.explorer.planted import fit_of, misfit, runs


def unpacked(told: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(told["f64"]), "<f8")


def test_numbers_arrive_bit_by_bit():
    values = [0.1, 1e-310, np.inf, np.nan, -0.0]
    assert unpacked(packed(values)).tobytes() == np.array(values).tobytes()


def test_a_fit_is_given_whole():
    obs = runs()
    result = fit_of(LAWS["chinchilla"], obs)
    told = payload([result], obs, "t")
    law = told["laws"][0]
    drawn = unpacked(law["draws"]).reshape(-1, 5)
    assert np.array_equal(drawn[:, 3], result.parameter_draws()["alpha"])
    assert law["predictors"] == ["params_total", "tokens"]
    assert law["allocation"] == {"size": 0, "tokens": 1} and law["misfit"] is None
    assert len(unpacked(told["points"]["target"])) == len(obs) == len(told["points"]["run"])


def test_sliders_hold_the_runs_and_reach_beyond_them():
    obs = runs()
    told = payload([fit_of(LAWS["chinchilla"], obs)], obs, "t")
    for one in [*told["variables"], told["budget"]]:
        assert one["min"] < one["low"] <= one["high"] < one["max"]
        assert one["low"] <= one["start"] <= one["max"]
    tokens = next(one for one in told["variables"] if one["name"] == "tokens")
    assert tokens["max"] == pytest.approx(1000 * obs.column("tokens").max())


def test_what_a_misfit_is_placed_by_gets_a_slider_too():
    obs = runs()
    bare = fit_of(LAWS["data"], obs)
    assert variables([bare], obs) == ["tokens"]
    assert variables([fit_of(LAWS["data"], obs, misfit=misfit())], obs) == ["tokens", "flops"]


def test_laws_of_what_is_no_cost_have_no_optimum():
    obs = Observations(runs().frame.assign(learning_rate=1e-3))
    told = payload([fit_of(LAWS["best_rate"], obs)], obs, "t")
    assert told["laws"][0]["allocation"] is None and told["budget"] is None


def test_labels_are_columns_of_few_values_words_first():
    frame = runs().frame.assign(width=np.repeat([16.0, 32.0], 20), own=np.arange(40))
    told = payload([], Observations(frame), "t")["labels"]
    assert [label["name"] for label in told] == ["arm", "width"]
    assert told[0]["levels"] == ["two", "one"] and told[0]["codes"][:3] == [0, 1, 0]
    assert told[1]["levels"] == ["16", "32"]


def test_json_in_a_page_ends_no_script():
    text = as_json({"run": "</script><script>", "line": "\u2028"})
    assert "<" not in text and "\u2028" not in text
    assert json.loads(text)["run"] == "</script><script>"


def test_empty_losses_stay_empty():
    frame = runs().frame.drop(columns="loss")
    told = payload([], Observations(pd.DataFrame(frame)), "t")
    assert np.isnan(unpacked(told["points"]["target"])).all()
