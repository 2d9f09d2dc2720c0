import numpy as np
import pytest

from fitting import LAWS, Observations, fit, use
from fitting.law import Law, Parameter, exponent
from fitting.observations import Observations as Table
from fitting.over_training import as_chinchilla
from refused import Refused


@pytest.fixture(scope="module")
def fitted():
    runs = Observations.read("published:chinchilla:240")
    return {name: fit(name, runs, draws=200) for name in ("chinchilla", "over_training")}


def test_allocation_is_the_minimum_along_a_budget(fitted):
    result = fitted["chinchilla"]
    best = use.allocate(result, 1e22).iloc[0]
    assert 6 * best["params"] * best["tokens"] == pytest.approx(1e22, rel=1e-12)
    sizes = best["params"] * np.geomspace(0.5, 2, 101)
    table = {"params_total": sizes, "tokens": 1e22 / 6 / sizes}
    losses = result.predict(table)["prediction"]
    assert np.argmin(losses) == 50
    assert best["loss"] == pytest.approx(losses[50], rel=1e-12)
    for name in ("params", "tokens", "tokens_per_param", "loss"):
        assert best[f"{name}_low"] < best[name] < best[f"{name}_high"]


def test_over_training_is_chinchilla_with_equal_exponents(fitted):
    result = fitted["over_training"]
    law = as_chinchilla(result.parameters)
    columns = {"params": np.array([1e8, 1e10]), "tokens": np.array([1e10, 3e11])}
    same = LAWS["chinchilla"].predict(columns, law)
    assert same == pytest.approx(result.law.predict(columns, result.parameters), rel=1e-12)
    ratio = use.allocate(result, [1e20, 1e24])["tokens_per_param"]
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-9)


def answer(result, name, **settings):
    return use.ask(result, name, **settings).iloc[0]


def test_the_inverse_inverts(fitted):
    result = fitted["chinchilla"]
    found = answer(result, "tokens", loss=2.5, params_total=1e9)
    back = result.predict({"params_total": 1e9, "tokens": found["value"]})["prediction"][0]
    assert back == pytest.approx(2.5, rel=1e-9)
    assert found["low"] < found["value"] < found["high"] and found["reachable"] == 1
    budget = answer(result, "compute", loss=2.2)
    assert use.allocate(result, budget["value"])["loss"][0] == pytest.approx(2.2, rel=1e-9)
    fixed = use.compute_for(result.law, result.parameters, 2.2, {}, tokens_per_param=200)
    assert fixed[0] > budget["value"]


def test_a_loss_below_the_floor_is_unreachable(fitted):
    found = answer(fitted["chinchilla"], "compute", loss=1.0)
    assert found["value"] == np.inf and found["reachable"] == 0


@pytest.mark.parametrize(
    ("name", "settings", "field"),
    [
        ("bits", {"loss": 2.5}, "ask"),
        ("tokens", {"loss": 2.5}, "ask tokens"),
        ("tokens", {"loss": 2.5, "params_total": 1e9, "bits": 4}, "ask tokens"),
        ("compute", {"loss": -1.0}, "loss"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(fitted, name, settings, field):
    with pytest.raises(Refused) as refused:
        use.ask(fitted["chinchilla"], name, **settings)
    assert refused.value.field == field


def test_a_question_reads_as_text():
    assert use.read_question("compute,loss=2.5") == ("compute", {"loss": 2.5})
    assert use.read_question("best_bits,bits=2/4")[1] == {"bits": [2.0, 4.0]}
    with pytest.raises(Refused, match="loss=two"):
        use.read_question("compute,loss=two")


def test_a_law_without_a_closed_form_allocates_by_search(fitted):
    from dataclasses import replace

    result = fitted["chinchilla"]
    closed = use.allocate(result, 1e22).iloc[0]
    searched = replace(result, law=replace(result.law, allocation=None))
    found = use.allocate(searched, 1e22).iloc[0]
    for name in closed.index:
        assert found[name] == pytest.approx(closed[name], rel=1e-9)


def test_a_law_with_no_best_size_allocates_nothing():
    # Without a term in tokens the largest model is always best.
    law = Law(
        name="size_only",
        formula="L = A params^-alpha + 0 tokens",
        predictors=("params", "tokens"),
        parameters=(Parameter("A"), exponent("alpha")),
        terms=lambda columns, alpha: (columns["params"] ** -alpha + 0 * columns["tokens"],),
        source="a test",
    )
    runs = Observations.read("published:chinchilla:240")
    found = answer(fit(law, runs, point_only=True), "allocation", flops=1e21)
    assert found["value"] == np.inf


def test_speed_up_of_a_fit_over_itself_is_one(fitted):
    result = fitted["chinchilla"]
    same = use.speed_up(result, result, 1e21)
    assert same["value"] == pytest.approx(1.0, rel=1e-9)
    assert same["low"] < 1 < same["high"]
    fixed = use.speed_up(result, fitted["over_training"], 1e21, 20)
    assert 0.7 < fixed["value"] < 1.4


def test_a_variant_with_half_the_excess_loss_needs_less_compute(fitted):
    from dataclasses import replace

    base = fitted["chinchilla"]
    better = {name: value * (0.9 if name in "AB" else 1) for name, value in base.parameters.items()}
    variant = replace(base, parameters=better, draws=None)
    gain = use.speed_up(base, variant, 1e21)
    assert gain["value"] > 1.2 and np.isnan(gain["low"])


def test_fits_without_intervals_say_nothing_about_them():
    five = np.arange(104) % 21 == 0
    result = fit("over_training", Table.read("published:over_training").only(five), point_only=True)
    assert np.isnan(use.allocate(result, 1e20)["params_low"][0])
    runs = Observations.read("published:parscale:pile")
    with pytest.raises(Refused, match="streams"):
        use.allocate(fit("parscale", runs, point_only=True), 1e20)
