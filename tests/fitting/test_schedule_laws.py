import numpy as np
import pandas as pd
import pytest

from fitting.schedule_laws import (
    curve_objective,
    explained,
    fit_curves,
    momentum_law,
    multi_power_law,
    predict_curve,
)
from fitting.schedules import Curve, Schedule, cosine, curves, warmup_stable_decay
from refused import Refused
from tests.fitting.planted import PUBLIC

TABLE = PUBLIC / "lr_schedules" / "curves.csv"
TRAINED = ("cosine_24000", "constant_24000", "wsdcon_9")
# Luo et al. 2025: mean over six curves of R squared, by their parameters and by a fit of one's own.
R2 = {"25M": (0.9988, 0.9975), "100M": (0.9983, 0.9970), "400M": (0.9978, 0.9960)}
MPL = {"L0": 3.04, "A": 0.525, "alpha": 0.508, "B": 364.0, "C": 2.07, "beta": 0.58, "gamma": 0.64}
TISSUE = {"L0": 3.149, "A": 0.524, "alpha": 0.5, "C": 1.913, "memory": 200.0}


def every_step(parameters, schedule, step):
    """The multi-power law as it is printed, a sum over single steps."""
    rates = schedule.rate(np.arange(step + 1))
    area, change = np.cumsum(rates), np.diff(rates)
    since = area[-1] - area[:-1]
    grown = 1 + parameters["C"] * rates[1:] ** -parameters["gamma"] * since
    kept = change != 0
    fallen = np.sum((change * (1 - grown ** -parameters["beta"]))[kept])
    power = parameters["A"] * area[-1] ** -parameters["alpha"]
    return parameters["L0"] + power + parameters["B"] * fallen


def made():
    """Three short curves that differ in where and how far the rate falls."""
    steps = np.arange(300, 3001, 150.0)
    kinds = {
        "cosine": cosine(3000, 3e-4, 3e-5, warmup=200),
        "decay": warmup_stable_decay(steps=3000, peak=3e-4, end=3e-5, share=0.3, warmup=200),
        "jump": Schedule.read("0:0 200:3e-4 1500:3e-4 1500:9e-5 3000:9e-5"),
    }
    return kinds, steps


@pytest.mark.parametrize("step", [600, 1600, 3000])
def test_the_law_is_the_sum_over_single_steps(step):
    for schedule in made()[0].values():
        found = predict_curve("multi_power", MPL, schedule, [step])
        assert found == pytest.approx([every_step(MPL, schedule, step)], abs=1e-3)


def test_momentum_is_summed_as_it_is_printed():
    schedule, step = made()[0]["jump"], 2000
    rates = schedule.rate(np.arange(step + 1))
    momentum = total = 0.0
    for before, after in zip(rates[:-1], rates[1:], strict=True):
        momentum = (1 - 1 / 200) * momentum + max(before - after, 0.0)
        total += momentum
    expected = 3.149 + 0.524 * rates.sum() ** -0.5 - 1.913 * total
    found = predict_curve("momentum", TISSUE, schedule, [step])
    assert found == pytest.approx([expected], abs=2e-4)


@pytest.mark.parametrize(("law", "truth"), [("multi_power", MPL), ("momentum", TISSUE)])
def test_planted_curves_are_recovered(law, truth):
    kinds, steps = made()
    runs = [
        Curve(name, schedule, steps, predict_curve(law, truth, schedule, steps))
        for name, schedule in kinds.items()
    ]
    found, objective = fit_curves(law, runs)
    assert objective < 1e-6
    assert min(explained(law, found, runs).values()) > 0.9999
    other = warmup_stable_decay(steps=4000, peak=3e-4, end=3e-5, share=0.1, warmup=200)
    expected = predict_curve(law, truth, other, [4000.0])
    assert predict_curve(law, found, other, [4000.0]) == pytest.approx(expected, rel=2e-3)


def test_an_unknown_law_is_refused():
    with pytest.raises(Refused, match="momentum"):
        fit_curves("cosine", [])


def test_laws_name_their_parameters():
    kinds, steps = made()
    pairs = [(schedule, steps) for schedule in kinds.values()]
    assert multi_power_law(pairs).names == ("L0", "A", "B", "alpha", "C", "beta", "gamma")
    assert momentum_law(pairs).derived({"memory": 1000.0}) == {"lambda": 0.999}


def _public(size):
    table = pd.read_csv(TABLE)
    rows = table[table["size"] == size].rename(columns={"schedule": "name"})
    found = curves(rows, by="name", warmup=2160)
    seen = [curve for curve in found if curve.name in TRAINED]
    return seen, [curve for curve in found if curve.name not in TRAINED]


@pytest.mark.skipif(not TABLE.exists(), reason="the public table is not here")
@pytest.mark.parametrize("size", R2)
def test_published_parameters_reproduce_the_published_r_squared(size):
    seen, unseen = _public(size)
    published = multi_power_law(seen).published[size]
    found = explained("multi_power", published, unseen)
    assert len(found) == 6
    assert np.mean(list(found.values())) == pytest.approx(R2[size][0], abs=3e-4)


@pytest.mark.skipif(not TABLE.exists(), reason="the public table is not here")
def test_an_own_fit_predicts_the_unseen_schedules():
    seen, unseen = _public("25M")
    # Every fourth point: the curves are smooth, and the fit of all takes four times as long.
    few = [Curve(c.name, c.schedule, c.steps[::4], c.loss[::4]) for c in seen]
    found, objective = fit_curves("multi_power", few)
    assert objective < curve_objective("multi_power", few, multi_power_law(few).published["25M"])
    assert np.mean(list(explained("multi_power", found, unseen).values())) >= R2["25M"][1]
