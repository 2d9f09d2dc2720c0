import numpy as np
import pytest

from fitting import LAWS, Observations, evidence, fit
from fitting.evidence import akaike, compare, influence, log_likelihood, rounding_damage
from fitting.fit import problem_of


@pytest.fixture(scope="module")
def chinchilla():
    return fit("chinchilla", Observations.read("published:chinchilla:240"), draws=200)


def point(label):
    law = LAWS["chinchilla"]
    return np.array([p.to_search(law.published[label][p.name]) for p in law.parameters])


def test_log_likelihoods_of_the_replication(chinchilla):
    # Besiroglu et al.: rounded 562.25, unrounded 837.78, refit 879.77 (the refit is the LAD one).
    problem = problem_of(chinchilla)
    assert log_likelihood(problem, point("hoffmann rounded")) == pytest.approx(562.25, abs=0.005)
    assert log_likelihood(problem, point("hoffmann unrounded")) == pytest.approx(837.78, abs=0.006)
    lad = fit("chinchilla", chinchilla.observations, objective="lad", point_only=True)
    assert log_likelihood(problem, lad.optimum.point) == pytest.approx(879.77, abs=0.006)


def test_rounding_the_published_numbers_costs_hundreds_of_units(chinchilla):
    fine, coarse = rounding_damage(chinchilla, 7), rounding_damage(chinchilla, 2)
    assert 0 <= fine["objective"] < 1e-4 < coarse["objective"]
    assert coarse["log_likelihood"] > 50 and coarse["prediction"] > fine["prediction"]


def test_a_gross_outlier_at_a_corner_is_the_most_influential_run():
    obs = Observations.read("published:parscale:pile")
    frame = obs.frame.copy()
    frame.loc[0, "loss"] *= 1.2
    table = influence(fit("parscale", Observations(frame), objective="least_squares", draws=100))
    runs = table[table["kind"] == "run"]
    assert runs.iloc[0]["left_out"] == frame["run"][0]
    assert set(table["kind"]) == {"run", "streams", "params_non_embedding"}
    assert np.all(np.diff(table["shift"]) <= 0)


def test_influence_equals_a_refit(chinchilla):
    obs = Observations.read("published:parscale:stack")
    result = fit("parscale", obs, point_only=True)
    table = influence(result)
    row = table[table["left_out"] == obs.frame["run"][5]].iloc[0]
    again = fit("parscale", obs.only(np.arange(len(obs)) != 5), point_only=True)
    for name in ("E", "alpha", "k"):
        assert row[name] == pytest.approx(again.parameters[name], rel=1e-3)


def test_laws_that_are_the_same_are_not_distinguishable():
    runs = Observations.read("published:over_training:redpajama")
    flops = runs.column("flops_6nd")
    mask = flops > np.quantile(flops, 0.75)
    table = compare(["over_training", "over_training", "data"], runs, mask)
    verdicts = dict(zip(table["law"] + table.index.astype(str), table["verdict"], strict=True))
    assert verdicts["over_training0"] == "best"
    assert "not distinguishable" in set(table["verdict"][table["law"] == "over_training"])
    assert table["verdict"][table["law"] == "data"].iloc[0] == "worse"
    assert table["delta_aicc"].min() == 0


def test_akaike_charges_for_parameters():
    rng = np.random.default_rng(0)
    columns = {"params": 10 ** rng.uniform(7, 10, 60), "tokens": 10 ** rng.uniform(9, 12, 60)}
    law = LAWS["over_training"]
    loss = law.predict(columns, law.published["c4"]) * np.exp(0.005 * rng.normal(size=60))
    import pandas as pd

    frame = {"params_total": columns["params"], "tokens": columns["tokens"], "loss": loss}
    obs = Observations(pd.DataFrame(frame))
    options = {"objective": "least_squares_log", "point_only": True}
    small, large = (fit(name, obs, **options) for name in ("over_training", "chinchilla"))
    assert large.optimum.objective <= small.optimum.objective
    assert akaike(small) < akaike(large) + 4
    few = fit("over_training", obs.only(np.arange(60) < 6), point_only=True)
    assert akaike(few) == float("inf")


def test_convergence_is_printable(chinchilla):
    text = evidence.convergence(chinchilla)
    assert text["parameters at bounds"] == "none"
    assert text["objective"] == "0.001018274018"
