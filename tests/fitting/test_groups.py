import numpy as np
import pandas as pd
import pytest

from fitting import LAWS, Observations, fit
from fitting.groups import by_group, joint_law, partly_pooled
from refused import Refused
from tests.fitting.planted import TRUTH

OTHER = TRUTH | {"E": 1.9, "A": 300.0}
QUICK = {"audits": 2, "draws": 50}


def two(noise=0.002, seed=0, other=OTHER):
    rng = np.random.default_rng(seed)
    parts = []
    for corpus, truth in (("c4", TRUTH), ("web", other)):
        n, d = (
            x.ravel() for x in np.meshgrid(np.geomspace(1e7, 3e9, 5), np.geomspace(1e9, 1e11, 5))
        )
        loss = LAWS["chinchilla"].predict({"params": n, "tokens": d}, truth)
        loss = loss * np.exp(noise * rng.normal(size=25))
        parts.append(pd.DataFrame({"params_total": n, "tokens": d, "loss": loss, "corpus": corpus}))
    return Observations(pd.concat(parts, ignore_index=True))


@pytest.fixture(scope="module")
def groups():
    return by_group("chinchilla", two(), "corpus", ("alpha", "beta", "B"), **QUICK)


def test_shared_parameters_are_one_and_the_others_each_groups_own(groups):
    found = groups.joint.parameters
    assert found["alpha"] == pytest.approx(TRUTH["alpha"], rel=0.1)
    assert found["E[c4]"] == pytest.approx(1.69, abs=0.05)
    assert found["E[web]"] == pytest.approx(1.9, abs=0.05)
    assert found["A[c4]"] / found["A[web]"] == pytest.approx(406.4 / 300, rel=0.05)
    table = groups.parameters()
    assert set(table["group"]) == {"all", "c4", "web"} and len(table) == 7
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()


def test_the_evidence_prefers_sharing_what_is_shared_to_all_and_to_none(groups):
    assert list(groups.evidence["shared"])[0] == "alpha, beta, B"
    one = groups.evidence.set_index("shared")["delta_aicc"]
    assert one["all"] > 50 and one["none"] > 0


def test_one_groups_fit_predicts_with_the_joint_parameters(groups):
    frame = {"params_total": [5e9], "tokens": [2e11]}
    web = groups.of("web")
    truth = LAWS["chinchilla"].predict(
        {"params": np.array([5e9]), "tokens": np.array([2e11])}, OTHER
    )
    found = web.predict(frame).iloc[0]
    assert found["prediction"] == pytest.approx(truth[0], rel=0.01)
    assert found["low"] < found["prediction"] < found["high"]
    assert len(web.observations) == 25


def test_without_shared_parameters_the_joint_fit_is_the_groups_own():
    found = by_group("chinchilla", two(), "corpus", **QUICK)
    for name, own in found.fits.items():
        for parameter, value in own.parameters.items():
            assert found.joint.parameters[f"{parameter}[{name}]"] == pytest.approx(value, rel=1e-3)


def test_everything_shared_is_the_law_of_all_runs():
    obs = two()
    found = by_group("chinchilla", obs, "corpus", LAWS["chinchilla"].names, **QUICK)
    pooled = fit("chinchilla", obs, point_only=True)
    for name, value in pooled.parameters.items():
        assert found.joint.parameters[name] == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    ("column", "share", "field"),
    [("corpora", (), "by"), ("corpus", ("gamma",), "share"), ("seed", (), "by")],
)
def test_groups_that_are_none_are_refused(column, share, field):
    obs = Observations(two().frame.assign(seed=1))
    with pytest.raises(Refused) as refused:
        by_group("chinchilla", obs, column, share, **QUICK)
    assert refused.value.field == field


def test_a_group_with_too_few_runs_is_named():
    few = two().frame.iloc[:28]
    with pytest.raises(Refused, match="corpus web"):
        by_group("chinchilla", Observations(few), "corpus", **QUICK)


def test_the_joint_law_is_each_groups_law_on_its_rows():
    law = joint_law(LAWS["chinchilla"], ("a", "b"), ("E", "beta"))
    columns = {"params": np.array([1e8, 1e8]), "tokens": np.array([1e10, 1e10])}
    values = {"E": 1.7, "A[a]": 400.0, "A[b]": 300.0, "B[a]": 410.0, "B[b]": 500.0}
    values |= {"alpha[a]": 0.34, "alpha[b]": 0.3, "beta": 0.28}
    found = law.predict(columns | {"group": np.array([0.0, 1.0])}, values)
    own = [
        {"E": 1.7, "beta": 0.28, **{n: values[f"{n}[{g}]"] for n in ("A", "B", "alpha")}}
        for g in "ab"
    ]
    plain = [LAWS["chinchilla"].predict(columns, v)[i] for i, v in enumerate(own)]
    assert found == pytest.approx(plain, rel=1e-14)


def test_partial_pooling_draws_groups_that_agree_together_and_leaves_others_apart():
    alike = by_group("chinchilla", two(noise=0.01, other=TRUTH), "corpus", **QUICK)
    table, pooled = partly_pooled(alike.fits)
    assert (table["p_same"] > 0.01).all()
    own = [result.parameters["alpha"] for result in alike.fits.values()]
    drawn = [values["alpha"] for values in pooled.values()]
    assert np.ptp(drawn) < 0.7 * np.ptp(own)
    apart = by_group("chinchilla", two(), "corpus", **QUICK)
    table, pooled = partly_pooled(apart.fits)
    assert table.set_index("parameter")["p_same"]["E"] < 1e-4
    kept = pooled["web"]["E"] - pooled["c4"]["E"]
    assert kept == pytest.approx(0.21, abs=0.06)
    with pytest.raises(Refused, match="intervals"):
        partly_pooled(by_group("chinchilla", two(), "corpus", point_only=True, audits=0).fits)
