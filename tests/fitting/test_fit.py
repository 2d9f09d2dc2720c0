import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fitting import LAWS, Observations, Options, evidence, fit
from fitting.fit import _settled
from fitting.objective import OBJECTIVES
from fitting.profiles import Profile
from fitting.solver import Optimum
from refused import Refused
from tests.fitting.planted import LADDER as TRUTH
from tests.fitting.planted import ladder
from tests.fitting.test_law import settings

OPTIONS = {"draws": 200, "audits": 8}


@pytest.fixture(scope="module")
def study():
    obs = ladder()
    mask = ((obs.frame["width"] == 64) & (obs.frame["tokens"] > 9e5)).to_numpy()
    return obs, mask, fit("chinchilla", obs, held_out=mask, **OPTIONS)


def test_a_fit_says_how_its_intervals_were_made(study):
    _, _, result = study
    assert result.interval_method == "trunk bootstrap, 9 trunks, 200 draws"
    assert set(result.intervals) == set(TRUTH) == set(result.verdicts)
    for name, (low, high) in result.intervals.items():
        assert low < result.parameters[name] < high, name


def test_held_out_runs_are_predicted_not_fitted(study):
    obs, mask, result = study
    assert list(result.held_out["run"]) == list(obs.frame["run"][mask])
    assert set(result.residuals["run"]).isdisjoint(result.held_out["run"])
    moved = Observations(obs.frame.assign(loss=np.where(mask, 9.0, obs.frame["loss"])))
    again = fit("chinchilla", moved, held_out=mask, **OPTIONS)
    assert again.parameters == result.parameters
    miss = result.held_out["predicted"] / result.held_out["observed"] - 1
    assert np.allclose(miss, result.held_out["relative_error"])
    assert np.all(result.held_out["low"] < result.held_out["high"])
    assert np.all(np.abs(miss) < 0.02)


def test_a_fit_repeats_and_the_seed_matters_only_for_draws(study):
    obs, mask, result = study
    again = fit("chinchilla", obs, held_out=mask, **OPTIONS)
    assert again.intervals == result.intervals
    other = fit("chinchilla", obs, held_out=mask, seed=1, **OPTIONS)
    assert other.parameters == pytest.approx(result.parameters, rel=1e-5)
    assert other.intervals != result.intervals


def test_options_are_one_object_that_may_be_changed(study):
    obs, mask, result = study
    options = Options(held_out=mask, **OPTIONS)
    assert fit("chinchilla", obs, options).intervals == result.intervals
    assert fit("chinchilla", obs, options, seed=1).intervals != result.intervals
    with pytest.raises(TypeError):
        fit("chinchilla", obs, objectives="lad")


def test_predictions_of_a_new_run_are_wider_than_of_the_mean(study):
    obs, _, result = study
    new, mean = result.predict(obs.frame), result.predict(obs.frame, new_run=False)
    assert np.all(new["prediction"] == mean["prediction"])
    assert np.mean((new["high"] - new["low"]) / (mean["high"] - mean["low"])) > 1.2


def test_few_trunks_get_a_parametric_bootstrap_that_says_so():
    obs = ladder(widths=(16, 32, 64), seeds=(2, 2, 1))
    result = fit("over_training", obs, **OPTIONS)
    assert result.interval_method.startswith("parametric bootstrap, 5 trunks, standard deviation")
    assert "replicate seeds" in result.interval_method
    assert all(low < high for low, high in result.intervals.values())


def test_point_only_gives_no_interval_and_says_why():
    obs = ladder().only(np.arange(36) % 7 == 0)
    with pytest.raises(Refused, match="point_only"):
        fit("chinchilla", obs.only(np.arange(len(obs)) < 5))
    result = fit("over_training", obs.only(np.arange(len(obs)) < 5), point_only=True)
    assert result.interval_method == "none (5 runs, 4 parameters)"
    assert result.intervals == {} and result.draws is None and result.verdicts == {}
    assert result.predict(obs.frame)[["low", "high"]].isna().all().all()
    with pytest.raises(Refused, match="none"):
        result.parameter_draws()


