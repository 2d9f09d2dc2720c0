"""Laws in reports: what a fit leaves open, and its errors beside other predictions."""

import numpy as np
import pandas as pd
import pytest

from experiments.evidence.law import (
    BASELINES,
    against_others,
    held_out,
    identified,
    law_table,
    parameter,
    summarised,
)
from fitting import Observations, fit


@pytest.fixture(scope="module")
def observations():
    """Losses of a Chinchilla law with an error of a thousandth."""
    rng, rows = np.random.default_rng(0), []
    for params in np.geomspace(1e6, 1e8, 5):
        for tokens in np.geomspace(1e8, 1e10, 5):
            loss = 1.7 + 400 * params**-0.34 + 2000 * tokens**-0.37
            rows.append((params, tokens, loss * np.exp(rng.normal(0, 1e-3))))
    frame = pd.DataFrame(rows, columns=["params_total", "tokens", "loss"])
    return Observations(frame.assign(flops=6 * frame["params_total"] * frame["tokens"]))


def test_a_law_is_judged_on_runs_it_has_not_seen_beside_every_baseline(observations):
    mask = observations.column("params_total") > 9e7
    fits, errors = held_out(observations, mask, {"true law": "chinchilla"}, "params_total")
    assert list(errors) == ["true law", *BASELINES.values()]
    assert all(len(values) == mask.sum() for values in errors.values())
    assert len(fits["true law"].observations) == (~mask).sum()
    table = summarised(errors).set_index("prediction")
    assert table.loc["true law", "worst (%)"] < 1 < table.loc["nearest run", "worst (%)"]


def test_medians_within_the_margin_are_not_resolved():
    errors = {"law": [0.02], "near": [0.025], "far": [0.05], "better": [0.001]}
    errors = {name: np.array(values) for name, values in errors.items()}
    said = "its median error is 2.00 %, lower than far (5.00 %); higher than better (0.10 %); "
    assert against_others(errors, "law", 0.01) == f"{said}not resolved from near (2.50 %)"
    assert "lower than near (2.50 %), far (5.00 %)" in against_others(errors, "law")


def test_a_report_names_what_is_identified_and_what_is_not_to_be_quoted(observations):
    found = fit("chinchilla", observations, params="params_total", draws=50)
    named = {*found.verdicts}
    text = identified(found)
    assert text.startswith("Of the chinchilla law the runs identify ") and text.endswith(".")
    assert all(name in text for name in named)
    claim = parameter(found, "E", than=1.7)
    assert claim.value == found.parameters["E"] and claim.low < claim.value < claim.high
    table = law_table("fit", found)
    assert list(table.frame["parameter"]) == list(found.parameters) and "tabular" in table.latex


def test_a_parameter_without_an_interval_has_none(observations):
    found = fit("chinchilla", observations, params="params_total", point_only=True)
    assert np.isnan(parameter(found, "E").low)
