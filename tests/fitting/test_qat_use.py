"""The uses of the QAT loss law, on planted coefficients."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.bench import coverage
from fitting import fit, qat_use
from fitting.qat import QAT
from refused import Refused

PARAMS, TOKENS, BITS = 3.96e8, 4e10, 4.0
SHARES = np.linspace(0.01, 0.99, 99)


@pytest.fixture(scope="module")
def planted():
    plan = coverage.qat()
    # Every third run is enough here; a trunk keeps runs of all bits and shares.
    plan = replace(plan, frame=plan.frame.iloc[::3].reset_index(drop=True), noise=1e-3)
    runs, _ = coverage.plant(plan, 0.0, np.random.default_rng(0))
    return fit("qat", runs, draws=100, audits=2)


def table(fraction=0.3, params=PARAMS, tokens=TOKENS, bits=BITS):
    fraction = np.atleast_1d(fraction)
    columns = {"params": params + 0 * fraction, "bits": bits + 0 * fraction}
    return columns | {"tokens_qat": fraction * tokens, "tokens_fp": (1 - fraction) * tokens}


def test_predictions_of_a_planted_law_are_recovered(planted):
    # Individual coefficients move together; what they predict is what a fit is held to.
    for params, tokens, bits in ((8.6e7, 2.3e9, 2.0), (PARAMS, TOKENS, BITS), (7.6e8, 1e12, 1.0)):
        setting = table(np.array([0.05, 0.3, 0.8]), params, tokens, bits)
        found = QAT.predict(setting, planted.parameters)
        assert found / QAT.predict(setting, coverage.QAT) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("tokens", [8e9, 4e10, 1e12])
@pytest.mark.parametrize("bits", [2.0, 4.0, 6.0])
def test_the_best_share_is_the_planted_one_to_a_grid_step(planted, tokens, bits):
    found = qat_use.best_fraction(planted, PARAMS, tokens, bits)
    truth = SHARES[np.argmin(QAT.predict(table(SHARES, tokens=tokens, bits=bits), coverage.QAT))]
    assert found["interior"] and found["value"] == pytest.approx(truth, abs=0.02)
    assert found["low"] < found["value"] < found["high"]


def test_the_best_share_is_a_stationary_point():
    share, loss = qat_use.at_best_fraction(coverage.QAT, PARAMS, TOKENS, BITS)
    near = share[0] + np.array([-1e-3, 0.0, 1e-3])
    around = qat_use.loss_at(coverage.QAT, PARAMS, TOKENS, BITS, near)[0]
    assert np.argmin(around) == 1 and loss[0] == pytest.approx(around[1], rel=1e-12)
    assert abs(around[2] - around[0]) < 0.1 * (around[0] + around[2] - 2 * around[1]) + 1e-12


def test_a_law_without_an_inner_optimum_says_so(planted):
    rising = {**planted.parameters, "xi": -0.1}
    found = qat_use.best_fraction(
        replace(planted, parameters=rising, draws=None), PARAMS, TOKENS, BITS
    )
    assert not found["interior"] and np.isnan(found["low"]) and found["value"] > 0.99


def test_best_bits_fill_the_memory_and_are_sorted_by_loss(planted):
    found = qat_use.best_bits(planted, memory=2e8, tokens=1e11)
    assert set(found["bits"]) == {1.0, 2.0, 4.0, 6.0}
    assert np.allclose(found["params"] * found["bits"] / 8, 2e8)
    assert np.all(np.diff(found["loss"]) >= 0) and found["best"].sum() == pytest.approx(1)
    truth = {
        bits: qat_use.at_best_fraction(coverage.QAT, 1.6e9 / bits, 1e11, bits)[1][0]
        for bits in found["bits"]
    }
    assert found["bits"][0] == min(truth, key=truth.get)
    assert list(found["loss"]) == pytest.approx([truth[bits] for bits in found["bits"]], rel=1e-3)


def test_matching_bits_reach_full_precision_within_the_tolerance(planted):
    found = qat_use.matching_bits(planted, PARAMS, TOKENS, within=0.02)
    share, loss = qat_use.at_best_fraction(planted.parameters, PARAMS, TOKENS, found["value"])
    plain = QAT.predict(table(0.0, bits=16.0), planted.parameters)
    assert loss[0] - plain[0] == pytest.approx(0.02, abs=1e-6)
    assert found["low"] < found["value"] < found["high"] and found["reachable"] == 1
    strict = qat_use.matching_bits(planted, PARAMS, TOKENS, within=0.005)
    assert strict["value"] > found["value"]
    assert qat_use.matching_bits(planted, PARAMS, TOKENS, within=1e-12)["value"] == np.inf
    assert qat_use.matching_bits(planted, PARAMS, TOKENS, within=5.0)["value"] == 1.0


def test_only_a_wrong_share_wastes_tokens(planted):
    best = qat_use.best_fraction(planted, PARAMS, TOKENS, BITS)["value"]
    none = qat_use.wasted_tokens(planted, PARAMS, TOKENS, BITS, best)
    assert none["share"] == pytest.approx(0, abs=1e-4)
    some = qat_use.wasted_tokens(planted, PARAMS, TOKENS, BITS, 0.9)
    assert 0 < some["low"] <= some["value"] <= some["high"] < TOKENS
    _, loss = qat_use.at_best_fraction(planted.parameters, PARAMS, TOKENS - some["value"], BITS)
    assert loss[0] == pytest.approx(QAT.predict(table(0.9), planted.parameters)[0], rel=1e-9)


def test_settings_without_meaning_are_refused(planted):
    with pytest.raises(Refused, match="fraction"):
        qat_use.wasted_tokens(planted, PARAMS, TOKENS, BITS, 1.0)
    with pytest.raises(Refused, match="tokens"):
        qat_use.best_fraction(planted, PARAMS, 0.0, BITS)
    other = replace(planted, law=coverage.LAWS["chinchilla"])
    with pytest.raises(Refused, match="qat"):
        qat_use.best_bits(other, 1e8, TOKENS)