@pytest.mark.parametrize(
    ("change", "options", "field"),
    [
        ({"tokens": 1e6}, {}, "tokens"),
        ({"tokens": 1e6}, {"point_only": True}, "tokens"),
        ({}, {"params": "params_active"}, "params"),
        ({"params_active": 1e5}, {}, "params"),
        ({}, {"held_out": np.ones(36, bool)}, "held_out"),
        ({}, {"held_out": np.ones(3, bool)}, "held_out"),
        ({}, {"objective": "l2"}, "objective"),
        ({}, {"target": "loss.c4"}, "column"),
        ({}, {"target": "tokens"}, "target"),
        ({}, {"params": "tokens"}, "params"),
        ({}, {"delta": np.inf}, "delta"),
        ({}, {"level": 1.5}, "level"),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_name(change, options, field):
    obs = Observations(ladder().frame.assign(**change))
    with pytest.raises(Refused) as refused:
        fit("chinchilla", obs, **options)
    assert refused.value.field == field


@pytest.mark.parametrize("name", LAWS)
def test_runs_without_noise_are_met_and_have_no_interval(name):
    law, rng = LAWS[name], np.random.default_rng(3)
    complete = [values for values in law.published.values() if set(values) >= set(law.names)]
    level = 0.3 if law.target == "accuracy" else 1.1
    drawn = {p.name: rng.uniform(*p.start) if p.start else level for p in law.parameters}
    truth = complete[0] if complete else drawn
    if name.startswith("broken"):  # A break outside the runs is met by many values.
        place = {"broken_data": 1e10, "broken_size": 3e8, "broken_compute": 3e19}[name]
        truth |= {"c1": 0.3, "f": 0.3, "d": place}
    columns = settings(law, 40)
    if name == "qat_fraction":
        columns["tokens"] = columns["tokens"] * 1e3  # elsewhere the best share may be zero
    if name == "downstream":
        columns["loss"] = columns["loss"] + 2
    frame = {"params_total" if key == "params" else key: x for key, x in columns.items()}
    frame[law.target] = law.predict(columns, truth)
    result = fit(law, Observations(pd.DataFrame(frame)), audits=2, draws=20)
    assert result.interval_method == "none (residuals are zero)"
    assert result.intervals == {} == result.verdicts and result.draws is None
    assert np.max(np.abs(result.residuals["residual"])) < 1e-12
    assert result.predict(frame)[["low", "high"]].isna().all().all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_evidence_of_a_fit_without_noise_has_numbers(objective):
    obs = ladder(between=0.0, within=0.0)
    result = fit("chinchilla", obs, objective=objective, audits=4)
    assert result.interval_method == "none (residuals are zero)"
    assert result.parameters == pytest.approx(TRUTH, rel=1e-6)
    assert result.optimum.share == 1.0
    damage = evidence.rounding_damage(result, digits=1)
    assert damage["objective"] == np.inf and 0 < damage["log_likelihood"] < np.inf
    table = evidence.compare(["chinchilla", "chinchilla_no_floor"], obs, objective=objective)
    assert list(table["verdict"]) == ["best", "worse"] and np.isfinite(table["aicc"]).all()


def test_two_levels_of_a_predictor_are_too_few():
    obs = ladder()
    two = obs.only(obs.frame["tokens"] < 6e5)
    with pytest.raises(Refused, match="2 levels"):
        fit("chinchilla", two)
    assert fit("chinchilla", two, point_only=True).interval_method.startswith("none (18 runs")


def test_fitting_needs_no_jax_and_no_plotting():
    code = "import sys, fitting, fitting.report, fitting.proposals; "
    code += "bad = {'jax', 'flax', 'matplotlib', 'sklearn', 'lightgbm'} & set(sys.modules); "
    code += "sys.exit(str(bad) if bad else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_optimum_that_one_start_of_many_reached_identifies_nothing():
    known = Profile("E", np.ones(1), np.ones(1), 1.0, 2.0, "identified")
    open_ = Profile("A", np.ones(1), np.ones(1), None, 2.0, "not identified")
    best = Optimum(np.ones(2), 1.0, 1 / 32, 32, None, 0.0, 1.0, ())
    told = {n: p.verdict for n, p in _settled({"E": known, "A": open_}, best).items()}
    assert told == {"E": "weakly identified", "A": "not identified"}
    for fine in (replace(best, share=2 / 32), replace(best, starts=4, share=0.25)):
        assert _settled({"E": known}, fine)["E"].verdict == "identified"
