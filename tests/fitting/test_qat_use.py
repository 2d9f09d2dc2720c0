"""The uses of the QAT loss law, on planted coefficients."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.bench.planted import plant
from experiments.bench.planted_tables import QAT as TRUTH
from experiments.bench.planted_tables import qat
from fitting import LAWS, fit, qat_use, use
from fitting.qat import QAT
from refused import Refused

PARAMS, TOKENS, BITS = 3.96e8, 4e10, 4.0
SHARES = np.linspace(0.01, 0.99, 99)


@pytest.fixture(scope="module")
def planted():
    plan = qat()
    # Every third run is enough here; a trunk keeps runs of all bits and shares.
    plan = replace(plan, frame=plan.frame.iloc[::3].reset_index(drop=True), noise=1e-3)
    runs, _ = plant(plan, 0.0, np.random.default_rng(0))
    return fit("qat", runs, draws=100, audits=2)


def answers(result, name, **settings):
    """{output: its row} of a question; `params` goes by the fitted count's name."""
    return {row.output: row for row in use.ask(result, name, **settings).itertuples()}


def table(fraction=0.3, params=PARAMS, tokens=TOKENS, bits=BITS):
    fraction = np.atleast_1d(fraction)
    columns = {"params": params + 0 * fraction, "bits": bits + 0 * fraction}
    return columns | {"tokens_qat": fraction * tokens, "tokens_fp": (1 - fraction) * tokens}


def test_predictions_of_a_planted_law_are_recovered(planted):
    # Individual coefficients move together; what they predict is what a fit is held to.
    for params, tokens, bits in ((8.6e7, 2.3e9, 2.0), (PARAMS, TOKENS, BITS), (7.6e8, 1e12, 1.0)):
        setting = table(np.array([0.05, 0.3, 0.8]), params, tokens, bits)
        found = QAT.predict(setting, planted.parameters)
        assert found / QAT.predict(setting, TRUTH) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("tokens", [8e9, 4e10, 1e12])
@pytest.mark.parametrize("bits", [2.0, 4.0, 6.0])
def test_the_best_share_is_the_planted_one_to_a_grid_step(planted, tokens, bits):
    found = answers(planted, "best_fraction", params=PARAMS, tokens=tokens, bits=bits)["fraction"]
    truth = SHARES[np.argmin(QAT.predict(table(SHARES, tokens=tokens, bits=bits), TRUTH))]
    assert found.value == pytest.approx(truth, abs=0.02)
    assert 0 < found.low < found.value < found.high < 1


def test_the_best_share_is_a_stationary_point():
    share, loss = qat_use.at_best_fraction(QAT, TRUTH, PARAMS, TOKENS, BITS)
    near = share[0] + np.array([-1e-3, 0.0, 1e-3])
    around = qat_use.loss_at(QAT, TRUTH, PARAMS, TOKENS, BITS, near)[0]
    assert np.argmin(around) == 1 and loss[0] == pytest.approx(around[1], rel=1e-12)
    assert abs(around[2] - around[0]) < 0.1 * (around[0] + around[2] - 2 * around[1]) + 1e-12


def test_a_law_without_an_inner_optimum_says_so(planted):
    rising = {**planted.parameters, "xi": -0.1}
    unknown = replace(planted, parameters=rising, draws=None)
    found = answers(unknown, "best_fraction", params=PARAMS, tokens=TOKENS, bits=BITS)["fraction"]
    assert np.isnan(found.low) and found.value > 0.999


def test_the_best_bits_fill_the_memory_and_have_the_lowest_loss(planted):
    widths = [1.0, 2.0, 4.0, 6.0]
    found = answers(planted, "best_bits", memory=2e8, tokens=1e11, bits=widths)
    assert found["params_total"].value * found["bits"].value / 8 == pytest.approx(2e8)
    truth = {
        bits: qat_use.at_best_fraction(QAT, TRUTH, 1.6e9 / bits, 1e11, bits)[1][0]
        for bits in widths
    }
    assert found["bits"].value == min(truth, key=truth.get)
    assert found["loss"].value == pytest.approx(min(truth.values()), rel=1e-3)


def test_matching_bits_reach_full_precision_within_the_tolerance(planted):
    def ask(within):
        setting = {"params": PARAMS, "tokens": TOKENS, "within": within}
        return answers(planted, "matching_bits", **setting)["bits"]

    found = ask(0.02)
    share, loss = qat_use.at_best_fraction(QAT, planted.parameters, PARAMS, TOKENS, found.value)
    plain = QAT.predict(table(0.0, bits=16.0), planted.parameters)
    assert loss[0] - plain[0] == pytest.approx(0.02, abs=1e-6)
    assert found.low < found.value < found.high and found.reachable == 1
    assert ask(0.005).value > found.value
    assert ask(1e-12).value == np.inf
    assert ask(5.0).value == 1.0


def test_only_a_wrong_share_wastes_tokens(planted):
    setting = {"params": PARAMS, "tokens": TOKENS, "bits": BITS}
    best = answers(planted, "best_fraction", **setting)["fraction"].value
    none = answers(planted, "needed_tokens", **setting, fraction=best)["tokens"]
    assert none.value / TOKENS == pytest.approx(1, abs=1e-4)
    some = answers(planted, "needed_tokens", **setting, fraction=0.9)["tokens"]
    assert 0 < some.low <= some.value <= some.high <= TOKENS
    _, loss = qat_use.at_best_fraction(QAT, planted.parameters, PARAMS, some.value, BITS)
    assert loss[0] == pytest.approx(QAT.predict(table(0.9), planted.parameters)[0], rel=1e-9)


def test_settings_without_meaning_are_refused(planted):
    setting = {"params": PARAMS, "tokens": TOKENS, "bits": BITS}
    with pytest.raises(Refused, match="fraction"):
        use.ask(planted, "needed_tokens", **setting, fraction=1.0)
    with pytest.raises(Refused, match="tokens"):
        use.ask(planted, "best_fraction", **setting | {"tokens": 0.0})
    other = replace(planted, law=LAWS["chinchilla"])
    with pytest.raises(Refused, match="best_bits"):
        use.ask(other, "best_bits", memory=1e8, tokens=TOKENS, bits=2)
