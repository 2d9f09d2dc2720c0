import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from fitting import LAWS, Observations, above_compute, baselines, evidence, fit
from fitting.held_out import compute, largest_decile, rolling, seed_standard_deviation
from fitting.objective import OBJECTIVES
from refused import Refused
from tests.fitting.test_law import EVERY, settings

TRUTH = {"E": 1.2, "A": 10.0, "B": 60.0, "alpha": 0.2, "beta": 0.3}
OPTIONS = {"draws": 200, "audits": 8}


def ladder(seed=0, between=0.004, within=0.003, widths=(16, 24, 32, 48, 64), seeds=(3, 2, 2, 1, 1)):
    """A small study: sizes by tokens, several trunks for the smaller sizes."""
    rng = np.random.default_rng(seed)
    rows = []
    for width, count in zip(widths, seeds, strict=True):
        params = 48 * width**2 + 256 * width
        for copy in range(count):
            shared = between * rng.normal()
            for tokens in (256e3, 512e3, 1e6, 2e6):
                mean = LAWS["chinchilla"].predict({"params": params, "tokens": tokens}, TRUTH)
                loss = float(mean * np.exp(shared + within * rng.normal()))
                run = f"w{width}-s{copy}-d{tokens:g}"
                trunk = f"w{width}-s{copy}"
                rows.append((run, trunk, copy, width, params, tokens, loss))
    names = ["run", "trunk", "seed", "width", "params_total", "tokens", "loss"]
    return Observations(pd.DataFrame(rows, columns=names))


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


@pytest.mark.parametrize("name", EVERY)
def test_runs_without_noise_are_met_and_have_no_interval(name):
    law, rng = EVERY[name], np.random.default_rng(3)
    complete = [values for values in law.published.values() if set(values) >= set(law.names)]
    drawn = {p.name: rng.uniform(*p.start) if p.start else 1.1 for p in law.parameters}
    truth = complete[0] if complete else drawn
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


def test_baselines_and_splits(study):
    obs, mask, result = study
    table = baselines(obs, mask)
    assert list(table["run"]) == list(result.held_out["run"])
    mine = np.abs(result.held_out["relative_error"]).mean()
    assert mine < np.abs(table["nearest_run"]).mean()
    assert above_compute(obs, 0.25).sum() == 7
    assert largest_decile(obs).sum() == 3


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


def test_spread_of_seeds_pools_replicates():
    obs = ladder(between=0.0, within=0.0)
    spread, degrees = seed_standard_deviation(obs)
    assert spread == pytest.approx(0.0, abs=1e-12) and degrees == 16
    none, zero = seed_standard_deviation(ladder(seeds=(1, 1, 1, 1, 1)))
    assert none is None and zero == 0


def test_fitting_needs_no_jax_and_no_plotting():
    code = "import sys, fitting, fitting.report, fitting.proposals; "
    code += "bad = {'jax', 'flax', 'matplotlib', 'sklearn', 'lightgbm'} & set(sys.modules); "
    code += "sys.exit(str(bad) if bad else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
